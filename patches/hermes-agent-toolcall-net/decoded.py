"""How a text that the model was given reads once it is decoded, in each way that programs and people write texts.

    variants("&#60;b&#62;", 1_000)      # the text as it stands, "<b>", …

Whoever repeats a file may undo its escapes, join its lines or read its numbers as signs. Undone are the escapes of
JSON, programming languages, HTML, URLs, mail and terminals; base64, base32 and hex, and codes in one another; signs
written as numbers; lines that run backwards; strings written in pieces; what lines have in common at their beginnings
and ends; and words that come again and again. Each step is linear in the text. Standard library only.
"""

import base64
import html
import os
import re
import unicodedata
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Iterator

LONG_NUMBER = re.compile(r"(&#[xX]?)0*([0-9a-fA-F]{8,}|(?<=0)[0-9a-fA-F]+)")
# JSON's escapes, and those of Python, JavaScript, Perl and the shell.
ESCAPE = re.compile(
    r"\\(?:u([0-9a-fA-F]{4})|(?:[ux]|N(?=\{U))\{(?:U\+)?0*([0-9a-fA-F]{1,5})\}|x([0-9a-fA-F]{2})|U000([0-9a-fA-F]{5})"
    r"|([0-3][0-7]{2})|N\{([^{}\n]{2,80})\}|(.))",
    re.DOTALL,
)
# Others, whose digits mean something else there: CSS and SQL, C's octal ones, C#, URLs and PowerShell.
OTHER_ESCAPES = (
    (re.compile(r"\\\+?([0-9a-fA-F]{2,6}) ?"), 16),
    (re.compile(r"\\([0-9a-fA-F]{4})"), 16),
    (re.compile(r"\\0?([0-7]{2,3})"), 8),
    (re.compile(r"\\x([0-9a-fA-F]{4})"), 16),
    (re.compile(r"%u([0-9a-fA-F]{4})"), 16),
    (re.compile(r"`u\{0*([0-9a-fA-F]{1,6})\}"), 16),
)
HALVES = re.compile(r"[\ud800-\udbff][\udc00-\udfff]")
DEEP = 8  # escapes in one another that are undone; each level of JSON doubles their backslashes
CONTROL = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "e": "\x1b"}
MAIL = re.compile(r"=(?:([0-9A-F]{2})|[ \t]*\r?\n)")  # quoted-printable
# As editors, cat, nl, grep and git blame number lines.
LINE_NUMBER = re.compile(
    r"^(?:[^\s:]{1,200}(?=:\d+[:-]):|\^?[0-9a-f]{6,40} [^()\n]{0,40}\([^()\n]{0,100}(?=\b\d+\) ))?"
    r"[ \t]*(?:[Ll](?:ine )?)?[\[(]?\d+(?:\]:?|[|:.)→-]|(?=[ \t]))[ \t]?",
    re.MULTILINE,
)
# Control sequences and links, also where the first sign was lost or is shown as ^[.
COLOUR = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]{0,2000}(?:\x07|\x1b\\)|(?:\^\[)?\[(?:\d{1,3}[;:]?){1,9}m"
    r"|[^\n]\x08"  # struck over, as man does for bold letters
)
TAG = re.compile(r"</?[A-Za-z][^<>]*>")
# Runs of base64, base32 or hex, also over several lines.
ENCODED = re.compile(r"[A-Za-z0-9+/_-]{16,}(?:\r?\n[ \t]*[A-Za-z0-9+/_-]+)*={0,2}")
LONG_WORD = re.compile(r"[A-Za-z0-9]{16,}")  # in which the next ones are looked for
BASE32 = re.compile(r"[A-Z2-7]{16,}|[a-z2-7]{16,}")
HEX = re.compile(r"[0-9a-fA-F]{16,}")
BITS = re.compile(r"[01]{56,}")
DECIMALS = re.compile(r"(?:0[3-9]\d|1[0-2]\d){8,}")  # three digits for each sign
# Signs as numbers of their own: decimal, hex, octal, binary, with what languages and assemblers put around them. Before
# each stand its digits alone, which are looked for first: that is many times as fast.
NUMBERS = (
    (r"\d\d", r"(?<!\d)(\d{2,3})(?![0-9A-Za-z])", 10),
    (r"[2-7][0-9a-fA-F]", r"(?i)(?<![0-9a-z])(?:0x|u\+|&h|x|16r|8'h)?0{0,6}([2-7][0-9a-f])h?(?![0-9a-z])", 16),
    (r"[4-7][0-7]|1[0-7]{2}", r"(?i)(?<![0-9a-z])(?:0o|&o)?0?([4-7][0-7]|1[0-7]{2})[oq]?(?![0-9a-z])", 8),
    (r"[01]{7}", r"(?i)(?<![0-9a-z])(?:0b|8'b)?0?([01]{7})b?(?![0-9a-z])", 2),
)
NUMBERS = tuple((re.compile(digits), re.compile(number), base) for digits, number, base in NUMBERS)
# Two signs as one number, the first one the lower, as hexdump and od print them without any option.
PAIRS = ((re.compile(r"(?<!\w)([0-9a-f]{4})(?!\w)"), 16), (re.compile(r"(?<!\w)([01][0-7]{5})(?!\w)"), 8))
FEWEST = 8  # numbers in a text that may be signs
# A string in pieces: a list of them, or a sum.
HAS_PIECES = re.compile(r"(?:([\"'])[^\"'\n]{1,12}\1[\s,+.&|~]{1,20}){4}")
BETWEEN = re.compile(r"([\"'])[\s,+.&|~]{0,20}\1")
DIGITS = re.compile(r"[ \t]*\d+")
LEAST_MARGIN = 3  # signs
WORD, OFTEN = re.compile(r"([^\W\d_]{2,})"), 8
# What stands between hex digits, and around them in a dump: the place in front, the same as signs behind.
HEX_GAPS = re.compile(r"0x|\\x|[\s:,;]+")
HAS_GAPS = re.compile(r"(?:(?<![0-9a-fA-F])[0-9a-fA-F]{2,16}(?:(?:[\s:,;]{1,3})?(?:0x|\\x)|[\s:,;]{1,3})){3}")
DUMP = re.compile(
    r"^[ \t]*(?:0x)?[0-9a-fA-F]{4,16}:?[ \t]+(?=[0-9a-fA-F]{2})|(?<![ \t])[ \t]{2,}\S.{0,17}$", re.MULTILINE
)
TEXT = re.compile(rb"(?:[\x00-\x7f]|[\xc2-\xf4][\x80-\xbf]{1,3}){8,}")  # in decoded bytes
BACKWARDS = "oot"  # of a mark's "tool": whoever turns lines round turns that round
LINE_BREAKS = re.compile(r"\s+")


def variants(text: str, most: int) -> list[str] | None:
    """The text as it stands and as it reads once it is decoded; None where that is more than `most` characters."""
    found = []
    for one in _variants(text):
        most -= len(one)
        if most < 0:
            return None
        found.append(one)
    return list(dict.fromkeys(found))


def _variants(text: str) -> Iterator[str]:
    levels = _levels(text)
    found = []  # all that was given so far
    for one in levels:
        yield from _kept(found, _unpacked(one))
    # Before and after the other escapes: undoing those can eat a sign of a run that follows a backslash.
    runs = []
    for one in dict.fromkeys((text, levels[-1], found[-1])):
        yield from _kept(found, _kept(runs, _decoded_runs(one)))
    for run in dict.fromkeys(runs):
        yield from _kept(found, _decoded_runs(run))
        yield from _kept(found, _levels(run)[1:])
    for one in dict.fromkeys(levels):
        yield from _kept(found, _numbered(one))
        yield from _kept(found, [BETWEEN.sub("", one)] if HAS_PIECES.search(one) else [])
        yield from _kept(found, _without_margins(one))
        yield from _kept(found, _without_often(one))
    for simpler in (_without_colours, _without_tags, lambda one: LINE_NUMBER.sub("", one)):
        for one in dict.fromkeys(found):
            if (bare := simpler(one)) != one:
                yield from _kept(found, [bare])
    for one in dict.fromkeys((text, levels[-1])):
        if BACKWARDS in one.casefold():
            yield "\n".join(line[::-1] for line in one.split("\n"))


def _kept(found: list[str], more: Iterable[str]) -> Iterator[str]:
    """`more`, each noted in `found`."""
    for one in more:
        found.append(one)
        yield one


def _unpacked(text: str) -> Iterator[str]:
    """A text as it stands, and as page, URL, mail and in other escapes."""
    yield text
    for sign, decode in (("&", _html), ("%", urllib.parse.unquote), ("=", _mail)):
        before = text
        for _ in range(DEEP):  # a page in a page
            if sign not in before or (after := decode(before)) == before:
                break
            yield (before := after)
    for pattern, base in OTHER_ESCAPES:
        if pattern.search(text):
            yield pattern.sub(lambda match, base=base: _sign(int(match[1], base)), text)


def _levels(text: str) -> list[str]:
    """The text and what it says once its escapes are undone, and those inside; a tool's result is JSON of JSON."""
    levels = [text]
    while len(levels) <= DEEP and "\\" in levels[-1]:
        levels.append(ESCAPE.sub(_unescaped, levels[-1]))
        if HALVES.search(levels[-1]):  # JSON writes a sign beyond the first 65,536 as two
            levels[-1] = levels[-1].encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return levels


def _html(text: str) -> str:
    # Python refuses to read a number of thousands of digits, which stands for no sign anyway.
    return html.unescape(LONG_NUMBER.sub(_shortened, text))


def _mail(text: str) -> str:
    return MAIL.sub(lambda match: chr(int(match[1], 16)) if match[1] else "", text)


def _shortened(match) -> str:
    """A sign's number without zeros in front; nothing of one that is too large for any sign."""
    return match[1] + match[2] if len(match[2]) < 8 else ""


def _unescaped(match) -> str:
    for number, base in ((match[1], 16), (match[2], 16), (match[3], 16), (match[4], 16), (match[5], 8)):
        if number:
            return chr(int(number, base))
    if match[6]:
        try:
            return unicodedata.lookup(match[6])
        except KeyError:
            return match[6]
    return CONTROL.get(match[7], match[7])


def _sign(number: int) -> str:
    return chr(number) if number < 0x110000 else ""


def _numbered(text: str) -> list[str]:
    """What the numbers in a text say as signs, read in each base; numbers that are no sign are passed over."""
    found = []
    for digits, pattern, base in NUMBERS:
        numbers = pattern.findall(text) if digits.search(text) else []
        if len(numbers) >= FEWEST:
            found.append("".join(chr(sign) for one in numbers if 32 <= (sign := int(one, base)) < 127))
    for pattern, base in PAIRS:
        numbers = pattern.findall(text)
        if len(numbers) >= FEWEST / 2:
            found.append(_text(b"".join(int(one, base).to_bytes(2, "little") for one in numbers)))
    return found


def _without_colours(text: str) -> str:
    """A terminal's text as it is shown."""
    return COLOUR.sub("", text) if any(sign in text for sign in "\x1b\x9b[\x08") else text  # each form has one


def _without_tags(text: str) -> str:
    """A page as it is shown: without comments and tags."""
    if "<" not in text:
        return text
    first, *rest = text.split("<!--")
    return TAG.sub("", first + "".join(one.partition("-->")[2] for one in rest))


def _without_margins(text: str) -> list[str]:
    """The text without what neighbouring lines begin and end with alike (a time, a name, a column), numbers aside.

    Of a group of lines it is what all of them share: two alone may go on with the same letter.
    """
    lines = text.split("\n")
    masked = DIGITS.sub("0", text).split("\n")
    changed, start = False, 0
    while start < len(lines):
        end, margin = start + 1, masked[start]
        while end < len(lines) and len(shared := os.path.commonprefix([margin, masked[end]])) >= LEAST_MARGIN:
            end, margin = end + 1, shared
        if end > start + 1 and margin.strip():
            changed = True
            group = [_behind(line, margin) for line in lines[start:end]]
            tail = len(os.path.commonprefix([line.rstrip()[::-1] for line in group]))
            lines[start:end] = [line.rstrip()[: len(line.rstrip()) - tail] for line in group]
        start = end
    return ["\n".join(lines)] if changed else []


def _without_often(text: str) -> list[str]:
    """The text without the words that it has again and again: names of columns, keys and speakers."""
    parts = WORD.split(text)  # each second one is a word
    often = {word for word, times in Counter(parts[1::2]).items() if times >= OFTEN}
    return ["".join(part for part in parts if part not in often)] if often else []


def _behind(line: str, margin: str) -> str:
    """What stands in `line` behind the signs of `margin`, in which each number is 0."""
    place = 0
    for sign in margin:
        place = found.end() if sign == "0" and (found := DIGITS.match(line, place)) else place + 1
    return line[place:]


def _decoded_runs(text: str) -> list[str]:
    """What runs of base64, base32, hex, bits and decimals in a text say, joined; nothing where none of them is text.

    Words beside a run belong to it as far as anyone can tell, so it is read from each of its first signs, line by line
    and without any break as well, and bytes that are no text are passed over.
    """
    without_breaks = "".join(text.split())
    found = [*_base64(text), *(_base64(without_breaks) if without_breaks != text else ())]
    dumped = (HEX_GAPS.sub("", text), HEX_GAPS.sub("", DUMP.sub("", text))) if HAS_GAPS.search(text) else ()
    for one in dict.fromkeys((text, *dumped)):
        for shift in range(2):
            runs = (match.group()[shift:] for match in HEX.finditer(one))
            found.append(b"".join(bytes.fromhex(run[: len(run) // 2 * 2]) for run in runs))
    for one in dict.fromkeys((text, without_breaks)):
        words = LONG_WORD.findall(one)
        for pattern, decode in ((BASE32, _base32), (BITS, _bits), (DECIMALS, _decimals)):
            found.append(b" ".join(decode(run) for word in words for run in pattern.findall(word)))
    return [said for one in found if one and (said := _text(one))]


def _text(decoded: bytes) -> str:
    return " ".join(part.decode("utf-8", "ignore") for part in TEXT.findall(decoded))


def _base32(run: str) -> bytes:
    run = run[: len(run) - {1: 1, 3: 1, 6: 1}.get(len(run) % 8, 0)].upper()
    return base64.b32decode(run + "=" * (-len(run) % 8))


def _bits(run: str) -> bytes:
    """A run of bits, read from each of its first eight."""
    bits = [run[start : start + 8] for shift in range(8) for start in range(shift, len(run) - 7, 8)]
    return bytes(int(one, 2) for one in bits)


def _decimals(run: str) -> bytes:
    return bytes(int(run[start : start + 3]) for start in range(0, len(run), 3))


def _base64(text: str) -> list[bytes]:
    """What the runs of base64 in a text say, joined, read from each of their first four signs."""
    found: list[list[bytes]] = [[], [], [], []]
    for match in ENCODED.finditer(text):
        whole = match.group().rstrip("=")
        lines = LINE_BREAKS.split(whole)
        # Lines of whole groups of four say the same by themselves.
        for run in ("".join(lines), *(lines if any(len(line) % 4 for line in lines[:-1]) else ())):
            run = run.replace("-", "+").replace("_", "/")
            for shift in range(4):
                part = run[shift : len(run) - ((len(run) - shift) % 4 == 1)]
                found[shift].append(base64.b64decode(part + "=" * (-len(part) % 4)))
    return [b"".join(pieces) for pieces in found]
