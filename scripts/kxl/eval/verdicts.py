"""The verdict on one answer to an eval case: what was called, what was said, and why that is not enough.

    why = judge(suite, case, answer)       # one sentence each; [] is a pass

A thought is neither visible text nor call. An answer that is nothing else has a verdict of its own: it ran out of
tokens while thinking, its thought never ends, or nothing follows the thought.
"""

import itertools
import json
from dataclasses import dataclass, field

from kxl.chat import schemas, tool_syntax
from kxl.eval import repetition
from kxl.eval.suites import Suite

FINISH = {"tool_call": "tool_calls", "no_tool": "stop", "finalization": "stop"}
# Ends of an answer that an agent does not act upon. Any other counts as what came: calls, or text.
CUT_OFF = ("length", "content_filter", "malformed")
RAN_OUT = "ran out of tokens while thinking: eval.thinking_tokens or --thinking-tokens gives it more"
NEVER_ENDS = "the thought never ends"
THOUGHT_ONLY = "nothing but a thought"


@dataclass
class Answer:
    """What came back for one case.

    content: visible text. calls: [{"name": str, "arguments": dict}]. finish_reason: "stop", "tool_calls", "length",
    or whatever else the server says. errors: calls that could not be read. raw_text: the model's own tokens, where
    they are known. seconds: from the request to the whole answer. thought: what it thought first, None without one;
    thought_ended: False for one without its end mark. notes: what an agent mends before it acts.
    """

    content: str
    calls: list
    finish_reason: str
    errors: list = field(default_factory=list)
    raw_text: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    thought: str | None = None
    thought_ended: bool = True
    thought_tokens: int = 0
    notes: list = field(default_factory=list)


def judge(suite: Suite, case: dict, answer: Answer) -> list:
    """Why `answer` fails `case`, one sentence each; an empty list is a pass."""
    if problem := thought_problem(answer):
        return [problem]
    suite = suite.of(case)
    why = [f"unreadable call: {error}" for error in answer.errors]
    if ended_as(answer) != FINISH[case["kind"]]:
        why.append(f"finish_reason is {answer.finish_reason}, expected {FINISH[case['kind']]}")
    why += [f"tool call in the text: {leak}" for leak in leaks(suite, answer)]
    why += [problem for call in answer.calls for problem in schema_problems(suite, call)]
    if case["kind"] == "tool_call":
        why += _call_problems(suite, case, answer.calls)
    else:
        why += [f"called {call['name']}, expected no call" for call in answer.calls]
        if not answer.content.strip():
            why.append("no text")
    if looping := repetition.collapse(answer.content):
        why.append(f"the text runs in circles: {looping}")
    for text in case.get("answer", {}).get("contains", []):
        if text.casefold() not in answer.content.casefold():
            why.append(f"the text lacks {text!r}")
    if (wanted := case.get("answer", {}).get("any")) and not any(
        text.casefold() in answer.content.casefold() for text in wanted
    ):
        why.append(f"the text has none of {', '.join(map(repr, wanted))}")
    return why


def thought_problem(answer: Answer) -> str | None:
    """RAN_OUT, NEVER_ENDS or THOUGHT_ONLY for an answer that has nothing but a thought; else None."""
    if answer.thought is None or answer.calls or answer.errors or answer.content.strip():
        return None
    if answer.finish_reason == "length":
        return RAN_OUT
    return THOUGHT_ONLY if answer.thought_ended else NEVER_ENDS


def ended_as(answer: Answer) -> str:
    """ "tool_calls" or "stop" as Hermes Agent 0.19.0 takes it, whatever a server calls that; a CUT_OFF stays one.

    It runs the calls that are there and prints the text where there are none: servers say "stop" with calls,
    "end_turn" or "eos" with text.
    """
    if answer.finish_reason in CUT_OFF:
        return answer.finish_reason
    return "tool_calls" if answer.calls or answer.finish_reason == "tool_calls" else "stop"


def leaks(suite: Suite, answer: Answer) -> list:
    """Excerpts of the visible text that are tool calls written as text."""
    return tool_syntax.find_leaks(answer.content, suite.names())


def schema_problems(suite: Suite, call: dict) -> list:
    """Why the JSON schema of the tool refuses this call."""
    schema = suite.parameters(call["name"])
    if schema is None:
        return [f"called {call['name']}, which is not among the tools"]
    return [f"{call['name']}: invalid by schema: {why}" for why in schemas.problems(schema, call["arguments"])]


def _call_problems(suite: Suite, case: dict, calls: list) -> list:
    expected = case["calls"]
    if len(calls) != len(expected):
        return [f"{len(calls)} calls, expected {len(expected)}"]
    orders = itertools.permutations(expected) if case.get("any_order") else [expected]
    attempts = [
        [problem for want, call in zip(order, calls) for problem in _mismatches(suite, want, call)] for order in orders
    ]
    return min(attempts, key=len)


def _mismatches(suite: Suite, want: dict, call: dict) -> list:
    if call["name"] != want["name"]:
        return [f"called {call['name']}, expected {want['name']}"]
    rules = schemas.properties(suite.parameters(want["name"]))
    defaults = {name: rule["default"] for name, rule in rules.items() if schemas.has_default(rule)}
    problems = []
    for name in sorted({*want["arguments"], *call["arguments"]}):
        rule = want["arguments"].get(name)
        given = call["arguments"].get(name, defaults.get(name))
        if rule is None:
            if name not in defaults or not _same(given, defaults[name]):
                problems.append(f"{name}={json.dumps(given, ensure_ascii=False)} was not asked for")
        elif name not in call["arguments"] and rule.get("optional"):
            continue
        elif name not in call["arguments"] and name not in defaults:
            problems.append(f"{name} is missing, expected {described(rule)}")
        else:
            try:
                right, why = _matches(rule, given), ""
            except schemas.BadPattern as error:
                right, why = False, f" ({error})"
            if not right:
                problems.append(f"{name} is {json.dumps(given, ensure_ascii=False)}, expected {described(rule)}{why}")
    return problems


def _matches(rule: dict, value) -> bool:
    if "regex" in rule:
        return schemas.fullmatch(rule["regex"], value if isinstance(value, str) else json.dumps(value))
    return any(_same(value, allowed) for allowed in rule.get("set", [rule.get("exact")]))


def _same(a, b) -> bool:
    """Equal as JSON values: 1 and 1.0 are, 1 and true are not."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return a == b


def described(rule: dict) -> str:
    """A rule in words: "a" or "b", /regex/."""
    if "regex" in rule:
        return f"/{rule['regex']}/"
    return " or ".join(json.dumps(value, ensure_ascii=False) for value in rule.get("set", [rule.get("exact")]))
