"""Is a call in an answer only repeated from what the model was given to read?

    quoted(calls, written, answered, messages, tools)     # True: leave it text

A file, a page or a mail may hold a call, and a faithful answer repeats it. So a call stays text when

  - it occurs in any message of the request, in a syntax of code or JSON, spelled with other quotes, spaces, case or
    escapes; or in what a user or a tool said in any syntax at all: its name beside a sign of structure, and each
    argument behind its key and such a sign, in whatever order; or
  - users and tools showed a call's beginning and its end, whatever stands between them: an answer that repeats a call
    may have translated it, mended it or filled it in; or the call's letters, its markers' among them, stand in one
    message in their order, with few others between two; or
  - a user or a tool showed call markers, or pieces of them, and one of the call's arguments comes from what users and
    tools said. Without markers in sight, an argument may come from anywhere.

Messages are read as they are and decoded (decoded.py), and a call is looked for backwards and in rot13 as well.
What a model makes of a cipher, and what it does because a file told it to, is beyond a text comparison.
Standard library only.
"""

import codecs
import re

from .decoded import variants
from .signs import NOT_CALL_SIGNS, folded, in_order, letters, signs

MAX_CHARACTERS = 2_000_000  # of all messages, about 500,000 tokens
MAX_DECODED = 60_000_000  # of all messages in every way to read them: seconds; more may be read in hundreds of ways
MAX_COMPARED = 4_000_000_000  # of these characters times the texts looked for, of which many calls have many
MAX_LOOKED = 32  # arguments of a call that are looked for one by one; texts of calls that are compared: ten times that
# In `signs`; pieces, since a marker may be cut in two, and other models' ways to mark a call.
MARKERS = ("<|tool", "callstart|>", "callend|>", "toolcallstart", "toolcallend", "<toolcall", "toolcall>")
MARKERS += ("<invoke", "<function", "<tooluse", "[toolcalls]")
PIECES = re.compile(r"<\|[a-z_]|[a-z_]\|>|</?tool_|_call>")  # in the text as it stands
# Whose markers say nothing: the model's own, and those of whoever teaches it how to call.
OWN = ("assistant", "system", "developer")
NO_TEXT = frozenset(
    ("role", "type", "id", "tool_call_id", "reasoning", "reasoning_content", "reasoning_details", "thinking")
)

# A call's frame by the words of its marks, in letters alone, whatever a page or a template has instead of the signs
# between them: where it begins, and where it ends.
FRAMES = (
    (r"tool.{0,16}?call.{0,16}?start", r"tool.{0,16}?call(?:(?!start).){0,16}?end"),
    (r"tool.{0,16}?call(?:(?!function).){0,12}?(?:name.{1,60}?)?argument", r"tool.{0,16}?call"),
)
FRAMES = tuple((re.compile(begin), re.compile(end)) for begin, end in FRAMES)
MOST_BETWEEN, FIRST_LETTERS = 8, 160  # letters between two of a call, and how many of a call are looked for like this
NOT_WORDS = re.compile(r"[\W_]+")


def quoted(calls: list, written: list, answered: str, messages, tools=()) -> bool:
    """Whether the calls, or any of them, come from the request's own texts.

    calls: [{"name", "arguments"}]. written: the text that each block had in the answer. answered: all of them with
    their markers. messages: OpenAI's. tools: the request's; what their descriptions show was given to read, too.
    """
    told = [(message.get("role"), "\n".join(_said(message))) for message in messages or ()]
    told.append(("system", "\n".join(texts(list(tools)))))
    if sum(len(text) for _, text in told) > MAX_CHARACTERS:
        return True
    needles = {needle for call in calls for needle in spellings(call)}
    needles |= {NOT_CALL_SIGNS.sub("", signs(text)) for text in written}
    needles |= {form for needle in needles for form in _forms(needle)}
    ordered = letters(signs(answered))[:FIRST_LETTERS]
    named = [(call, _named(call["name"])) for call in calls if call["arguments"]]
    shown, given, left = False, [], min(MAX_DECODED, MAX_COMPARED // len(needles))
    opened, begun = set(), set()  # frames that began in a message before this one, and in this one, too
    for role, text in told:
        if (decoded := variants(text, left)) is None:
            return True
        left -= sum(map(len, decoded))
        for one in decoded:
            spelled = signs(one)
            bare = NOT_CALL_SIGNS.sub("", spelled)
            if any(needle in bare for needle in needles):
                return True
            if role in OWN:
                continue
            if any(name.search(spelled) and _argued(spelled, bare, call) for call, name in named):
                return True
            only = letters(spelled)
            if in_order(ordered, only, MOST_BETWEEN) or any(_ends(frame, only, opened) for frame in FRAMES):
                return True
            begun |= {frame for frame in FRAMES if frame[0].search(only)}
            shown = shown or any(marker in spelled for marker in MARKERS) or bool(PIECES.search(one.casefold()))
        if role not in OWN:
            given += decoded
        opened |= begun
    return shown and _taken_from(given, calls)


def _ends(frame: tuple, only: str, opened: set) -> bool:
    """Whether a call ends in a text in `letters`, behind its beginning there or in an earlier message."""
    begin, end = frame
    if frame in opened:
        return bool(end.search(only))
    return bool((begun := begin.search(only)) and end.search(only, begun.end()))


def _said(message: dict) -> list[str]:
    """Every text in a message but for the model's own thoughts; parts of one text follow each other."""
    found = []
    for key, value in message.items():
        for part in (value if isinstance(value, list) else [value]) if key not in NO_TEXT else ():
            if isinstance(part, dict) and part is not value:
                found += [text for kind, inner in part.items() if kind not in NO_TEXT for text in texts(inner)]
            else:
                found += texts(part)
    return found


def texts(value) -> list[str]:
    """Every text in a value, keys as well, in order and whatever its shape."""
    found, todo = [], [value]
    while todo:
        one = todo.pop()
        if isinstance(one, str):
            found.append(one)
        elif isinstance(one, dict):
            todo += [part for key, inner in reversed(one.items()) for part in (inner, key)]
        elif isinstance(one, (list, tuple)):
            todo += reversed(one)
    return found


def spellings(call: dict) -> list[str]:
    """A call as the usual syntaxes write it, in `signs`."""
    name = signs(call["name"])
    pairs = [(signs(key), signs(_spelled(value))) for key, value in call["arguments"].items()]
    inside = "{" + ",".join(f"{key}:{value}" for key, value in pairs) + "}"
    found = [f"{name}({','.join(f'{key}={value}' for key, value in pairs)})"]
    found.append(f"{name}({','.join(value for _, value in pairs)})")
    for word in ("arguments", "parameters", "args", "input"):
        found += [f"{name},{word}:{inside}", f"{word}:{inside},name:{name}"]
    return [NOT_CALL_SIGNS.sub("", one) for one in found]


def _forms(needle: str) -> tuple[str, str, str]:
    """A text as it stands, backwards and in rot13."""
    return needle, needle[::-1], codecs.encode(needle, "rot13")


def _named(name: str) -> re.Pattern:
    """A tool's name, in `signs`, beside a sign of structure; a comma behind it is one of prose."""
    known = "|".join(re.escape(form) for form in _forms(signs(name)))
    return re.compile(rf"[=:<>(\[{{,)|](?:{known})|(?:{known})[=:<>(\[{{)\]}}|]")


def _argued(spelled: str, bare: str, call: dict) -> bool:
    """Whether each argument of a call stands behind its key in a text in `signs` (`bare`: without call signs)."""
    for key, value in list(call["arguments"].items())[:MAX_LOOKED]:
        key, value = signs(key), signs(_spelled(value))
        pairs = [(bare, f"{key}{sign}{NOT_CALL_SIGNS.sub('', value)}") for sign in "=:"]
        pairs += [(spelled, f"{key}{sign}{value}") for sign in ">|"]
        if not any(form in text for text, pair in pairs for form in _forms(pair)):
            return False
    return True


def _spelled(value) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_spelled(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_spelled, value)) + "]"
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def _taken_from(given: list[str], calls: list) -> bool:
    """Whether an argument of the calls stands in one of these texts, whole or word by word; a number as a word.

    Calls without any text of their own count as taken, and those with more texts than can be compared.
    """
    values = [value for call in calls for value in call["arguments"].values()]
    own = [words for text in texts(values) if (words := _words(text))]
    numbers = [_words(text) for text in _numbers(values)]
    if not own or len(own) + len(numbers) > 10 * MAX_LOOKED:
        return True
    for text in given:
        known = _words(text)
        whole, each = "".join(known), set(known)
        if any("".join(words) in whole or each.issuperset(words) for words in own):
            return True
        if any(each.issuperset(words) for words in numbers):
            return True
    return False


def _numbers(value) -> list[str]:
    found, todo = [], [value]
    while todo:
        one = todo.pop()
        if isinstance(one, (int, float)) and not isinstance(one, bool):
            found.append(str(one))
        elif isinstance(one, (dict, list)):
            todo += one.values() if isinstance(one, dict) else one
    return found


def _words(text: str) -> list[str]:
    return NOT_WORDS.sub(" ", folded(text)).split()
