"""Files are whole or absent, also after a kill."""

import copy
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest

from conftest import ROOT
from kxl.base import files, jsonl
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
    with pytest.raises(UserError, match="cannot be written: .*[Ff]ile"):
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


def test_a_folder_of_a_process_that_was_killed_before_it_named_it_goes_as_well(tmp_path):
    for name, age in (("left", 2 * files.NEW_SECONDS), ("begun", 1)):
        folder = tmp_path / f"new-{files.SCRATCH}{name}"
        folder.mkdir()
        os.utime(folder, (time.time() - age,) * 2)
    with files.scratch_dir(tmp_path):
        pass
    assert os.listdir(tmp_path) == [f"new-{files.SCRATCH}begun"]


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


KILLED = """
import os, signal, sys
sys.path.insert(0, {scripts!r})
from pathlib import Path
from kxl.base import files
moment, path = sys.argv[1], Path(sys.argv[2])
real = os.replace
def kill_after(*names):
    real(*names)
    os.kill(os.getpid(), signal.SIGKILL)
if moment == "between two renames":
    files._exchange = lambda one, other: False
    os.replace = kill_after
else:
    exchange = files._exchange
    def exchange_and_die(*names):
        assert exchange(*names)
        os.kill(os.getpid(), signal.SIGKILL)
    files._exchange = exchange_and_die
with files.atomic_dir(path) as partial:
    (partial / "a").write_text("new")
"""


@pytest.mark.parametrize("moment", ["between two renames", "after the exchange"])
def test_a_folder_is_never_without_a_copy(tmp_path, moment):
    path = tmp_path / "model"
    with files.atomic_dir(path) as partial:
        (partial / "a").write_text("old")
    code = KILLED.format(scripts=str(ROOT / "scripts"))
    ended = subprocess.run([sys.executable, "-c", code, moment, str(path)])
    assert ended.returncode == -signal.SIGKILL
    if moment == "after the exchange":
        assert (path / "a").read_text() == "new"
    # A writer that fails leaves what was there.
    with pytest.raises(ZeroDivisionError), files.atomic_dir(path):
        raise ZeroDivisionError
    assert (path / "a").read_text() == ("old" if moment == "between two renames" else "new")
    assert [name.name for name in tmp_path.iterdir()] == ["model"]


def test_a_reader_sees_the_old_folder_or_the_new_one_at_every_moment(tmp_path):
    path = tmp_path / "model"
    with files.atomic_dir(path) as partial:
        (partial / "a").write_text("0")
    reader = subprocess.Popen(
        [sys.executable, "-c", "import sys\nwhile not sys.stdin.closed:\n  open(sys.argv[1]).read()", path / "a"],
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for number in range(300):
        with files.atomic_dir(path) as partial:
            (partial / "a").write_text(str(number))
    assert reader.poll() is None, reader.stderr.read()
    reader.kill()
    reader.communicate()


def test_what_was_left_may_be_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/kept").write_text("x")
    (tmp_path / ".a.partial-999999999-x").symlink_to(tmp_path / "elsewhere")
    files.write_text(tmp_path / "a", "whole")
    assert (tmp_path / "elsewhere/kept").exists() and not (tmp_path / ".a.partial-999999999-x").is_symlink()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"[1]", "holds list, not an object"),
        (b"7", "holds int, not an object"),
        (b"{", r"a\.json:1:2: not JSON"),
        (b"\xff", "not UTF-8 at byte 0"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON: Exceeds the limit"),
    ],
)
def test_json_that_is_none_is_named(tmp_path, content, complaint):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=complaint):
        files.read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        files.read_json(tmp_path)


def test_a_key_that_a_file_lacks_is_named_with_the_file_by_whoever_asks_for_it(tmp_path):
    path = tmp_path / "report.json"
    path.write_text('{"results": {"entries": [{"id": "a"}]}}')
    found = files.read_json(path)
    for ask in (lambda: found["settings"], lambda: found["results"]["entries"][0]["kind"]):
        with pytest.raises(UserError, match="report.json: has no '(settings|kind)', which is needed here"):
            ask()
    with pytest.raises(KeyError):  # for who looks for one and goes on
        found["settings"]
    assert found.get("settings") is None and found == {"results": {"entries": [{"id": "a"}]}}
    again = pickle.loads(pickle.dumps(copy.deepcopy(found)))
    with pytest.raises(UserError, match="report.json: has no 'x'"):
        again["results"]["x"]
    with pytest.raises(UserError, match="report.json: has no 'x'"):
        raise pickle.loads(pickle.dumps(pytest.raises(UserError, lambda: found["x"]).value))


def test_json_of_a_windows_editor_is_read(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n')
    assert files.read_json(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/dev/zero", path)])
def test_json_is_not_waited_for_at_a_pipe_nor_read_from_a_device(tmp_path, make):
    make(tmp_path / "report.json")
    with pytest.raises(UserError, match="report.json: is a pipe or device"):
        files.read_json(tmp_path / "report.json")


def test_what_a_killed_process_left_goes_though_its_id_is_in_use_again(tmp_path):
    left = tmp_path / f".a.partial-{os.getpid()}-x"
    left.write_text("half")
    files.write_text(tmp_path / "a", "1")
    assert left.exists(), "its owner may still be at work"
    with mock.patch.object(files.processes, "was_there", lambda pid, moment: False):
        files.write_text(tmp_path / "a", "2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_links_that_lead_in_a_circle_are_named_by_whoever_reads_or_writes_them(tmp_path):
    path = tmp_path / "a.json"
    path.symlink_to("a.json")
    for read in (files.read_json, files.require_regular, lambda path: list(jsonl.read(path)), files.shown):
        try:
            assert read(path).endswith("a.json")
        except UserError as error:
            assert "a.json: cannot be read: Too many levels of symbolic links" in str(error)
    with pytest.raises(UserError, match="a file is in the way"), files.sole_writer([path / "b"]):
        raise AssertionError


@pytest.mark.parametrize("name", ["", ".", "/", "a/.."])
def test_a_folder_that_is_in_use_is_no_place_for_a_file(tmp_path, monkeypatch, name):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="(cannot be written: it is|names) a folder"):
        files.write_text(Path(name), "x")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_place_below_a_thousand_folders_is_refused_in_words(tmp_path):
    with pytest.raises(UserError, match="it lies below a thousand folders"):
        with files.sole_writer([tmp_path.joinpath(*["d"] * 1500, "x")]):
            raise AssertionError


DEVICES = [os.mkfifo, lambda path: path.symlink_to("/dev/null"), lambda path: path.symlink_to("/dev/zero")]


@pytest.mark.parametrize("make", DEVICES)
def test_a_pipe_or_a_device_is_not_replaced_by_a_file(tmp_path, make):
    """Whoever is root and writes a report to /dev/null would have no /dev/null any more."""
    path = tmp_path / "out"
    make(path)
    before = path.lstat()
    for writer in (files.atomic_path, files.atomic_dir, lambda path: files.sole_writer([path])):
        with pytest.raises(UserError, match="out: is a pipe or device, which a file would replace"), writer(path):
            raise AssertionError
    assert os.path.samestat(path.lstat(), before) and [one.name for one in tmp_path.iterdir()] == ["out"]


def test_nothing_is_written_among_the_devices():
    """/dev/stdout may be a link to a file: where somebody redirects what a command prints."""
    with pytest.raises(UserError, match="/dev/stdout: is a pipe or device"), files.atomic_path(Path("/dev/stdout")):
        raise AssertionError


@pytest.mark.parametrize("place", ["file/a", "file/a/b", "/proc/none/a"])
def test_a_place_that_cannot_be_made_is_named(tmp_path, place):
    (tmp_path / "file").write_text("x")
    said = "cannot be written: (a part of the path is a file|a file is in the way|/proc/none cannot be made|this disk)"
    for writer in (files.atomic_path, files.atomic_dir, lambda path: files.sole_writer([path])):
        with pytest.raises(UserError, match=said), writer(tmp_path / place):
            raise AssertionError


READERS = {
    "JSON": files.read_json,
    "lines": lambda path: list(jsonl.read(path)),
    "what processes append": lambda path: list(jsonl.survivors(path)),
    "text": files.read_text,
    "hash": files.sha256,
}


@pytest.mark.parametrize("make", DEVICES)
@pytest.mark.parametrize("kind", READERS)
def test_no_reader_waits_at_a_pipe_or_for_the_end_of_a_device(tmp_path, kind, make):
    path = tmp_path / "a"
    make(path)
    with pytest.raises(UserError, match="a: is a pipe or device, not a file"):
        READERS[kind](path)


@pytest.mark.parametrize(("content", "said"), [(None, "no such file"), (b"a\xff", "not UTF-8 at byte 1")])
def test_a_text_that_is_none_is_named(tmp_path, content, said):
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=f"a.txt: {said}"):
        files.read_text(tmp_path / "a.txt")


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_an_output_without_a_name_is_refused_before_anything_is_made(name):
    with pytest.raises(UserError, match="names a folder"), files.sole_writer([name]):
        raise AssertionError
