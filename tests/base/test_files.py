"""Files are whole or absent, also after a kill."""

import os
import signal
import subprocess
import sys

import pytest

from conftest import ROOT
from kxl.base import files

WRITER = """
import sys, time
sys.path.insert(0, {scripts!r})
from kxl.base import files
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
