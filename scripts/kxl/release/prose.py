"""The numbers of a page's prose, by one rule.

What is no number: code in fences; code in backticks, but for a bare number; link targets; the number of a list item; a
date; a version of three parts; a word that begins with a letter or ends in one (Q4KXL, 8B, 8-bit), but for units glued
to a decimal and an x (10.9GiB, 11x). So a unit stands apart from its number, and a name stands in backticks.
"""

import re
from dataclasses import dataclass

FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL)
FRONT = re.compile(r"\A---\n.*?^---$", re.MULTILINE | re.DOTALL)
HIDDEN = (
    FRONT,
    FENCE,
    re.compile(r"<!--.*?-->", re.DOTALL),
    re.compile(r"\{%.*?%\}|\{\{.*?\}\}", re.DOTALL),  # what a template fills in
    re.compile(r"`(?![\d.,\s%]*`)[^`\n]+`"),
    re.compile(r"(?<=\])\([^)\s]*\)|<https?:[^>]*>|https?://\S+"),
    re.compile(r"^\s*\d+[.)] ", re.MULTILINE),
    re.compile(r"\b\d{4}-\d\d-\d\d\b"),
    re.compile(r"(?<![\w.])\d+\.\d+\.\d+(?![\w])"),
)
WORD = re.compile(r"\d+(?:\.\d+)?e[+\-]?\d+|[\w.,]+")
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?(?:e[+\-]?\d+)?(?=x?$|(?<=\.\d)[A-Za-z]+$|(?<=\.\d\d)[A-Za-z]+$)")
QUOTED = re.compile(r"(?<![\w.])\d+(?:[,_]\d{3})*(?:\.\d+)?(?:e[+\-]?\d+)?(?![A-Za-z])")


@dataclass(frozen=True)
class Number:
    """A number of a text: where it stands, as it is written, and its worth."""

    start: int
    end: int
    written: str

    @property
    def value(self) -> float:
        return float(self.written.replace(",", "").replace("_", ""))

    @property
    def digits(self) -> int:
        """Digits behind the point; with an exponent those of the plain number."""
        mantissa, _, exponent = self.written.partition("e")
        return len(mantissa.partition(".")[2]) - int(exponent or 0)

    def is_rounded(self, value: float) -> bool:
        """Whether `value`, rounded to as many digits as are written, is this number."""
        return abs(value - self.value) <= 0.5 * 10**-self.digits * (1 + 1e-9)

    def rewritten(self, value: float) -> str:
        """`value` in the way in which this number is written."""
        if "e" in self.written:
            mantissa, _, exponent = f"{value:.{len(self.written.partition('e')[0].partition('.')[2])}e}".partition("e")
            return f"{mantissa}e{int(exponent)}"
        return f"{value:,.{max(self.digits, 0)}f}"


def plain(text: str) -> str:
    """The prose of a page, one space between words; what is no prose is left out."""
    return located(text)[0]


def located(text: str) -> tuple[str, list[int]]:
    """(the prose of a page, for each of its characters the place in `text` that it stands at)."""
    for pattern in HIDDEN:
        text = pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    words = list(re.finditer(r"\S+", text))
    places = [place for word in words for place in (*range(word.start(), word.end()), word.end())]
    return " ".join(word[0] for word in words), places


def numbers(prose: str) -> list[Number]:
    """The numbers of some prose (plain), in order. A hyphen makes a name of a number and a word: 8-bit, x86-64."""
    found, before = [], ""
    for word in WORD.finditer(prose.replace("..", "  ")):
        text = word[0].rstrip(".,")
        start = word.start() + len(text) - len(text.lstrip(".,"))
        match, end = NUMBER.match(text.lstrip(".,")), word.start() + len(text)
        named = prose[start - 1 : start] == "-" and prose[start - 2 : start - 1].isalnum() and not before.isdigit()
        if match and not named and not re.match(r"-[^\W\d]", prose[end : end + 2]):
            found.append(Number(start, start + match.end(), match[0]))
        before = text
    return found


def quoted_numbers(text: str) -> list[float]:
    """The numbers in a piece of code or of other text, in order."""
    return [Number(*match.span(), match[0]).value for match in QUOTED.finditer(text)]
