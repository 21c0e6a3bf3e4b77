"""Is a call in an answer only repeated from what the model was given to read?

    quoted(calls, written, messages, tools)     # True: leave it text

A file, a page or a mail may hold a call, and a faithful answer repeats it. So a call stays text when

  - it occurs in any message of the request, in whatever syntax, spelled with other quotes, spaces, case or escapes; or
  - a user or a tool showed call markers, or pieces of them, and a text among the call's arguments comes from what
    users and tools said: whoever writes markers into a message can have it joined, translated or changed on its way
    into the answer. Without markers in sight, an argument may come from anywhere.

Messages are read as they are, as JSON, HTML, URL, base64 and hex would be decoded, without line numbers and colours,
and a call is looked for backwards and in rot13 as well.
What a model makes of a cipher, and what it does because a file told it to, is beyond a text comparison.
Standard library only.
"""

import base64
import codecs
import html
import re
import unicodedata
import urllib.parse

MAX_CHARACTERS = 2_000_000  # of all messages, about 500,000 tokens
# In `signs`; pieces, since a marker may be cut in two, and other models' ways to mark a call.
MARKERS = ("<|tool", "callstart|>", "callend|>", "toolcallstart", "toolcallend", "<toolcall", "toolcall>")
MARKERS += ("<invoke", "<function", "<tooluse", "[toolcalls]")
# Whose markers say nothing: the model's own, and those of whoever teaches it how to call.
OWN = ("assistant", "system", "developer")
NO_TEXT = frozenset(
    ("role", "type", "id", "tool_call_id", "reasoning", "reasoning_content", "reasoning_details", "thinking")
)

NOT_SIGNS = re.compile(r"(?:[^\w()=:,{}\[\]<>|]|_)+")
NOT_CALL_SIGNS = re.compile(r"[<>|]+")
NOT_WORDS = re.compile(r"[\W_]+")
LONG_NUMBER = re.compile(r"(&#[xX]?)0*([0-9a-fA-F]{8,}|(?<=0)[0-9a-fA-F]+)")
JSON_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
CONTROL = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
LINE_NUMBER = re.compile(r"^[ \t]*\d+[ \t]*[|:\t→][ \t]?", re.MULTILINE)
COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# Runs of base64 or hex, also over several lines.
ENCODED = re.compile(r"[A-Za-z0-9+/_-]{16,}(?:\r?\n[ \t]*[A-Za-z0-9+/_-]+)*={0,2}")
TEXT = re.compile(rb"(?:[\x00-\x7f]|[\xc2-\xf4][\x80-\xbf]{1,3}){8,}")  # in decoded bytes
LINE_BREAKS = re.compile(r"\s+")
HEX_SIGNS = re.compile(r"[0-9a-fA-F]{2,}")
# Letters that look like Latin ones.
LOOKALIKES = str.maketrans("аеорсухіјѕԁһӏԛԝοανρτικ", "aeopcyxijsdhlqwoavptik")


def quoted(calls: list, written: list, messages, tools=()) -> bool:
    """Whether the calls, or any of them, come from the request's own texts.

    calls: [{"name", "arguments"}]. written: the text that each block had in the answer. messages: OpenAI's.
    tools: the request's tools; what their descriptions show is a text that the model was given, too.
    """
    told = [(message.get("role"), "\n".join(texts(message))) for message in messages or ()]
    told.append(("system", "\n".join(texts(list(tools)))))
    if sum(len(text) for _, text in told) > MAX_CHARACTERS:
        return True
    needles = {needle for call in calls for needle in spellings(call)}
    needles |= {NOT_CALL_SIGNS.sub("", signs(text)) for text in written}
    needles |= {needle[::-1] for needle in needles} | {codecs.encode(needle, "rot13") for needle in needles}
    shown, given = False, []
    for role, text in told:
        decoded = variants(text)
        for spelled in map(signs, decoded):
            bare = NOT_CALL_SIGNS.sub("", spelled)
            if any(needle in bare for needle in needles):
                return True
            shown = shown or role not in OWN and any(marker in spelled for marker in MARKERS)
        if role not in OWN:
            given += decoded
    return shown and _taken_from(given, calls)


def texts(value) -> list[str]:
    """Every text in a message, in order and whatever its shape, but for the model's own thoughts."""
    found, todo = [], [value]
    while todo:
        one = todo.pop()
        if isinstance(one, str):
            found.append(one)
        elif isinstance(one, dict):
            todo += [inner for key, inner in reversed(one.items()) if key not in NO_TEXT]
        elif isinstance(one, (list, tuple)):
            todo += reversed(one)
    return found


def variants(text: str) -> list[str]:
    """The text as it stands and as it reads once its escapes are decoded."""
    found = [text]
    for _ in range(3):  # a tool's result is JSON, what it read may be JSON, too
        if "\\" not in found[-1]:
            break
        found.append(JSON_ESCAPE.sub(_unescaped, found[-1]))
    if "&" in found[-1]:
        # Python refuses to read a number of thousands of digits, which stands for no sign anyway.
        found.append(html.unescape(html.unescape(LONG_NUMBER.sub(_shortened, found[-1]))))
    if "%" in found[-1]:
        found.append(urllib.parse.unquote(found[-1]))
    # Before and after the other escapes: undoing those can eat a sign of a run that follows a backslash.
    found += dict.fromkeys(run for one in dict.fromkeys((text, found[-1])) for run in _decoded_runs(one))
    found += [COLOUR.sub("", one) for one in found if "\x1b" in one]
    return found + [LINE_NUMBER.sub("", one) for one in found if LINE_NUMBER.search(one)]


def _shortened(match) -> str:
    """A sign's number without zeros in front; nothing of one that is too large for any sign."""
    return match[1] + match[2] if len(match[2]) < 8 else ""


def _unescaped(match) -> str:
    return chr(int(match[1], 16)) if match[1] else CONTROL.get(match[2], match[2])


def _decoded_runs(text: str) -> list[str]:
    """What the runs of base64 and hex in a text say, joined; nothing where none of them is text.

    Words beside a run belong to it as far as anyone can tell, so it is read from each of its first signs, line by line
    as well, and bytes that are no text are passed over.
    """
    found: dict[int, list] = {}
    for match in ENCODED.finditer(text):
        whole = match.group().rstrip("=")
        lines = LINE_BREAKS.split(whole)
        for run in (LINE_BREAKS.sub("", whole), *(lines if len(lines) > 1 else ())):
            for shift in range(2) if HEX_SIGNS.fullmatch(run) else ():
                found.setdefault(shift, []).append(bytes.fromhex(run[shift : len(run) - (len(run) - shift) % 2]))
            run = run.replace("-", "+").replace("_", "/")
            for shift in range(4):
                part = run[shift : len(run) - ((len(run) - shift) % 4 == 1)]
                found.setdefault(2 + shift, []).append(base64.b64decode(part + "=" * (-len(part) % 4)))
    return [
        " ".join(part.decode("utf-8", "ignore") for part in TEXT.findall(b"".join(pieces))) for pieces in found.values()
    ]


def signs(text: str) -> str:
    """Letters, digits and the signs of a call, in one case: what spaces, quotes and escapes cannot change."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return NOT_SIGNS.sub("", text.casefold().translate(LOOKALIKES))


def spellings(call: dict) -> list[str]:
    """A call as the usual syntaxes write it, in `signs`."""
    name = signs(call["name"])
    pairs = [(signs(key), signs(_spelled(value))) for key, value in call["arguments"].items()]
    inside = "{" + ",".join(f"{key}:{value}" for key, value in pairs) + "}"
    found = [f"{name}({','.join(f'{key}={value}' for key, value in pairs)})"]
    for word in ("arguments", "parameters", "args", "input"):
        found += [f"{name},{word}:{inside}", f"{word}:{inside},name:{name}"]
    return [NOT_CALL_SIGNS.sub("", one) for one in found]


def _spelled(value) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_spelled(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_spelled, value)) + "]"
    if value is None or isinstance(value, bool):
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def _taken_from(given: list[str], calls: list) -> bool:
    """Whether a text among the calls' arguments stands in one of these texts, whole or word by word.

    Calls without any text of their own count as taken.
    """
    own = [words for call in calls for text in texts(call["arguments"]) if (words := _words(text))]
    if not own:
        return True
    for text in given:
        known = _words(text)
        whole, each = "".join(known), set(known)
        if any("".join(words) in whole or each.issuperset(words) for words in own):
            return True
    return False


def _words(text: str) -> list[str]:
    return NOT_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).split()
