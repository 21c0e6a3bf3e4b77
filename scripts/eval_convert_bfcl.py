"""Make a suite for eval_run.py of the Berkeley Function Calling data: simple, multiple, parallel, irrelevance.

In:   the bfcl-eval wheel that third_party/bfcl-eval.lock pins (Apache-2.0), fetched into the cache when it is missing
Out:  a suite whose arguments are matched as the leaderboard's AST checker does (kxl/eval/bfcl_match.py); not committed

  .venv/bin/python scripts/eval_convert_bfcl.py --out runs/tiny/bfcl.json

The questions and accepted answers are the leaderboard's; verdicts here are stricter in three points: every call must be
valid by its JSON schema, nothing may leak into the text, and the finish reason must be right.
"""

import json
import zipfile
from collections import Counter
from pathlib import Path

from kxl.base import cli
from kxl.base.files import ROOT, shown, write_text
from kxl.eval import bfcl, suites, verdicts
from kxl.setup import archive as setup_archive

LOCK = ROOT / "third_party" / "bfcl-eval.lock"
CATEGORIES = {"simple": "simple_python", "multiple": "multiple", "parallel": "parallel", "irrelevance": "irrelevance"}
MOST_CALLS = 6  # eval_case tries every order of calls that may come in any


def rules(accepted: dict) -> dict:
    """{argument: its accepted values} as rules; "" among them means that it may be absent."""
    made = {}
    for name, values in accepted.items():
        absent = any(value == "" for value in values)
        kept = [value for value in values if value != ""] or [""]
        made[name] = {"ast": kept, **({"optional": True} if absent else {})}
    return made


def case(entry: dict, category: str, truth: list | None) -> dict:
    """One case of a suite from an entry of the data and its accepted answer."""
    made = {
        "id": entry["id"].lower().replace("-", "_"),
        "category": category,
        "messages": entry["question"][0],
        "tools": [bfcl.tool(function) for function in entry["function"]],
    }
    if truth is None:
        return {**made, "kind": "no_tool"}
    calls = [
        {"name": bfcl.tool_name(name), "arguments": rules(accepted)}
        for call in truth
        for name, accepted in call.items()
    ]
    return {**made, "kind": "tool_call", "calls": calls, "any_order": True}


def convert(wheel: Path, limit: int | None) -> tuple[dict, Counter]:
    """(suite, how many entries were left out by reason); at most `limit` cases of each category."""
    cases, left_out = [], Counter()
    with zipfile.ZipFile(wheel) as archive:
        for category, name in CATEGORIES.items():
            entries = bfcl.lines(archive, wheel, f"BFCL_v4_{name}.json")
            truths = (
                {}
                if category == "irrelevance"
                else {
                    one["id"]: one["ground_truth"]
                    for one in bfcl.lines(archive, wheel, f"possible_answer/BFCL_v4_{name}.json")
                }
            )
            kept = []
            for entry in entries:
                made = case(entry, category, truths[entry["id"]] if truths else None)
                if why := unusable(made):
                    left_out[why] += 1
                else:
                    kept.append(made)
            cases += kept[:limit]
    suite = {
        "name": "bfcl",
        "description": "Berkeley Function Calling v4 of bfcl-eval 2026.3.23, AST match.",
        "tools": None,
        "system": None,
        "max_tokens": 512,
        "cases": cases,
    }
    return suite, left_out


def unusable(made: dict) -> str | None:
    """Why a case cannot stand in a suite."""
    if any(message["role"] != "user" for message in made["messages"]):
        return "has a system message"
    if len(made.get("calls", [])) > MOST_CALLS:
        return f"more than {MOST_CALLS} calls"
    suite = suites.Suite("bfcl", [], 1, [made])
    if why := suites.expectation_problem(suite, made):
        return why
    if made["kind"] == "tool_call" and verdicts.judge(suite, made, first_accepted(made)):
        return "the accepted answer is not valid by the tool's schema"
    return None


def first_accepted(made: dict) -> verdicts.Answer:
    """The answer with the first accepted value of each argument, those that may be absent left out."""
    calls = [
        {
            "name": call["name"],
            "arguments": {
                name: bfcl.pick(rule["ast"]) for name, rule in call["arguments"].items() if not rule.get("optional")
            },
        }
        for call in made["calls"]
    ]
    return verdicts.Answer("", calls, "tool_calls")


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="suite file to write")
    parser.add_argument("--limit", type=int, help="at most so many cases of each category (default: all)")
    parser.add_argument("--wheel", type=Path, help="the bfcl-eval wheel (default: the pinned one)")
    args = parser.parse_args()
    suite, left_out = convert(args.wheel or setup_archive.fetch(LOCK), args.limit)
    write_text(args.out, json.dumps(suite, ensure_ascii=False) + "\n")
    suites.load(args.out)
    for why, count in left_out.most_common():
        cli.say(f"left out {count}: {why}")
    counts = Counter(case["category"] for case in suite["cases"])
    print(
        f"{len(suite['cases'])} cases in {shown(args.out)}: "
        f"{', '.join(f'{count} {name}' for name, count in counts.items())}; {sum(left_out.values())} left out"
    )


if __name__ == "__main__":
    cli.run(main)
