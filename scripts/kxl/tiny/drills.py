"""Drills in copying: requests whose arguments are made of the tokenizer's own pieces, each as often as any other.

A word inside a sentence is one token with its space and another where an argument starts with it, and that step has to
be learned for each word apart: most drills have several short arguments, without quotes.
"""

import random
import re
from dataclasses import dataclass

from kxl.tiny import arguments
from kxl.tiny.requests import call
from kxl.tiny.wording import wording
from kxl.tiny.words import is_heldout

# The tools whose arguments are free text.
DRILLED = ("terminal", "write_file", "search_files", "read_file", "patch")
COMMANDS = ("echo", "mkdir", "touch", "du -sh", "grep -rn", "git commit -m")


@dataclass(frozen=True)
class Pieces:
    """Words of a tokenizer's vocabulary: all that are one token, and those that are another token after a space."""

    all: list[str]
    spaced: list[str]

    def word(self, rng: random.Random) -> str:
        """A piece with another one or a number glued to it. A held-out word is practised so, and never seen alone."""
        while True:
            first = rng.choice(self.spaced if rng.random() < 0.6 else self.all)
            word = first + (rng.choice(self.all) if rng.random() < 0.5 else str(rng.randrange(100)))
            if rng.random() < 0.15:
                word = str(rng.randrange(10)) + word
            if not is_heldout(word):
                return word

    def words(self, rng: random.Random, count: int) -> str:
        """`count` words with a space or a sign between them."""
        text = self.word(rng)
        for _ in range(count - 1):
            text += rng.choice((" ", " ", " ", "-", "_", ".", "/")) + self.word(rng)
        return text

    def path(self, rng: random.Random) -> str:
        """A path of one or two words with a usual extension."""
        name = self.word(rng)
        more = rng.choice(("", "/" + self.word(rng), "_" + self.word(rng)))
        return f"{name}{more}.{arguments.extension(rng)}"


def drill(rng: random.Random, pieces: Pieces) -> tuple[str, dict]:
    """(request, call) whose arguments are drawn from `pieces`, evenly: practice in copying each token."""
    kind = rng.random()
    count = rng.choice((1, 1, 1, 2, 2, 3)) if rng.random() < 0.85 else rng.randint(4, 8)
    path = pieces.path(rng)
    if kind < 0.15:
        serving = call("terminal", command=f"{rng.choice(COMMANDS)} {pieces.words(rng, count)}")
    elif kind < 0.45:
        serving = call("write_file", content=pieces.words(rng, count), path=path)
    elif kind < 0.7:
        pattern = pieces.words(rng, min(count, 3))
        folder = {"path": pieces.word(rng)} if rng.random() < 0.5 else {}
        serving = call("search_files", pattern=pattern, **folder)
    elif kind < 0.8:
        serving = call("read_file", path=path)
    else:
        old, new = (pieces.words(rng, min(count, 2)) for _ in range(2))
        serving = call("patch", mode="replace", path=path, old_string=old, new_string=new)
    text = wording(rng, serving)
    if rng.random() < 0.7 and set(text) & set("'`\""):
        text = wording(rng, serving)
    if rng.random() < 0.12:
        text = shouted(text, serving["arguments"].values())
    return text, serving


def shouted(text: str, values) -> str:
    """`text` in capitals, but for the `values` in it: what is copied stays as it is."""
    parts = re.split("(" + "|".join(re.escape(value) for value in sorted(values, key=len, reverse=True)) + ")", text)
    return "".join(part if i % 2 else part.upper() for i, part in enumerate(parts))
