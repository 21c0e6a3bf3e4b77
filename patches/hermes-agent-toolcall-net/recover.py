"""Tool calls that stand in a model's text: read them, if and only if there is no doubt.

Three forms, each of which must end the message:

  <|tool_call_start|>[read_file(path="a.txt")]<|tool_call_end|>    native LFM; text may stand before it
  [read_file(path="a.txt")]                                         the same where the server dropped the markers;
                                                                    must be the whole message
  <tool_call>{"name": "read_file", "arguments": {…}}</tool_call>    Hermes's JSON, one block per call; text before it

The syntax is read by tool_syntax.py, the very file that the evaluator uses, copied here on installation.
In doubt is: anything malformed, a tool that the request does not offer, an argument that the tool's schema
does not have or does not take, a call inside a code block or an unfinished thought, text behind the call.
One such call among several leaves the whole message as it is. Standard library only.
"""

import json
import re

from . import tool_syntax

HERMES_BLOCKS = re.compile(r"(?:<tool_call>(?:(?!</?tool_call>).)*</tool_call>\s*)+\Z", re.DOTALL)
HERMES_BLOCK = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
THOUGHT = re.compile(r"\s*<think>.*?</think>", re.DOTALL)

# What a schema may say about a value here; a schema that says more cannot be checked, so its tool is not called.
_TYPES = {"string": str, "boolean": bool, "array": list, "object": dict, "null": type(None)}
_KNOWN = {
    "type",
    "enum",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "minItems",
    "maxItems",
    "minimum",
    "maximum",
    "description",
    "title",
    "default",
    "examples",
}


def recover(text: str, tools: dict) -> tuple | None:
    """(text before the calls, [{"name", "arguments"}, …]), or None where `text` is to stay text.

    `tools` has the JSON schema of each offered tool's arguments by its name.
    """
    found = _native(text) or _hermes(text) or _bare(text)
    if found is None:
        return None
    before, calls = found
    if _shown_only(before) or any(
        call["name"] not in tools or problem(call["arguments"], tools[call["name"]]) for call in calls
    ):
        return None
    return before.strip(), calls


def _native(text: str) -> tuple | None:
    if tool_syntax.CALL_START not in text:
        return None
    parsed = tool_syntax.parse(text.rstrip())
    return (parsed.content, parsed.calls) if parsed.calls and not parsed.errors and not parsed.leaks else None


def _bare(text: str) -> tuple | None:
    thought = THOUGHT.match(text)
    body = text[thought.end() :] if thought else text
    if re.match(r"\n*(?: {4}|\t)", body):  # an indented code block
        return None
    body = body.strip()
    if not body.startswith("[") or tool_syntax.CALL_START in body:
        return None
    parsed = tool_syntax.parse(tool_syntax.CALL_START + body + tool_syntax.CALL_END)
    return (thought.group() if thought else "", parsed.calls) if parsed.calls and not parsed.errors else None


def _hermes(text: str) -> tuple | None:
    blocks = HERMES_BLOCKS.search(text)
    if not blocks or "<tool_call>" in text[: blocks.start()]:
        return None
    calls = []
    for block in HERMES_BLOCK.findall(blocks.group()):
        try:
            call = json.loads(block, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
            arguments = call["arguments"]
            if isinstance(arguments, str):  # OpenAI's own form has a string here
                arguments = json.loads(arguments, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
            json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode()  # 1e999 and lone surrogates
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        if not isinstance(call.get("name"), str) or not isinstance(arguments, dict):
            return None
        calls.append({"name": call["name"], "arguments": arguments})
    return text[: blocks.start()], calls


def _no_duplicates(pairs: list) -> dict:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _no_constant(name: str):
    raise ValueError(f"{name} is not JSON")


def _shown_only(before: str) -> bool:
    """Does what stands before a call make it an example: an open code block, an open inline code, an open thought?"""
    fences = re.findall(r"^[ \t]*(?:```|~~~)", before, flags=re.MULTILINE)
    last_line = before.rsplit("\n", 1)[-1]
    return (
        len(fences) % 2 == 1
        or last_line.count("`") % 2 == 1
        or bool(re.fullmatch(r" {4}[^\S\n]*|\t\s*", last_line))
        or before.count("<think>") > before.count("</think>")
    )


def problem(value, schema: dict) -> str | None:
    """Why `value` does not fit a JSON schema, or why that cannot be told; None when it fits.

    Stricter than JSON Schema in one thing: an argument that `properties` does not name is refused
    unless the schema allows it in so many words, since no model was told of it.
    """
    if unknown := sorted(set(schema) - _KNOWN):
        return f"the schema uses {', '.join(unknown)}"
    if "type" in schema and not any(
        _is(value, name) for name in ([schema["type"]] if isinstance(schema["type"], str) else schema["type"])
    ):
        return f"not {schema['type']}"
    if "enum" in schema and not any(value == allowed and type(value) is type(allowed) for allowed in schema["enum"]):
        return "not one of the allowed values"
    if isinstance(value, dict):
        return _object_problem(value, schema)
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            return "too few or too many items"
        return next((why for item in value if (why := problem(item, schema.get("items", {})))), None)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
            return "out of range"
    return None


def _object_problem(value: dict, schema: dict) -> str | None:
    properties = schema.get("properties", {})
    if missing := [name for name in schema.get("required", []) if name not in value]:
        return f"{', '.join(missing)} missing"
    for name, item in value.items():
        rule = properties.get(name, schema.get("additionalProperties", not schema))  # {} takes anything
        if rule is False:
            return f"{name} is not an argument"
        if rule is not True and (why := problem(item, rule)):
            return f"{name}: {why}"
    return None


def _is(value, name: str) -> bool:
    if name in ("number", "integer"):
        return (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and (name == "number" or value == value // 1)
        )
    return isinstance(value, _TYPES.get(name, ()))  # a type that nobody knows fits nothing
