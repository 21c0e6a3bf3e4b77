"""A user's words: a form drawn from the wordings, its slots filled, typed as people type."""

import random
import re

from kxl.dialogue import wordings
from kxl.dialogue.contexts import TOOLS, Context
from kxl.dialogue.slots import Slots
from kxl.dialogue.wordings import SLOT, Form
from kxl.tiny.words import pick_word

# Words that turn a request around when they are gone.
DECISIVE = set(
    """no not never nor none without nothing nobody dont instead only just unless until if then before after first
    second third next last later afterwards already forget leave stop to with by for into from of and or""".split()
)
REWORDED = 0.15  # share of requests in which words give way to others of their sense
ALL_TRAINED = ("around", "results", "missing_tool", "process_input", "vague", "vague_answers")


class Words:
    """Draws words for the rows of one context. heldout: forms and words that training never sees. pieces: words of the
    vocabulary that slots may hold (slots.py). rough: how often a request has slips of the pen."""

    def __init__(self, rng: random.Random, context: Context, heldout: bool = False, pieces=None, rough: float = 0.3):
        self.rng, self.context, self.heldout, self.rough = rng, context, heldout, rough
        self.pieces = pieces
        self.slots = Slots(rng, heldout, pieces, 0.12)
        self.able = [tool for tool in TOOLS if tool in context.names]

    def form(self, file: str, *kinds: str) -> Form:
        """A form of a file, of one of the `kinds` where it has some."""
        kind = self.rng.choice(kinds) if kinds else None
        return self.rng.choice(wordings.forms(file, self._heldout(file, kind), kind))

    def _heldout(self, file: str, kind: str | None = None) -> bool:
        """Whether forms for validation are drawn: no request is held out of ALL_TRAINED, nor of a kind of few forms."""
        return self.heldout and file not in ALL_TRAINED and wordings.holds_out(file, kind)

    def fill(self, text: str, values: dict, rough: bool = False) -> str:
        """A form with its slots filled; with `rough` now and then as people type: no capitals, no full stop, slips."""
        if rough and self.rng.random() < REWORDED:
            text = _reword(self.rng, text)
        if rough and self.rng.random() < self.rough:
            text = _roughen(self.rng, text)
        return SLOT.sub(lambda m: str(values[m[1]]), text)

    def request(self, text: str, values: dict) -> str:
        """A user's words, sometimes with a sentence around them."""
        text = self.fill(text, values, rough=True)
        if self.rng.random() < 0.1:
            text = self.form("around", "before").texts[0] + self.rng.choice((" ", " ", "\n")) + text
        if self.rng.random() < 0.08:
            text += (
                ("" if text[-1] in ".!?:\n" else self.rng.choice((", ", " ", ". ")))
                + " " * (text[-1] in ".!?")
                + self.form("around", "after").texts[0]
            )
        return text


def _reword(rng: random.Random, form: str) -> str:
    """A form with half of its words that have synonyms replaced; its slots stay as they are."""
    known = wordings.synonyms()

    def other(match) -> str:
        word = match.group()
        return rng.choice(known[word]) if word in known and rng.random() < 0.5 else word

    return re.sub(r"(?<![\w{])[a-z]+(?![\w}])", other, form)


def _roughen(rng: random.Random, form: str) -> str:
    """A form as someone in a hurry types it, or with one word gone or another in its place, so that no single word
    decides; its slots stay as they are."""
    parts = re.split(r"(\{\w+\})", form)
    kind = rng.random()
    if kind < 0.3:
        parts[::2] = [part.lower() for part in parts[::2]]
    elif kind < 0.36:
        parts[::2] = [part.upper() for part in parts[::2]]
    elif kind < 0.56:
        for i in range(0, len(parts), 2):
            words = [m for m in re.finditer(r"[a-z]{4,}", parts[i])]
            if words and rng.random() < 0.7:
                word = rng.choice(words)
                place = rng.randrange(word.start(), word.end() - 1)
                a, b = parts[i][place], parts[i][place + 1]
                parts[i] = parts[i][:place] + rng.choice((b + a, a, a + a + b, b)) + parts[i][place + 2 :]
    else:
        i = rng.randrange(0, len(parts), 2)
        words = [m for m in re.finditer(r"(?<=\s)[A-Za-z]+(?=\s)", parts[i]) if m[0].lower() not in DECISIVE]
        if len(words) > 2:
            word = rng.choice(words)
            parts[i] = (
                parts[i][: word.start()]
                + (pick_word(rng, invented=0.1) + " " if kind < 0.8 else "")
                + parts[i][word.end() + 1 :]
            )
    text = "".join(parts)
    if rng.random() < 0.4 and not text.endswith("}"):
        text = text.rstrip(".!") or text
    return text
