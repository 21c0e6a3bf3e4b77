"""What a person may say to make: every variable, and what its value may be.

Make puts values into command lines and names of files as they are, so each is looked at before make or a shell reads
it: what could be taken for another word or another command is refused. The standard library alone.
"""

import re
import shlex
from collections.abc import Callable

from kxl.base.cli import UserError

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
PATH = re.compile(r"[\w./~@+-]+")  # what neither make nor a shell takes for syntax
COUNT = re.compile(r"[0-9]+")
NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
AMOUNT = re.compile(r"[0-9]+(\.[0-9]+)?[A-Za-z]*")
UNSEEN = r"\x00-\x1f\x7f"


def _words(pattern: re.Pattern) -> Callable[[str], bool]:
    return lambda value: all(pattern.fullmatch(word) for word in value.split(" ") if word)


def _flags(value: str) -> bool:
    """Whether a shell makes words of it and nothing else; quotes may hold a word with spaces together."""
    if re.search(rf"[;&|<>()$`\\#{UNSEEN}]", value):
        return False
    try:
        shlex.split(value)
    except ValueError:  # a quote that is not closed
        return False
    return True


_PLAIN = (
    "a name with a space or with one of $;&|<>()'\"`*?# cannot go through make; "
    "rename it, or link to it from a plain name"
)
# {kind: (what fits it, what is said of one that does not)}
KINDS = {
    "name": (
        lambda value: bool(NAME.fullmatch(value)) and len(value) <= 100,
        "it must be one name of letters, digits, dots, dashes and underscores, not a path",
    ),
    "names": (_words(NAME), "it must be names of letters, digits, dots, dashes and underscores, spaces between them"),
    "path": (PATH.fullmatch, _PLAIN),
    "paths": (_words(PATH), _PLAIN),
    "count": (COUNT.fullmatch, "it must be a whole number"),
    "number": (NUMBER.fullmatch, "it must be a number, as 5 or 0.5"),
    "amount": (AMOUNT.fullmatch, "it must be a number with its unit, as 8GiB or 5.5bpw"),
    # In quotes wherever make hands it on, so any text arrives as one word; of make's own signs there is only one.
    "text": (
        lambda value: not re.search(rf"[${UNSEEN}]", value),
        "a $ or a character that is not seen cannot go through make",
    ),
    "flags": (_flags, "flags must be words; none of ;&|<>()$`\\# may be in them, and each quote must be closed"),
}
OF_KIND = {
    "name": "RUN QUANT ARTIFACT MODE HARDWARE NAME TABLE",
    "names": "BFCL_CATEGORIES PINS WITHOUT",
    "path": "CONFIG MODEL ROWS TRAINING REVISION TAKE_IMATRIX SUITE A B STEP LINE_MODEL START REPAIR_DATA REPO SHAPES "
    "SMOL_CONFIG SMOL_MODEL",
    "paths": "TRACES TRAINING_REPORTS SMOL_TRACES",
    "count": "BFCL_SUBSET TRIALS SEEDS TOKENS GROUPED_PASSES CONTEXT ITER SMOL_STEPS SMOL_SERVED",
    "number": "MARGIN LEAVE_GIB MINUTES SMOL_MINUTES",
    "amount": "BUDGET FIT",
    "text": "URL DIR HERMES_HOME",
    "flags": "EVAL_FLAGS BFCL_FLAGS LIVE_FLAGS CLAIMS",
}
VARIABLES = {variable: kind for kind, variables in OF_KIND.items() for variable in variables.split()}


def fits(variable: str, value: str) -> bool:
    """Whether a value of a variable may go through make. An empty one is as none, but for RUN, which names folders."""
    return bool(KINDS[VARIABLES[variable]][0](value)) or (not value and variable != "RUN")


def check(given: dict[str, str]) -> None:
    """UserError for the first of `given` ({variable: value}, from the command line or the environment) that does not
    fit.
    """
    for variable, value in given.items():
        if variable not in VARIABLES:
            raise UserError(f"{variable}: no such variable; there are {', '.join(sorted(VARIABLES))}")
        if not fits(variable, value):
            raise UserError(f"{variable}={value!r}: {KINDS[VARIABLES[variable]][1]}")
