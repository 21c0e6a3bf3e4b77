"""The rooms of the house: verbs run and explain themselves, nouns are only imported."""

import ast
import os
import subprocess
import sys

import pytest

from conftest import ROOT
from kxl.base import cli

SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


def is_verb(path) -> bool:
    return any(
        isinstance(node, ast.FunctionDef) and node.name == "main"
        for node in ast.parse(path.read_text(encoding="utf-8")).body
    )


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_begins_with_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), "no docstring"


@pytest.mark.minutes
@pytest.mark.parametrize("path", [path for path in SCRIPTS if is_verb(path)], ids=lambda path: path.stem)
def test_every_verb_has_help_that_opens_with_its_docstring_and_shows_a_command(path):
    # --help must not start the process anew for the BLAS, nor read any file: it answers anywhere.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    ended = subprocess.run(
        [sys.executable, str(path), "--help"], capture_output=True, text=True, cwd="/", env=environment
    )
    assert ended.returncode == 0, ended.stderr
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring.splitlines()[0] in ended.stdout
    assert f"scripts/{path.name}" in docstring, "the docstring shows no command"
    assert "error" not in ended.stderr.lower()


EDGES = """
import sys
from kxl.base import cli
def main():
    print({text!r})
    cli.say({text!r})
    {end}
cli.run(main)
"""
TEXT = "red\x1b[31m title\x1b]0;x\x07 \x9b2J over\rwrite \u202egnp.exe \u2028 name\udcff tab\t é 👩\u200d👧"
SHOWN = "red\\x1b[31m title\\x1b]0;x\\x07 \\x9b2J over\\rwrite \\u202egnp.exe \\u2028 name\\udcff tab\t é 👩\u200d👧\n"


@pytest.mark.parametrize(
    "end, code", [("pass", 0), ("raise cli.UserError({text!r})", 2), ("raise RuntimeError({text!r})", 1)]
)
def test_what_a_model_or_a_name_says_is_shown_and_not_obeyed_by_the_terminal(end, code):
    source = EDGES.format(text=TEXT, end=end.format(text=TEXT))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "PYTHONIOENCODING": "utf-8"}
    ended = subprocess.run([sys.executable, "-c", source], capture_output=True, env=environment)
    out, err = ended.stdout.decode(), ended.stderr.decode()
    assert ended.returncode == code and out == SHOWN and err.startswith(SHOWN)
    assert not set("\x1b\x07\x9b\u202e\u2028") & set(out + err) and ("red\\x1b" in err.removeprefix(SHOWN)) == bool(
        code
    )


def test_a_progress_bar_still_draws_over_its_own_line():
    source = "from kxl.base import cli\nfrom tqdm import tqdm\ncli.run(lambda: list(tqdm(range(3), desc='\\x1b[31mx')))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    ended = subprocess.run([sys.executable, "-c", source], capture_output=True, env=environment)
    assert b"\r" in ended.stderr and b"3/3" in ended.stderr and b"\x1b" not in ended.stderr


def test_a_folder_that_cannot_be_made_is_one_line_though_no_writer_of_ours_makes_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SystemExit):
        cli.run((tmp_path / "file").mkdir)
    assert capsys.readouterr().err == f"error: {tmp_path}/file: a file is in the way; choose another place\n"
