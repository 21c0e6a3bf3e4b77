"""A turn as its thought and its visible text: the one place that knows where a thought ends.

    thought, visible = split_thought("<think>ls will do</think>Two files.")     # "ls will do", "Two files."
    turn = split("<think>and so on")                                            # turn.ended is False

A thought stands at the head of a turn only. A mark further on is words: in a call's arguments, in code, in
quotes, or in a sentence. An end mark without a beginning closes a thought that the template opened
(`opened=True` says so beforehand: the prompt ended with "<think>"). A thought may name both marks and hold whole
calls; where it ends is then told by pairs of marks, by lines, and at last by taking the longest thought, so that no
thought is ever shown or run. `clear` says that nothing had to be guessed. Nothing is stripped: what is between the
marks is the thought, what follows is visible. Standard library only: the Hermes plugin ships this file.
"""

import ast
import json
import re
from typing import NamedTuple

START, END = "<think>", "</think>"
FIELDS = ("reasoning_content", "reasoning", "thinking")  # what writers call a message's thought, our name first
MARK = re.compile(re.escape(START) + "|" + re.escape(END))
SPACE, IN_LINE = re.compile(r"\s*"), re.compile(r" \S")
HEAD = re.compile(r"\s*" + re.escape(START))
# Where marks are words: fenced and inline code, and a mark between quotes of its own.
CODE = re.compile(
    r"^[ \t]*(`{3,}|~{3,})(?![`~])[^`\n]*\n.*?^[ \t]*\1[ \t]*$|(?<!`)`[^`\n]+`(?!`)", re.DOTALL | re.MULTILINE
)
QUOTED = re.compile(rf"([\"'])(?:{MARK.pattern})\1|[“‘«](?:{MARK.pattern})[”’»]")
HERMES_CALL, HERMES_CALL_END = "<tool_call>", "</tool_call>"
NATIVE_CALL = re.compile(r"<\|tool_call_start\|>\s*\[\s*[A-Za-z_][\w.-]*\(")
NATIVE_PIECE = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|<\|tool_call_(?:start|end)\|>|</?think>", re.DOTALL)
NATIVE_CALL_END = "<|tool_call_end|>"


class Turn(NamedTuple):
    """thought: None without one, "" for an empty pair of marks. ended: False when its end mark is missing.
    clear: False when the marks can be read in more than one way."""

    thought: str | None
    visible: str
    ended: bool
    clear: bool


def split_thought(text: str, opened: bool = False) -> tuple[str | None, str]:
    """(thought or None, visible text) of one assistant turn; a thought that does not end leaves nothing visible."""
    return split(text, opened)[:2]


def split(text: str, opened: bool = False) -> Turn:
    """One assistant turn, taken apart. Never raises."""
    calls = call_spans(text)
    words = [span.span() for pattern in (CODE, QUOTED) for span in pattern.finditer(text)] if END in text else []
    outside = [mark for mark in MARK.finditer(text) if not _within(mark.start(), calls)]
    thoughts, place, ended, clear = [], 0, True, True
    while ended and (not thoughts or HEAD.match(text, place)):  # thoughts that follow each other are one
        head = HEAD.match(text, place)
        start = head.end() if head else place
        behind = [mark for mark in outside if mark.start() >= start]
        marks = [mark for mark in behind if not _within(mark.start(), words)]
        in_thought = head or opened and not thoughts
        if not in_thought and _unpaired(marks) is None:
            break
        if not any(mark.group() == END for mark in marks):
            marks = behind  # quotes on both sides by chance: "hi"</think>"Hi"
        end, only = _end(text, start, marks)
        ended, place = end is not None, end.end() if end else len(text)
        thoughts.append(text[start : end.start() if end else len(text)])
        clear = clear and only and (in_thought or not _stands_in_a_sentence(text, end))
    return Turn("\n".join(thoughts) if thoughts else None, text[place:], ended, bool(clear))


def marks_outside(text: str) -> list[str]:
    """The thought marks of visible text that stand neither in a call nor in code nor in quotes."""
    spans = [*call_spans(text), *(span.span() for pattern in (CODE, QUOTED) for span in pattern.finditer(text))]
    return [mark.group() for mark in MARK.finditer(text) if not _within(mark.start(), spans)]


def for_template(messages: list[dict], template: str) -> list[dict]:
    """Messages with each thought where this chat template looks for it.

    In rows and requests it is `reasoning_content`. LFM2.5-8B-A1B's template reads `thinking`, others read
    `reasoning_content`, and those that only cut off what stands before "</think>" want it in the text. A template
    that knows none of these writes no thoughts.
    """
    if not any(message.get("reasoning_content") for message in messages):
        return messages
    if _reads(template, "thinking"):
        return [
            {**message, "thinking": message["reasoning_content"]} if message.get("reasoning_content") else message
            for message in messages
        ]
    if END not in template or _reads(template, "reasoning_content"):
        return messages
    made = []
    for message in messages:
        if thought := message.get("reasoning_content"):
            rest = {key: value for key, value in message.items() if key != "reasoning_content"}
            message = {**rest, "content": f"{START}{thought}{END}{message.get('content') or ''}"}
        made.append(message)
    return made


def writes_thoughts(template: str) -> bool:
    """Whether a chat template knows thoughts at all."""
    return END in template or _reads(template, "thinking") or _reads(template, "reasoning_content")


def _reads(template: str, field: str) -> bool:
    """Whether a template reads this field of a message; `preserve_thinking` and `enable_thinking` are no fields."""
    return re.search(rf"""\.{field}\b|["']{field}["']""", template) is not None


def as_words(thought: str, marks: list[str]) -> str:
    """A thought whose `marks` are words: without their brackets, so that no server ends or begins anything there."""
    while mark := next((mark for mark in marks if mark in thought), None):
        thought = thought.replace(mark, mark.strip("<|>"))  # shorter each time, also where the rest forms another mark
    return thought


def call_blocks(text: str) -> list[str]:
    """The well-formed call blocks that visible text shows outside of code."""
    code = [span.span() for span in CODE.finditer(text)]
    return [text[start:end] for start, end in call_spans(text) if not _within(start, code)]


def call_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of each well-formed call block, native or Hermes's; what stands inside is data, never a mark."""
    spans, position = [], 0
    while (start := text.find(HERMES_CALL, position)) >= 0:
        position = start + len(HERMES_CALL)
        if text.find(HERMES_CALL_END, position) < 0:
            break
        if (end := _hermes_call_end(text, position)) is not None:
            spans.append((start, end))
            position = end
    for match in NATIVE_CALL.finditer(text):
        for piece in NATIVE_PIECE.finditer(text, match.end()):
            if piece.group()[0] in "\"'":
                continue
            if piece.group() == NATIVE_CALL_END:
                spans.append((match.start(), piece.end()))
            break
    return spans


def _hermes_call_end(text: str, position: int) -> int | None:
    """The end of a <tool_call> block whose inside begins at `position`; None where no JSON or literal is in it."""
    begin = SPACE.match(text, position).end()
    if not text.startswith("{", begin):
        return None
    try:
        value, after = json.JSONDecoder().raw_decode(text, begin)
        after = SPACE.match(text, after).end()
        if isinstance(value, dict) and text.startswith(HERMES_CALL_END, after):
            return after + len(HERMES_CALL_END)
    except (ValueError, RecursionError):
        pass
    end = text.find(HERMES_CALL_END, position)
    try:
        if end >= 0 and isinstance(ast.literal_eval(text[position:end].strip()), dict):
            return end + len(HERMES_CALL_END)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        pass
    return None


def _within(place: int, spans: list) -> bool:
    return any(start <= place < end for start, end in spans)


def _unpaired(marks: list, depth: int = 0):
    """The first end mark for which no mark is open, or None."""
    for mark in marks:
        depth += 1 if mark.group() == START else -1
        if depth < 0:
            return mark
    return None


def _end(text: str, start: int, marks: list) -> tuple:
    """(the mark that ends the thought which begins at `start`, or None; whether it is the only reading)."""
    ends = [mark for mark in marks if mark.group() == END]
    if not ends:
        return None, True
    first = _unpaired(marks)
    if first is None:  # the thought names the beginning mark once more than the end
        return ends[-1], len(ends) == 1
    if _unpaired(marks[marks.index(first) + 1 :]) is None:
        return first, True
    lines = [mark for mark in ends if _begins_a_line(text, mark)]
    if text[start:].lstrip(" \t").startswith("\n") and lines:
        return lines[-1], len(lines) == 1
    return ends[-1], False


def _begins_a_line(text: str, mark) -> bool:
    line = text.rfind("\n", 0, mark.start()) + 1
    return not text[line : mark.start()].strip()


def _stands_in_a_sentence(text: str, mark) -> bool:
    """Whether words stand before and behind a mark, each a space away, in the same line."""
    return text.endswith(" ", 0, mark.start()) and IN_LINE.match(text, mark.end()) is not None
