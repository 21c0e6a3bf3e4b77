"""Two evaluations of one suite, case by case, with McNemar's exact test."""

from kxl.base import statistics
from kxl.base.cli import UserError


def compare(first: dict, second: dict, raw: bool) -> dict:
    """Counts and case ids from two reports; UserError where they are not of the same cases."""
    sides = [{entry["id"]: entry for entry in one["results"]["details"]} for one in (first, second)]
    if (suites := [one["settings"]["suite"] for one in (first, second)])[0] != suites[1]:
        raise UserError(
            f"one report is of {suites[0]}, the other of {suites[1]}: only reports of one suite can be compared"
        )
    if sides[0].keys() != sides[1].keys():
        raise UserError(
            f"the suite changed between the two: {len(sides[0].keys() ^ sides[1].keys())} cases are in only one "
            f"report; evaluate the older one again"
        )
    if changed := sorted(case for case in sides[0] if sides[0][case]["messages"] != sides[1][case]["messages"]):
        raise UserError(
            f"the suite changed between the two: {', '.join(changed[:5])} ask something else; evaluate the older "
            f"one again"
        )
    if raw and any(entry["raw"] is None for side in sides for entry in side.values()):
        raise UserError("one of the reports has no raw answers: compare without --raw")
    a, b = ({case: (entry["raw"] if raw else entry)["passed"] for case, entry in side.items()} for side in sides)
    only = [[case for case in a if mine[case] and not other[case]] for mine, other in ((a, b), (b, a))]
    return {
        "cases": len(a),
        "passed": [sum(a.values()), sum(b.values())],
        "only_first": only[0],
        "only_second": only[1],
        "both": sum(a[case] and b[case] for case in a),
        "neither": sum(not a[case] and not b[case] for case in a),
        "p": float(f"{statistics.mcnemar(len(only[0]), len(only[1])):.4g}"),  # never a plain 0
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
