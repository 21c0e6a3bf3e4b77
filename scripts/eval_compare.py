"""Compare two evaluations of the same suite, or two live runs, case by case.

In:   two reports of eval_run.py, or two of live_run.py
Out:  which cases only the one or only the other passed, how likely such a split is by chance (McNemar's exact test),
      and whether the two are equivalent within a margin (two one-sided tests); on stdout, and with --out as a report

  .venv/bin/python scripts/eval_compare.py evals/tiny/fixed_hermes_43.llama_cpp.bf16.json \\
      evals/tiny/fixed_hermes_43.llama_cpp.q4kxl.json

Totals alone say little: 41 and 43 of 43 may be the same model. The tests count the cases on which the two differ. That
no difference is shown does not say that there is none: equivalence has a test of its own.
"""

from pathlib import Path

from kxl.base import cli, report
from kxl.base.files import shown
from kxl.eval import scores
from kxl.eval.comparison import MARGIN, compare, verdict


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("first", type=Path, help="a report of eval_run.py or live_run.py")
    parser.add_argument("second", type=Path, help="another one, of the same suite")
    parser.add_argument(
        "--raw", action="store_true", help="compare the model's own tokens instead of what the server parsed"
    )
    parser.add_argument(
        "--margin", type=float, default=100 * MARGIN, help="points of the share that passes, out of 100"
    )
    parser.add_argument("--out", type=Path, help="report to write")
    args = parser.parse_args()
    reports = [scores.load(path) for path in (args.first, args.second)]
    results = compare(*reports, args.raw, args.margin / 100)
    names = [one["settings"]["artifact"] for one in reports]
    if names[0] == names[1]:
        names = [shown(args.first), shown(args.second)]
    print(verdict(results, names))
    if args.out:
        report.write(
            args.out,
            [args.first, args.second],
            {"raw": args.raw, "margin": args.margin / 100, "suite": reports[0]["settings"]["suite"], "names": names},
            results,
        )


if __name__ == "__main__":
    cli.run(main)
