"""Build the judging sets: prompts for development and for the test, that share no tool and no request.

In:  BFCL's questions from the pinned wheel, our own domains (datasets/smol/judged.json), a checkpoint folder, whose
     tokenizer and template say how long a prompt is.
Out: dev.json and test.json in --out (datasets/smol), committed; how kxl/smol/sets.py says.

  .venv/bin/python scripts/smol_build_sets.py --config configs/smollm2-135m.json --model runs/smollm2-135m/base \\
      --out datasets/smol

The config's "judging" says how many of BFCL's questions each set has, and how long a prompt may be. What is tuned is
tuned on dev; test is asked once per published model.
"""

from collections import Counter
from pathlib import Path

from kxl.base import cli
from kxl.base import config as configs
from kxl.base.cli import UserError
from kxl.base.files import ROOT, shown
from kxl.chat import loss_mask
from kxl.setup import archive
from kxl.smol import sets
from kxl.smol import tokens as smol_tokens


def check_apart(rows: dict[str, list[dict]]) -> None:
    """UserError for a tool or a request that two sets share."""
    for what, of in (
        ("tool", lambda row: sets.names(row)),
        ("request", lambda row: [row["messages"][-1]["content"].strip().lower()]),
    ):
        dev, test = ({item for row in rows[split] for item in of(row)} for split in ("dev", "test"))
        if shared := sorted(dev & test):
            raise UserError(f"{len(shared)} {what}s are in both sets, such as {shared[0]!r}; part them in judged.json")


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--config", type=Path, required=True, help="model config, whose judging has the counts")
    parser.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="checkpoint folder; only its tokenizer is read"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    args = parser.parse_args()

    config, chat = configs.load(args.config, configs.SMOL), loss_mask.load(args.model)
    judging = config["judging"]
    found = sets.entries(archive.fetch(ROOT / "third_party" / "bfcl-eval.lock"))

    def fits(row: dict) -> bool:
        return len(smol_tokens.prompt_ids(chat, row["messages"], row["tools"])) <= judging["prompt_tokens"]

    rows = {split: sets.build(found, split, judging[split], fits, judging["seed"]) for split in ("dev", "test")}
    check_apart(rows)
    for split, of_split in rows.items():
        sets.write(args.out / f"{split}.json", of_split)
        tools = Counter(len(row["tools"]) for row in of_split if row["kind"] == "tool")
        print(f"{shown(args.out / split)}.json: {dict(Counter(row['kind'] for row in of_split))}")
        print(f"  tool prompts by number of tools: {dict(sorted(tools.items()))}")


if __name__ == "__main__":
    cli.run(main)
