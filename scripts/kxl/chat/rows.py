"""Chat rows from a file of JSON lines, whoever wrote it: checked, and in the one form that templates get.

    for where, row in rows.read(Path("runs/tiny/data/train.jsonl")):
        row["messages"], row["tools"]

A row is {"messages": [...], "tools": [...], ...}: OpenAI messages with role and content; an assistant may have
`tool_calls` and a thought, `reasoning_content`; tools are OpenAI schemas, "fixed_hermes" (Hermes's own, which every
fixed-Hermes request carries), or absent. Other keys stay as they are. What other writers do is taken, too:
`arguments` as JSON text, calls without the wrapper {"type": "function"}, the older `function_call`, content as
text parts or null, null for what is absent, a thought under another name or as <think>…</think> at the head of the
text. Everything else is a UserError that names file and line.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from kxl.base import jsonl
from kxl.base.cli import UserError
from kxl.chat import hermes_tools, thoughts


def read(path: Path) -> Iterator[tuple[str, dict]]:
    """("file:line", row) of every line that is not blank. UserError names the line that is no row, and why."""
    for where, data in jsonl.read(path, "`make data`"):
        yield where, row_of(data, where)


def row_of(data, where: str) -> dict:
    """One row, checked; `where` is for the error."""
    if not isinstance(data, dict):
        raise UserError(f"{where}: a row must be an object with messages, not a {type(data).__name__}")
    messages = data.get("messages")
    if not isinstance(messages, list) or not messages:
        raise UserError(f"{where}: messages must be a list of objects with role and content; it is {_short(messages)}")
    made = [_message(message, f"{where}: message {place}") for place, message in enumerate(messages)]
    if not any(message["role"] == "assistant" for message in made):
        raise UserError(f"{where}: no message has role assistant, so there is nothing to learn from this row")
    tools = data.get("tools")
    if tools != "fixed_hermes" and tools is not None:
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            raise UserError(f'{where}: tools is {_short(tools)}; it must be "fixed_hermes", a list of schemas, or null')
    if not isinstance(data.get("reasoning_loss", True), bool):
        raise UserError(f"{where}: reasoning_loss is {_short(data['reasoning_loss'])}; it must be true or false")
    row = {**data, "messages": made, "tools": tools}
    try:
        json.dumps([made, tools], ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: holds half a character (a lone surrogate), which has no tokens") from None
    return row


def tools_of(row: dict) -> list | None:
    """The schemas of a row's tools; None without any."""
    return hermes_tools.load(hermes_tools.FIXED_SURFACE) if row["tools"] == "fixed_hermes" else row["tools"] or None


def calls_of(message: dict) -> list[dict]:
    """[{"name", "arguments"}] of a structured message."""
    return [
        {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
        for call in message.get("tool_calls") or []
    ]


def calls_in(row: dict) -> list[dict]:
    """Every call of a row's messages, in order."""
    return [call for message in row["messages"] for call in calls_of(message)]


def _message(message, where: str) -> dict:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise UserError(f"{where} must be an object with a role, it is {_short(message)}")
    made = {key: value for key, value in message.items() if value is not None}
    made["content"] = _text(message.get("content"), where)
    if message["role"] == "assistant":
        calls = _calls(message, where)
        thought = _thought(message, made)
        for key in (*thoughts.FIELDS, "tool_calls", "function_call"):
            made.pop(key, None)
        made |= {"reasoning_content": thought} if thought.strip() else {}
        made |= {"tool_calls": calls} if calls else {}
    return made


def _thought(message: dict, made: dict) -> str:
    """The thought of an assistant's message; one at the head of its text is taken out of that."""
    named = next(
        (message[key] for key in thoughts.FIELDS if isinstance(message.get(key), str) and message[key].strip()), ""
    )
    if not named and thoughts.HEAD.match(made["content"]):
        turn = thoughts.split(made["content"])
        if turn.ended and turn.clear:
            made["content"] = turn.visible
            return turn.thought
    return named


def _text(content, where: str) -> str:
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        if all(part.get("type") == "text" and isinstance(part.get("text"), str) for part in content):
            return "".join(part["text"] for part in content)
    if content is None or isinstance(content, str):
        return content or ""
    raise UserError(f"{where}: content must be text or text parts, it is {_short(content)}")


def _calls(message: dict, where: str) -> list[dict]:
    calls = message.get("tool_calls")
    if not calls and message.get("function_call"):
        calls = [message["function_call"]]
    if isinstance(calls, str):
        calls = _text_as_json(calls, f"{where}: tool_calls")
    if calls is not None and not isinstance(calls, list):
        raise UserError(f"{where}: tool_calls must be a list, it is {_short(calls)}")
    return [_call(call, f"{where}: call {number}") for number, call in enumerate(calls or [])]


def _call(call, where: str) -> dict:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise UserError(f"{where} must be an object with function.name and function.arguments, it is {_short(call)}")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        arguments = _text_as_json(arguments or "{}", f"{where}: arguments of {function['name']}")
    if not isinstance(arguments, dict):
        said = _short(arguments)
        raise UserError(
            f"{where}: arguments of {function['name']} must be an object, or one as JSON text; it is {said}"
        )
    wrapper = call if function is not call else {}
    return {"type": "function", **wrapper, "function": {"name": function["name"], "arguments": arguments}}


def _text_as_json(text: str, where: str):
    try:
        return jsonl.parse(text)
    except jsonl.NotJson as error:
        raise UserError(f"{where}: {error}") from None


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
