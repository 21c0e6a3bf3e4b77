"""A virtual environment is complete or not used."""

import subprocess

import pytest

from kxl.base.cli import UserError
from kxl.setup import venvs


@pytest.fixture
def calls(monkeypatch):
    """Commands that would make the environment; python -m venv makes only the folder."""
    made = []

    def run(command, **_):
        made.append(command)
        if "venv" in command:
            folder = venvs.Path(command[-1])
            (folder / "bin").mkdir(parents=True)
            (folder / "pyvenv.cfg").touch()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(venvs.processes, "run", run)
    return made


@pytest.fixture
def requirements(tmp_path):
    path = tmp_path / "requirements.txt"
    path.write_text("a==1\n")
    return path


def test_a_complete_environment_is_not_made_again(tmp_path, calls, requirements):
    first = venvs.make(tmp_path / "venv", [requirements])
    assert len(calls) == 2
    assert venvs.make(tmp_path / "venv", [requirements]) == first
    assert len(calls) == 2


def test_an_environment_whose_install_was_killed_is_made_anew(tmp_path, calls, requirements, monkeypatch):
    whole = venvs.processes.run

    def killed_in_pip(command, **options):
        if "pip" in command:
            raise KeyboardInterrupt
        return whole(command, **options)

    monkeypatch.setattr(venvs.processes, "run", killed_in_pip)
    with pytest.raises(KeyboardInterrupt):
        venvs.make(tmp_path / "venv", [requirements])
    (tmp_path / "venv" / "half a package").touch()

    monkeypatch.setattr(venvs.processes, "run", whole)
    venvs.make(tmp_path / "venv", [requirements])
    assert not (tmp_path / "venv" / "half a package").exists()
    assert (tmp_path / "venv" / venvs.STAMP).is_file()


def test_a_failed_install_is_an_error_and_leaves_no_stamp(tmp_path, requirements, monkeypatch):
    monkeypatch.setattr(
        venvs.processes, "run", lambda command, **_: subprocess.CompletedProcess(command, 1 if "pip" in command else 0)
    )
    (tmp_path / "venv").mkdir()
    with pytest.raises(UserError, match="pip could not install"):
        venvs.make(tmp_path / "venv", [requirements])
    assert not (tmp_path / "venv" / venvs.STAMP).exists()


def test_changed_requirements_or_constraints_make_it_anew(tmp_path, calls, requirements):
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("b==1\n")
    venvs.make(tmp_path / "venv", [requirements, constraints])
    requirements.write_text("a==2\n")
    venvs.make(tmp_path / "venv", [requirements, constraints])
    constraints.write_text("b==2\n")
    venvs.make(tmp_path / "venv", [requirements, constraints])
    assert len(calls) == 6


def test_a_folder_that_is_no_environment_is_not_deleted(tmp_path, calls, requirements):
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "thesis.tex").touch()
    with pytest.raises(UserError, match="not a virtual environment"):
        venvs.make(tmp_path / "venv", [requirements])
    assert (tmp_path / "venv" / "thesis.tex").exists()


def test_a_changed_comment_does_not_cost_an_install(tmp_path, calls, requirements):
    venvs.make(tmp_path / "venv", [requirements])
    requirements.write_text("# why a\na==1\n")
    venvs.make(tmp_path / "venv", [requirements])
    assert len(calls) == 2
