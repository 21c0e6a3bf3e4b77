"""Is what stands before a call plain prose, with nothing open that would make the call an example or a quote?

    plain("I'll look.\n")                       # True
    plain("Write this:\n```\n")                 # False: the call would stand in a code block

A whitelist: paragraphs of words, inline code closed on its line, and code blocks that CommonMark reads in one way
only (fences at the margin, closed by the same fence, no fence inside). Whatever may be read in two ways, such as
HTML, nested or indented fences, a quotation that is not closed or a list item that is the call, is no plain prose.
Standard library only.
"""

import re
import unicodedata
from collections import Counter

FENCE = re.compile(r"(`{3,}|~{3,})[^`~]*")
FENCE_LIKE = re.compile(r"`{3}|~{3}")
INLINE_CODE = re.compile(r"`[^`]*`")
# HTML and special tokens, other signs of code, quotation and thought, other people's turns, and a call without markers.
MARKUP = re.compile(
    r"<[A-Za-z/!?|%]|<<[-~]?[ \t]*[\"'\w]|\\begin\{|\$\w*\$|\\`|[◁▷]"
    r"|[\[{]/?(?:code|quote|pre|think|thought|thinking|reasoning)\b|\{(?:%|noformat|panel)"
    r"|^[ \t]*(?:#\+begin|(?:bc|bq|pre)\.+[ \t]|>>>|:::|\.\.[ \t]|\.[a-z]{2}\b|[@=][a-z])|(?<!\S)/\*"
    r"|::[ \t]*$|:[ \t]*[|>][-+\d]*[ \t]*$|@['\"][ \t]*$|^[ \t]*---.*---[ \t]*$"
    r"|^[ \t>*#]*(?:user|human|system|assistant|tool|model|ai)\**:"
    r"|\[\s*[A-Za-z_][\w.-]*\(|[\"'](?:arguments|parameters)[\"']\s*:",
    re.IGNORECASE,
)
# A line of signs alone opens or closes a block in one dialect or another.
RULE = re.compile(r"[ \t]*([-=._*+#|'\"])(?:[ \t]*\1)+[ \t]*")
QUOTE_LINE = re.compile(r"[ \t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*>")
CODE_LINE = re.compile(r" {0,3}\t| {4}")
BRACKETS = {"(": ")", "[": "]", "{": "}", "‚": "‘’"}
# Opening and closing quotation marks of some language; in another the same two stand the other way round.
DOUBLE_QUOTES, SINGLE_QUOTES = re.compile("[“”„‟«»❝❞〝〞〟＂]"), re.compile("[‹›‛❛❜]")
# An apostrophe stands behind a letter, a single quotation begins behind none.
SINGLE_OPENS, SINGLE_CLOSES = re.compile(r"(?<!\w)['‘](?=\S|$)"), re.compile(r"(?<=\S)['’](?!\w)")
# The call's own line begins with a word or a sign that stands before one, not with the sign of a list, quote, table or
# heading, and does not end in a sign that opens.
LIST_ITEM = r"\(?\w{1,9}[)\]]|(?:\d{1,9}|[a-z]|[ivxlc]{2,})[.:](?:\s|$)|\w+ ?\[\d+\]:|\d\ufe0f?\u20e3|[①-⓿❶-➓]"
BEGINS = re.compile(rf"[ \t]*(?!{LIST_ITEM})[\w\"'`“‘«„»(]", re.IGNORECASE)
OPEN_END = frozenset("*_~|>#-+=`'\"‘‚<\\/@$%^&")


def plain(before: str) -> bool:
    """Whether a call behind `before` is the turn's own act and not shown in code, a quotation or a thought."""
    before = before.replace("\r\n", "\n").replace("\r", "\n")
    *lines, last = before.split("\n")
    fence, paragraph = "", []
    for line in lines:
        opens = FENCE.fullmatch(line)
        if fence:
            if line.rstrip(" \t") == fence:
                fence, paragraph = "", []
            elif FENCE_LIKE.search(line):  # nested, or closed in an odd way
                return False
        elif opens:
            if not _words_only(paragraph):  # in HTML a fence is no fence
                return False
            fence, paragraph = opens[1], []
        elif not line.strip():
            if not _words_only(paragraph):
                return False
            paragraph = []
        else:
            paragraph.append(line)
    return not fence and _words_only([*paragraph, last]) and _nothing_open(paragraph, last)


def fences_closed(text: str) -> bool:
    """Whether every code block in `text` is closed, and none is odd."""
    fence = ""
    for line in text.replace("\r", "\n").split("\n"):
        opens = FENCE.fullmatch(line)
        if fence and line.rstrip(" \t") == fence:
            fence = ""
        elif not fence and opens:
            fence = opens[1]
        elif FENCE_LIKE.search(line):
            return False
    return not fence


def _words_only(lines: list[str]) -> bool:
    """A paragraph without fences, HTML or code that is open at its line's end, and with nothing open at its own.

    A quotation, a bracket or a long string may go on in the paragraphs behind it.
    """
    for line in lines:
        words = INLINE_CODE.sub("", line)
        if "`" in words or FENCE_LIKE.search(line) or MARKUP.search(words) or RULE.fullmatch(line):
            return False
    return _closed(INLINE_CODE.sub("", "\n".join(lines)))


def _nothing_open(paragraph: list[str], last: str) -> bool:
    """Whether no block's sign stands before the call: in its paragraph a quotation's, on its line any."""
    if any(QUOTE_LINE.match(line) for line in [*paragraph, last]) or CODE_LINE.match(last) and not last.strip():
        return False
    return not last.strip() or bool(BEGINS.match(last)) and "|" not in last and not _opens(last.rstrip()[-1])


def _closed(words: str) -> bool:
    """Whether each quotation mark and bracket that opens in `words` is closed there."""
    if words.count('"') % 2 or len(SINGLE_OPENS.findall(words)) > len(SINGLE_CLOSES.findall(words)):
        return False
    if len(DOUBLE_QUOTES.findall(words)) % 2 or len(SINGLE_QUOTES.findall(words)) % 2:
        return False
    kinds = Counter(
        map(unicodedata.category, words)
    )  # of brackets in any script, quotation marks in corners among them
    if kinds["Ps"] - words.count("„") - words.count("‚") > kinds["Pe"]:
        return False
    return all(
        words.count(opener) <= sum(words.count(closer) for closer in closers) for opener, closers in BRACKETS.items()
    )


def _opens(sign: str) -> bool:
    """Whether what follows a sign may stand in something that it opened."""
    return sign in OPEN_END or unicodedata.category(sign) in ("Ps", "Pi")
