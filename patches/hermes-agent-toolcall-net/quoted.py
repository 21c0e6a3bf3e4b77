"""Is a call in an answer only repeated from what the model was given to read?

    quoted(calls, written, answered, messages, tools)     # "it stands in …": leave it text; None: it is the model's own

A file, a page or a mail may hold a call, and a faithful answer repeats it. So a call stays text when

  - it occurs in any message of the request, in a syntax of code or JSON, spelled with other quotes, spaces, case or
    escapes; or in what a user or a tool said in any syntax at all: its name beside a sign of structure, and each
    argument behind its key and such a sign, in whatever order; or
  - users and tools showed a call's beginning and its end, whatever stands between them, or a piece of the call at one
    of them: an answer that repeats a call may have translated it, mended it or completed it; or the call's letters, its
    markers' among them, stand in the messages in their order, with few others between two, or in pieces; or
  - a user or a tool showed call markers, or pieces of them, and one of the call's arguments comes from what users and
    tools said. Without markers in sight, an argument may come from anywhere.

Messages are read as they are and decoded (decoded.py), and a call is looked for backwards and in rot13 as well. What
Hermes itself puts into a turn of its own, such as a project's files, is a tool's text.
What a model makes of a cipher, and what it does because a file told it to, is beyond a text comparison.
Standard library only.
"""

import codecs
import re

from .decoded import variants
from .signs import READ, folded, in_order, in_pieces, letters, only_signs, read_anew, signs, without_call_signs

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
OFFERED = "offered"  # the role of the tools' descriptions here
# Why a call stays text.
LARGE = "the conversation is too long, or reads in too many ways, to look for it there"
READ_BEFORE = "it stands in what the model was given to read"
SHOWN = "a call's marks were shown in this conversation, so it may be a quote; a new conversation is free of them"
TAKEN = "an argument comes from a conversation in which a call's mark was shown, so it may be a quote"
# Where Hermes hands over a project's files in its system text, and what a conversation said that it has shortened.
FOREIGN = re.compile(r"^# Project Context$|\[CONTEXT (?:COMPACTION|SUMMARY)", re.MULTILINE)
NO_TEXT = frozenset(
    ("role", "type", "id", "tool_call_id", "reasoning", "reasoning_content", "reasoning_details", "thinking")
)

# A call's frame by the words of its marks, in letters alone, whatever a page or a template has instead of the signs
# between them, also much of it where it is the same twice: where it begins, and where it ends.
FRAMES = (
    (r"tool(?:.{0,16}?call.{0,16}?start|(.{17,40}?)call\1start)",
     r"tool(?:.{0,16}?call(?:(?!start).){0,16}?end|(.{17,40}?)call\1end)"),
    (r"tool.{0,16}?call(?:(?!function).){0,12}?(?:name(?:(?!toolcall).){1,80}?)?(?:argument|parameter)",
     r"tool.{0,16}?call"),
)  # fmt: skip
FRAMES = tuple((re.compile(begin), re.compile(end)) for begin, end in FRAMES)
# The same in `signs`, where JSON's keys may be others and in any order.
MARKED = ((r"<\|toolcallstart\|>", r"<\|toolcallend\|>"), (r"[<:]toolcall>", r"[<:]toolcall>"))
MARKED = tuple((re.compile(begin), re.compile(end)) for begin, end in MARKED)
# In `signs`, too: a mark with the call's own beginning or end beside it, where the other end was cut off, and a mark
# that a program or a pattern leaves to be filled in.
CUT = re.compile(
    r"start\|>\[\w|\)\]<\|tool|<toolcall>[{\[<(]|[}\])>]<toolcall>"
    r"|<\|toolcall(?!start\|>|end\|>)|[)}\]](?:start|end)\|>"
)
IN_CUT = ("|>", "<|tool", "<toolcall>")  # each has one of these, which are found sooner
MOST_BETWEEN, FIRST_LETTERS = 8, 160  # letters between two of a call, and how many of a call are looked for like this
NOT_WORDS = re.compile(r"[\W_]+")


def quoted(calls: list, written: list, answered: str, messages, tools=()) -> str | None:
    """Why the calls, or any of them, may come from the request's own texts; None where they do not.

    calls: [{"name", "arguments"}]. written: the text that each block had in the answer. answered: all of them with
    their markers. messages: OpenAI's. tools: the request's; what their descriptions show was given to read, too.
    """
    told = [part for message in messages or () for part in _told(message)]
    told.append((OFFERED, "\n".join(texts(list(tools)))))
    if sum(len(text) for _, text in told) > MAX_CHARACTERS:
        return LARGE
    needles = {needle for call in calls for needle in spellings(call)}
    needles |= {without_call_signs(signs(text)) for text in written}
    needles |= {form for needle in needles for form in _forms(needle)}
    mentioned = _mentioned(calls, needles, tools)
    ordered = letters(signs(answered))[:FIRST_LETTERS]
    named = [(call, _named(call["name"])) for call in calls if call["arguments"]]
    shown, given, left = False, [], min(MAX_DECODED, MAX_COMPARED // len(needles))
    opened, begun = set(), set()  # frames that began in a message before this one, and in this one, too
    # Somebody may have handed it over piece by piece.
    whole = folded("\n".join(text for role, text in told if role not in (*OWN, OFFERED)))
    if in_pieces(ordered, whole) or in_order(ordered, letters(whole), MOST_BETWEEN):
        return SHOWN
    for role, text in told:
        if (decoded := variants(text, left)) is None:
            return LARGE
        left -= sum(map(len, decoded))
        for one in decoded:
            plain = folded(one)
            spelled = only_signs(plain)
            bare = without_call_signs(spelled)
            if any(needle in bare for needle in (mentioned if role == OFFERED else needles)):
                return READ_BEFORE
            if role in OWN:
                continue
            if any(_ends(frame, spelled, opened) for frame in MARKED):
                return SHOWN
            begun |= _begun(MARKED, spelled)
            if role == OFFERED:
                continue
            if any(name.search(spelled) and _argued(spelled, bare, call) for call, name in named):
                return READ_BEFORE
            if any(mark in spelled for mark in IN_CUT) and CUT.search(spelled) or in_pieces(ordered, plain):
                return SHOWN
            for wanted, only in ((ordered, letters(spelled)), (ordered.translate(READ), read_anew(plain))):
                if in_order(wanted, only, MOST_BETWEEN) or any(_ends(frame, only, opened) for frame in FRAMES):
                    return SHOWN
                begun |= _begun(FRAMES, only)
            shown = shown or any(marker in spelled for marker in MARKERS) or bool(PIECES.search(one.casefold()))
        if role not in (*OWN, OFFERED):
            given += decoded
        opened |= begun
    return TAKEN if (shown or FRAMES[0] in opened) and _taken_from(given, calls) else None


def _begun(frames: tuple, only: str) -> set:
    return {frame for frame in frames if frame[0].search(only)} if "tool" in only else set()


def _ends(frame: tuple, only: str, opened: set) -> bool:
    """Whether a call ends in a text in `letters`, behind its beginning there or in an earlier message."""
    begin, end = frame
    if "tool" not in only:  # found sooner than a pattern
        return False
    if frame in opened:
        return bool(end.search(only))
    return bool((begun := begin.search(only)) and end.search(only, begun.end()))


def _told(message: dict) -> list[tuple]:
    """(role, text) of a message: what Hermes itself puts into a turn of its own from elsewhere is a tool's."""
    role, text = message.get("role"), "\n".join(_said(message))
    if role not in OWN or not (foreign := FOREIGN.search(text)):
        return [(role, text)]
    return [(role, text), ("tool", text[foreign.start() :])]


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
    return [without_call_signs(one) for one in found]


def _mentioned(calls: list, needles: set, tools) -> set[str]:
    """The needles to look for in the tools' descriptions.

    Those mention calls like process(action='list') as the way to go on. Where a tool's own schema lists each value,
    such a mention is no call: it counts behind a bracket or as an object.
    """
    offered = {
        tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools if "function" in tool
    }
    mentions = set()
    for call in calls:
        listed = offered.get(call["name"], {}).get("properties") or {}
        if all(value in (listed.get(key) or {}).get("enum", ()) for key, value in call["arguments"].items()):
            mentions |= {one for one in spellings(call) if one.endswith(")")}
    bare = {form for mention in mentions for form in _forms(mention)}
    return needles - bare | {form for mention in mentions for form in _forms(f"[{mention}")}


def _forms(needle: str) -> tuple[str, str, str]:
    """A text as it stands, backwards and in rot13."""
    return needle, needle[::-1], codecs.encode(needle, "rot13")


def _named(name: str) -> re.Pattern:
    """A tool's name, in `signs`, beside a sign of structure; a comma behind it is one of prose."""
    plain, backwards, turned = (re.escape(form) for form in _forms(signs(name)))
    known = rf"[=:<>(\[{{,)|](?:{plain}|{turned})|(?:{plain}|{turned})[=:<>(\[{{)\]}}|]"
    return re.compile(rf"{known}|{backwards}[=:<>(\]}},)|]|[=:<>(\[{{)\]}}|]{backwards}")


def _argued(spelled: str, bare: str, call: dict) -> bool:
    """Whether each argument of a call stands behind its key in a text in `signs` (`bare`: without call signs)."""
    for key, value in list(call["arguments"].items())[:MAX_LOOKED]:
        key, value = signs(key), signs(_spelled(value))
        pairs = [(bare, f"{key}{sign}{without_call_signs(value)}") for sign in "=:"]
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
