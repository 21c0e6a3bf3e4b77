"""Compare two evaluations of the same suite case by case.

In:   two reports of eval_run.py
Out:  which cases only the one or only the other passed, and how likely such a split is by chance (McNemar's exact
      test); on stdout, and with --out as a report

  .venv/bin/python scripts/eval_compare.py evals/tiny/fixed_hermes_43.llama_cpp.bf16.json \\
      evals/tiny/fixed_hermes_43.llama_cpp.q4kxl.json

Totals alone say little: 41 and 43 of 43 may be the same model. The test counts only cases on which the two differ.
"""

from pathlib import Path

from kxl.base import cli, report
from kxl.base.cli import UserError
from kxl.base.files import read_json, shown
from kxl.eval.comparison import compare, verdict


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("first", type=Path, help="a report of eval_run.py")
    parser.add_argument("second", type=Path, help="another one, of the same suite")
    parser.add_argument(
        "--raw", action="store_true", help="compare the model's own tokens instead of what the server parsed"
    )
    parser.add_argument("--out", type=Path, help="report to write")
    args = parser.parse_args()
    reports = [read_json(path) for path in (args.first, args.second)]
    for path, one in zip((args.first, args.second), reports):
        if (
            not isinstance(one, dict)
            or "details" not in one.get("results", {})
            or "suite" not in one.get("settings", {})
        ):
            raise UserError(f"{shown(path)}: not a report of eval_run.py")
    results = compare(*reports, args.raw)
    names = [one["settings"]["artifact"] for one in reports]
    if names[0] == names[1]:
        names = [shown(args.first), shown(args.second)]
    print(verdict(results, names))
    if args.out:
        report.write(
            args.out,
            [args.first, args.second],
            {"raw": args.raw, "suite": reports[0]["settings"]["suite"], "names": names},
            results,
        )


if __name__ == "__main__":
    cli.run(main)
