"""A report names the code that wrote it, so that a number can be told from one of other code."""

import subprocess
import sys

import pytest

from conftest import ROOT
from kxl.base import cli, code, report
from kxl.base.files import read_json

MODULE = "def answer():\n    return 41 + 1\n"


@pytest.fixture
def scripts(tmp_path):
    """A folder of scripts: verb.py imports kxl/room/told.py and runs other.py; nobody needs alone.py."""
    (tmp_path / "kxl/room").mkdir(parents=True)
    (tmp_path / "kxl/room/told.py").write_text(MODULE)
    (tmp_path / "other.py").write_text("print(1)\n")
    (tmp_path / "alone.py").write_text("print(2)\n")
    (tmp_path / "verb.py").write_text("from kxl.room import told\n\nRUN = ['python', 'other.py']\n")
    return tmp_path


@pytest.mark.parametrize(
    "name, text, same",
    [
        ("kxl/room/told.py", '"""What it is."""\n\n# why\n' + MODULE.replace("41 + 1", "(41\n        + 1)"), True),
        ("kxl/room/told.py", MODULE.replace("41", "40"), False),
        ("other.py", "print(3)\n", False),
        ("alone.py", "print(3)\n", True),
    ],
)
def test_the_hash_is_of_the_script_and_of_all_that_it_imports_or_runs_and_of_code_alone(scripts, name, text, same):
    before = code.Code(scripts).hash("verb.py")
    (scripts / name).write_text(text)
    assert (code.Code(scripts).hash("verb.py") == before) == same


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
