"""Acceptance of a repair iteration: which one is taken over, which is refused, which is the best.

A score is what an iteration's checkpoint did on every suite: {"name", "suites": {NAME: {"cases", "passed",
"raw_passed", "leaks", "false_positives", "meets"}}}. A suite is met when as many cases pass as its threshold asks, with
no leak and no false call.

Refused   an iteration that no longer meets a suite which its parent met; its parent stays the one to repair
Best      most suites met, then most cases passed, then fewest leaks and false calls, then the earliest
"""

from kxl.base import gates

BEST_RULE = "most suites met, then most cases passed, then fewest leaks and false calls, then the earliest"
REFUSAL_RULE = (
    "an iteration that breaks a suite which its parent met is refused; the next one starts from the parent, "
    "with other rows and half the learning rate"
)


def suite_score(results: dict, threshold: int) -> dict:
    """One suite's part of a score, from the results of eval_run.py. `threshold`: cases that must pass."""
    return {
        "cases": results["cases"],
        "passed": results["passed"],
        "raw_passed": results["raw"]["passed"] if results["raw"] else None,
        "leaks": results["text_tool_leaks"],
        "false_positives": results["no_tool"]["false_positives"],
        "meets": not gates.missed(gates.evaluation(results, {"threshold": threshold})),
    }


def broken(parent: dict, child: dict) -> list[str]:
    """Why the score `child` is refused after `parent`, one sentence per suite; empty when it is taken over."""
    reasons = []
    for name, before in parent["suites"].items():
        after = child["suites"][name]
        if before["meets"] and not after["meets"]:
            reasons.append(
                f"{name} had {before['passed']} of {before['cases']} and was met, now {after['passed']} with "
                f"{after['leaks']} leaks and {after['false_positives']} false calls"
            )
    return reasons


def complete(score: dict) -> bool:
    """Whether every suite is met."""
    return all(suite["meets"] for suite in score["suites"].values())


def total(score: dict) -> tuple[int, int]:
    """(cases passed, cases) over all suites."""
    return _sum(score, "passed"), _sum(score, "cases")


def best(scores: list[dict]) -> dict:
    """The best of some scores, in the order of their iterations, by BEST_RULE."""
    return max(scores, key=_rank)  # of equals max gives the first


def _rank(score: dict) -> tuple[int, int, int]:
    return _sum(score, "meets"), _sum(score, "passed"), -_sum(score, "leaks") - _sum(score, "false_positives")


def _sum(score: dict, key: str) -> int:
    return sum(suite[key] for suite in score["suites"].values())


def line(score: dict) -> str:
    """`iter02: structured_6 6/6, colloquial_20 19/20; 0 leaks, 1 false calls` for the log."""
    suites = ", ".join(f"{name} {suite['passed']}/{suite['cases']}" for name, suite in score["suites"].items())
    return f"{score['name']}: {suites}; {_sum(score, 'leaks')} leaks, {_sum(score, 'false_positives')} false calls"
