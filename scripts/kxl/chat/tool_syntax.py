"""The native tool-call syntax of LFM2.5: write it, read it, and notice it where it does not belong.

    <|tool_call_start|>[read_file(path="a.txt"), terminal(command="git status")]<|tool_call_end|>

`render_calls` writes exactly what configs/templates/lfm2.5-tools.jinja writes: each argument as
JSON. `parse` reads one assistant message as strictly as llama.cpp does (JSON or Python literals,
keyword arguments only, one block that ends the message), so that text which passes here passes
there. Nothing is ever evaluated. Standard library only: the Hermes plugin ships this file.
"""

import functools
import json
import re
from dataclasses import dataclass, field

CALL_START = "<|tool_call_start|>"
CALL_END = "<|tool_call_end|>"
TURN_END = "<|im_end|>"

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
SPACE = re.compile(r"[ \t\n\v\f\r]*")
NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?(?![0-9.eE+-])")
LITERALS = {"True": True, "False": False, "None": None, "true": True, "false": False, "null": None}
# A quoted string up to its closing quote: no raw control characters, because llama.cpp copies them
# into `arguments`, which is then not JSON; only JSON's escapes and the escaped delimiter.
STRINGS = {
    quote: re.compile(
        quote + r"((?:[^\\\x00-\x1f" + quote + r"]|\\[\\/bfnrt" + quote + r"]|\\u[0-9a-fA-F]{4})*)" + quote
    )
    for quote in "\"'"
}
MAX_DEPTH = 64  # nested lists and dicts; far above any schema, far below Python's recursion limit

# Tokens of this and other models' call syntaxes, and tags that stand for them: no visible text has them. A tag
# between backticks is talked about.
_MARKS = re.compile(
    r"<\|/?(?:tool|python_tag|function|action|plugin)[a-z_]*\|?>|<｜tool[^｜<>\n]{0,40}｜>|\[TOOL_CALLS\]|"
    r"(?<!`)</?(?:\w+[:_])?(?:tool|function)_calls?\b|(?<!`)</?TOOLCALL>"
)
# Shapes of a call with any name, for text whose tools are not known: [name(arg= and [name()], and JSON.
_SHAPES = (
    re.compile(r"\[\s*[A-Za-z_][\w.-]*\(\s*(?:[A-Za-z_]\w*\s*=|\)\s*[\],])|<function="),
    re.compile(r'\{\s*"(?:name|tool|function)"\s*:\s*"[\w.-]+"\s*,\s*"(?:arguments|parameters|args)"\s*:'),
    re.compile(r'\{\s*"arguments"\s*:\s*\{'),  # keys sorted by name
)
# Syntaxes in which a call names one of the tools on offer, NAME in these patterns.
_NAMED = (
    # Python, as LFM, Llama 4 and Gemma write it: a keyword or an object as the first argument, not a definition.
    r"(?:\[\s*)?(?<![\w.$@-])(?<!def )(?<!class )(?<!function )(?:functions\.|tools\.|default_api\.)?NAME\("
    r"\s*(?:[A-Za-z_]\w*\s*=(?!=)|\{\s*[\"'\w])",
    # In brackets without keywords: [terminal("ls")], [browser_snapshot()].
    r"\[\s*NAME\(\s*(?:\)|[\"'{\[\d-]|[Tt]rue\b|[Ff]alse\b|None\b|null\b)",
    # terminal("ls"), where it is no part of a longer statement, as in `with patch("a.b"):`.
    r"(?<![\w.$@=(,-])(?<!= )(?<!with )(?<!return )(?<!def )(?<!await )NAME\(\s*(?:\"[^\"\n]*\"|'[^'\n]*')\s*[,)]",
    r"\A[\W_]*NAME\(\s*\)[\W_]*\Z",
    # Tags: <invoke name="terminal">, <function=terminal>, <tool_use><name>terminal</name>, <terminal><command>…
    r"<(?:\w+:)?(?:invoke|tool|function|tool_use|use_tool|tool_call|function_call)(?:=|\s+(?:[^<>]*\s)?name\s*=\s*)"
    r"[\"']?(?:functions\.)?NAME(?![\w.-])",
    r"<(?:\w+:)?(?:invoke|tool|function|tool_use|use_tool|tool_name|function_name)>[\s`\"']*"
    r"(?:<(?:\w+:)?(?:tool_|function_)?name>\s*)?(?:functions\.)?NAME(?![\w.-])",
    r"<NAME>\s*(?:\{|<\w+>)|<NAME\s+\w+\s*=[^<>]*/>",
    # Lines: ReAct's, YAML's, a name and its JSON.
    r"(?im)^[ \t>*_`-]*(?:action|tool|function|name|tool[ _](?:call|name)|recipient)[*_`]*[ \t]*[:=][ \t]*"
    r"[*_`\"']*NAME[*_`\"']*[ \t]*\n\s*[>*_`]*"
    r"(?:action[ _]input|(?:tool[ _])?input|arguments?|parameters?|params|args)[*_`]*[ \t]*[:=]",
    r"(?m)^[ \t`]*(?:>>>)?(?:functions\.)?NAME`?\s*:?\s*\{\s*[\"'][\w-]+[\"']\s*:",
    r"\bcall:NAME\s*[{(]|\bto=(?:functions\.)?NAME(?![\w.-])",
)
# JSON, or Python's way of writing it, in which a key has the tool's name; _json_call looks at the rest.
_NAME_KEY = (
    r"[\"'](?:name|tool|function|tool_?name|function_?name|recipient_name|action)[\"']"
    r"\s*:\s*[\"'](?:functions\.)?NAME[\"']"
)
_ARGUMENTS_KEY = re.compile(
    r"[\"'](arguments|parameters|params|args|kwargs|(?:action_|tool_?)?input)[\"']\s*:\s*", re.IGNORECASE
)
_SCHEMA = re.compile(r"\{\s*[\"'](?:type[\"']\s*:\s*[\"']object|properties|required|\$schema)")
_CALL_TYPE = re.compile(r"[\"']type[\"']\s*:\s*[\"'](?:function|tool_use|tool_call)[\"']")
_REACH = 4000  # characters within which the braces of a JSON call are looked for


@dataclass
class Parsed:
    """One assistant message, taken apart.

    content: the text outside of call blocks.
    calls:   [{"name": str, "arguments": dict}] of every well-formed block.
    errors:  what llama.cpp would refuse, each with its character position; empty when strict.
    leaks:   excerpts of `content` that look like tool calls written as text.
    """

    content: str
    calls: list = field(default_factory=list)
    errors: list = field(default_factory=list)
    leaks: list = field(default_factory=list)


class SyntaxProblem(ValueError):
    """Text that is not a call block; the message says what was expected at which character."""


def render_calls(calls: list) -> str:
    """[{"name": str, "arguments": dict}] -> the block with its markers.

    Raises ValueError for a name that no parser could read back, for NaN or infinity, and for a
    lone surrogate, which has no UTF-8 form.
    """
    rendered = []
    for call in calls:
        names = [call["name"], *call["arguments"]]
        for name in names:
            if not NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a tool or argument name")
        values = [json.dumps(value, ensure_ascii=False, allow_nan=False) for value in call["arguments"].values()]
        arguments = ", ".join(f"{name}={value}" for name, value in zip(names[1:], values))
        rendered.append(f"{call['name']}({arguments})")
    block = f"{CALL_START}[{', '.join(rendered)}]{CALL_END}"
    if any("\ud800" <= character <= "\udfff" for character in block):
        raise ValueError("a lone surrogate in an argument has no UTF-8 form")
    return block


def parse(text: str, names=None) -> Parsed:
    """Take one assistant message apart; `names` are the tools on offer, or None where nobody knows (see find_leaks).

    A malformed message never raises: it comes back with `errors`.
    """
    text = text.removesuffix(TURN_END)
    content, calls, errors = [], [], []
    position = 0
    while (start := text.find(CALL_START, position)) >= 0:
        content.append(text[position:start])
        if calls or errors:
            errors.append(f"a second call block at character {start}")
        try:
            block, position = read_block(text, start)
            calls += block
        except SyntaxProblem as problem:
            errors.append(str(problem))
            end = text.find(CALL_END, start)
            if end < 0:
                position = len(text)
                break
            position = end + len(CALL_END)
    rest = text[position:]
    if rest and position:
        errors.append(f"text after the call block at character {position}")
    content.append(rest)
    outside = "".join(content)
    return Parsed(outside, calls, errors, find_leaks(outside, names))


def find_leaks(text: str, names=None) -> list:
    """Excerpts (80 characters at most, not overlapping) of visible text where a call was written as text.

    `names` are the tools on offer: what calls none of them, such as `[Point(x=1)]`, is code. Without `names` the
    shape of a call is enough. Tokens and tags that only a call has are leaks in either case.
    """
    starts = [match.start() for match in _MARKS.finditer(text)]
    if names is None:
        starts += [match.start() for pattern in _SHAPES for match in pattern.finditer(text)]
    elif known := tuple(sorted({name for name in names if name and name in text}, key=lambda name: (-len(name), name))):
        patterns, name_key = _patterns(known)
        starts += [match.start() for pattern in patterns for match in pattern.finditer(text)]
        starts += [place for match in name_key.finditer(text) if (place := _json_call(text, match)) is not None]
    excerpts, end = [], 0
    for start in sorted(starts):
        if start >= end:
            end = start + 80
            excerpts.append(text[start:end])
    return excerpts


@functools.lru_cache(maxsize=256)
def _patterns(names: tuple) -> tuple:
    """(_NAMED, _NAME_KEY) for these tools."""
    known = "(?:" + "|".join(map(re.escape, names)) + ")"
    named, name_key = ([pattern.replace("NAME", known) for pattern in group] for group in (_NAMED, [_NAME_KEY]))
    return [re.compile(pattern) for pattern in named], re.compile(name_key[0])


def _json_call(text: str, match) -> int | None:
    """Where the JSON call begins whose name is at `match`; None where the object is a schema or no call."""
    left = _brace(text, match.start(), -1)
    right = _brace(text, match.end(), 1)
    around = text[left:right]
    keys = list(_ARGUMENTS_KEY.finditer(around))
    listing = re.search(r"[\"']description[\"']\s*:", around)
    called = any(
        not _SCHEMA.match(around, key.end()) and not (listing and key[1].lower() == "parameters") for key in keys
    )
    return left if called or not keys and not listing and _CALL_TYPE.search(around) else None


def _brace(text: str, position: int, step: int) -> int:
    """The brace that opens (step -1) or closes (1) the object around `position`, or as far as one looks for it."""
    opens, closes = ("}", "{") if step < 0 else ("{", "}")
    depth, end = 0, max(-1, min(len(text), position + step * _REACH))
    for place in range(position - 1 if step < 0 else position, end, step):
        if text[place] == closes:
            if not depth:
                return place
            depth -= 1
        elif text[place] == opens:
            depth += 1
    return max(0, end)


def _fail(text: str, position: int, expected: str):
    found = repr(text[position : position + 20]) if position < len(text) else "the end of the message"
    raise SyntaxProblem(f"expected {expected} at character {position}, found {found}")


def _literal(text: str, position: int, literal: str) -> int:
    if not text.startswith(literal, position):
        _fail(text, position, literal)
    return position + len(literal)


def _space(text: str, position: int) -> int:
    return SPACE.match(text, position).end()


def _name(text: str, position: int, what: str) -> tuple:
    if not (match := NAME.match(text, position)):
        _fail(text, position, what)
    return match.group(), match.end()


def read_block(text: str, position: int) -> tuple:
    """`<|tool_call_start|>[call, call]<|tool_call_end|>` -> (calls, position after it). SyntaxProblem where it is none.

    The places where white space may stand are llama.cpp's: python_style_tool_calls in
    common/chat-peg-parser.cpp.
    """
    position = _space(text, _literal(text, position, CALL_START + "["))
    call, position = _call(text, position)
    calls = [call]
    while text.startswith(",", position):
        call, position = _call(text, _space(text, position + 1))
        calls.append(call)
    position = _literal(text, _space(text, position), "]" + CALL_END)
    return calls, position


def _call(text: str, position: int) -> tuple:
    name, position = _name(text, position, "a tool name")
    position = _space(text, _literal(text, position, "("))
    arguments = {}
    while not text.startswith(")", position):
        if arguments:
            position = _space(text, _literal(text, position, ","))
        argument, after = _name(text, position, "an argument name")
        if argument in arguments:
            _fail(text, position, f"one value for {argument}")
        arguments[argument], position = _value(text, _literal(text, after, "="), 0)
        if text.startswith(")", after := _space(text, position)):
            position = after
    return {"name": name, "arguments": arguments}, position + 1


def _value(text: str, position: int, depth: int) -> tuple:
    """One JSON or Python value -> (value, position after it)."""
    if depth > MAX_DEPTH:
        _fail(text, position, f"at most {MAX_DEPTH} nested lists and dicts")
    first = text[position : position + 1]
    if first == "{":
        return _dict(text, position, depth)
    if first == "[":
        return _list(text, position, depth)
    if first in STRINGS:
        return _string(text, position)
    if match := NUMBER.match(text, position):
        return _number(text, match), match.end()
    for literal, value in LITERALS.items():
        if text.startswith(literal, position):
            return value, position + len(literal)
    _fail(text, position, "a string, number, list, dict, true, false or null")


def _number(text: str, match) -> int | float:
    if len(match.group()) > 400:  # Python refuses to read integers of more than 4300 digits
        _fail(text, match.start(), "a number of at most 400 characters")
    value = float(match.group()) if match.group(1) or match.group(2) else int(match.group())
    if value in (float("inf"), float("-inf")):
        _fail(text, match.start(), "a finite number")
    return value


def _string(text: str, position: int) -> tuple:
    quote = text[position]
    if not (match := STRINGS[quote].match(text, position)):
        _fail(text, position, "a closed string with JSON escapes")
    inner = match.group(1)
    if quote == "'":
        inner = re.sub(r'\\(.)|"', lambda m: "'" if m[1] == "'" else (m[0] if m[1] else '\\"'), inner)
    value = json.loads(f'"{inner}"')
    if any("\ud800" <= character <= "\udfff" for character in value):
        _fail(text, position, "a string without lone surrogates")
    return value, match.end()


def _list(text: str, position: int, depth: int) -> tuple:
    values = []
    position = _space(text, position + 1)
    while not text.startswith("]", position):
        if values:
            position = _space(text, _literal(text, position, ","))
        value, position = _value(text, position, depth + 1)
        values.append(value)
        if text.startswith("]", after := _space(text, position)):
            position = after
    return values, _space(text, position + 1)


def _dict(text: str, position: int, depth: int) -> tuple:
    values = {}
    position = _space(text, position + 1)
    while not text.startswith("}", position):
        if values:
            position = _space(text, _literal(text, position, ","))
        if text[position : position + 1] not in ("'", '"'):
            _fail(text, position, "a quoted key")
        key, position = _string(text, position)
        position = _space(text, _literal(text, _space(text, position), ":"))
        value, position = _value(text, position, depth + 1)
        values[key] = value
        position = _space(text, position)
    return values, _space(text, position + 1)
