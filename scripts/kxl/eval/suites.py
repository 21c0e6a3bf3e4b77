"""The eval suite: its format, and the verdict on one answer.

A suite is a JSON file (evals/suites/*.json):

  name, description   what it is
  tools               "fixed_hermes", a list of OpenAI tools, or null for none
  system              system message of every case, or null
  max_tokens          most tokens of one answer
  cases               each with
    id, category      unique name; the group it is counted in
    kind              "tool_call", "no_tool" or "finalization"
    prompt | messages one user request, or the whole conversation up to the answer
    calls             tool_call only: [{"name", "arguments": {NAME: RULE}}]
    any_order         the calls may come in any order (default false)
    answer            {"contains": [text, ...]}: what the visible text must hold, letter case ignored;
                      {"any": [text, ...]}: at least one of these
    tools             this case's own surface: {"names": [Hermes's tools, in this order], "rename": {OLD: NEW}}, or
                      a list of OpenAI tools
    fill              tokens that the whole prompt is filled to when it is asked: each {filler} in its messages
                      becomes log lines (filler.py), as many as fit

A RULE is {"exact": value}, {"set": [value, ...]} or {"regex": "..."} (the whole value; of a value that
is not a string, its JSON) or {"ast": [value, ...]} (as the Berkeley leaderboard matches, kxl/eval/bfcl_match.py). With "optional": true the argument may be absent. An argument that the
suite does not name, or that the model left out, counts as the default in the tool's own schema.
"""

import itertools
import json
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import jsonschema

from kxl.base.cli import UserError
from kxl.base.files import read_json, shown
from kxl.chat import hermes_tools, tool_syntax
from kxl.eval import bfcl_match, repetition

KINDS = ("tool_call", "no_tool", "finalization")
FINISH = {"tool_call": "tool_calls", "no_tool": "stop", "finalization": "stop"}


def same_words(text: str) -> str:
    """What two requests have in common when a reader calls them the same: their words, without case and punctuation."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def requests_of(messages: list) -> list[str]:
    """The words of each user message; a message of parts counts by its text parts."""
    found = []
    for message in messages:
        if message["role"] == "user":
            content = message.get("content") or ""
            if isinstance(content, list):
                content = "".join(part.get("text", "") for part in content)
            found.append(same_words(content))
    return found


def requests_of_suites(paths: list) -> set[str]:
    """The words of every user message in evaluation suites: no training text may repeat one."""
    return {request for path in paths for case in load(path).cases for request in requests_of(case["messages"])}


_RULE = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": False,
    "properties": {
        "exact": {},
        "set": {"type": "array", "minItems": 1},
        "regex": {"type": "string"},
        "ast": {"type": "array", "minItems": 1},
        "optional": {"type": "boolean"},
    },
    "oneOf": [{"required": [kind]} for kind in ("exact", "set", "regex", "ast")],
}
_TOOLS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["type", "function"],
        "properties": {"function": {"type": "object", "required": ["name", "parameters"]}},
    },
}
_CASE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["id", "kind", "category"],
    "properties": {
        "id": {"type": "string", "pattern": "^[a-z0-9_]+$"},
        "kind": {"enum": list(KINDS)},
        "category": {"type": "string", "pattern": "^[a-z0-9_]+$"},
        "prompt": {"type": "string", "minLength": 1},
        "messages": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["role", "content"],
                "properties": {
                    "role": {"enum": ["user", "assistant", "tool"]},
                    "content": {"type": ["string", "null"]},
                    "tool_calls": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["function"],
                            "properties": {"function": {"type": "object", "required": ["name", "arguments"]}},
                        },
                    },
                },
            },
        },
        "calls": {
            "type": "array",
            "minItems": 1,
            "maxItems": 6,
            "items": {  # any_order tries every order
                "type": "object",
                "additionalProperties": False,
                "required": ["name", "arguments"],
                "properties": {
                    "name": {"type": "string"},
                    "arguments": {"type": "object", "additionalProperties": _RULE},
                },
            },
        },
        "any_order": {"type": "boolean"},
        "answer": {
            "type": "object",
            "additionalProperties": False,
            "minProperties": 1,
            "properties": {
                name: {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}}
                for name in ("contains", "any")
            },
        },
        "tools": {
            "oneOf": [
                _TOOLS,
                {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["names"],
                    "properties": {
                        "names": {"type": "array", "minItems": 1, "items": {"type": "string"}},
                        "rename": {
                            "type": "object",
                            "additionalProperties": {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_.-]*$"},
                        },
                    },
                },
            ]
        },
        "fill": {"type": "integer", "minimum": 1},
    },
}
_SUITE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "tools", "system", "max_tokens", "cases"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9_]+$"},
        "description": {"type": "string"},
        "tools": {"oneOf": [{"const": "fixed_hermes"}, {"type": "null"}, _TOOLS]},
        "system": {"type": ["string", "null"]},
        "max_tokens": {"type": "integer", "minimum": 1},
        "cases": {"type": "array", "minItems": 1, "items": _CASE},
    },
}


@dataclass
class Suite:
    """A checked suite. `tools` are OpenAI tools; each case has "messages" with the system message in front."""

    name: str
    tools: list
    max_tokens: int
    cases: list

    def of(self, case: dict) -> "Suite":
        """This suite with the tools that `case` offers."""
        own = case.get("tools")
        return (
            self if own is None else replace(self, tools=own if isinstance(own, list) else hermes_tools.surface(**own))
        )

    def parameters(self, name: str) -> dict | None:
        """The JSON schema of a tool's arguments; None for a tool that is not on offer."""
        return {tool["function"]["name"]: tool["function"]["parameters"] for tool in self.tools}.get(name)


@dataclass
class Answer:
    """What came back for one case.

    content: visible text. calls: [{"name": str, "arguments": dict}]. finish_reason: "stop", "tool_calls" or
    "length". errors: calls that could not be read. raw_text: the model's own tokens, where they are known.
    seconds: from the request to the whole answer.
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


def load(path: Path) -> Suite:
    """Read and check a suite; UserError names the file, the case and what is wrong with it."""
    data = read_json(path)
    problem = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(_SUITE).iter_errors(data))
    if problem:
        raise UserError(f"{shown(path)}: {_place(data, problem.absolute_path)}: {problem.message}")
    tools = hermes_tools.load(hermes_tools.FIXED_SURFACE) if data["tools"] == "fixed_hermes" else data["tools"] or []
    system = [{"role": "system", "content": data["system"]}] if data["system"] else []
    cases = []
    for case in data["cases"]:
        if ("prompt" in case) == ("messages" in case):
            raise UserError(f"{shown(path)}: case {case['id']}: needs either a prompt or messages")
        messages = case.get("messages") or [{"role": "user", "content": case["prompt"]}]
        cases.append({**case, "messages": system + messages})
    suite = Suite(data["name"], tools, data["max_tokens"], cases)
    names = Counter(case["id"] for case in suite.cases)
    for case in suite.cases:
        problem = (
            f"{names[case['id']]} cases have this id" if names[case["id"]] > 1 else expectation_problem(suite, case)
        )
        if problem:
            raise UserError(f"{shown(path)}: case {case['id']}: {problem}")
    return suite


def _place(data, path) -> str:
    """`cases 3 (read_casual_main) calls 0 name` for a JSON path into a suite."""
    steps = [str(step) for step in path]
    if len(steps) >= 2 and steps[0] == "cases":
        case = data["cases"][int(steps[1])]
        if isinstance(case, dict) and "id" in case:
            steps[1] += f" ({case['id']})"
    return " ".join(steps) or "the suite"


def expectation_problem(suite: Suite, case: dict) -> str | None:
    """Why no correct answer could ever pass this case; None when one could."""
    try:
        suite = suite.of(case)
    except UserError as error:
        return str(error)
    if ("fill" in case) != any("{filler}" in (message["content"] or "") for message in case["messages"]):
        return "fill and a {filler} in its messages go together"
    if (case["kind"] == "tool_call") != ("calls" in case):
        return "a tool_call case needs calls, and no other may have them"
    if case["messages"][-1]["role"] not in ("user", "tool"):
        return "the last message must be from the user or a tool, so that the model is next"
    for message in case["messages"]:
        for call in message.get("tool_calls", []):
            if not _is_json_object(call["function"]["arguments"]):
                return "a tool call in its messages has arguments that are not a JSON object in a string"
    for call in case.get("calls", []):
        schema = suite.parameters(call["name"])
        if schema is None:
            return f"expects {call['name']}, which is not among the suite's tools"
        for name, rule in call["arguments"].items():
            if name not in schema.get("properties", {}):
                return f"{call['name']} has no argument {name}"
            if "regex" in rule:
                try:
                    re.compile(rule["regex"])
                except re.error as error:
                    return f"the regex of {name} does not compile: {error}"
            for value in rule.get("set", [rule["exact"]] if "exact" in rule else []):
                if not jsonschema.Draft202012Validator(schema["properties"][name]).is_valid(value):
                    return f"{name}={json.dumps(value)} is not valid by the schema of {call['name']}"
        if missing := [name for name in schema.get("required", []) if name not in call["arguments"]]:
            return f"{call['name']} requires {', '.join(missing)}, for which there is no rule"
    return None


def _is_json_object(text) -> bool:
    try:
        return isinstance(text, str) and isinstance(json.loads(text), dict)
    except json.JSONDecodeError:
        return False


def judge(suite: Suite, case: dict, answer: Answer) -> list:
    """Why `answer` fails `case`, one sentence each; an empty list is a pass."""
    suite = suite.of(case)
    why = [f"unreadable call: {error}" for error in answer.errors]
    if answer.finish_reason != FINISH[case["kind"]]:
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


def leaks(suite: Suite, answer: Answer) -> list:
    """Excerpts of the visible text that are tool calls written as text."""
    return tool_syntax.find_leaks(answer.content, [tool["function"]["name"] for tool in suite.tools])


def schema_problems(suite: Suite, call: dict) -> list:
    """Why the JSON schema of the tool refuses this call."""
    schema = suite.parameters(call["name"])
    if schema is None:
        return [f"called {call['name']}, which is not among the tools"]
    errors = jsonschema.Draft202012Validator(schema).iter_errors(call["arguments"])
    return [f"{call['name']}: invalid by schema: {error.message}" for error in errors]


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
    properties = suite.parameters(want["name"]).get("properties", {})
    problems = []
    for name in sorted({*want["arguments"], *call["arguments"]}):
        rule = want["arguments"].get(name)
        given = call["arguments"].get(name, properties.get(name, {}).get("default"))
        if rule is None:
            if "default" not in properties.get(name, {}) or not _same(given, properties[name]["default"]):
                problems.append(f"{name}={json.dumps(given, ensure_ascii=False)} was not asked for")
        elif name not in call["arguments"] and rule.get("optional"):
            continue
        elif name not in call["arguments"] and "default" not in properties[name]:
            problems.append(f"{name} is missing, expected {described(rule)}")
        elif not _matches(rule, given):
            problems.append(f"{name} is {json.dumps(given, ensure_ascii=False)}, expected {described(rule)}")
    return problems


def _matches(rule: dict, value) -> bool:
    if "ast" in rule:
        return bfcl_match.matches(value, rule["ast"])
    if "regex" in rule:
        return re.fullmatch(rule["regex"], value if isinstance(value, str) else json.dumps(value)) is not None
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
    return " or ".join(
        json.dumps(value, ensure_ascii=False) for value in rule.get("set", rule.get("ast", [rule.get("exact")]))
    )
