"""Where a suite lies that a config names, and which of its cases are for development.

path_of("fixed_hermes_43")    # evals/suites/fixed_hermes_43.json
path_of("mine/own.json")      # that file; a relative path counts from the repository
"""

from pathlib import Path

from kxl.base import forms
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, shown
from kxl.eval import suites

HALVES = ("development", "test")


def path_of(name: str) -> Path:
    """The file of a suite: one of evals/suites by its name, or by a path one anywhere."""
    return ROOT / name if name.endswith(".json") else ROOT / "evals/suites" / f"{name}.json"


def halves_of(name: str) -> Path:
    """The file that says which cases of a suite of evals/suites are for development; there need be none."""
    return ROOT / "evals/halves" / f"{name}.json"


def keep_half(suite: suites.Suite, half: str) -> None:
    """Leave only the cases of one half in a suite: what is tuned on one is judged on the other.

    UserError for a suite without halves, and where the file of halves names other cases than the suite has.
    """
    path = halves_of(suite.name)
    if not path.exists():
        raise UserError(f"{suite.name} has no halves ({shown(path)} would say them): leave --half out")
    halves = read_json(path)
    forms.check(halves, {"development": [str]}, shown(path), "write the halves of this suite anew")
    development = set(halves["development"])
    if unknown := sorted(development - {case["id"] for case in suite.cases}):
        raise UserError(f"{shown(path)}: {unknown[0]} is no case of {suite.name}; write the halves of this suite anew")
    suite.cases = [case for case in suite.cases if (case["id"] in development) == (half == "development")]
