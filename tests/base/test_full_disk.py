"""A disk that is full or read-only: exit code 2, one line that names the file, and nothing half-written."""

import json
import os
import resource
import subprocess
import sys

import pytest

from conftest import ROOT
from helpers import disks
from kxl.base import files, history
from kxl.base.cli import UserError

pytestmark = pytest.mark.minutes

SCRIPT = """
import sys
sys.path.insert(0, {scripts!r})
from pathlib import Path
from kxl.base import cli, files
def main():
    out = Path(sys.argv[2])
    {body}
cli.run(main)
"""
BODIES = {
    "text": "files.write_text(out, 'x' * 200_000)",
    "folder": """with files.atomic_dir(out) as partial:
        (partial / 'a').write_bytes(b'x' * 200_000)""",
    "numpy": """import numpy
    with files.atomic_path(out) as partial:
        numpy.zeros(200_000, 'u1').tofile(partial)""",
    "safetensors": """from kxl.model import safetensors_io, tensors
    import numpy
    safetensors_io.write_file(out, [tensors.from_array('a', numpy.zeros((200, 1000)), 'F32')], {{}})""",
    "torch": """import torch
    with files.atomic_path(out) as partial:
        torch.save(torch.zeros(100_000), partial)""",
    "plain": "open(out, 'w').write('x' * 200_000)",
}


def run(tmp_path, body, out, history_file=None, limit=None, note=""):
    script = tmp_path / "verb.py"
    script.write_text(SCRIPT.format(scripts=str(ROOT / "scripts"), body=body.replace("{{}}", "{}")))
    return subprocess.run(
        [sys.executable, str(script), "--out", str(out), "--note", note],
        capture_output=True,
        text=True,
        env={**os.environ, **({history.VARIABLE: str(history_file)} if history_file else {})},
        preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None,
    )


@pytest.mark.parametrize("kind", BODIES)
def test_a_full_disk_is_one_line_and_exit_code_2(tmp_path, request, kind):
    disk = disks.small(tmp_path / "disk", request, 100)
    ended = run(tmp_path, BODIES[kind], disk / "out")
    assert ended.returncode == 2 and "Traceback" not in ended.stderr, ended.stderr
    assert "the disk is full; free some space and run again" in ended.stderr
    if kind != "plain":
        assert f"{disk}/out: cannot be written" in ended.stderr and list(disk.iterdir()) == []


@pytest.mark.parametrize("kind", ["text", "folder", "safetensors"])
def test_a_file_that_may_not_grow_is_the_same(tmp_path, kind):
    ended = run(tmp_path, BODIES[kind], tmp_path / "out", limit=100_000)
    assert ended.returncode == 2 and "out: cannot be written: the file grew larger" in ended.stderr, ended.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"verb.py"}


@pytest.mark.parametrize("kind", ["text", "folder", "plain"])
def test_a_read_only_folder_is_the_same(tmp_path, request, kind):
    folder = disks.read_only(tmp_path / "ro", request)
    ended = run(tmp_path, BODIES[kind], folder / "deeper" / "out")
    assert ended.returncode == 2 or kind == "plain" and "No such file" in ended.stderr
    if kind != "plain":
        assert f"error: {folder}" in ended.stderr and "choose another place" in ended.stderr, ended.stderr


def test_an_old_file_outlives_a_full_disk(tmp_path, request):
    disk = disks.small(tmp_path / "disk", request, 100)
    files.write_text(disk / "choice.txt", "MODEL=models/tiny\n")
    (disk / "ballast").write_bytes(b"x" * (os.statvfs(disk).f_bavail * 4096))
    with pytest.raises(UserError, match=r"choice\.txt: cannot be written: the disk is full"):
        files.write_text(disk / "choice.txt", "MODEL=models/other\n" * 1000)
    assert (disk / "choice.txt").read_text() == "MODEL=models/tiny\n"


def test_a_command_whose_start_cannot_be_noted_does_nothing(tmp_path, request):
    disk = disks.small(tmp_path / "disk", request, 8)
    (disk / "ballast").write_bytes(b"x" * 8192)
    ended = run(tmp_path, "print('done')", "x.json", disk / "history.jsonl")
    assert ended.returncode == 2 and ended.stdout == ""
    assert "history.jsonl: the history of this run cannot be written: the disk is full" in ended.stderr


def test_a_full_disk_leaves_no_half_line_in_the_history(tmp_path, request):
    disk = disks.small(tmp_path / "disk", request, 8)
    path = disk / "history.jsonl"
    while True:
        ended = run(tmp_path, "print('done')", tmp_path / "out", path, note="x" * 700)
        if ended.returncode:
            break
    assert ended.returncode == 2 and "the disk is full" in ended.stderr
    for line in path.read_text().split("\n")[:-1]:
        json.loads(line)
    assert path.read_bytes().endswith(b"\n")


def test_a_failed_command_says_why_it_failed_also_when_its_end_cannot_be_noted(tmp_path, request):
    disk = disks.small(tmp_path / "disk", request, 8)
    body = f"open({str(disk / 'ballast')!r}, 'wb', 0).write(b'x' * 8192); raise cli.UserError('no such model')"
    ended = run(tmp_path, body, tmp_path / "out", disk / "history.jsonl", note="x" * 3900)
    assert ended.returncode == 2 and "error: no such model" in ended.stderr and "Traceback" not in ended.stderr


def test_a_line_that_was_cut_costs_no_other(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text('{"event": "start", "pid": 1, "argv": ["a.py", "--out", "a.js')
    assert run(tmp_path, "pass", "x.json", path).returncode == 0
    assert history.last(path)["x.json"]["event"] == "done"


@pytest.mark.parametrize(
    "line", ["null", "[]", '"x"', "{}", '{"argv": 7, "pid": 1, "event": "start"}',
             '{"argv": [], "pid": 1, "event": "x"}', '{"argv": ["a", "--out", 7], "pid": "x", "event": "start"}',
             "\x00\x00", "\ufeff", "[" * 9999]
)  # fmt: skip
def test_an_odd_history_is_read_as_far_as_it_goes(tmp_path, line):
    path = tmp_path / "history.jsonl"
    good = {"pid": 1, "argv": ["a.py", "--out", "a.json"], "event": "done", "at": 0}
    path.write_text(line + "\n" + json.dumps(good) + "\n")
    assert history.last(path)["a.json"]["event"] == "done"
