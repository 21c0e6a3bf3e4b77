"""Build the rows of one repair iteration from what a model failed.

In:  the eval reports of that model (eval_run.py, passed or failed), and the suites, whose prompts no row may repeat.
     A suite with tools that are not Hermes's gets rows composed from their schemas (kxl/repair/own_tools.py).
Out: train.jsonl and valid.jsonl of {"messages", "tools", "purpose", "answers"} (repair_rows.read), manifest.json with
     the diagnoses, the counts and the hashes. `answers` is the failed case that a row answers to, as SUITE/ID. Rows
     of purpose "sampled" are the model's own (repair_sample.py).

A set is balanced: each failed case gets the same number of focus rows and contrastive pairs, whatever its suite,
beside negatives and a share of what already works. A drawn row that repeats an eval prompt, or nearly, is drawn
again and counted; one in a file of --add stops the build, naming both.

  .venv/bin/python scripts/repair_build_set.py --eval runs/tiny-repair/repair/start/evals/colloquial_20.json \\
      --iteration 03 --out repair_datasets/iter03
"""

import random
from collections import Counter
from pathlib import Path

from kxl.base import cli, jsonl, report
from kxl.base.cli import UserError
from kxl.base.files import atomic_dir, sha256, shown, write_json
from kxl.eval import contamination
from kxl.repair import diagnosis, thoughts
from kxl.repair import rows as repair_rows

MOST_VAIN = 5000  # draws without a new row


def main() -> None:
    args = arguments()
    failures, passed, suite_paths = diagnosis.of_reports(args.eval)
    if not failures:
        raise UserError(f"nothing failed in {', '.join(map(shown, args.eval))}; there is nothing to repair")
    prompts = contamination.everything(suite_paths)
    rng = random.Random(f"repair {args.iteration} {args.seed}")
    samples = read_samples(args.sampled)
    rows, drawn_again = draw(rng, failures, args.rows, prompts, samples, args.sampled_share)
    added = own_rows(args.add, prompts)
    put_in_contexts(rng, rows)
    if args.thoughts == "rule":
        rows = [{**row, "messages": thoughts.by_rule(row["messages"])} for row in rows]
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
        "failures": [{key: failure[key] for key in diagnosis.TOLD} for failure in failures],
        "diagnoses": dict(Counter(f["diagnosis"] for f in failures)),
        "rows": {split: len(chosen) for split, chosen in splits.items()},
        "purposes": dict(Counter(row["purpose"] for row in rows)),
        "answers": dict(Counter(row["answers"] for row in rows if row["answers"])),
        **({"thoughts": args.thoughts} if args.thoughts != "none" else {}),
        **({"sampled": report.describe_input(args.sampled)} if args.sampled else {}),
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
    parser.add_argument(
        "--thoughts",
        choices=repair_rows.THOUGHTS,
        default="none",
        help="thoughts of the hand-made rows: none, or a short one written by rule",
    )
    parser.add_argument("--sampled", type=Path, metavar="FILE", help="the model's own right answers (repair_sample.py)")
    parser.add_argument(
        "--sampled-share", type=float, default=0.5, help="share of the focus rows that are taken from --sampled"
    )
    parser.add_argument("--seed", type=int, default=1, help="draws other rows (default: 1)")
    args = parser.parse_args()
    if not 0 <= args.sampled_share <= 1:
        parser.error("--sampled-share is from 0 to 1")
    return args


def read_samples(path: Path | None) -> dict[str, list[dict]]:
    """The rows of repair_sample.py by the failed case that they answer to."""
    found: dict[str, list[dict]] = {}
    for where, row in jsonl.read(path) if path else []:
        if not isinstance(row, dict) or not {"messages", "tools", "answers"} <= row.keys():
            raise UserError(f"{where}: is no row of repair_sample.py")
        found.setdefault(row["answers"], []).append(row)
    return found


def draw(
    rng: random.Random,
    failures: list,
    count: int,
    prompts: contamination.Prompts,
    samples: dict[str, list[dict]],
    sampled_share: float,
) -> tuple[list[dict], int]:
    """`count` rows by repair_rows.SHARES, failures in turn, no request twice; how many draws repeated an eval prompt.

    Of the focus rows `sampled_share` are the model's own, where `samples` has one for the failure in turn. UserError
    where all draws repeat.
    """
    rows, seen, again, vain = [], set(), 0, 0
    for purpose, share in repair_rows.SHARES.items():
        taken, turn = 0, 0
        while taken < round(share * count):
            failure = failures[turn % len(failures)]
            name = f"{failure['suite']}/{failure['id']}"
            own = samples.get(name) if purpose == "focus" else None
            if own and rng.random() < sampled_share:
                rows.append(own.pop(0))
                taken, turn = taken + 1, turn + 1
                continue
            drawn = repair_rows.draw_in_turn(rng, purpose, failure)
            requests = [message["content"] for row in drawn for message in row["messages"] if message["role"] == "user"]
            copies = any(prompts.overlap(request) for request in requests)
            if copies or seen.intersection(requests):
                again, vain = again + copies, vain + 1
                if vain > MOST_VAIN:
                    raise UserError(
                        f"{failure['suite']}, case {failure['id']}: {MOST_VAIN:,} draws in a row repeat an eval prompt "
                        "or another row; the tool's schema leaves too little to ask for: give fewer --rows, or more "
                        "values (enum, examples) in the schema, or rows of your own (--add)"
                    )
                continue
            vain = 0
            seen.update(requests)
            answers = name if purpose in repair_rows.ANSWERING else None
            rows += [{**row, "purpose": purpose, "answers": answers} for row in drawn]
            taken, turn = taken + len(drawn), turn + 1
    return rows, again


def put_in_contexts(rng: random.Random, rows: list[dict]) -> None:
    """Give each row one of a few contexts; the model's own were asked in theirs."""
    contexts = repair_rows.draw_contexts(rng)
    for row in rows:
        if "tools" not in row:
            repair_rows.put_in_context(rng, contexts, row)


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
