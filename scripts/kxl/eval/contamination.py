"""Whether a text repeats an evaluation prompt, word for word or nearly: one rule for every stage that draws rows.

A near copy asks for the same thing in nearly the same words: what is left of both without politeness and fillers is the
same, in order. A request that holds RUN words in a row of a prompt is one, too. Two requests with the same wording and
different arguments are different requests. Prompts are the user messages of suites and the requests of live tasks; a
word that a task draws for each run, such as {a}, stands for any word.
"""

import re
from pathlib import Path

from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, shown
from kxl.eval.requests import same_words, text_of

RUN = 8  # words
FILLERS = frozenset(
    """
    a an and again alright also can could cool do for good great hello hermes hey hi i id im in it just kindly let lets
    like me morning my need next nice now of ok okay on our out perfect please pls plz quick quickly real right simply
    so thank thanks that the then this thx to ty us want we will with would yo you your""".split()
)


DRAWN = re.compile(r"\{[a-z_]+\}")  # a word that a live task draws
ANY = "xanywordx"  # its place among the words of a prompt


def everything(others: list = ()) -> "Prompts":
    """Every prompt that this repository evaluates with, evals/suites and evals/live, and those of `others`, suites."""
    ours = [*sorted((ROOT / "evals/suites").glob("*.json")), *sorted((ROOT / "evals/live").glob("*.json"))]
    known = {path.resolve() for path in ours}
    return Prompts([*ours, *(path for path in others if Path(path).resolve() not in known)])


def prompts_of(path: Path) -> list[tuple[str, str]]:
    """(prompt, where it stands) of a suite or of a file of live tasks. UserError where it is neither."""
    from kxl.eval import suites  # needs jsonschema, which a machine that only trains need not have

    data = read_json(path)
    if isinstance(data, dict) and "tasks" in data:
        return [(task["prompt"], f"{shown(path)}, task {task['id']}") for task in data["tasks"]]
    return [
        (text_of(message), f"{shown(path)}, case {case['id']}")
        for case in suites.load(path).cases
        for message in case["messages"]
        if message["role"] == "user"
    ]


class Prompts:
    """The prompts of some suites and files of live tasks."""

    def __init__(self, paths: list):
        self.exact, self.core, self.runs = {}, {}, {}
        self.drawn: list[tuple[re.Pattern, tuple[str, str]]] = []
        for path in map(Path, paths):
            for text, where in prompts_of(path):
                self.add(text, where)

    def add(self, text: str, where: str) -> None:
        """One more prompt; `where` it stands is told when something repeats it."""
        words = same_words(DRAWN.sub(f" {ANY} ", text)).split()
        if ANY in words:
            core = " ".join(re.escape(word) for word in _core(words)).replace(ANY, r"\S+")
            self.drawn.append((re.compile(core), (text, where)))
        else:
            self.exact[" ".join(words)] = self.core[_core(words)] = (text, where)
        for place in range(len(words) - RUN + 1):
            if ANY not in (run := words[place : place + RUN]):
                self.runs[" ".join(run)] = (text, where)

    def overlap(self, text: str) -> tuple[str, str] | None:
        """(prompt, where it stands) that `text` repeats; None when it repeats none."""
        words = same_words(text).split()
        if found := self.exact.get(" ".join(words)):
            return found
        core = _core(words)
        if len(core) > 1 and core in self.core:  # one word that is left says too little: "README"
            return self.core[core]
        joined = " ".join(core)
        if found := next((prompt for pattern, prompt in self.drawn if pattern.fullmatch(joined)), None):
            return found
        runs = (" ".join(words[place : place + RUN]) for place in range(len(words) - RUN + 1))
        return next((self.runs[run] for run in runs if run in self.runs), None)

    def of_row(self, messages: list[dict]) -> tuple[str, str] | None:
        """The first prompt that a user message of a row repeats."""
        texts = (text_of(message) for message in messages if message["role"] == "user")
        return next((found for text in texts if (found := self.overlap(text))), None)

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
