"""Traces of three formats as chat rows, in the form in which Hermes replays a history at run time.

    row = to_row(data, meets)      # {"id", "task", "messages", "tools"}

  Hermes ShareGPT             {"conversations": [{"from": "gpt", "value": "<think>…</think><tool_call>{…}…"}, …],
                              "tools": "[…]"}; several calls are several blocks, all their results stand in the next
                              tool turn; the prompt's prose also says <tools> </tools>, before the real list
  Hermes-Function-Calling-V1  the same with tools in the system message only, and Python literals in places
  OpenAI chat                 {"messages": [{"role", "content", "tool_calls"}, …], "tools": […]}, or the older
                              function_call and functions; Hermes's session files are this with a system_prompt

The text of an OpenAI row is literal: a result that quotes <tool_response> is whole, an answer that shows a
<tool_call> makes none, unless its system message lists <tools> and so says that the row is in the markup. A
thought is the one thing that is taken out of any assistant's text (kxl/chat/thoughts.py); a turn's fields
reasoning_content, reasoning and thinking say it, too.

Out come OpenAI messages: text without white space around it, the thought as `reasoning_content`, calls with
`arguments` as an object whose keys are sorted (conversation_loop.py of Hermes 0.19.0 does both before each
request), ids call_1, call_2, … and the tool messages that answer them; tools as {"type": "function", "function":
{"name", "description", "parameters"}}, without keys that are null. The prose that explains the ShareGPT markup to
a model is left out: the chat template says it in the model's own way.

What cannot be read raises Dropped with its reason; what can be mended is offered to `meets(reason, detail, repair)`.
"""

import ast
import functools
import json
import re

from kxl.chat import thoughts

ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
SPACE = re.compile(r"\s*")
ARGUMENTS = ("arguments", "parameters", "args", "input")  # what writers of traces call them, ours first
PROSE = "You are a function calling AI model"
MARKS = {
    "call": ("<tool_call>", "</tool_call>"),
    "response": ("<tool_response>", "</tool_response>"),
    "tools": ("<tools>", "</tools>"),
}


class Dropped(Exception):
    """A row that is left out: the reason, by its name in the report, and what exactly was found."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


def parse_json(text: bytes | str):
    """JSON text as a value; Dropped not_utf8 or not_json."""
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        return json.loads(text, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise Dropped("not_utf8", f"byte {error.start} of the row is {error.object[error.start]:#04x}") from None
    except json.JSONDecodeError as error:
        raise Dropped("not_json", f"{error.msg} at character {error.pos}") from None
    except (ValueError, RecursionError) as error:
        raise Dropped("not_json", f"{type(error).__name__}: {error}") from None


def _refuse_constant(name: str):
    raise ValueError(f"{name} is not JSON")


def to_row(data, meets) -> dict:
    """One chat row of whatever format `data` is in. Dropped wrong_columns when it is in none."""
    if not isinstance(data, dict):
        raise Dropped("wrong_columns", f"the row is a {type(data).__name__}, not an object")
    turns = _turns(data)
    roles = [_role(turn, place) for place, turn in enumerate(turns)]
    texts = [_text(_first(turn, "content", "value"), place) for place, turn in enumerate(turns)]
    # Text is markup where the turns are ShareGPT's, and where the system message lists tools in it.
    structured = any(turn.get("tool_calls") or turn.get("function_call") for turn in turns)
    taught = not structured and any(role == "system" and _listed_tools(text) for role, text in zip(roles, texts))
    messages, listed = [], None
    for place, (turn, role, text) in enumerate(zip(turns, roles, texts)):
        markup = taught or turn.get("role") is None
        if role != "assistant" and (turn.get("tool_calls") or turn.get("function_call")):
            raise Dropped("wrong_columns", f"turn {place} of the {role} holds calls")
        if role == "system" and MARKS["tools"][0] in text:
            text, found = _without_prose(text)
            listed = found or listed
        if role == "assistant":
            messages.append(_assistant(turn, text, place, markup, meets))
        elif role == "tool":
            messages += _results(turn, text, markup)
        elif text.strip() or role == "user":
            messages.append({"role": role, "content": text.strip()})
    prompt = _first(data, "system_prompt", "system")  # a session file of Hermes keeps it beside the messages
    if isinstance(prompt, str) and prompt.strip() and "system" not in roles:
        messages.insert(0, {"role": "system", "content": prompt.strip()})
    tools = _first(data, "tools", "functions")
    if tools is None or isinstance(tools, str) and not tools.strip():
        tools = listed or []
    tools = read_tools(tools if isinstance(tools, str) else _as_json(tools))
    _with_arguments(messages, tools, meets)
    name = _first(data, "id", "session_id")
    return {
        "id": str(name) if isinstance(name, str | int) and str(name) else None,
        "task": data.get("task") if isinstance(data.get("task"), str) else None,
        "messages": _with_ids(messages),
        "tools": tools,
    }


def _first(data: dict, *keys: str):
    """The first value that is not null: Arrow fills the keys that a row lacks with null."""
    return next((data[key] for key in keys if data.get(key) is not None), None)


def _as_json(tools) -> str:
    try:
        return json.dumps(tools, default=str)
    except (TypeError, ValueError, RecursionError) as error:
        raise Dropped("bad_tools", f"tools cannot be written as JSON: {error}") from None


def _turns(data: dict) -> list[dict]:
    for key in ("messages", "conversations"):
        turns = data.get(key)
        if isinstance(turns, str) and turns.lstrip().startswith("["):  # a column of JSON text
            try:
                turns = parse_json(turns)
            except Dropped as problem:
                raise Dropped("wrong_columns", f"{key} is text that is not JSON: {problem.detail}") from None
        if isinstance(turns, list):
            break
    else:
        nulls = [key for key in ("messages", "conversations") if key in data and data[key] is None]
        found = f"{nulls[0]} is null" if nulls else f"has {', '.join(sorted(map(str, data))[:8]) or 'no columns'}"
        raise Dropped("wrong_columns", f"{found}; needs a list messages or conversations")
    for place, turn in enumerate(turns):
        if not isinstance(turn, dict):
            raise Dropped("wrong_columns", f"turn {place} is a {type(turn).__name__}, not an object")
    return turns


def _role(turn: dict, place: int) -> str:
    name = _first(turn, "role", "from")
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise Dropped("wrong_columns", f"turn {place} has the role {str(name)[:120]!r}")
    return role


def _text(content, place: int) -> str:
    """The text of a message: a string, nothing, or OpenAI's list of parts."""
    if content is None:
        return ""
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        if others := [
            part.get("type") for part in content if part.get("type") != "text" or not isinstance(part.get("text"), str)
        ]:
            raise Dropped("wrong_columns", f"turn {place} holds {others[0]}, only text can be trained")
        return "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise Dropped("wrong_columns", f"the text of turn {place} is a {type(content).__name__}")
    return content


def _assistant(turn: dict, text: str, place: int, markup: bool, meets) -> dict:
    said = thoughts.split(text)
    if not said.ended or not said.clear:
        what = "does not end" if not said.ended else "may end in several places"
        raise Dropped("broken_thought", f"turn {place}: a thought that {what}: {text.strip()[:120]}")
    if marks := thoughts.marks_outside(said.visible):
        meets("thought_marks", f"turn {place}: {marks[0]} in {said.visible.strip()[:120]!r}")
    if markup:
        content, calls, literal = marked_calls(said.visible, f"turn {place}")
    else:
        content, calls, literal = said.visible.strip(), [], None
        if shown := thoughts.call_blocks(content):
            meets("call_in_text", f"turn {place}: {shown[0][:120]}")
    if literal:
        meets("python_literals", literal, lambda: "read as Python's literals")
    structured = [
        {**_call(call, f"call {number} of turn {place}"), "known_as": call.get("id")}
        for number, call in enumerate(_structured_calls(turn, place))
    ]
    if [{**call, "known_as": None} for call in structured] != calls:  # some writers say the same calls in both ways
        calls += structured
    else:
        calls = structured
    message = {"role": "assistant", "content": content}
    if thought := _thought(turn, said.thought):
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = calls
    return message


def _thought(turn: dict, in_text: str | None) -> str:
    """What a turn's fields and its text say as its thought, each said once."""
    parts = []
    for text in (*(turn.get(key) for key in thoughts.FIELDS), in_text):
        if isinstance(text, str):
            marked = thoughts.split(text)
            text = (marked.thought if marked.thought is not None and not marked.visible.strip() else text).strip()
            if text and text not in parts:
                parts.append(text)
    return "\n".join(parts)


def _structured_calls(turn: dict, place: int) -> list[dict]:
    """The calls of tool_calls, or of the older function_call; either may be JSON text."""
    calls = turn.get("tool_calls")
    if isinstance(calls, str):
        calls = _json_text(calls, f"turn {place}: tool_calls") if calls.strip() else None
    if isinstance(calls, dict):
        calls = [calls]
    if not calls:
        older = turn.get("function_call")
        older = _json_text(older, f"turn {place}: function_call") if isinstance(older, str) and older.strip() else older
        calls = [older] if older else []
    if not isinstance(calls, list):
        raise Dropped("broken_call", f"turn {place}: tool_calls is a {type(calls).__name__}, not a list")
    for number, call in enumerate(calls):
        if not isinstance(call, dict):
            raise Dropped("broken_call", f"call {number} of turn {place} has no name: {str(call)[:120]}")
    return calls


def _json_text(text: str, what: str):
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise Dropped("broken_call", f"{what} is text that is not JSON ({error}): {text[:120]}") from None


def marked_calls(text: str, where: str = "the turn") -> tuple[str, list[dict], str | None]:
    """(content, calls of the <tool_call> blocks, detail of one in Python's literals or None). Dropped broken_call."""
    content, calls, literal = [], [], None
    for before, inside, value, how in _blocks(text, "call"):
        content.append(before.strip())
        if how == "unread":
            raise Dropped("broken_call", f"{where}: {inside.strip()[:120]}")
        if how == "literal":
            literal = literal or f"{where}: {inside.strip()[:120]}"
        if how != "rest":
            calls.append({**_call(value, f"call {len(calls)} of {where}"), "known_as": None})
    return "\n".join(part for part in content if part), calls, literal


def _blocks(text: str, kind: str):
    """(text before, text inside, its value, "json" | "literal" | "unread") of every marked block.

    At last (text behind, "", None, "rest").
    """
    start_mark, end_mark = MARKS[kind]
    position = 0
    while (start := text.find(start_mark, position)) >= 0:
        inside, value, how, end = _block(text, start + len(start_mark), end_mark)
        yield text[position:start], inside, value, how
        position = end
    yield text[position:], "", None, "rest"


def _block(text: str, start: int, end_mark: str) -> tuple:
    """(text inside, value, how, end). JSON first, not just up to the end mark: a string in it may hold that."""
    value, after = _json_at(text, start)
    if after is not None and text.startswith(end_mark, after):
        return text[start:after], value, "json", after + len(end_mark)
    end = text.find(end_mark, start)
    if end < 0:
        return text[start:], None, "unread", len(text)
    value = _literal(text[start:end])
    return text[start:end], value, "unread" if value is None else "literal", end + len(end_mark)


def _json_at(text: str, position: int) -> tuple:
    """(value, first character behind it and white space), or (None, None) where no JSON begins."""
    try:
        value, after = _DECODER.raw_decode(text, SPACE.match(text, position).end())
        return value, SPACE.match(text, after).end()
    except (ValueError, RecursionError):
        return None, None


def _literal(text: str):
    """A value written as Python writes it, or None."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def _call(value, what: str) -> dict:
    """{"name", "arguments"} of a call however it is wrapped; arguments with sorted keys, None where it has none."""
    function = value.get("function") or value if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
        raise Dropped("broken_call", f"{what} has no name: {str(value)[:120]}")
    said = [_arguments(function[key], what) for key in ARGUMENTS if function.get(key) is not None]
    if any(other != said[0] for other in said):
        raise Dropped("broken_call", f"{what} says its arguments twice: {str(function)[:120]}")
    return {"name": function["name"], "arguments": said[0] if said else None}


def _arguments(arguments, what: str) -> dict:
    if isinstance(arguments, str):
        try:
            arguments = _DECODER.decode(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError) as error:
            raise Dropped("broken_call", f"{what}: its arguments are not JSON ({error}): {arguments[:120]}") from None
    if not isinstance(arguments, dict):
        raise Dropped("broken_call", f"{what}: its arguments are a {type(arguments).__name__}")
    try:
        return json.loads(json.dumps(arguments, sort_keys=True, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:  # a Python literal may hold what JSON cannot
        raise Dropped("broken_call", f"{what}: {error}") from None


def _with_arguments(messages: list, tools: list, meets) -> None:
    """A call without arguments is one of a tool that takes none; of another tool, nobody knows what it was."""
    takes = {tool["function"]["name"]: tool["function"]["parameters"].get("properties") for tool in tools}
    for message in messages:
        for call in message.get("tool_calls", []):
            if call["arguments"] is None:
                if takes.get(call["name"], True):
                    meets("missing_arguments", call["name"])
                call["arguments"] = {}


def _results(turn: dict, text: str, markup: bool) -> list[dict]:
    """The tool messages of one tool turn: one for each <tool_response> where the text is markup, or the whole text."""
    found = []
    for _, inside, value, how in _blocks(text, "response") if markup else ():
        if (
            how == "json"
            and isinstance(value, dict)
            and "content" in value
            and value.keys() <= {"tool_call_id", "name", "content"}
        ):
            # Hermes parses a tool's JSON before it writes the trace: this is how the tool had written it.
            content = (
                value["content"]
                if isinstance(value["content"], str)
                else json.dumps(value["content"], ensure_ascii=False)
            )
            found.append({"role": "tool", "name": value.get("name"), "content": content.strip(), "answers": None})
        elif how != "rest":
            found.append({"role": "tool", "name": None, "content": inside.strip(), "answers": None})
    name = _first(turn, "name", "tool_name")
    return found or [{"role": "tool", "name": name, "content": text.strip(), "answers": turn.get("tool_call_id")}]


def _with_ids(messages: list) -> list:
    """Give each call an id and each tool message the id of the call it answers; None where there is no such call."""
    made, waiting, count = [], [], 0
    for message in messages:
        if message["role"] == "assistant":
            calls = []
            for call in message.get("tool_calls", []):
                count += 1
                calls.append(
                    {
                        "id": f"call_{count}",
                        "type": "function",
                        "function": {"name": call["name"], "arguments": call["arguments"]},
                    }
                )
            waiting = [(own["known_as"], call) for own, call in zip(message.get("tool_calls", []), calls)]
            made.append({**message, "tool_calls": calls} if calls else message)
        elif message["role"] == "tool":
            match = next((one for one in waiting if one[0] is not None and one[0] == message["answers"]), None)
            if match is None and waiting and (message["answers"] is None or waiting[0][0] is None):
                match = waiting[0]  # neither side has ids: results come in the order of the calls
            if match and message["name"] not in (None, match[1]["function"]["name"]):
                match = None
            if match:
                waiting.remove(match)
            made.append(
                {
                    "role": "tool",
                    "tool_call_id": match[1]["id"] if match else None,
                    "name": match[1]["function"]["name"] if match else message["name"],
                    "content": message["content"],
                }
            )
        else:
            made.append(message)
    return made


def _listed_tools(text: str) -> list | None:
    """The last list of tools that a system message holds; the mark also stands in the prose before it."""
    lists = (_listed(text, match.end()) for match in re.finditer(re.escape(MARKS["tools"][0]), text))
    return next((found for found in reversed([*lists]) if found), None)


def _without_prose(text: str) -> tuple[str, list | None]:
    """(the system message without the explanation of the markup, the tools that it lists)."""
    tools = _listed_tools(text)
    start = text.find(PROSE)
    if start < 0 or tools is None:
        return text, tools
    ends = [text.rfind(mark) + len(mark) for mark in (MARKS["call"][1], MARKS["tools"][1]) if text.rfind(mark) > start]
    return (text[:start] + text[max(ends, default=len(text)) :]).strip(), tools


def _listed(text: str, position: int) -> list | None:
    """The tools after <tools>: a JSON list, or objects one after another, or a Python list; None for prose."""
    found, place = [], position
    while place is not None:
        value, place = _json_at(text, place)
        found += value if isinstance(value, list) else [value] if place is not None else []
    if not found:
        found = _literal(text[position : text.find(MARKS["tools"][1], position)])
    return found if isinstance(found, list) and found else None


@functools.lru_cache(maxsize=64)
def read_tools(text: str) -> list[dict]:
    """A tools column (JSON text) as OpenAI tools. Dropped bad_tools. Callers share the result: do not change it."""
    try:
        tools = _without_nulls(_DECODER.decode(text))
    except (ValueError, RecursionError) as error:
        raise Dropped("bad_tools", f"the tools column is not JSON: {error}") from None
    if not isinstance(tools, list):
        raise Dropped("bad_tools", f"tools is a {type(tools).__name__}, not a list")
    made = []
    for tool in tools:
        function = tool.get("function") or tool if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"]:
            raise Dropped("bad_tools", f"a tool has no name: {str(tool)[:120]}")
        parameters = function.get("parameters") or {"type": "object", "properties": {}}
        if not isinstance(parameters, dict) or not isinstance(parameters.get("properties", {}), dict):
            raise Dropped("bad_tools", f"the parameters of {function['name']} are no JSON schema")
        made.append(
            {
                "type": "function",
                "function": {
                    "name": function["name"],
                    "description": str(function.get("description") or ""),
                    "parameters": parameters,
                },
            }
        )
    names = [tool["function"]["name"] for tool in made]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise Dropped("bad_tools", f"{doubled[0]} is listed twice")
    return made


def _without_nulls(value):
    """A schema without the keys that are null: Arrow gives every tool the keys of all, and no prompt should say so."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value
