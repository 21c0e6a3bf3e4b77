"""Forms: how people ask, composed of small parts; the data, and the grammar that draws from it.

    load("requests")["read_file"]["questions"]      # forms of datasets/tiny/forms/requests.json
    ask(rng, "(run|execute) {c} (now|)", c="ls")    # "hey, could you execute ls"

A form is a string such as "(run|execute) {c} (in the terminal|)": alternatives in parentheses are drawn at random
(they nest), then the slots in braces are filled. Casing, punctuation and typing slips are applied to the words around
the slots, never to what has to be copied into an argument. The files:

  requests       how people ask for each tool, openers and closers, clauses that stand one after another
  tasks          requests that name no command: "where am i" for pwd
  no_tool        requests that want words, with their answers
  arguments      file names, sites, shell commands, texts
  words          nouns, adjectives, names, verbs; syllables of invented words
  conversations  system prompts, and who the assistant says it is

Rows are drawn by place in a list, so another order, or one form more, makes other rows of the same seed.
"""

import random
import re
from functools import cache

from kxl.base.files import ROOT, read_json

FOLDER = ROOT / "datasets/tiny/forms"
INTERROGATIVE = ("are ", "do ", "does ", "is ", "how ", "which ", "what", "where ", "when ", "why ", "should ", "can ")
POLITE = ("can", "could", "would", "will")

INNERMOST = re.compile(r"\(([^()]*)\)")
SLOT = re.compile(r"(\{\w+\})")


@cache
def load(name: str) -> dict:
    """FOLDER/NAME.json. UserError for a file that is missing or no JSON."""
    return read_json(FOLDER / f"{name}.json")


def expand(rng: random.Random, form: str) -> str:
    """Draw one of each group of alternatives, innermost first, and tidy the spaces."""
    while match := INNERMOST.search(form):
        form = form[: match.start()] + rng.choice(match.group(1).split("|")) + form[match.end() :]
    form = re.sub(r"\s+", " ", form).strip()
    return re.sub(r" (,|\.(?!\w)|\?|!|'s\b)", r"\1", form)


def _slip(rng: random.Random, text: str) -> str:
    """One typing slip: two letters swapped, one dropped or one doubled."""
    places = [m.start() for m in re.finditer(r"[a-z]{2}", text)]
    if not places:
        return text
    i = rng.choice(places)
    return text[:i] + rng.choice((text[i + 1] + text[i], text[i], text[i] * 2 + text[i + 1])) + text[i + 2 :]


def _style(rng: random.Random, form: str) -> str:
    """Casing, missing apostrophes and slips, on the words between the slots only."""
    pieces = SLOT.split(form)
    if rng.random() < 0.25:
        pieces = [p if SLOT.fullmatch(p) else p.replace("'", "") for p in pieces]
    if rng.random() < 0.06:
        i = rng.choice(range(0, len(pieces), 2))
        pieces[i] = _slip(rng, pieces[i])
    case = rng.random()
    if case < 0.5 and pieces[0]:
        pieces[0] = pieces[0][0].upper() + pieces[0][1:]
    elif case < 0.52:
        pieces = [p if SLOT.fullmatch(p) else p.upper() for p in pieces]
    text = "".join(pieces)
    return re.sub(r"\bi\b(?=[ '])", "I", text) if case < 0.5 else text


def quoted(rng: random.Random, text: str, bare: float) -> str:
    """`text` as people set it off: backticks, quotes, or bare with probability `bare`."""
    if rng.random() < bare:
        return text
    marks = [mark for mark in "``'\"" if mark not in text]  # backticks twice: they are as frequent as both quotes
    if not marks:
        return text
    mark = rng.choice(marks)
    return mark + text + mark


def ask(rng: random.Random, form: str, **slots: str) -> str:
    """A complete request from an imperative form: opener, core, closer, style; slots filled last."""
    drawn_from = load("requests")
    core = expand(rng, form)
    asks_already = core.startswith(INTERROGATIVE)
    opener = expand(
        rng, drawn_from["opener_before_question_word"] if asks_already else rng.choice(drawn_from["openers"])
    )
    open_ended = _is_open_ended(core, slots)
    end = _ending(rng, open_ended)
    wants_mark = opener.endswith((" you", "mind")) or opener.startswith(POLITE) and " you " in opener
    if wants_mark and rng.random() < 0.6 and not end and not open_ended:
        end = "?"
    return fill(_style(rng, f"{opener} {core}".strip() + end), slots)


def _is_open_ended(core: str, slots: dict) -> bool:
    """Whether the core ends in words to be copied, without quotes: words behind them would be taken for more."""
    if not core.endswith("}"):
        return False
    last = slots[core.rsplit("{", 1)[1][:-1]]
    return " " in last and last[0] not in "`'\""


def _ending(rng: random.Random, open_ended: bool) -> str:
    """What follows the core: nothing, a full stop, a casual word or a whole phrase; after open words only the last."""
    kind = rng.random()
    if kind < 0.55 or open_ended and kind < 0.8:
        return "" if open_ended else rng.choice(("", "", "."))
    if kind < 0.7 and not open_ended:
        return " " + expand(rng, " " + rng.choice(load("requests")["casual_ends"]))
    end = expand(rng, "~" + rng.choice(load("requests")["closers"]))[1:]  # the ~ keeps a space at its head
    if open_ended and not end.startswith((",", ".")):
        return ""
    return " " + end if end and end[0].isalpha() else end


def question(rng: random.Random, form: str, **slots: str) -> str:
    """A request in the form of a question, with a greeting now and then."""
    core = expand(rng, form)
    if rng.random() < 0.2:
        core = expand(rng, load("requests")["opener_of_question"]) + " " + core
    if core.endswith("?") and rng.random() < 0.25:
        core = core[:-1]
    return fill(_style(rng, core), slots)


def fill(form: str, slots: dict) -> str:
    """Put the slots in, each exactly as it is."""
    return SLOT.sub(lambda m: slots[m.group(1)[1:-1]], form)


def either(rng: random.Random, imperatives: list, questions: list, share: float, **slots: str) -> str:
    """An imperative, or with probability `share` a question."""
    if rng.random() < share:
        return question(rng, rng.choice(questions), **slots)
    return ask(rng, rng.choice(imperatives), **slots)
