"""Build the rows of one repair iteration from what a model failed.

In:  the eval reports of that model (eval_run.py, passed or failed), and the suites, whose prompts no row may repeat.
     A suite with tools that are not Hermes's gets rows composed from their schemas (kxl/repair/own_tools.py).
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
from kxl.chat import hermes_tools
from kxl.chat.rows import calls_in
from kxl.eval import contamination, suites
from kxl.repair import diagnosis, own_tools
from kxl.repair import rows as repair_rows
from kxl.tiny import contexts as tiny_contexts

SUITES = ROOT / "evals" / "suites"
MOST_VAIN = 5000  # draws without a new row
SHARES = {"focus": 0.35, "contrast": 0.2, "negative": 0.15, "keep": 0.3}
CONTEXTS = ("fixed", "fixed", "hermes_terminal")  # few: the rows of a batch share the one that they begin with
CONTEXT_WEIGHTS = (6, 3, 1)


def main() -> None:
    args = arguments()
    failures, passed, offers, suite_paths = read_evals(args.eval)
    if not failures:
        raise UserError(f"nothing failed in {', '.join(map(shown, args.eval))}; there is nothing to repair")
    prompts = contamination.everything(suite_paths)
    rng = random.Random(f"repair {args.iteration} {args.seed}")
    rows, drawn_again = draw(rng, failures, args.rows, prompts, offers)
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


def read_evals(paths: list) -> tuple[list[dict], int, dict, list[Path]]:
    """(failures, number of cases that passed, offers, suites' files) of some reports.

    offers: {(suite, case id): (tools, system messages)} of the failed cases whose tools are not Hermes's. UserError for
    a report whose suite has changed since.
    """
    failures, passed, offers, suite_paths = [], 0, {}, []
    hermes = {tool["function"]["name"]: tool for tool in hermes_tools.load()}
    for path in paths:
        evaluation = read_json(path)
        inputs, results = evaluation.get("inputs") or [], evaluation["results"]
        # The suite is the first thing that an evaluation reads; it may lie anywhere.
        suite_path = ROOT / inputs[0]["path"] if inputs else SUITES / f"{evaluation['settings']['suite']}.json"
        suite = suites.load(suite_path)
        suite_paths.append(suite_path)
        if [case["id"] for case in suite.cases] != [entry["id"] for entry in results["details"]]:
            raise UserError(f"{shown(path)}: its cases are not those of {shown(suite_path)}; evaluate again")
        failed = diagnosis.failures(suite, results)
        cases = {case["id"]: case for case in suite.cases}
        for failure in failed:
            case = cases[failure["id"]]
            tools = suite.of(case).tools
            if tools and any(hermes.get(tool["function"]["name"]) != tool for tool in tools):
                system = [message for message in case["messages"] if message["role"] == "system"]
                offers[suite.name, case["id"]] = (tools, system)
        failures += failed
        passed += results["passed"]
    return failures, passed, offers, suite_paths


def draw(
    rng: random.Random, failures: list, count: int, prompts: contamination.Prompts, offers: dict
) -> tuple[list[dict], int]:
    """`count` rows by SHARES, the failures taken in turn, no request twice; how many draws repeated an eval prompt.

    A row for a failed case in `offers` (read_evals) offers that case's own tools. UserError where all draws repeat.
    """
    rows, seen, again, vain = [], set(), 0, 0
    for purpose, share in SHARES.items():
        taken, turn = 0, 0
        while taken < round(share * count):
            one = failures[turn % len(failures)]
            failure = one if purpose in ("focus", "contrast") else None
            if own := offers.get((one["suite"], one["id"])):
                tools, system = own
                drawn = own_tools.draw(rng, purpose, failure, tools)
                drawn = [{"messages": system + row["messages"], "tools": tools} for row in drawn]
            else:
                drawn = repair_rows.draw(rng, purpose, failure)
            requests = [message["content"] for row in drawn for message in row["messages"] if message["role"] == "user"]
            copies = any(prompts.overlap(request) for request in requests)
            if copies or seen.intersection(requests):
                again, vain = again + copies, vain + 1
                if vain > MOST_VAIN:
                    raise UserError(
                        f"{one['suite']}, case {one['id']}: {MOST_VAIN:,} draws in a row repeat an eval prompt or "
                        "another row; the tool's schema leaves too little to ask for: give fewer --rows, or more "
                        "values (enum, examples) in the schema, or rows of your own (--add)"
                    )
                continue
            vain = 0
            seen.update(requests)
            answers = f"{failure['suite']}/{failure['id']}" if failure else None
            rows += [{**row, "purpose": purpose, "answers": answers} for row in drawn]
            taken, turn = taken + len(drawn), turn + 1
    return rows, again


def put_in_contexts(rng: random.Random, rows: list[dict]) -> None:
    """Give each row without tools one of a few contexts, whose tools can do what it calls; the first is the suites'."""
    contexts = [tiny_contexts.context(rng, kind) for kind in CONTEXTS]
    contexts[0]["system"] = tiny_contexts.systems()[0]
    for row in (row for row in rows if "tools" not in row):
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
