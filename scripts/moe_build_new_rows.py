"""Write conversations with tools that the tiny model was never trained on, to teach it something new.

In:  datasets/tiny/new_tools.json: tools, their wordings and values for training, tuning and testing.
Out: --out, one of three parts as chat rows for moe_encode_rows.py: a request and the call that it asks for, among three
     tools. No wording of one part is in another; tune and test have values of their own, too.

  .venv/bin/python scripts/moe_build_new_rows.py --part train --out runs/tiny/moe/new/rows/train.jsonl
"""

import random
from pathlib import Path

from kxl.base import cli, jsonl
from kxl.base.files import ROOT, read_json, shown

SOURCE = ROOT / "datasets/tiny/new_tools.json"
ROWS = {"train": 240, "tune": 36, "test": 72}
AMONG = 3  # tools of a row


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--part", choices=list(ROWS), required=True, help="which rows")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines to write")
    parser.add_argument("--seed", type=int, default=21, help="another one draws other rows")
    args = parser.parse_args()
    jsonl.write(args.out, rows(read_json(SOURCE), args.part, ROWS[args.part], args.seed))
    print(f"{shown(args.out)}: {ROWS[args.part]} rows to {args.part}")


def rows(source: dict, part: str, count: int, seed: int) -> list[dict]:
    """`count` rows of one part; the tools take turns."""
    rng, names = random.Random(f"new {part} {seed}"), sorted(source["tools"])
    made = []
    for number in range(count):
        name = names[number % len(names)]
        tool = source["tools"][name]
        kind = "train" if part == "train" else "other"
        values = {slot: rng.choice(source["values"][slot][kind]) for slot in tool["parameters"]}
        among = [name, *rng.sample([other for other in names if other != name], AMONG - 1)]
        rng.shuffle(among)
        call = {"type": "function", "function": {"name": name, "arguments": values}}
        request = rng.choice(tool[part]).format(**values)
        made.append(
            {
                "id": f"new-{part}-{number:03}",
                "messages": [
                    {"role": "user", "content": request},
                    {"role": "assistant", "content": "", "tool_calls": [call]},
                ],
                "tools": [schema(other, source) for other in among],
            }
        )
    return made


def schema(name: str, source: dict) -> dict:
    """The tool as a chat template takes it; a parameter whose values are numbers is an integer."""
    tool = source["tools"][name]
    properties = {
        slot: {
            "type": "integer" if isinstance(source["values"][slot]["train"][0], int) else "string",
            "description": text,
        }
        for slot, text in tool["parameters"].items()
    }
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {
        "type": "function",
        "function": {"name": name, "description": tool["description"], "parameters": parameters},
    }


if __name__ == "__main__":
    cli.run(main)
