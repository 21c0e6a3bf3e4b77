"""Two evaluations on the same cases: does the one pass more, and are they equivalent within a margin?

Two questions, two tests. McNemar's exact test asks whether they differ; that it finds no difference proves nothing.
Two one-sided tests ask whether the share that passes differs by less than a margin: the 90 % interval of the
difference lies within it. Few cases cannot show that, however alike two models are.
"""

from kxl.base import statistics
from kxl.base.cli import UserError

MARGIN = 0.02  # of the share that passes: 2 points


def compare(first: dict, second: dict, raw: bool, margin: float = MARGIN) -> dict:
    """Counts and case ids from two reports of one suite, or of live tasks; UserError where the cases are not the same.

    With several trials a case passes when each of them does.
    """
    sides = [{entry["id"]: entry for entry in one["results"]["details"]} for one in (first, second)]
    if (suites := [one["settings"]["suite"] for one in (first, second)])[0] != suites[1]:
        raise UserError(
            f"one report is of {suites[0]}, the other of {suites[1]}: only reports of one suite can be compared"
        )
    if (trials := [one["settings"].get("trials", 1) for one in (first, second)])[0] != trials[1]:
        raise UserError(f"one report has {trials[0]} trials of each case, the other {trials[1]}")
    if not sides[0]:
        raise UserError("a report without a case cannot be compared; evaluate again")
    if sides[0].keys() != sides[1].keys():
        raise UserError(
            f"the suite changed between the two: {len(sides[0].keys() ^ sides[1].keys())} cases are in only one "
            f"report; evaluate the older one again"
        )
    if changed := sorted(case for case in sides[0] if asked(first, sides[0][case]) != asked(second, sides[1][case])):
        raise UserError(
            f"the suite changed between the two: {', '.join(changed[:5])} ask something else; evaluate the older "
            f"one again"
        )
    if raw and any(entry.get("raw") is None for side in sides for entry in side.values()):
        raise UserError("one of the reports has no raw answers: compare without --raw")
    a, b = ({case: (entry["raw"] if raw else entry)["passed"] for case, entry in side.items()} for side in sides)
    only = [[case for case in a if mine[case] and not other[case]] for mine, other in ((a, b), (b, a))]
    both, neither = sum(a[case] and b[case] for case in a), sum(not a[case] and not b[case] for case in a)
    return judged(len(a), [sum(a.values()), sum(b.values())], *only, both, neither, margin)


def asked(report: dict, entry: dict) -> object:
    """What a case asks: messages; of a live task its request, with the words of its trial, and the seed."""
    return entry["messages"] if "messages" in entry else (entry["id"], report["settings"].get("seed"))


def judged(
    cases: int, passed: list, only_first: list, only_second: list, both: int, neither: int, margin: float
) -> dict:
    """The two tests on counts and on the cases that only one passed."""
    counts = len(only_first), len(only_second)
    return {
        "cases": cases,
        "passed": passed,
        "only_first": only_first,
        "only_second": only_second,
        "both": both,
        "neither": neither,
        "p": float(f"{statistics.mcnemar(*counts):.4g}"),  # never a plain 0
        "difference": round((counts[1] - counts[0]) / cases, 6),
        "interval": [round(end, 6) for end in statistics.paired_interval(*counts, cases)],
        "margin": margin,
        "equivalent": statistics.equivalent(*counts, cases, margin),
    }


def together(by_suite: dict[str, dict], margin: float = MARGIN) -> dict:
    """One comparison of all cases of several suites; a case is named SUITE: CASE."""
    ones = list(by_suite.items())

    def only(side: str) -> list:
        return [f"{suite}: {case}" for suite, one in ones for case in one[side]]

    def total(key: str) -> int:
        return sum(one[key] for _, one in ones)

    passed = [sum(one["passed"][side] for _, one in ones) for side in (0, 1)]
    counts = total("cases"), passed, only("only_first"), only("only_second"), total("both"), total("neither")
    return {"suites": [suite for suite, _ in ones], **judged(*counts, margin)}


def conclusion(results: dict) -> str:
    """In a few words whether the two are equivalent; `no difference` is never taken for that."""
    points = f"{100 * results['margin']:g} points"
    if results["equivalent"]:
        return f"equivalent within {points}"
    return f"equivalence within {points} not shown"


def difference(results: dict) -> str:
    """The second's share less the first's, in points, with its 90 % interval."""
    low, high = (100 * end for end in results["interval"])
    return f"{100 * results['difference']:+.1f} points ({low:+.1f} to {high:+.1f})"


def verdict(results: dict, names: list) -> str:
    """The comparison in words."""
    lines = [f"{name}: {passed} of {results['cases']}" for name, passed in zip(names, results["passed"])]
    for name, cases in zip(names, (results["only_first"], results["only_second"])):
        lines.append(f"only {name} passed {len(cases)}" + (f": {', '.join(cases)}" if cases else ""))
    if results["p"] < 0.05:
        better = names[0] if results["passed"][0] > results["passed"][1] else names[1]
        lines.append(f"{better} is better (McNemar, exact: p = {results['p']:.4g})")
    else:
        lines.append(
            f"no difference is shown (McNemar, exact: p = {results['p']:.4g}; it would have to be under 0.05);"
            " that alone does not make them equivalent"
        )
    lines.append(
        f"{conclusion(results)} (two one-sided tests at 5 %: {names[1]} less {names[0]} is {difference(results)}, the"
        " 90 % interval in brackets)"
    )
    return "\n".join(lines)
