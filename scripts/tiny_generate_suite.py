"""Generate an eval suite of single requests whose arguments the tiny model's training never used.

In:  a seed; the wordings of the training's generator, with held-out words in the arguments.
Out: a suite file as eval_run.py reads it (the committed one: evals/suites/generated_200.json).

    .venv/bin/python scripts/tiny_generate_suite.py --out evals/suites/generated_200.json
"""

import random
from pathlib import Path

from kxl.base import cli
from kxl.base.files import shown, write_json
from kxl.tiny import requests

CATEGORIES = {
    "terminal": "terminal",
    "read_file": "read",
    "search_files": "search",
    "write_file": "write",
    "patch": "patch",
    "browser_navigate": "browser",
}


def rule(name: str, value) -> dict:
    """What counts as the right argument: the value itself; a folder with or without its last slash."""
    if name == "path" and isinstance(value, str) and "." not in value.rsplit("/", 1)[-1]:
        return {"set": [value, value.rstrip("/") + "/"]}
    return {"exact": value}


def cases(count: int, seed: int) -> list[dict]:
    """`count` cases with different prompts."""
    rng = random.Random(seed)
    drawn, prompts = [], set()
    while len(drawn) < count:
        tool = requests.pick_tool(rng, list(CATEGORIES))
        prompt, call = requests.request(rng, tool, heldout=True)
        if prompt in prompts:
            continue
        prompts.add(prompt)
        rules = {name: rule(name, value) for name, value in call["arguments"].items()}
        case = {
            "id": f"{CATEGORIES[tool]}_{len(drawn) + 1:03}",
            "kind": "tool_call",
            "category": CATEGORIES[tool],
            "prompt": prompt,
            "calls": [{"name": tool, "arguments": rules}],
        }
        drawn.append(case)
    return drawn


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="suite file to write")
    parser.add_argument("--cases", type=int, default=200, help="how many")
    parser.add_argument("--seed", type=int, default=200, help="draws other requests (default: 200)")
    args = parser.parse_args()
    suite = {
        "name": args.out.stem,
        "description": "Generated single requests; each has an argument with words that training never uses "
        "(tiny_generate_suite.py).",
        "tools": "fixed_hermes",
        "system": "You are Hermes Agent, a helpful assistant that can use tools.",
        "max_tokens": 192,
        "cases": cases(args.cases, args.seed),
    }
    write_json(args.out, suite)
    print(f"{args.cases} cases in {shown(args.out)}")


if __name__ == "__main__":
    cli.run(main)
