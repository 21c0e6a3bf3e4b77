"""Compare two evaluations of the same suite case by case.

In:   two reports of run_eval.py
Out:  which cases only the one or only the other passed, and how likely such a split is by chance (McNemar's exact
      test); on stdout, and with --out as a report

  .venv/bin/python scripts/compare_evals.py evals/tiny/fixed_hermes_43.llama_cpp.bf16.json evals/tiny/fixed_hermes_43.llama_cpp.q4kxl.json

Totals alone say little: 41 and 43 of 43 may be the same model. The test counts only cases on which the two differ.
"""

from pathlib import Path

import cli
import eval_statistics
import report
from cli import UserError
from files import read_json, shown


def compare(first: dict, second: dict, raw: bool) -> dict:
    """Counts and case ids from two reports; UserError where they are not of the same cases."""
    sides = [{entry["id"]: entry for entry in one["results"]["details"]} for one in (first, second)]
    if (suites := [one["settings"]["suite"] for one in (first, second)])[0] != suites[1]:
        raise UserError(f"one report is of {suites[0]}, the other of {suites[1]}: only reports of one suite can be compared")
    if sides[0].keys() != sides[1].keys():
        raise UserError(f"the suite changed between the two: {len(sides[0].keys() ^ sides[1].keys())} cases are in only one report; evaluate the older one again")
    if changed := sorted(case for case in sides[0] if sides[0][case]["messages"] != sides[1][case]["messages"]):
        raise UserError(f"the suite changed between the two: {', '.join(changed[:5])} ask something else; evaluate the older one again")
    if raw and any(entry["raw"] is None for side in sides for entry in side.values()):
        raise UserError("one of the reports has no raw answers: compare without --raw")
    a, b = ({case: (entry["raw"] if raw else entry)["passed"] for case, entry in side.items()} for side in sides)
    only = [[case for case in a if mine[case] and not other[case]] for mine, other in ((a, b), (b, a))]
    return {
        "cases": len(a), "passed": [sum(a.values()), sum(b.values())], "only_first": only[0], "only_second": only[1],
        "both": sum(a[case] and b[case] for case in a), "neither": sum(not a[case] and not b[case] for case in a),
        "p": round(eval_statistics.mcnemar(len(only[0]), len(only[1])), 6),
    }


def verdict(results: dict, names: list) -> str:
    """The comparison in words."""
    lines = [f"{name}: {passed} of {results['cases']}" for name, passed in zip(names, results["passed"])]
    for name, cases in zip(names, (results["only_first"], results["only_second"])):
        lines.append(f"only {name} passed {len(cases)}" + (f": {', '.join(cases)}" if cases else ""))
    if results["p"] < 0.05:
        better = names[0] if results["passed"][0] > results["passed"][1] else names[1]
        lines.append(f"{better} is better (McNemar, exact: p = {results['p']:.4g})")
    else:
        lines.append(f"no difference is shown (McNemar, exact: p = {results['p']:.4g}; it would have to be under 0.05)")
    return "\n".join(lines)


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("first", type=Path, help="a report of run_eval.py")
    parser.add_argument("second", type=Path, help="another one, of the same suite")
    parser.add_argument("--raw", action="store_true", help="compare the model's own tokens instead of what the server parsed")
    parser.add_argument("--out", type=Path, help="report to write")
    args = parser.parse_args()
    reports = [read_json(path) for path in (args.first, args.second)]
    for path, one in zip((args.first, args.second), reports):
        if not isinstance(one, dict) or "details" not in one.get("results", {}) or "suite" not in one.get("settings", {}):
            raise UserError(f"{shown(path)}: not a report of run_eval.py")
    results = compare(*reports, args.raw)
    names = [one["settings"]["artifact"] for one in reports]
    if names[0] == names[1]:
        names = [shown(args.first), shown(args.second)]
    print(verdict(results, names))
    if args.out:
        report.write(args.out, [args.first, args.second], {"raw": args.raw, "suite": reports[0]["settings"]["suite"], "names": names}, results)


if __name__ == "__main__":
    cli.run(main)
