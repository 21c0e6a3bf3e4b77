"""A text without what readers pass over: letters in one case and one alphabet, and the signs of a call.

    signs("Ｔｅｒｍｉｎａｌ( \\"a\\" )")           # "terminal(a)"
    in_order("call", "c1a2l3l", 1)        # True: the letters stand there, at most one sign between two

Each sign is looked at by itself, so that long runs of accents take no longer than other text. Standard library only.
"""

import re
import unicodedata

NOT_SIGNS = re.compile(r"(?:[^\w()=:,{}\[\]<>|]|_)+")
NOT_CALL_SIGNS = re.compile(r"[<>|]+")
NOT_LETTERS = re.compile(r"[\W\d_]+")
# The same for a text in ASCII.
DROPPED, CALL_SIGNS, NO_LETTERS = (
    dict.fromkeys(number for number in range(128) if pattern.match(chr(number)))
    for pattern in (NOT_SIGNS, NOT_CALL_SIGNS, NOT_LETTERS)
)
# A sign whose Unicode name ends in a letter of the alphabet is that letter: turned, squared, small capital, a flag.
NAMED = re.compile(r"LETTER (?:.*? )?([A-Z])(?: WITH .*)?$")
# Letters of other alphabets that look like Latin ones (Cyrillic, Greek, Armenian, Cherokee, Hebrew, Lisu, Coptic), and
# Braille's.
LOOKALIKES = dict(zip("аеорсухіјѕԁһӏԛԝтмкгпвοανρτικɑոօսհցզ", "aeopcyxijsdhlqwtmkrnboavptikanouhgq"))
LOOKALIKES |= dict(zip("ишзясוᎪᏴᏟᎠᎬᏀᎻᎥᎫᏦᏞᎷᏢᏒᏚᎢᏙᎳᎩᏃ", "nwzrclabcdeghijklmprstvwyz"))
LOOKALIKES |= dict(zip("סꓮꓐꓚꓓꓰꓝꓖꓧꓲꓙꓗꓡꓟꓠꓳꓑꓣꓢꓔꓴꓦꓪꓫꓬꓜ", "oabcdefghijklmnoprstuvwxyz"))
LOOKALIKES |= dict(zip("ⲁⲃⲥⲉⲏⲓⲕⲙⲛⲟⲣⲧⲩⲭ⠁⠃⠉⠙⠑⠋⠛⠓⠊⠚⠅⠇⠍⠝⠕⠏⠟⠗⠎⠞⠥⠧⠺⠭⠽⠵", "abcehikmnoptyxabcdefghijklmnopqrstuvwxyz"))
# Digits and signs for letters, by habit or as a scanner misreads them; and the words that tell whether there are any.
MISREAD = ("tool", "call", "start")
READ = str.maketrans("i013457|!$@+", "loleastllsat")
# A word, as lines and tables keep them apart.
PART = re.compile(r"[^\s\"'`]+")
LEAST_PIECE, WORDS_BETWEEN = 3, 40


class _Folded(dict):
    """What each sign stands for, by its number, found when it is first met."""

    def __missing__(self, number: int) -> str:
        self[number] = "".join(map(_folded, unicodedata.normalize("NFKD", chr(number))))
        return self[number]


def _folded(sign: str) -> str:
    if 0xE0020 <= ord(sign) < 0xE007F:  # tags: signs that nobody sees
        sign = chr(ord(sign) - 0xE0000)
    if unicodedata.category(sign) in ("Mn", "Mc", "Me", "Cf"):  # accents, joiners, directions
        return ""
    folded = sign.casefold()
    if folded.isascii():
        return folded
    named = NAMED.search(unicodedata.name(sign, ""))
    return LOOKALIKES.get(folded) or (named[1].lower() if named else folded)


FOLDED = _Folded()


def folded(text: str) -> str:
    """A text in one case and one alphabet, without accents and what cannot be seen."""
    return text.casefold() if text.isascii() else text.translate(FOLDED)


def signs(text: str) -> str:
    """Letters, digits and the signs of a call: what spaces, quotes and escapes cannot change."""
    return only_signs(folded(text))


def only_signs(plain: str) -> str:
    """The same of a text that is folded."""
    return _without(NOT_SIGNS, DROPPED, plain)


def without_call_signs(text: str) -> str:
    """A text in `signs` without the brackets of a call's markers."""
    return _without(NOT_CALL_SIGNS, CALL_SIGNS, text)


def letters(text: str) -> str:
    """The letters alone of a text in `signs`."""
    return _without(NOT_LETTERS, NO_LETTERS, text)


def _without(pattern: re.Pattern, dropped: dict, text: str) -> str:
    """A text without the signs of a pattern; by a table where there is one, which is many times as fast."""
    return text.translate(dropped) if text.isascii() else pattern.sub("", text)


def read_anew(plain: str) -> str:
    """The letters of a folded text whose digits and signs stand for some, i, l and 1 as one; empty where none do."""
    read = plain.translate(READ)
    return letters(read) if any(read.count(word) > plain.count(word) for word in MISREAD) else ""


def in_pieces(needle: str, plain: str) -> bool:
    """Whether the letters of `needle` stand in a folded text in pieces, as in a log with much between two of them.

    A piece is a whole word, or three letters of one; up to forty words may stand between two.
    """
    reached: dict[int, int] = {}  # how many letters were found: at which word
    if needle[:LEAST_PIECE] not in plain and "<" not in plain:
        return False
    for number, word in enumerate(PART.findall(plain)):
        begins = word[0] == "<" or needle[:LEAST_PIECE] in word
        if not (reached or begins) or not (part := letters(word)):
            continue
        reached = {place: found for place, found in reached.items() if number - found <= WORDS_BETWEEN}
        for start in (*reached, 0) if begins else (*reached,):
            end = start
            while end < len(needle) and needle[start : end + 1] in part:
                end += 1
                if end - start >= LEAST_PIECE or end == len(needle) or needle[start:end] == part:
                    reached[end] = number
            if end == len(needle):
                return True
    return False


def in_order(needle: str, text: str, most: int) -> bool:
    """Whether the signs of `needle` stand in `text` in this order, with at most `most` others between two.

    The places of a sign are the bits of one number, so a step is a few operations on numbers as long as the text.
    """
    if not text:
        return False
    wanted, data = (one.encode("latin-1", "replace") for one in (needle, text))
    places: dict[int, int] = {}
    reached = -1  # before the first sign every place is open
    for sign in wanted:
        if sign not in places:
            places[sign] = int(data.translate(bytes(49 if one == sign else 48 for one in range(256))), 2)
        reached &= places[sign]
        if not reached:
            return False
        reached >>= 1  # the first character is the highest bit
        wide = 1
        while 2 * wide <= most + 1:
            reached |= reached >> wide
            wide *= 2
        reached |= reached >> (most + 1 - wide)
    return True
