"""From verdicts on Berkeley cases to a report's numbers: by category with intervals, and the leaderboard's averages.

The leaderboard's averages (bfcl-eval 2026.3.23, eval_runner_helper.py), each over what was run alone:

  non_live     unweighted mean of simple (itself the unweighted mean of Python, Java and JavaScript), multiple,
               parallel and parallel_multiple
  live         mean of its four categories, weighted by how many cases each has
  all_irrelevance  unweighted mean of irrelevance and live_irrelevance
  multi_turn   unweighted mean of its four categories
  memory       unweighted mean of the memories; the leaderboard's agentic score has the web search beside it
  overall      the leaderboard weighs non_live, live, irrelevance, multi_turn and agentic by 10, 10, 10, 30 and 40

A category that was not run counts nothing here; the leaderboard counts it as 0. So no average of ours is an entry of
the leaderboard unless its `missing` is empty, and `overall` never is: the agentic score needs the web.
"""

import json

from kxl.base.statistics import wilson
from kxl.bfcl import cases
from kxl.chat import tool_syntax

WEIGHTS = {"non_live": 10, "live": 10, "all_irrelevance": 10, "multi_turn": 30, "memory": 40}
SIMPLE = ("simple_python", "simple_java", "simple_javascript")


def count(details: list[dict], whole: dict[str, int]) -> dict:
    """The numbers of a report; `details` have category and passed, `whole` how many cases each category has in all."""
    by_category = {}
    for name in cases.ALL:
        if entries := [entry for entry in details if entry["category"] == name]:
            passed = sum(entry["passed"] for entry in entries)
            by_category[name] = {"cases": len(entries), "passed": passed, "of": whole[name]}
    shares = {name: one["passed"] / one["cases"] for name, one in by_category.items()}
    averages = {
        name: average
        for name, names in cases.GROUPS.items()
        if name != "relevance" and (average := _average(name, names, shares, whole))
    }
    passed = sum(one["passed"] for one in by_category.values())
    return {
        "cases": len(details),
        "passed": passed,
        "by_category": by_category,
        "intervals": {
            "passed": _interval(passed, len(details)),
            "by_category": {name: _interval(one["passed"], one["cases"]) for name, one in by_category.items()},
        },
        "averages": {**averages, **_overall(averages)},
    }


def entry(case: dict, record: dict, why_not: str | None) -> dict:
    """One case in the report, its fields as those of eval_run.py."""
    steps = [step for turn in record["turns"] for step in turn]
    text = steps[-1] if isinstance(steps[-1], str) else ""
    calls = [_call(call) for step in steps if isinstance(step, list) for call in step]
    return {
        "id": case["id"],
        "kind": "no_tool" if "irrelevance" in case["category"] else "tool_call",
        "category": case["category"],
        "messages": record.get("messages", case["turns"][0]),
        "turns": len(case["turns"]),
        "steps": len(steps),
        "content": text,
        "calls": calls,
        "finish_reason": record["finish"],
        "passed": why_not is None,
        "why": [why_not] if why_not else [],
        "raw": None,
        "stopped": record["stopped"],
        "errors": record["errors"],
        "leaks": tool_syntax.find_leaks(text, [tool["function"]["name"] for tool in case["tools"]]),
        "thoughts": record["thoughts"],
        "prompt_tokens": record["prompt_tokens"],
        "output_tokens": record["output_tokens"],
        "seconds": record["seconds"],
    }


def _call(call: dict) -> dict:
    ((name, text),) = call.items()
    try:
        return {"name": name, "arguments": json.loads(text)}
    except (ValueError, RecursionError):
        return {"name": name, "arguments": text}


def _interval(passed: int, count: int) -> list[float]:
    return [round(end, 4) for end in wilson(passed, count)]


def _average(group: str, names: tuple, shares: dict, whole: dict) -> dict | None:
    """A group's average by the leaderboard's rule; None where none of it was run."""
    run = {name: shares[name] for name in names if name in shares}
    if not run:
        return None
    weights = {name: whole[name] if group == "live" else 1 for name in run}
    if group == "non_live":
        simple = [name for name in run if name in SIMPLE]
        weights |= {name: 1 / len(simple) for name in simple}
    share = sum(run[name] * weight for name, weight in weights.items()) / sum(weights.values())
    return {
        "share": round(share, 4),
        "rule": "weighted by cases" if group == "live" else "unweighted",
        "categories": list(run),
        "missing": [name for name in names if name not in run]
        + (["memory_vector", "web_search"] if group == "memory" else []),
    }


def _overall(averages: dict) -> dict:
    """The leaderboard's weights over the groups that were run; nothing where only one was."""
    run = [name for name in WEIGHTS if name in averages]
    if len(run) < 2:
        return {}
    share = sum(averages[name]["share"] * WEIGHTS[name] for name in run) / sum(WEIGHTS[name] for name in run)
    lacking = [name for name in WEIGHTS if name not in run] + [
        name for group in run for name in averages[group]["missing"]
    ]
    rule = "weighted " + ", ".join(f"{name} {WEIGHTS[name]}" for name in run)
    return {"overall": {"share": round(share, 4), "rule": rule, "categories": run, "missing": lacking}}


def summary(results: dict) -> str:
    """Lines for people: a category, then an average, a line."""
    lines = []
    for name, one in results["by_category"].items():
        low, high = results["intervals"]["by_category"][name]
        drawn = "" if one["cases"] == one["of"] else f", drawn from {one['of']:,}"
        lines.append(
            f"{name:<26} {one['passed']:>4}/{one['cases']:<4} {one['passed'] / one['cases']:6.1%}"
            f"  (95 %: {low:.1%} to {high:.1%}{drawn})"
        )
    for name, one in results["averages"].items():
        lacks = f"; without {', '.join(one['missing'])}" if one["missing"] else ""
        lines.append(f"{name + ' average':<26}           {one['share']:6.1%}  ({one['rule']}{lacks})")
    return "\n".join(lines)
