"""The eval suite: its format, and how it is loaded and checked. The verdict on an answer is in verdicts.py.

A suite is a JSON file (evals/suites/*.json):

  name, description   what it is
  tools               "fixed_hermes", a list of OpenAI tools, or null for none
  system              system message of every case, or null
  max_tokens          most tokens of one answer, its thought apart
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
is not a string, its JSON).
With "optional": true the argument may be absent. An argument that the suite does not name, or that the model left
out, counts as the default in the tool's own schema.
"""

import json
import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import jsonschema

from kxl.base.cli import UserError
from kxl.base.files import read_json, shown
from kxl.chat import hermes_tools, schemas

KINDS = ("tool_call", "no_tool", "finalization")
LONGEST = 1 << 20  # tokens: of an answer, of a filled prompt


_RULE = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": False,
    "properties": {
        "exact": {},
        "set": {"type": "array", "minItems": 1},
        "regex": {"type": "string"},
        "optional": {"type": "boolean"},
    },
    "oneOf": [{"required": [kind]} for kind in ("exact", "set", "regex")],
}
_TOOLS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["type", "function"],
        "properties": {
            "function": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string", "minLength": 1}, "parameters": {"type": "object"}},
            }
        },
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
                            "properties": {
                                "function": {
                                    "type": "object",
                                    "required": ["name", "arguments"],
                                    "properties": {"name": {"type": "string"}, "arguments": {"type": "string"}},
                                }
                            },
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
        "fill": {"type": "integer", "minimum": 1, "maximum": LONGEST},
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
        "max_tokens": {"type": "integer", "minimum": 1, "maximum": LONGEST},
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
        return {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in self.tools}.get(name)

    def names(self) -> list[str]:
        """The names of the tools on offer."""
        return [tool["function"]["name"] for tool in self.tools]


def load(path: Path) -> Suite:
    """Read and check a suite; UserError names the file, the case and what is wrong with it."""
    data = read_json(path, object)
    if odd := _unsendable(data):
        raise UserError(f"{shown(path)}: holds {odd}, which cannot be sent to a server")
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
    suite = Suite(data["name"], tools, int(data["max_tokens"]), cases)
    if problem := _tools_problem(tools):
        raise UserError(f"{shown(path)}: {problem}")
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


def _unsendable(value) -> str | None:
    """What no JSON request can carry: NaN, infinity, half of a surrogate pair."""
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        return "half of a surrogate pair (a \\ud800 to \\udfff that stands alone)"
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)
    inside = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((odd for item in inside if (odd := _unsendable(item))), None)


def _tools_problem(tools: list) -> str | None:
    """What is wrong with a list of tools that has the right form; None where nothing is."""
    names = Counter(tool["function"]["name"] for tool in tools)
    for tool in tools:
        name = tool["function"]["name"]
        if names[name] > 1:
            return f"{names[name]} tools are called {name}"
        if why := schemas.schema_problem(tool["function"].get("parameters", {})):
            return f"the parameters of tool {name} are no JSON Schema that can be applied: {why}"
    return None


def expectation_problem(suite: Suite, case: dict) -> str | None:
    """Why no correct answer could ever pass this case; None when one could."""
    try:
        suite = suite.of(case)
    except UserError as error:
        return str(error)
    if "tools" in case and (problem := _tools_problem(suite.tools)):
        return problem
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
            if name not in schemas.properties(schema):
                return f"{call['name']} has no argument {name}"
            if "regex" in rule and (why := schemas.pattern_problem(rule["regex"])):
                return f"the regex of {name} does not compile: {why}"
            for value in rule.get("set", [rule["exact"]] if "exact" in rule else []):
                if any(place[:1] == (name,) for place, _ in schemas.errors(schema, {name: value})):
                    return f"{name}={json.dumps(value)} is not valid by the schema of {call['name']}"
        if missing := [name for name in schema.get("required", []) if name not in call["arguments"]]:
            return f"{call['name']} requires {', '.join(missing)}, for which there is no rule"
    return None


def _is_json_object(text) -> bool:
    try:
        return isinstance(text, str) and isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
