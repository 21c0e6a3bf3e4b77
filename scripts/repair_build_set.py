"""Build the rows of one repair iteration from what a model failed.

In:  the eval reports of that model (eval_run.py, passed or failed), and the suites, whose prompts no row may repeat.
Out: train.jsonl and valid.jsonl of {"messages", "tools", "purpose", "answers"} (repair_rows.read), manifest.json with
     the diagnoses, the counts and the hashes. `answers` is the failed case that a row answers to, as SUITE/ID.

A set is balanced: each failed case gets the same number of focus rows and contrastive pairs, whatever its suite,
beside negatives and a share of what already works. A drawn row that repeats an eval prompt, or nearly, is drawn
again and counted; one in a file of --add stops the build, naming both.

  .venv/bin/python scripts/repair_build_set.py --eval evals/tiny/fixed_hermes_43.mlx.bf16.failed.json \\
      --iteration 03 --out repair_datasets/iter03
"""

import random
from collections import Counter
from pathlib import Path

from kxl.base import cli, jsonl, report
from kxl.base.cli import UserError
from kxl.base.files import ROOT, atomic_dir, read_json, sha256, shown, write_json
from kxl.chat.rows import calls_in
from kxl.eval import contamination, suites
from kxl.repair import diagnosis
from kxl.repair import rows as repair_rows
from kxl.tiny import contexts as tiny_contexts

SUITES = ROOT / "evals" / "suites"
SHARES = {"focus": 0.35, "contrast": 0.2, "negative": 0.15, "keep": 0.3}
CONTEXTS = ("fixed", "fixed", "hermes_terminal")  # few: the rows of a batch share the one that they begin with
CONTEXT_WEIGHTS = (6, 3, 1)


def main() -> None:
    args = arguments()
    failures, passed = read_evals(args.eval)
    if not failures:
        raise UserError(f"nothing failed in {', '.join(map(shown, args.eval))}; there is nothing to repair")
    prompts = contamination.everything()
    rng = random.Random(f"repair {args.iteration} {args.seed}")
    rows, drawn_again = draw(rng, failures, args.rows, prompts)
    added = own_rows(args.add, prompts)
    put_in_contexts(rng, rows)
    rows += added
    for number, row in enumerate(rows, 1):  # whatever made it, no row goes out unchecked
        prompts.refuse(row, f"row {number} of the set")
    rng.shuffle(rows)
    valid = max(1, round(args.valid * len(rows)))
    splits = {"valid": rows[:valid], "train": rows[valid:]}
    manifest = {
        "iteration": args.iteration,
        "seed": args.seed,
        "evals": [report.describe_input(path) for path in args.eval],
        "cases_passed": passed,
        "failures": failures,
        "diagnoses": dict(Counter(f["diagnosis"] for f in failures)),
        "rows": {split: len(chosen) for split, chosen in splits.items()},
        "purposes": dict(Counter(row["purpose"] for row in rows)),
        "answers": dict(Counter(row["answers"] for row in rows if row["answers"])),
        "drawn_again_for_overlap": drawn_again,
        "files": {},
    }
    with atomic_dir(args.out) as partial:
        for split, chosen in splits.items():
            jsonl.write(partial / f"{split}.jsonl", chosen, sort_keys=True)
            manifest["files"][f"{split}.jsonl"] = sha256(partial / f"{split}.jsonl")
        write_json(partial / "manifest.json", manifest)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(manifest["diagnoses"].items()))
    print(
        f"{shown(args.out)}: {manifest['rows']['train']} train and {manifest['rows']['valid']} valid rows for "
        f"{len(failures)} failures ({kinds})"
    )


def arguments():
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--eval",
        type=Path,
        action="append",
        required=True,
        help="report of eval_run.py; may be given several times, once per suite",
    )
    parser.add_argument(
        "--iteration", required=True, help="name of the iteration, such as 03; draws other rows than any other name"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write, such as repair_datasets/iter03")
    parser.add_argument("--rows", type=int, default=480, help="rows to draw")
    parser.add_argument("--valid", type=float, default=0.06, help="share of the rows kept for the validation loss")
    parser.add_argument(
        "--add",
        type=Path,
        action="append",
        default=[],
        help="JSON lines {messages, tools} of your own to train with; may be given several times",
    )
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def read_evals(paths: list) -> tuple[list[dict], int]:
    """(failures, number of cases that passed) of some reports. UserError for a report whose suite has changed since."""
    failures, passed = [], 0
    for path in paths:
        evaluation = read_json(path)
        suite_path, results = SUITES / f"{evaluation['settings']['suite']}.json", evaluation["results"]
        suite = suites.load(suite_path)
        if [case["id"] for case in suite.cases] != [entry["id"] for entry in results["details"]]:
            raise UserError(f"{shown(path)}: its cases are not those of {shown(suite_path)}; evaluate again")
        failures += diagnosis.failures(suite, results)
        passed += results["passed"]
    return failures, passed


def draw(rng: random.Random, failures: list, count: int, prompts: contamination.Prompts) -> tuple[list[dict], int]:
    """`count` rows by SHARES, the failures taken in turn, no request twice; how many draws repeated an eval prompt."""
    rows, seen, again = [], set(), 0
    for purpose, share in SHARES.items():
        taken, turn = 0, 0
        while taken < round(share * count):
            failure = failures[turn % len(failures)] if purpose in ("focus", "contrast") else None
            drawn = repair_rows.draw(rng, purpose, failure)
            requests = [message["content"] for row in drawn for message in row["messages"] if message["role"] == "user"]
            if any(prompts.overlap(request) for request in requests):
                again += 1
                continue
            if seen.intersection(requests):
                continue
            seen.update(requests)
            answers = f"{failure['suite']}/{failure['id']}" if failure else None
            rows += [{**row, "purpose": purpose, "answers": answers} for row in drawn]
            taken, turn = taken + len(drawn), turn + 1
    return rows, again


def put_in_contexts(rng: random.Random, rows: list[dict]) -> None:
    """Give each row one of a few contexts, whose tools can do what it calls; the first is what the suites ask with."""
    contexts = [tiny_contexts.context(rng, kind) for kind in CONTEXTS]
    contexts[0]["system"] = tiny_contexts.systems()[0]
    for row in rows:
        context = rng.choices(contexts, CONTEXT_WEIGHTS)[0]
        if not {call["name"] for call in calls_in(row)} <= set(tiny_contexts.tool_names(context)):
            context = contexts[0]
        row["messages"] = tiny_contexts.system_messages(context) + row["messages"]
        row["tools"] = tiny_contexts.tool_names(context)


def own_rows(paths: list, prompts: contamination.Prompts) -> list[dict]:
    """Rows of the user's own. UserError with file and line for one that repeats an eval prompt."""
    rows = []
    for path in paths:
        for number, row in enumerate(repair_rows.read(path), 1):
            prompts.refuse(row, f"{shown(path)}, row {number}")
            rows.append({"messages": row["messages"], "tools": row["tools"], "purpose": "added", "answers": None})
    return rows


if __name__ == "__main__":
    cli.run(main)
