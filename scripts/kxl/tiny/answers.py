"""Requests that need no tool, with their answers: explanations, small talk, hard negatives.

A hard negative names a command, a file or a page and asks for words only ("explain `ls -la`, don't run it"). The tiny
model learns to answer those in a sentence of text and to leave the tools alone. Forms and answers are data
(datasets/tiny/forms/no_tool.json).
"""

import random

from kxl.tiny import arguments
from kxl.tiny.forms import ask, either, expand, fill, load, question, quoted
from kxl.tiny.words import invent_word, pick_word


def no_tool(rng: random.Random, heldout: bool = False) -> tuple[str, str]:
    """One request that no tool is needed for, and its answer."""
    kind = rng.random()
    if kind < 0.3:
        return explanation(rng, heldout)
    if kind < 0.4:
        return comparison(rng)
    if kind < 0.62:
        return negated(rng, heldout)
    if kind < 0.8:
        return small_talk(rng, heldout)
    if kind < 0.9:
        return fact(rng)
    return repeat(rng, heldout)


def _data() -> dict:
    return load("no_tool")


def _with_no_action(rng: random.Random, text: str, needed: bool) -> str:
    """`text` with a note that nothing shall be done; where it is not needed, only now and then."""
    if not needed and rng.random() < 0.4:
        return text
    note = rng.choice(_data()["no_action"])
    between = " " if text.endswith("?") else rng.choice((", ", ". ", " - ", ", but ", "; "))
    if rng.random() >= 0.6:
        note = note.capitalize()
    return f"{text.rstrip('.')}{between}{note}{rng.choice(('', '.'))}"


def _asked_or_told(rng: random.Random, wordings: list[str], **slots: str) -> str:
    """One of the forms, a question in half of the cases."""
    imperatives, questions = ([form for form in wordings if ("?" in form) == mark] for mark in (False, True))
    return either(rng, imperatives, questions, 0.5, **slots)


def explanation(rng: random.Random, heldout: bool) -> tuple[str, str]:
    """A request to explain a command, and one sentence that does."""
    commands = _data()["commands"]
    known = rng.random() < 0.6 and not heldout
    command = rng.choice(list(commands)) if known else arguments.command(rng, heldout)
    text = _asked_or_told(rng, _data()["explain"], c=quoted(rng, command, 0.4))
    text = _with_no_action(rng, text, needed=not known)
    words = command.split()
    for name in (command, " ".join(words[:2]), words[0]):
        if name in commands:
            return text, f"`{name}` {commands[name]}. I have not run it."
    return text, f"`{command}` is a shell command. I have not run it."


def comparison(rng: random.Random) -> tuple[str, str]:
    """A request to compare two commands, and what each does."""
    commands = _data()["commands"]
    c, d = rng.sample(list(commands), 2)
    bare = rng.choice((0.0, 1.0))
    text = _asked_or_told(rng, _data()["compare"], c=quoted(rng, c, bare), d=quoted(rng, d, bare))
    return _with_no_action(rng, text, needed=False), f"`{c}` {commands[c]}; `{d}` {commands[d]}."


def negated(rng: random.Random, heldout: bool) -> tuple[str, str]:
    """A request that names something one could act on, and asks not to."""
    kind = rng.choice(_data()["negated"])
    slots = {
        "c": quoted(rng, arguments.command(rng, heldout), 0.4),
        "u": arguments.url(rng, heldout) if rng.random() < 0.7 else arguments.domain(rng, heldout),
        "p": quoted(rng, arguments.path(rng, heldout), 0.8),
        "q": quoted(rng, arguments.code_name(rng, heldout), 0.5),
        "w": pick_word(rng, heldout),
    }
    return question(rng, rng.choice(kind["forms"]), **slots), kind["answer"]


def small_talk(rng: random.Random, heldout: bool) -> tuple[str, str]:
    """A greeting, thanks, a request to repeat words: something with no task in it."""
    kind = rng.choice(_data()["small_talk"])
    words = " ".join(pick_word(rng, heldout) for _ in range(rng.randint(1, 5)))
    slots = {"w": pick_word(rng, heldout), "q": quoted(rng, words, 0.5), "q_bare": words}
    form = rng.choice(kind["forms"])
    if rng.random() < 0.6:
        text = question(rng, form, **slots)
    elif "{" in form:
        text = ask(rng, form, **slots)
    else:
        text = fill(expand(rng, form), slots)
    return text, fill(rng.choice(kind["answers"]), slots)


def fact(rng: random.Random) -> tuple[str, str]:
    """A small question of general knowledge."""
    asked = rng.choice(_data()["facts"])
    noted = rng.random() < 0.3
    text = question(rng, asked["form"])
    return _with_no_action(rng, text, needed=False) if noted else text, asked["answer"]


def repeat(rng: random.Random, heldout: bool) -> tuple[str, str]:
    """Words to say back exactly: practice in copying, with no tool."""
    kind = rng.random()
    if kind < 0.5:
        text = " ".join(pick_word(rng, heldout, 0.7) for _ in range(rng.randint(1, 8)))
    elif kind < 0.7:
        text = arguments.path(rng, heldout)
    elif kind < 0.85:
        text = arguments.command(rng, heldout)
    else:
        text = " ".join(invent_word(rng) + str(rng.randrange(1000)) for _ in range(rng.randint(1, 4)))
    return f"{rng.choice(_data()['repeat'])}: {text}", text
