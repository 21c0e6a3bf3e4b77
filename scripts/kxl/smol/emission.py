"""What a model emitted, judged token by token: a real call, a broken one, code, or words.

`read(ids, tokens, decode)` looks at the raw ids of one assistant turn. A thought at its head is taken off first; what
stands in it is neither call nor text. The order decides the verdict:

  endless_thought  a thought that does not end; it may have run out of tokens
  only_thought     a thought, and nothing after it
  call             start token, valid JSON with name and arguments, end token; once or several times
  broken_json      start and end token, and between them no such JSON
  unclosed         start token without an end token
  code_dump        no start token, and the request answered by a program or a call written as text
  text             none of that: words
"""

import bisect
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from kxl.chat import thoughts
from kxl.smol.tokens import ToolTokens

KINDS = ("endless_thought", "only_thought", "call", "broken_json", "unclosed", "code_dump", "text")
CODE = re.compile(
    r"```|^\s*(?:import|from) \w+|^\s*(?:def|class) \w+|^\s*print\(|#!/|<script|with open\(", re.MULTILINE
)
# A call as text: JSON with a name beside arguments, or any function's name with its first argument.
AS_TEXT = re.compile(r'"(?:name|function)"\s*:\s*"|"(?:arguments|parameters)"\s*:\s*\{')


@dataclass
class Emission:
    """kind: one of KINDS. calls: [{"name", "arguments"}] read so far. problem: what broke, for the broken kinds.
    started: whether a start token stands behind the thought."""

    kind: str
    calls: list = field(default_factory=list)
    problem: str = ""
    started: bool = False


def read(ids: list[int], tokens: ToolTokens, decode: Callable[[list[int]], str], names=()) -> Emission:
    """The verdict on one assistant turn's tokens; `names` are the tools on offer, whose calls as text are code."""
    turn = thoughts.split(text := decode(ids))
    if turn.thought is None:
        return _read_visible(ids, tokens, decode, names)
    if not turn.ended:
        return Emission("endless_thought", problem=f"no end of the thought in {len(ids)} tokens")
    if not turn.visible.strip():
        return Emission("only_thought", problem=f"nothing after a thought of {len(ids)} tokens")
    hidden = len(text) - len(turn.visible)
    behind = bisect.bisect_left(range(len(ids)), hidden, key=lambda count: len(decode(ids[:count])))
    return _read_visible(ids[behind:], tokens, decode, names)


def _read_visible(ids: list[int], tokens: ToolTokens, decode: Callable[[list[int]], str], names) -> Emission:
    found = _verdict(ids, tokens, decode, names)
    found.started = tokens.call_start in ids
    return found


def _verdict(ids: list[int], tokens: ToolTokens, decode: Callable[[list[int]], str], names) -> Emission:
    calls, place = [], 0
    while tokens.call_start in ids[place:]:
        start = ids.index(tokens.call_start, place)
        if tokens.call_end not in ids[start:]:
            return Emission("unclosed", calls, f"no end token in {len(ids) - start} tokens after the start token")
        end = ids.index(tokens.call_end, start)
        call, problem = read_call(decode(ids[start + 1 : end]))
        if problem:
            return Emission("broken_json", calls, problem)
        calls.append(call)
        place = end + 1
    if tokens.call_end in ids[place:]:
        return Emission("broken_json", calls, "an end token without a start token")
    if calls:
        return Emission("call", calls)
    text = decode(ids)
    written = any(re.search(rf"(?<!\w){re.escape(name)}\(", text) for name in names)
    return Emission("code_dump" if written or CODE.search(text) or AS_TEXT.search(text) else "text")


def behind_thought(ids: list[int], decode: Callable[[list[int]], str]) -> list[int]:
    """The tokens of a turn behind its thought (kxl/chat/thoughts.py); all of them without one, none if it never ends.

    A call that a thought names is not made.
    """
    turn = thoughts.split(decode(ids))
    if turn.thought is None:
        return ids
    return next((ids[start:] for start in range(len(ids) + 1) if decode(ids[start:]) == turn.visible), [])


def read_call(text: str) -> tuple[dict | None, str]:
    """({"name", "arguments"}, "") from what stands between the tokens, or (None, what is wrong with it)."""
    try:
        call = json.loads(text)
    except json.JSONDecodeError as error:
        return None, f"not JSON: {error.msg} at character {error.pos} of {text[:80]!r}"
    if (
        not isinstance(call, dict)
        or not isinstance(call.get("name"), str)
        or not isinstance(call.get("arguments"), dict)
    ):
        return None, f"no object with a name and arguments: {text[:80]!r}"
    return {"name": call["name"], "arguments": call["arguments"]}, ""
