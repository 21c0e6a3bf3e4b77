"""Where a suite lies that a config names.

path_of("fixed_hermes_43")    # evals/suites/fixed_hermes_43.json
path_of("mine/own.json")      # that file; a relative path counts from the repository
"""

from pathlib import Path

from kxl.base.files import ROOT


def path_of(name: str) -> Path:
    """The file of a suite: one of evals/suites by its name, or by a path one anywhere."""
    return ROOT / name if name.endswith(".json") else ROOT / "evals/suites" / f"{name}.json"
