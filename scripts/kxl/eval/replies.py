"""A chat completion as Hermes Agent 0.19.0 takes it: what it runs is a call, what it prints is text.

    answer = read_chat(reply, names)       # names: the tools on offer

No reply is trusted to have a shape. One that is no chat completion at all (no choices, no message) is an OddReply:
the server failed, not the model. Anything else is an answer, whose unreadable parts stand in `errors`.

Mended as Hermes mends it, each with a note: arguments as an object, null or "" (conversation_loop.py), a trailing
comma or an open brace in them (message_sanitization.py), another spelling of a tool's name
(agent_runtime_helpers.repair_tool_call), the same call twice. Not a call, as there: arguments that are no object, a
nameless call, the legacy function_call. Thoughts come as `reasoning_content` (llama-server), `reasoning`
(mlx_lm.server), typed parts, or in the text.
"""

import difflib
import json
import math
import re

from kxl.chat import thoughts
from kxl.eval.verdicts import Answer

DEEPEST = 100  # nested lists and objects in a reply; no call needs more, and the report's writer cannot take many more
SURROGATE = re.compile("[\ud800-\udfff]")
SHOWN = 300  # characters of a reply that an error shows


class OddReply(ValueError):
    """A reply that is no chat completion; the message says what it is instead."""


def read_json(text: str):
    """A server's JSON, without what no report can hold (NaN, half a surrogate pair). OddReply for anything else."""
    try:
        return _clean(json.loads(text))
    except (ValueError, RecursionError):
        raise OddReply(f"is not JSON: {excerpt(text)}") from None


def excerpt(text: str) -> str:
    """The beginning of a text on one line, for an error."""
    line = " ".join(text.split())
    return (line[:SHOWN] + "…" if len(line) > SHOWN else line) or "nothing"


def error_message(reply) -> str | None:
    """The message of an OpenAI error object, in any of its forms; None where `reply` is none."""
    error = reply.get("error") if isinstance(reply, dict) else None
    if isinstance(error, dict):
        error = error.get("message") or json.dumps(error, ensure_ascii=False)
    return str(error) if error else None


def read_chat(reply, names: list[str]) -> Answer:
    """The answer in a chat completion (parsed JSON). OddReply where there is none."""
    choices = reply.get("choices") if isinstance(reply, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        lacks = "choices" if not choice else "message"
        what = error_message(reply)
        raise OddReply(f"is an error: {excerpt(what)}" if what else f"has no {lacks}: {excerpt(json.dumps(reply))}")
    finish = choice.get("finish_reason")
    calls, errors, notes = _read_calls(message, names)
    if finish == "tool_calls" and not calls and not errors:
        errors.append("finish_reason is tool_calls but there is none: the server could not read it")
    content, thought, ended = _text_and_thought(message)
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal.strip() and not content.strip() and not calls:
        content, finish = refusal, "content_filter" if finish in (None, "stop") else finish
    usage = reply.get("usage")
    return Answer(
        content,
        calls,
        str(finish) if isinstance(finish, str | int) and finish else "stop",
        errors,
        prompt_tokens=count(usage, "prompt_tokens"),
        output_tokens=count(usage, "completion_tokens"),
        cached_tokens=count(usage, "prompt_tokens_details", "cached_tokens"),
        thought=thought,
        thought_ended=ended,
        thought_tokens=count(usage, "completion_tokens_details", "reasoning_tokens"),
        notes=notes,
    )


def count(value, *path) -> int:
    """A number of tokens at a path into a reply; 0 where there is none."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _clean(value, depth: int = 0):
    if depth > DEEPEST:
        raise ValueError("nested too deep")
    if isinstance(value, str):
        return SURROGATE.sub("\ufffd", value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list):
        return [_clean(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {_clean(key): _clean(item, depth + 1) for key, item in value.items()}
    return value


def _text_and_thought(message: dict) -> tuple[str, str | None, bool]:
    """(visible text, thought or None, whether it ended)."""
    parts = message.get("content")
    given = [_flat(message.get(key)) for key in ("reasoning_content", "reasoning", "reasoning_details")]
    text = _flat(parts)
    if isinstance(parts, list):
        text = "\n".join(_flat(part) for part in parts if not _is_thought(part))
        given.append("\n".join(_flat(part) for part in parts if _is_thought(part)))
    thought = next((one for one in given if one.strip()), None)
    turn = thoughts.split(text)
    at_head = thoughts.HEAD.match(text)
    # An end mark alone closes a thought that the template opened, unless it is a word of a sentence, or the server has
    # told thought and text apart already.
    if turn.thought is None or not at_head and (thought or not turn.clear):
        return text, thought, True
    if thought and thought.strip() != turn.thought.strip():
        return turn.visible, f"{thought}\n{turn.thought}", turn.ended
    return turn.visible, turn.thought, turn.ended


def _is_thought(part) -> bool:
    return isinstance(part, dict) and part.get("type") in ("thinking", "reasoning", "redacted_thinking")


def _flat(value) -> str:
    """The text in a string, a part or a list of parts; "" where there is none."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list):
        return "\n".join(_flat(item) for item in value)
    if isinstance(value, dict):
        keys = ("text", "content", "thinking", "reasoning", "summary")
        return next((text for key in keys if (text := _flat(value.get(key)))), "")
    return ""


def _read_calls(message: dict, names: list[str]) -> tuple[list, list, list]:
    """(calls, errors, notes) of a message."""
    listed, calls, errors, notes, seen = message.get("tool_calls"), [], [], [], set()
    if listed and not isinstance(listed, list):
        return [], [f"tool_calls is no list: {excerpt(json.dumps(listed))}"], []
    if not listed and message.get("function_call"):
        return [], ["it is a legacy function_call, which Hermes does not read"], []
    for call in listed or []:
        function = call.get("function") if isinstance(call, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(name, str) or not name:
            errors.append(f"a call without a name: {excerpt(json.dumps(call))}")
            continue
        if name not in names and (meant := meant_name(name, names)):
            notes.append(f"{name} is taken as {meant}")
            name = meant
        given = function.get("arguments")
        arguments, note = read_arguments(given)
        if arguments is None:
            errors.append(
                f"arguments of {name} {note}: {excerpt(given if isinstance(given, str) else json.dumps(given))}"
            )
            continue
        if note:
            notes.append(f"arguments of {name} {note}")
        key = (name, given if isinstance(given, str) else json.dumps(given))
        if key in seen:
            notes.append(f"{name} was called twice with the same arguments, once counts")
            continue
        seen.add(key)
        calls.append({"name": name, "arguments": arguments})
    return calls, errors, notes


def read_arguments(given) -> tuple[dict | None, str | None]:
    """(arguments, how they were mended or None), or (None, why Hermes would not run the call)."""
    if isinstance(given, dict):
        return given, "came as an object"
    if given is None or isinstance(given, str) and not given.strip():
        return {}, "are empty" if given is None or given else None
    if not isinstance(given, str):
        return None, "are not an object"
    note, why = None, ""
    for mend in (str, _mended):
        try:
            value = _clean(json.loads(mend(given), strict=mend is str))
            break
        except (ValueError, RecursionError) as error:
            why, note = why or f"are not JSON ({error})", "are mended JSON"
    else:
        return None, why
    return (value, note) if isinstance(value, dict) and (value or not note) else (None, why or "are not an object")


def _mended(text: str) -> str:
    """Arguments with Hermes's repairs: control characters in strings, a comma too many, braces too few or too many."""
    try:
        json.loads(text.strip(), strict=False)
        return text.strip()
    except ValueError:
        text = re.sub(r",\s*([}\]])", r"\1", text.strip())
    for opening, closing in ("{}", "[]"):
        text += closing * (text.count(opening) - text.count(closing))
    for _ in range(50):
        if _is_json(text):
            break
        if text.endswith(("}", "]")) and text.count(text[-1]) > text.count({"}": "{", "]": "["}[text[-1]]):
            text = text[:-1]
        else:
            break
    return text


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def meant_name(name: str, names: list[str]) -> str | None:
    """The tool on offer that Hermes runs for a name that is none of them; None where it runs nothing."""
    for mark in "\"'<>":
        if (place := name.find(mark)) > 0:
            name = name[:place]
    lowered, spelled = name.lower(), _plain(name)
    for one in (lowered, spelled):
        if one in names:
            return one
    forms = {name, lowered, spelled, _snake(name)}
    for _ in range(2):  # TodoTool_tool
        bare = {form for one in forms if (form := _without_suffix(one))}
        forms |= bare | {_plain(one) for one in bare} | {_snake(one) for one in bare}
    if found := sorted(form for form in forms if form and form in names):
        return found[0]
    return next(iter(difflib.get_close_matches(lowered, names, n=1, cutoff=0.7)), None)


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(" ", "_")


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _without_suffix(name: str) -> str | None:
    suffix = next((suffix for suffix in ("_tool", "-tool", "tool") if name.lower().endswith(suffix)), None)
    return name[: -len(suffix)].rstrip("_-") if suffix else None
