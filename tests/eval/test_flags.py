"""Commands that ask a served model have the same flags for it."""

import re

import pytest

import bfcl_run
import eval_run
import live_run
import repair_sample

ASKING = ("--model-name", "--thinking-tokens", "--timeout", "--float32")
SERVER = ("--threads", "--server-log")


def explained(script, monkeypatch, capsys) -> dict:
    """{flag: what the script's --help says of it, in one line, without the default}."""
    monkeypatch.setattr("sys.argv", [script.__name__, "--help"])
    with pytest.raises(SystemExit):
        script.arguments()
    said = capsys.readouterr().out.split("options:")[1]
    found = {}
    for entry in re.split(r"\n  (?=-)", said):
        flag = re.split(r"[ ,]", entry, maxsplit=1)[0]
        found[flag] = re.sub(r"\(default: [\d.]+\)", "", " ".join(entry.split())).strip()
    return found


def test_a_flag_means_the_same_in_every_command_that_has_it(monkeypatch, capsys):
    first = explained(eval_run, monkeypatch, capsys)
    for script, flags in (
        (bfcl_run, ASKING + SERVER),
        (repair_sample, ASKING),
        (live_run, SERVER),
    ):
        said = explained(script, monkeypatch, capsys)
        assert {flag: said[flag] for flag in flags} == {flag: first[flag] for flag in flags}, script.__name__


@pytest.mark.parametrize("script, seconds", [(eval_run, "300"), (bfcl_run, "600"), (repair_sample, "300")])
def test_help_says_how_long_an_answer_may_take(script, seconds, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [script.__name__, "--help"])
    with pytest.raises(SystemExit):
        script.arguments()
    assert f"seconds one answer may take (default: {seconds})" in " ".join(capsys.readouterr().out.split())
