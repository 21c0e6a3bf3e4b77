"""Whether a training request repeats a prompt of an evaluation suite, word for word or nearly.

A near copy asks for the same thing in nearly the same words: what is left of both without politeness and
fillers is the same, in order. A request that holds RUN words in a row of a prompt is one, too. Two requests
with the same wording and different arguments are different requests.
"""

from pathlib import Path

from kxl.base.cli import UserError
from kxl.base.files import shown
from kxl.eval import suites

RUN = 8  # words
FILLERS = frozenset(
    """a an and again alright also can could cool do for good great hello hermes hey hi i id im in it just kindly let lets like me morning
my need next nice now of ok okay on our out perfect please pls plz quick quickly real right simply so thank thanks that the then this thx to ty
us want we will with would yo you your""".split()
)


class Prompts:
    """The user messages of some suites."""

    def __init__(self, paths: list):
        self.exact, self.core, self.runs = {}, {}, {}
        for path in map(Path, paths):
            for case in suites.load(path).cases:
                for message in case["messages"]:
                    if message["role"] == "user":
                        self._add(message["content"], f"{shown(path)}, case {case['id']}")

    def _add(self, text: str, where: str) -> None:
        words = suites.same_words(text).split()
        self.exact[" ".join(words)] = self.core[_core(words)] = (text, where)
        for place in range(len(words) - RUN + 1):
            self.runs[" ".join(words[place : place + RUN])] = (text, where)

    def overlap(self, text: str) -> tuple[str, str] | None:
        """(prompt, where it stands) that `text` repeats; None when it repeats none."""
        words = suites.same_words(text).split()
        if found := self.exact.get(" ".join(words)):
            return found
        core = _core(words)
        if len(core) > 1 and core in self.core:  # one word that is left says too little: "README"
            return self.core[core]
        runs = (" ".join(words[place : place + RUN]) for place in range(len(words) - RUN + 1))
        return next((self.runs[run] for run in runs if run in self.runs), None)

    def refuse(self, row: dict, name: str) -> None:
        """UserError naming both when a user message of `row` repeats a prompt."""
        for message in row["messages"]:
            if message["role"] == "user" and (found := self.overlap(message["content"] or "")):
                raise UserError(
                    f"{name}: {message['content']!r} repeats the eval prompt {found[0]!r} ({found[1]}); "
                    f"a model trained on it could not be judged by it. Remove the row or word it otherwise"
                )


def _core(words: list) -> tuple:
    return tuple(word for word in words if word not in FILLERS)
