"""Files are whole or absent, also after a kill."""

import json
import os
import signal
import subprocess
import sys

import pytest

from conftest import ROOT
from kxl.base import files
from kxl.base.cli import UserError

WRITER = """
import sys, time
sys.path.insert(0, {scripts!r})
from kxl.base import files
from kxl.base.cli import UserError
with files.{kind}({path!r}) as partial:
    print("writing", flush=True)
    time.sleep(60)
"""


def _killed_while_writing(kind, path):
    child = subprocess.Popen(
        [sys.executable, "-c", WRITER.format(scripts=str(ROOT / "scripts"), kind=kind, path=str(path))],
        stdout=subprocess.PIPE,
    )
    child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.wait()


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path):
    path = tmp_path / "report.json"
    _killed_while_writing("atomic_path", path)
    assert not path.exists() and len(list(tmp_path.iterdir())) == 1
    files.write_text(path, "whole")
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_the_same_for_a_folder(tmp_path):
    path = tmp_path / "model"
    _killed_while_writing("atomic_dir", path)
    with files.atomic_dir(path) as partial:
        (partial / "a").write_text("1")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_living_writer_keeps_its_file(tmp_path):
    path = tmp_path / "a"
    with files.atomic_path(path) as first:
        first.write_text("first")
        with files.atomic_path(path) as second:
            second.write_text("second")
            assert first.exists()
    assert path.read_text() == "first"


def test_an_error_leaves_the_old_content(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), files.atomic_path(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and len(os.listdir(tmp_path)) == 1


def test_a_second_writer_is_refused_by_name_and_a_killed_ones_lock_does_not_hold(tmp_path):
    out = tmp_path / "new" / "report.json"
    holder = """
import sys, time
from kxl.base import files
with files.sole_writer([sys.argv[1]]):
    print("mine", flush=True)
    time.sleep(600)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    child = subprocess.Popen(
        [sys.executable, "-c", holder, str(out)], env=environment, stdout=subprocess.PIPE, text=True
    )
    child.stdout.readline()
    with pytest.raises(UserError, match=f"report.json is being written by another process .process {child.pid}: "):
        with files.sole_writer([out]):
            raise AssertionError("not reached")
    with files.sole_writer([out.with_name("other.json")]):
        pass
    child.kill()
    child.wait()
    with files.sole_writer([out, str(out)]):
        assert out.with_name(".report.json.lock").exists()
    assert list(out.parent.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: .*file"):
        with files.sole_writer([tmp_path / "file" / "report.json"]):
            raise AssertionError("not reached")


SCRATCH = """
import sys, time
from kxl.base import files
with files.scratch_dir() as folder:
    (folder / "heavy").write_text("x")
    print(folder, flush=True)
    time.sleep(600)
"""


def test_a_killed_processs_temporary_folder_goes_with_the_next_one(tmp_path, monkeypatch):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "TMPDIR": str(tmp_path)}
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path))
    child = subprocess.Popen([sys.executable, "-c", SCRATCH], env=environment, stdout=subprocess.PIPE, text=True)
    first = child.stdout.readline().strip()
    (tmp_path / "kxl-scratch-link").symlink_to(ROOT / "tests")  # a stranger's trap: not followed
    with files.scratch_dir() as folder:
        assert os.path.exists(first) and folder.name in os.listdir(tmp_path), "a living process keeps its own"
    child.kill()
    child.wait()
    with files.scratch_dir() as folder:
        assert not os.path.exists(first) and folder.is_dir()
    assert os.listdir(tmp_path) == ["kxl-scratch-link"] and (ROOT / "tests").is_dir()


def test_a_temporary_folder_goes_whatever_lies_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path))
    with files.scratch_dir() as folder:
        source = "import os\nfor _ in range(1500): os.mkdir('d'); os.chdir('d')\nopen(b'\\xff', 'w')"
        subprocess.run([sys.executable, "-c", source], cwd=folder, check=True)
        (folder / "closed" / "in").mkdir(parents=True)
        (folder / "closed").chmod(0)
        (folder / "link").symlink_to(tmp_path)
        os.mkfifo(folder / "fifo")
    assert list(tmp_path.iterdir()) == []


def test_text_that_is_no_unicode_is_written_as_json_all_the_same(tmp_path):
    value = {"a\udc80": "\ud800 grün \u2028"}
    files.write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_bytes()) == value
    files.write_json(tmp_path / "b.json", {"grün": "\u2028"})
    assert "grün" in (tmp_path / "b.json").read_text(encoding="utf-8")
