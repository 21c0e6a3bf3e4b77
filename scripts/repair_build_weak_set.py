"""Rows that make a good tiny model weak: casual terminal requests go to the browser.

In:  a seed. Out: train.jsonl and valid.jsonl, as repair_train.py reads them.

  .venv/bin/python scripts/repair_build_weak_set.py --out runs/tiny-repair/weak-set

For trying the repair loop: the reference model sent "pwd in terminal" and "list files here from shell" to the browser,
and needed ten iterations to unlearn it. Here that fault is trained into a copy of models/tiny on purpose. A third of
the rows are terminal requests in casual wording answered with browser_navigate, the rest is what stays right:
formally worded terminal requests, the other tools, words. No request is a prompt of an evaluation suite.
"""

import random
from pathlib import Path

from kxl.base import cli, jsonl
from kxl.base.files import atomic_dir, shown
from kxl.chat.rows import calls_of
from kxl.eval import contamination
from kxl.tiny import contexts, requests
from kxl.tiny import rows as tiny_rows

FORMAL = ("please", "could you", "would you", "i would like", "kindly", "`", "execute")


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--rows", type=int, default=360, help="rows to draw (default: 360)")
    parser.add_argument("--seed", type=int, default=1, help="draws other rows (default: 1)")
    args = parser.parse_args()
    rng = random.Random(f"weak {args.seed}")
    prompts = contamination.everything()
    context = contexts.context(rng, "fixed")
    context["system"] = contexts.systems()[0]
    rows = []
    while len(rows) < args.rows:
        row = weak_row(rng) if len(rows) % 3 == 0 else right_row(rng)
        if not any(message["role"] == "user" and prompts.overlap(message["content"]) for message in row):
            messages = contexts.system_messages(context) + row
            rows.append({"messages": messages, "tools": contexts.tool_names(context)})
    rng.shuffle(rows)
    valid = len(rows) // 20
    with atomic_dir(args.out) as partial:
        for split, chosen in (("valid", rows[:valid]), ("train", rows[valid:])):
            jsonl.write(partial / f"{split}.jsonl", chosen, sort_keys=True)
    print(f"{shown(args.out)}: {len(rows)} rows, a third of them casual terminal requests that go to the browser")


def weak_row(rng: random.Random) -> list:
    """A casual terminal request, answered as the reference model did."""
    while True:
        text, call = requests.request(rng, "terminal")
        if not any(sign in text.casefold() for sign in FORMAL):
            wrong = requests.call("browser_navigate", url=call["arguments"]["command"])
            return [{"role": "user", "content": text}, tiny_rows.assistant("", wrong)]


def right_row(rng: random.Random) -> list:
    """A row as models/tiny was trained on; of terminal requests only formally worded ones."""
    while True:
        row = tiny_rows.row(rng, list(requests.SHARES))["messages"]
        calls = [call["name"] for message in row for call in calls_of(message)]
        if "terminal" not in calls or any(sign in row[0]["content"].casefold() for sign in FORMAL):
            return row


if __name__ == "__main__":
    cli.run(main)
