"""Words and names that the tiny model's training requests are composed of.

Everything random goes through a `random.Random` that the caller seeds. A word belongs to the
held-out part by a hash of its spelling, so that training and evaluation agree on it without a list:
`pick_word(rng, heldout=False)` never returns a word that `pick_word(rng, heldout=True)` can return.
"""

import hashlib
import random
from dataclasses import dataclass
from functools import cache

from kxl.base.files import ROOT
from kxl.tiny.forms import load

SPELLED = ROOT / "datasets/tiny/words.txt"
HELDOUT_ONE_IN = 8


def is_heldout(word: str) -> bool:
    """Whether a word is reserved for evaluation: one in HELDOUT_ONE_IN, by its sha256."""
    return hashlib.sha256(word.lower().encode()).digest()[0] % HELDOUT_ONE_IN == 0


@dataclass(frozen=True)
class Vocabulary:
    """The words that arguments are drawn from. `listed`: all in lower case; `cased`: those with capitals."""

    listed: list[str]
    cased: list[str]
    training: list[str]
    heldout: list[str]


@cache
def vocabulary() -> Vocabulary:
    """The words of forms/words.json and of datasets/tiny/words.txt.

    The second are words of the schemas, of Hermes's prompt and of our wordings: tokens of their own
    (tiny_train_tokenizer.py). A token that no argument ever holds in training cannot be copied later, so they are
    arguments too. The list is part of how models/tiny was made and does not follow the texts that it was taken from.
    """
    lists = load("words")
    spelled = set(SPELLED.read_text(encoding="utf-8").split())
    listed = {word for kind in ("nouns", "adjectives", "names", "verbs") for word in lists[kind]}
    listed = sorted(listed | {word for word in spelled if word.islower()})
    return Vocabulary(
        listed=listed,
        cased=sorted(word for word in spelled if not word.islower()),
        training=[word for word in listed if not is_heldout(word)],
        heldout=[word for word in listed if is_heldout(word)],
    )


def _syllable(rng: random.Random) -> str:
    parts = load("words")
    return "".join(rng.choice(parts[kind]) for kind in ("onsets", "vowels", "codas"))


def _fragment(rng: random.Random) -> str:
    """A word, or a piece of one: this is how the tokens of held-out words are seen, though never the words."""
    word = rng.choice(vocabulary().listed)
    if rng.random() < 0.5 or len(word) < 5:
        return word
    start = rng.randrange(len(word) - 3)
    return word[start : start + rng.randint(3, 7)]


def invent_word(rng: random.Random, heldout: bool = False) -> str:
    """A lower-case word that is in no dictionary: one or two syllables, or two pieces of words in one."""
    while True:
        if rng.random() < 0.5:
            word = _fragment(rng) + _fragment(rng)
        else:
            word = "".join(_syllable(rng) for _ in range(rng.choice((1, 2, 2))))
        if len(word) > 2 and is_heldout(word) == heldout:
            return word


def cased_word(rng: random.Random, heldout: bool = False) -> str:
    """A word with capitals: a name of the texts, or any word capitalized or in capitals."""
    while True:
        kind = rng.random()
        if kind < 0.6:
            word = rng.choice(vocabulary().cased)
        elif kind < 0.85:
            word = pick_word(rng, heldout).capitalize()
        else:
            word = pick_word(rng, heldout).upper()
        if is_heldout(word) == heldout:
            return word


# First and last code points of scripts and signs: Latin-1, Latin Extended-A, Greek, Cyrillic, Arabic, kana, Chinese,
# arrows, emoji.
SCRIPTS = [
    (0xC0, 0xFF),
    (0x100, 0x17F),
    (0x3B1, 0x3C9),
    (0x410, 0x44F),
    (0x627, 0x63A),
    (0x3041, 0x3093),
    (0x4E00, 0x9FA5),
    (0x2190, 0x2193),
    (0x1F600, 0x1F64F),
]


def foreign_word(rng: random.Random) -> str:
    """One to five characters of a script other than ASCII, alone or after ASCII letters."""
    low, high = rng.choice(SCRIPTS)
    text = "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 5)))
    return text if rng.random() < 0.5 else pick_word(rng)[:6] + text


def pick_word(rng: random.Random, heldout: bool = False, invented: float = 0.4) -> str:
    """A lower-case word: from the lists, or invented with probability `invented`."""
    if rng.random() < invented:
        return invent_word(rng, heldout)
    return rng.choice(vocabulary().heldout if heldout else vocabulary().training)


def identifier(rng: random.Random, heldout: bool = False) -> str:
    """A name as code has them: snake_case, kebab-case, camelCase, dotted, numbered or plain."""
    words = [pick_word(rng, heldout) for _ in range(rng.choice((1, 2, 2, 3)))]
    if rng.random() < 0.1:
        words.append(cased_word(rng))
    style = rng.random()
    if style < 0.35:
        name = "_".join(words)
    elif style < 0.6:
        name = "-".join(words)
    elif style < 0.72:
        name = words[0] + "".join(w.capitalize() for w in words[1:])
    elif style < 0.82:
        name = "".join(w.capitalize() for w in words)
    elif style < 0.9:
        name = words[0].upper() if len(words) == 1 else "_".join(w.upper() for w in words)
    else:
        name = words[0]
    if rng.random() < 0.15:
        name += rng.choice(("", "_", "-", "v")) + str(rng.randrange(1, 100))
    return name


def number(rng: random.Random) -> int:
    """A positive number whose count of digits is uniform from one to four."""
    return rng.randrange(1, 10 ** rng.randint(1, 4))


def hex_id(rng: random.Random, digits: int) -> str:
    """A lower-case hexadecimal id."""
    return "".join(rng.choice("0123456789abcdef") for _ in range(digits))
