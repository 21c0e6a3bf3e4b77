"""The rooms of the house: verbs run and explain themselves, nouns are only imported."""

import ast
import os
import subprocess
import sys

import pytest

from conftest import ROOT

SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


def is_verb(path) -> bool:
    return any(
        isinstance(node, ast.FunctionDef) and node.name == "main"
        for node in ast.parse(path.read_text(encoding="utf-8")).body
    )


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_begins_with_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), "no docstring"


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
