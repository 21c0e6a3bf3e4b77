"""What a repair loop decides, and how it says so: which iteration is taken over, which is the best.

A score is {"suites": {NAME: {"cases", "passed", "raw_passed", "leaks", "false_positives", "meets"}}}. A suite is met
when as many cases pass as its threshold asks, with no leak and no false call.

Refused   an iteration that no longer meets a suite which its parent met; its parent stays the one to repair
Best      most suites met, then most cases passed, then fewest leaks and false calls, then the earliest
"""

from kxl.base import gates

BEST_RULE = "most suites met, then most cases passed, then fewest leaks and false calls, then the earliest"
REFUSAL_RULE = "an iteration that breaks a suite which its parent met is refused; the next one starts from the parent, with other rows and half the learning rate"


def score(results: dict, threshold: int) -> dict:
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
    """Why `child` is refused as the successor of `parent` (scores), one sentence per suite; empty when it is taken over."""
    return [
        f"{name} had {before['passed']} of {before['cases']} and was met, now {child['suites'][name]['passed']} with {child['suites'][name]['leaks']} leaks "
        f"and {child['suites'][name]['false_positives']} false calls"
        for name, before in parent["suites"].items()
        if before["meets"] and not child["suites"][name]["meets"]
    ]


def complete(one: dict) -> bool:
    """Whether every suite is met."""
    return all(suite["meets"] for suite in one["suites"].values())


def total(one: dict) -> tuple[int, int]:
    """(cases passed, cases) over all suites."""
    return tuple(sum(suite[key] for suite in one["suites"].values()) for key in ("passed", "cases"))


def best(candidates: list[dict]) -> dict:
    """The best of some scores, in the order of their iterations, by BEST_RULE."""

    def rank(one: dict) -> tuple:
        suites = one["suites"].values()
        return (
            sum(suite["meets"] for suite in suites),
            total(one)[0],
            -sum(suite["leaks"] + suite["false_positives"] for suite in suites),
        )

    return max(candidates, key=rank)  # of equals max gives the first


def line(one: dict) -> str:
    """`iter02: structured_6 6/6, colloquial_20 19/20; taken over` for the log."""
    told = ", ".join(f"{name} {suite['passed']}/{suite['cases']}" for name, suite in one["suites"].items())
    leaks, false_calls = (sum(suite[key] for suite in one["suites"].values()) for key in ("leaks", "false_positives"))
    return f"{one['name']}: {told}; {leaks} leaks, {false_calls} false calls"
