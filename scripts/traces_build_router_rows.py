"""Write generated tool-router rows: casual requests with the call they need, hard negatives, answers after real
results.

In:  a seed; the generator of the tiny model's training (tiny_rows) and Hermes's schemas. Tool output is real: it
     was recorded from Hermes's own tools (datasets/tiny/tool_results.jsonl).
Out: JSON lines {"id", "task", "messages", "tools"}, OpenAI chat rows for traces_prepare.py. Rows of one task share
     `task`: the same call, however it is worded.

  .venv/bin/python scripts/traces_build_router_rows.py --out runs/tiny/router_rows.jsonl
"""

import json
import random
from pathlib import Path

from kxl.base import cli, jsonl
from kxl.base.files import shown
from kxl.tiny import contexts as tiny_contexts
from kxl.tiny import rows as tiny_rows

# What the prompts look like: the fixed surface that the evals use, short lists, Hermes's own prompt.
CONTEXTS = {"fixed": 0.6, "compact": 0.25, "hermes_terminal": 0.1, "hermes_files": 0.05}
ROWS, SEED = 600, 11


def rows(count: int, seed: int, contexts: dict = CONTEXTS) -> list[dict]:
    """`count` rows in prompts of these kinds; arguments that the held-out suites use are never drawn."""
    rng = random.Random(f"router {seed}")
    made = []
    for number in range(count):
        context = tiny_contexts.context(rng, rng.choices(list(contexts), list(contexts.values()))[0])
        row = tiny_rows.row(rng, tiny_contexts.tool_names(context))
        system = [{"role": "system", "content": context["system"]}] if context["system"] else []
        made.append(
            {
                "id": f"router-{seed}-{number:05}",
                "task": task(row),
                "messages": system + row["messages"],
                "tools": context["tools"],
            }
        )
    return made


def task(row: dict) -> str:
    """What a row asks for: its calls, or the request itself where there is none."""
    calls = [call["function"] for message in row["messages"] for call in message.get("tool_calls", [])]
    return json.dumps(calls, ensure_ascii=False, sort_keys=True) if calls else row["messages"][0]["content"]


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines to write")
    parser.add_argument("--rows", type=int, default=ROWS, help="how many")
    parser.add_argument("--seed", type=int, default=SEED, help="another one draws other rows")
    parser.add_argument(
        "--context",
        choices=list(CONTEXTS),
        help="only prompts of this kind; compact ones are the shortest (default: all, mixed)",
    )
    args = parser.parse_args()
    made = rows(args.rows, args.seed, {args.context: 1} if args.context else CONTEXTS)
    jsonl.write(args.out, made)
    print(f"{len(made):,} tool-router rows in {shown(args.out)}")


if __name__ == "__main__":
    cli.run(main)
