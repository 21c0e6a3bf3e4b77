"""Write generated conversations for the imatrix (calibration) and the KL divergence (held out).

In:  a seed; the generator of the tiny model's training (kxl/tiny/rows.py), Hermes's schemas and prompt.
Out: JSON lines {"messages", "tools", "kind", "split"}; held-out rows have arguments that training
     never uses. Most requests carry the fixed Hermes surface, some Hermes's own system prompt.

    .venv/bin/python scripts/tiny_build_rows.py --out runs/tiny/rows.jsonl
"""

import random
from pathlib import Path

from kxl.base import cli, jsonl
from kxl.base.files import shown
from kxl.tiny import contexts
from kxl.tiny import rows as tiny_rows

# Contexts per split. Few, because each is a prompt of thousands of tokens that its rows share.
CONTEXTS = ["fixed", "fixed", "fixed", "hermes_terminal", "hermes_files"]


def rows(split: str, count: int, seed: int) -> list[dict]:
    """`count` rows of one split, each with its context's system message and tools."""
    rng = random.Random(f"{split} {seed}")
    drawn_from = [contexts.context(rng, kind) for kind in CONTEXTS]
    drawn = []
    for _ in range(count):
        context = rng.choice(drawn_from)
        row = tiny_rows.row(rng, contexts.tool_names(context), heldout=split == "heldout")
        messages = contexts.system_messages(context) + row["messages"]
        drawn.append({"messages": messages, "tools": context["tools"], "kind": row["kind"], "split": split})
    return drawn


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines to write")
    parser.add_argument("--calibration", type=int, default=1600, help="rows for the imatrix")
    parser.add_argument("--heldout", type=int, default=1200, help="rows for the KL divergence")
    parser.add_argument("--seed", type=int, default=7, help="draws other rows (default: 7)")
    args = parser.parse_args()
    drawn = rows("calibration", args.calibration, args.seed) + rows("heldout", args.heldout, args.seed)
    jsonl.write(args.out, drawn)
    print(f"{len(drawn):,} conversations in {shown(args.out)}")


if __name__ == "__main__":
    cli.run(main)
