"""The numbers of a judged model from its entries: what it called, what it should have, and what it forgot.

An entry is a row of a judging set (kxl/smol/sets.py) with what the model emitted: "verdict" and "calls"
(kxl/smol/emission.py), "started" (any start token), "start_probability" (at the first place), "text". Kind masked is a
tool row under other names (kxl/smol/masking.py).
"""

import re
import statistics
from collections import Counter

from kxl.smol import sets

TOOL_WORDS = re.compile(r"\b(?:tools?|functions?|tool_call|arguments?)\b", re.IGNORECASE)
LENGTHS = (15, 60)  # words up to which an answer is short, and of medium length
TINY = 1e-12


def of_kind(entries: list[dict], *kinds: str) -> list[dict]:
    """The entries of some kinds."""
    return [entry for entry in entries if entry["kind"] in kinds]


def right_tool(entry: dict) -> bool:
    """A whole call, of exactly the expected tools."""
    called = [call["name"] for call in entry["calls"]]
    return entry["verdict"] == "call" and called == [call["name"] for call in entry["expected"]]


def takes_arguments(entry: dict) -> bool:
    """Calls of the right tools, each with arguments that are accepted."""
    return right_tool(entry) and all(map(sets.right_arguments, entry["calls"], entry["expected"]))


def calls(entries: list[dict]) -> dict:
    """The numbers of tool prompts, among them by how many tools they offer."""
    return {
        **_counted(entries),
        "min_tools": min((len(entry["tools"]) for entry in entries), default=0),
        "emitting": sum(entry["started"] for entry in entries),
        "verdicts": dict(Counter(entry["verdict"] for entry in entries)),
        "median_start_probability": statistics.median(entry["start_probability"] for entry in entries)
        if entries
        else None,
        "by_tools": _by(entries, lambda entry: str(len(entry["tools"]))),
        "by_source": _by(entries, lambda entry: entry["source"]),
    }


def _counted(entries: list[dict]) -> dict:
    return {
        "prompts": len(entries),
        "start_json_end": sum(entry["verdict"] == "call" for entry in entries),
        "right_tool": sum(map(right_tool, entries)),
        "right_arguments": sum(map(takes_arguments, entries)),
    }


def _by(entries: list[dict], key) -> dict:
    names = sorted({key(entry) for entry in entries})
    return {name: _counted([entry for entry in entries if key(entry) == name]) for name in names}


def quiet(entries: list[dict]) -> dict:
    """{"prompts", "false_calls", "by_kind"} of prompts that must get no call."""
    kinds = sorted({entry["kind"] for entry in entries})
    return {
        "prompts": len(entries),
        "false_calls": sum(entry["started"] for entry in entries),
        "by_kind": {
            kind: {
                "prompts": len(chosen := of_kind(entries, kind)),
                "false_calls": sum(entry["started"] for entry in chosen),
            }
            for kind in kinds
        },
    }


def one_model(entries: list[dict]) -> dict:
    """The numbers of one model."""
    return {
        "test": calls(of_kind(entries, "tool")),
        "restraint": quiet(of_kind(entries, *sets.RESTRAINT)),
        "ordinary": quiet(of_kind(entries, "ordinary")),
        "masked_names": _counted(of_kind(entries, "masked")),
    }


def length_class(text: str) -> int:
    """0 short, 1 medium, 2 long."""
    return sum(len(text.split()) > limit for limit in LENGTHS)


def stays_good(before: dict, after: dict) -> bool:
    """Whether an ordinary answer is of the same length class as the base's, with no call and no new tool words."""
    words = TOOL_WORDS.search(after["text"]) and not TOOL_WORDS.search(before["text"])
    return not after["started"] and not words and length_class(before["text"]) == length_class(after["text"])


def judged(entries: list[dict]) -> list[dict]:
    """The entries with the verdict on their arguments, where they should call: "right_arguments"."""
    return [
        {**entry, "right_arguments": takes_arguments(entry)} if entry["kind"] in ("tool", "masked") else entry
        for entry in entries
    ]


def compare(before: list[dict], after: list[dict], divergence: dict) -> dict:
    """A report's results from the entries of both models; `divergence` is forgetting's {"kld_mean", "tokens"}."""
    base, taught = one_model(before), one_model(after)
    known = {entry["id"]: entry for entry in before}
    ordinary = of_kind(after, "ordinary")
    rise = [
        entry["start_probability"] / max(known[entry["id"]]["start_probability"], TINY)
        for entry in of_kind(after, "tool")
    ]
    return {
        **taught,
        "before": base,
        "forgetting": {
            **divergence,
            "answers": len(ordinary),
            "as_good": sum(stays_good(known[entry["id"]], entry) for entry in ordinary),
        },
        "median_start_probability_rise": statistics.median(rise),
        "details": {"before": judged(before), "after": judged(after)},
    }


def gate(results: dict, thresholds: dict) -> list[str]:
    """Which thresholds of the config's "emission" the results miss, with numbers."""
    test, masked, failures = results["test"], results["masked_names"], []
    if started := results["before"]["test"]["emitting"]:
        failures.append(f"{started} prompts got a start token before the training already: nothing was taught")
    for name, key in (("right_tool", "a call of the right tool"), ("right_arguments", "the right arguments, too")):
        if test[name] < thresholds[f"min_{name}"] * test["prompts"]:
            failures.append(
                f"{test[name]} of {test['prompts']} prompts got {key}, {thresholds[f'min_{name}']:.0%} are required"
            )
    for part, limit in (("restraint", "max_false_calls"), ("ordinary", "max_ordinary_calls")):
        said = results[part]
        if said["false_calls"] > thresholds[limit] * said["prompts"]:
            failures.append(
                f"{said['false_calls']} of {said['prompts']} {part} prompts called a tool, at most"
                f" {thresholds[limit]:.0%} may"
            )
    if masked["prompts"]:
        loss = test["right_tool"] / test["prompts"] - masked["right_tool"] / masked["prompts"]
        if loss > thresholds["max_masked_loss"]:
            failures.append(
                f"with random names {masked['right_tool']} of {masked['prompts']} get the right tool, {loss:.1%} less;"
                f" at most {thresholds['max_masked_loss']:.0%} are allowed"
            )
    return failures
