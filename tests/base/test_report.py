"""A report names the code that wrote it, so that a number can be told from one of other code."""

import subprocess
import sys

import pytest

from conftest import ROOT
from kxl.base import cli, code, report
from kxl.base.files import read_json


@pytest.fixture
def scripts(tmp_path):
    """A folder of scripts: verb.py imports kxl/room/told.py."""
    (tmp_path / "kxl/room").mkdir(parents=True)
    (tmp_path / "kxl/room/told.py").write_text("ANSWER = 42\n")
    (tmp_path / "verb.py").write_text("from kxl.room import told\n")
    return tmp_path


def test_code_that_changed_while_the_command_ran_is_not_named_as_what_ran(scripts, monkeypatch):
    monkeypatch.setattr(cli, "STARTED", code.Code(scripts).newest("verb.py") + 1)
    assert code.describe("verb.py", scripts) == {"script": "verb.py", "sha256": code.Code(scripts).hash("verb.py")}
    monkeypatch.setattr(cli, "STARTED", code.Code(scripts).newest("verb.py") - 1)
    assert code.describe("verb.py", scripts) == {"script": "verb.py", "sha256": None}


@pytest.mark.parametrize("folder, path", [(".", "scripts/eval_compare.py"), ("scripts", "eval_compare.py")])
def test_a_report_names_the_script_that_was_called_wherever_it_was_called_from(tmp_path, folder, path):
    one = ROOT / "evals/tiny/fixed_hermes_43.llama_cpp.q4kxl.json"
    command = [sys.executable, path, str(one), str(one), "--out", str(tmp_path / "compared.json")]
    subprocess.run(command, cwd=ROOT / folder, check=True, capture_output=True)
    named = read_json(tmp_path / "compared.json")["code"]
    assert named == {"script": "eval_compare.py", "sha256": code.Code().hash("eval_compare.py")}


def test_a_report_that_no_script_wrote_names_no_code(tmp_path):
    report.write(tmp_path / "report.json", [], {}, {})
    assert read_json(tmp_path / "report.json")["code"] is None
