"""What is wrong with a failed eval case, in one word, for reports; which rows answer to it is decided in rows.py.

text_leak       a tool call stands in the visible text
out_of_tokens   it was still thinking when its tokens were used up (eval.thinking_tokens gives it more)
endless_thought its turn ended and its thought did not
only_thought    a thought, and nothing after it
malformed       a call that cannot be read: by the server, or strictly by us in the model's own tokens
wrong_tool      another tool was called
wrong_argument  the right tool with other arguments than asked for, or a wrong number of calls
refusal         words where a call was wanted
false_positive  a call where words were wanted
wrong_answer    words where words were wanted, but not the right ones, or running in circles
"""

from collections import Counter
from pathlib import Path

from kxl.base.cli import UserError
from kxl.base.files import ROOT, shown
from kxl.chat import hermes_tools
from kxl.eval import scores, suite_files, suites, verdicts

# What `failures` tells of each.
TOLD = ("suite", "id", "category", "kind", "diagnosis", "wanted", "called", "why")
THOUGHTS = {
    verdicts.RAN_OUT: "out_of_tokens",
    verdicts.NEVER_ENDS: "endless_thought",
    verdicts.THOUGHT_ONLY: "only_thought",
}
KINDS = (
    "text_leak",
    *THOUGHTS.values(),
    "malformed",
    "wrong_tool",
    "wrong_argument",
    "refusal",
    "false_positive",
    "wrong_answer",
)


def diagnose(case: dict, entry: dict) -> str | None:
    """One of KINDS; None for an entry that passed, parsed and raw. `case` is the suite's, `entry` the report's."""
    raw = entry["raw"]
    if entry["passed"] and (raw is None or raw["passed"]):
        return None
    if entry["leaks"]:
        return "text_leak"
    for why in (entry["why"], raw["why"] if raw and entry["passed"] else []):
        if problem := next((THOUGHTS[one] for one in why if one in THOUGHTS), None):
            return problem
    if entry["passed"]:
        return "malformed"  # the server was lenient: the model's own tokens are not a strict call
    if entry["finish_reason"] == "malformed" or any(why.startswith("unreadable call") for why in entry["why"]):
        return "malformed"
    if case["kind"] != "tool_call":
        return "false_positive" if entry["calls"] else "wrong_answer"
    if not entry["calls"]:
        return "malformed" if raw and "<|tool_call_start|>" in raw["text"] else "refusal"
    wanted, called = (Counter(call["name"] for call in calls) for calls in (case["calls"], entry["calls"]))
    return "wrong_tool" if called.keys() - wanted.keys() else "wrong_argument"


def failures(suite, results: dict) -> list[dict]:
    """[{"suite", "id", "category", "kind", "diagnosis", "wanted", "called", "why"}] of a report's failed cases.

    `suite` is the loaded suites.Suite. `wanted` and `called` are tool names, "text" where there was, or should have
    been, no call.
    """
    cases, failed = {case["id"]: case for case in suite.cases}, []
    for entry in results["details"]:
        case = cases[entry["id"]]
        if kind := diagnose(case, entry):
            failed.append(
                {
                    "suite": suite.name,
                    "id": entry["id"],
                    "category": entry["category"],
                    "kind": entry["kind"],
                    "diagnosis": kind,
                    "wanted": case["calls"][0]["name"] if "calls" in case else "text",
                    "called": entry["calls"][0]["name"] if entry["calls"] else "text",
                    "why": (entry["why"] or entry["raw"]["why"])[0],
                }
            )
    return failed


def of_reports(paths: list[Path]) -> tuple[list[dict], int, list[Path]]:
    """(failures, number of cases that passed, the suites' files) of some reports.

    A failure whose case offers other tools than Hermes's has `offer`: {"tools", "system"}, its schemas and its system
    messages. UserError for a report whose suite has changed since.
    """
    failed, passed, suite_paths = [], 0, []
    hermes = {tool["function"]["name"]: tool for tool in hermes_tools.load()}
    for path in paths:
        evaluation = scores.load(path)
        inputs, results = evaluation.get("inputs") or [], evaluation["results"]
        # The suite is the first thing that an evaluation reads; it may lie anywhere.
        suite_path = ROOT / inputs[0]["path"] if inputs else suite_files.path_of(evaluation["settings"]["suite"])
        suite = suites.load(suite_path)
        if [case["id"] for case in suite.cases] != [entry["id"] for entry in results["details"]]:
            raise UserError(f"{shown(path)}: its cases are not those of {shown(suite_path)}; evaluate again")
        cases = {case["id"]: case for case in suite.cases}
        for failure in failures(suite, results):
            case = cases[failure["id"]]
            tools = suite.of(case).tools
            if tools and any(hermes.get(tool["function"]["name"]) != tool for tool in tools):
                system = [message for message in case["messages"] if message["role"] == "system"]
                failure["offer"] = {"tools": tools, "system": system}
            failed.append(failure)
        passed += results["passed"]
        suite_paths.append(suite_path)
    return failed, passed, suite_paths
