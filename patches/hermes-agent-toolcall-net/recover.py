"""Tool calls that stand in a model's text: read them, if and only if there is no doubt.

Two forms, with the markers that the model was trained to write; each must end the message:

  <|tool_call_start|>[read_file(path="a.txt")]<|tool_call_end|>    native LFM, one block
  <tool_call>{"name": "read_file", "arguments": {…}}</tool_call>    Hermes's JSON, one block per call

Plain prose and a closed thought may stand before it. The syntax is read by tool_syntax.py, the very file that the
evaluator uses, copied here on installation. In doubt is: a call without markers, anything malformed, a tool that the
request does not offer, an argument that the tool's schema does not have or does not take, more calls than the request
allows, a call in code, in a quotation or in a thought (prose.py), text behind the call, and a call that the model was
given to read (quoted.py). One such call among several leaves the whole message as it is. Standard library only.
"""

import json
import logging
import re

from . import prose, quoted, tool_syntax
from .schema import problem

logger = logging.getLogger(__name__)

MAX_CHARACTERS = 1_000_000
MAX_CALLS = 32
START, END = "<tool_call>", "</tool_call>"
THOUGHT, THOUGHT_END = "<think>", "</think>"
SPACE = re.compile(r"\s*")
AROUND_A_WORD = frozenset("`'\"“”‘’«»")


def recover(text: str, tools: dict, messages=(), at_most: int = MAX_CALLS, offered=()) -> tuple | None:
    """(text before the calls, [{"name", "arguments"}, …]), or None where `text` is to stay text.

    tools: the JSON schema of each offered tool's arguments by its name. messages: the request's, in which a call must
    not occur. at_most: how many calls the request allows. offered: the request's tools as they were sent.
    """
    if len(text) > MAX_CHARACTERS:
        return None
    text = text.rstrip().removesuffix(tool_syntax.TURN_END).rstrip()
    if not text.endswith((tool_syntax.CALL_END, END)):
        return None
    for thought, visible in _readings(text):
        if (found := _blocks(visible)) is None or not prose.plain(found[0]):
            continue
        before, calls, written = found
        why = _refused(calls, tools, at_most) or quoted.quoted(
            calls, written, visible[len(before) :], messages, offered
        )
        if why:
            logger.warning("toolcall-net: a call of %s stays text: %s", ", ".join(call["name"] for call in calls), why)
            return None
        return (thought + before).strip(), calls
    return None


def _refused(calls: list, tools: dict, at_most: int) -> str | None:
    """Why the request does not allow these calls."""
    if len(calls) > min(at_most, MAX_CALLS):
        return "the request allows fewer calls at once"
    for call in calls:
        if call["name"] not in tools:
            return f"the request offers no tool {call['name']}"
        if why := problem(call["arguments"], tools[call["name"]]):
            return f"the arguments of {call['name']} do not fit ({why})"
    return None


def _readings(text: str) -> list[tuple[str, str]]:
    """(thought with its marks, what is visible) as the chat format allows to read a turn; no reading where it is odd.

    A thought stands at the head of a turn. An end mark without a beginning closes one that the template opened,
    unless the mark belongs to a call's arguments: that reading comes first.
    """
    end = text.find(THOUGHT_END)
    headed = text.startswith(THOUGHT, SPACE.match(text).end())
    readings = [] if headed else [("", text)]
    if end < 0:
        return readings
    thought, after = text[:end], text[end + len(THOUGHT_END) :]
    in_words = (thought[-1:] in AROUND_A_WORD or after[:1] in AROUND_A_WORD) or (
        thought.endswith(" ") and after.startswith(" ") and bool(after.split("\n", 1)[0].strip())
    )
    if thought.count(THOUGHT) == headed and not in_words and prose.fences_closed(thought):
        readings.append((text[: end + len(THOUGHT_END)], after))
    return readings


def _blocks(text: str) -> tuple | None:
    """(text before, calls, each call's or block's text) where the first marker begins what ends the message."""
    places = [place for marker in (tool_syntax.CALL_START, START) if (place := text.find(marker)) >= 0]
    if not places:
        return None
    start = min(places)
    found = _native(text, start) if text.startswith(tool_syntax.CALL_START, start) else _tagged(text, start)
    return found and (text[:start], *found)


def _native(text: str, start: int) -> tuple | None:
    try:
        calls, end = tool_syntax.read_block(text, start)
    except tool_syntax.SyntaxProblem:
        return None
    inside = text[start + len(tool_syntax.CALL_START) + 1 : end - len(tool_syntax.CALL_END) - 1]
    return (calls, [inside]) if end == len(text) else None


def _tagged(text: str, position: int) -> tuple | None:
    calls, written = [], []
    while position < len(text):
        if not text.startswith(START, position) or len(calls) == MAX_CALLS:
            return None
        begin = SPACE.match(text, position + len(START)).end()
        try:
            call, end = DECODER.raw_decode(text, begin)
            arguments = call["arguments"]
            if isinstance(arguments, str):  # OpenAI's own form has a string here
                arguments = DECODER.decode(arguments)
            json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode()  # 1e999 and lone surrogates
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        if not isinstance(call.get("name"), str) or not isinstance(arguments, dict):
            return None
        calls.append({"name": call["name"], "arguments": arguments})
        written.append(text[begin:end])
        position = SPACE.match(text, end).end()
        if not text.startswith(END, position):
            return None
        position = SPACE.match(text, position + len(END)).end()
    return calls, written


def _no_duplicates(pairs: list) -> dict:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _no_constant(name: str):
    raise ValueError(f"{name} is not JSON")


DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
