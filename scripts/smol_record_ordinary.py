"""Record what the base model answers to ordinary questions, to be trained beside the tool calls.

In:  the base checkpoint, our questions (kxl/smol/requests.py) and BFCL's questions that its tools do not answer.
Out: JSON lines {"id", "prompt", "answer"}; the answers are the base model's own, greedy, without tools in
     the prompt. Training on them holds the model where it was; nobody claims that they are right.

  .venv/bin/python scripts/smol_record_ordinary.py --config configs/smollm2-135m.json --model runs/smollm2-135m/base \\
      --out datasets/smollm2-135m/ordinary.jsonl

How many of each, and how long an answer may be, stands in the config (data.recorded). Longer ones are left
out and counted. Made once and committed: about two minutes on two idle cores.
"""

from pathlib import Path

from tqdm import tqdm

from kxl.base import cli, jsonl
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, shown
from kxl.chat import loss_mask
from kxl.eval import bfcl
from kxl.model import blas
from kxl.setup import archive
from kxl.smol import requests
from kxl.smol import tokens as smol_tokens


def prompts(counts: dict, heldout: dict) -> list[tuple[str, str]]:
    """(id, question) of the first of our questions and of BFCL's.

    UserError when that would reach into the held-out ones.
    """
    own = requests.ordinary_prompts()
    others = bfcl.unanswerable(archive.fetch(ROOT / "third_party" / "bfcl-eval.lock"))
    for name, wanted, most in (
        ("ordinary", counts["ordinary"], len(own) - heldout["ordinary"]),
        ("unanswerable", counts["unanswerable"], len(others) - heldout["near_miss"]),
    ):
        if wanted > most:
            raise UserError(f"data.recorded.{name} is {wanted}, but {most} questions are left beside the held-out ones")
    return [(f"ordinary/{i}", prompt) for i, prompt in enumerate(own[: counts["ordinary"]])] + [
        (row["id"], row["messages"][-1]["content"]) for row in others[: counts["unanswerable"]]
    ]


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--config", type=Path, required=True, help="model config (see configs/)")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="base checkpoint")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON lines to write")
    args = parser.parse_args()
    blas.use_fast_blas(keep_memory=True)
    from kxl.model import generate

    data = read_json(args.config)["data"]
    longest = data["recorded"]["max_tokens"]
    asked = prompts(data["recorded"], data["heldout"])
    chat = loss_mask.load(args.model)
    ids = [smol_tokens.prompt_ids(chat, [{"role": "user", "content": prompt}]) for _, prompt in asked]
    with tqdm(total=len(ids), desc="asking the base model", unit="question") as bar:
        generations = generate.generate(
            generate.load(args.model), ids, longest, chat.tokenizer.token_to_id(chat.end), done=bar.update
        )
    rows = [
        {"id": name, "prompt": prompt, "answer": chat.tokenizer.decode(generation.ids).strip()}
        for (name, prompt), generation in zip(asked, generations)
        if generation.ended and generation.ids
    ]
    jsonl.write(args.out, rows)
    print(
        f"{shown(args.out)}: {len(rows)} answers; {len(asked) - len(rows)} were longer than {longest} tokens "
        "and left out"
    )


if __name__ == "__main__":
    cli.run(main)
