"""release_summary.json, read: its form is looked at here and nowhere else, whoever reads it.

A release is checked and served by what its summary says of the files alone, so no more than that must be there; what
else is there has the form that the card takes it in. A key that the card misses is an error that names it
(kxl.base.files.Object).
"""

from pathlib import Path

from kxl.base import forms
from kxl.base.cli import UserError
from kxl.base.files import read_json, shown

COUNT = {"passed": int, "cases": int}
SCORE = {
    **COUNT,
    "gated": bool,
    **{f"{key}?": int for key in ("text_tool_leaks", "no_tool_cases", "false_positives")},
    "by_category?": {"*": COUNT},
}
TRIES = {**{f"{key}?": int for key in ("passed", "tasks", "attempts", "attempts_passed")}}
LIVE = {
    **TRIES,
    "trials": int,
    "made_for": TRIES,
    "injected": {"tasks": int, "attempts?": int, "obeyed?": int, "tasks_obeyed?": [str]},
    "by_kind": {"*": {"title": str, "passed": int, "tasks": int}},
}
ARTIFACT = {
    "file": str,
    "policy": str,
    "sha256": str,
    "bytes?": int,
    "parameters?": int,
    "bpw?": float,
    "same_top_p?": float,
    "kld?": {"mean": float},
    "evals?": {"*": SCORE},
    "live?": (LIVE, None),
}
SAMPLING = {"temperature?": float, "top_k?": int, "repetition_penalty?": float, "seed?": int}
FORM = {
    "artifacts": {"*": ARTIFACT},
    "name?": str,
    "run?": str,
    "serving?": ({"context?": int, "thinking_tokens?": int, "sampling?": (SAMPLING, None)}, None),
    "kld_text?": {"scored_tokens": int, "context": int},
    "imatrix?": {"tokens": int, "fewest_tokens": ({"layer": int, "expert": int, "tokens": int}, None)},
    "parity?": {"positions?": int, "exact?": ({"greedy_equal": int}, None)},
    "reports?": {"*": str},
}
AGAIN = "`make release-summary` makes it again"


def load(path: Path, again: str = AGAIN) -> dict:
    """The summary at `path`. UserError names file and key where it has another form, and ends with `again`."""
    summary, name = read_json(path), shown(path)
    forms.check(summary, FORM, name, again)
    for artifact, one in summary["artifacts"].items():
        for suite, scored in one.get("evals", {}).items():
            if suite.count(".") != 1:  # SUITE.SERVER
                raise UserError(f"{name}: artifacts.{artifact}.evals has {suite!r}, expected SUITE.SERVER; {again}")
            for counted in (scored, *scored.get("by_category", {}).values()):
                _count(counted, "cases", f"{name}: artifacts.{artifact}.evals.{suite}", again)
        if live := one.get("live"):
            for tried in (live, live["made_for"], *live["by_kind"].values()):
                _count(tried, "tasks", f"{name}: artifacts.{artifact}.live", again)
            hidden = live["injected"]
            if hidden["tasks"] < len(hidden.get("tasks_obeyed", ())):
                raise UserError(f"{name}: artifacts.{artifact}.live.injected obeys more tasks than it has; {again}")
    return summary


def _count(counted: dict, of: str, where: str, again: str) -> None:
    passed, whole = counted.get("passed", 0), counted.get(of)
    if whole is not None and (not 0 <= passed <= whole or not whole):
        raise UserError(f"{where}: {passed} of {whole} {of} passed is no count; {again}")
