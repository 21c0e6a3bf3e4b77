"""A stage is refused before it begins where there is no room, and measured where there is."""

import json
import os
import subprocess
import sys
import time

import pytest

from conftest import ROOT
from kxl.base.files import read_json, write_json
from kxl.plan import measure
from kxl.plan.line import Line

SCRIPT = ROOT / "scripts" / "plan_run.py"
GIB = 2**30


@pytest.fixture
def place(tmp_path):
    """A folder with a model of the 8B's shapes, and a script that writes what it is told."""
    (tmp_path / "model").mkdir()
    shapes = {**read_json(ROOT / "gguf/lfm2-8b-a1b.shapes.json"), "vocab_size": 128_000}
    write_json(tmp_path / "model" / "config.json", shapes)
    write_json(tmp_path / "small" / "config.json", read_json(ROOT / "configs/walk-shapes.json")["small"])
    (tmp_path / "work.py").write_text(
        "import sys, pathlib, time\ntime.sleep(0.2)\n"
        "out = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])\n"
        "out.write_bytes(b'x' * 100_000)\n"
        "sys.exit(int(sys.argv[1]))\n"
    )
    return tmp_path


def run(place, stage, *, model="small", code=0, available=None, free=None, script="work.py", more=()):
    """Run the wrapper in `place` with so much memory and disk; (exit code, stderr, seconds)."""
    lie = (
        "import sys, runpy, shutil, psutil, collections\n"
        f"memory, free = {available!r}, {free!r}\n"
        "real, disk = psutil.virtual_memory(), shutil.disk_usage('.')\n"
        "if memory: psutil.virtual_memory = lambda: real._replace(available=memory)\n"
        "if free: shutil.disk_usage = lambda path: disk._replace(free=free)\n"
        f"sys.path.insert(0, {str(SCRIPT.parent)!r})\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
    )
    (place / "lie.py").write_text(lie)
    words = [stage, "--run", "r", "--config", str(ROOT / "configs/lfm2.5-8b-a1b.json")]
    words += ["--model", str(place / model), "--", script, str(code), "--out", "made.bin", *more]
    began = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "lie.py", *words],
        cwd=place,
        capture_output=True,
        text=True,
        env={**os.environ, "HERMES_KXL_HISTORY": ""},
    )
    return ended.returncode, ended.stderr, time.monotonic() - began


def test_a_stage_without_memory_is_refused_in_seconds_with_the_number_and_nothing_is_written(place):
    code, said, seconds = run(place, "parity", model="model", available=16 * GIB)
    assert code == 2 and "needs 31.8 GiB of memory and 16.0 are there" in said
    assert not (place / "made.bin").exists() and not (place / "runs" / "r").exists()
    assert seconds < 20  # of a machine with other work, too


def test_a_stage_without_disk_is_refused_in_seconds_with_the_number_and_nothing_is_written(place):
    code, said, _ = run(place, "gguf", model="model", available=64 * GIB, free=10 * GIB)
    assert code == 2 and "writes 15.8 GiB and 10.0 are free" in said
    assert not (place / "made.bin").exists()


def test_a_training_that_goes_on_needs_no_room_for_the_checkpoints_that_are_there(place):
    shapes = read_json(place / "small/config.json")
    room = Line(read_json(ROOT / "configs/lfm2.5-8b-a1b.json"), shapes, None, None).need("train").room
    (place / "work.py").rename(place / "moe_train.py")
    words = {"free": room - 2**19, "script": "moe_train.py", "more": ["--work", "moe"]}
    code, said, _ = run(place, "train", **words)
    assert code == 2 and "are free on the disk" in said
    (place / "moe/step_00097").mkdir(parents=True)
    (place / "moe/step_00097/model.safetensors").write_bytes(os.urandom(2**20))
    code, said, _ = run(place, "train", **words)
    assert code == 0, said


def test_a_stage_with_room_ends_as_its_script_does_and_is_noted(place):
    code, said, _ = run(place, "gguf")
    assert code == 0, said
    assert (place / "made.bin").stat().st_size == 100_000
    [noted] = [json.loads(line) for line in (place / "runs/r/plan.jsonl").read_text().splitlines()]
    assert noted["stage"] == "gguf" and noted["seconds"] >= 0.2 and noted["outputs"] == ["made.bin"]
    assert noted["predicted_seconds"] is None  # no profile was named


def test_a_script_that_fails_gives_its_exit_code_and_no_note(place):
    code, _, _ = run(place, "gguf", code=3)
    assert code == 3 and not (place / "runs/r/plan.jsonl").exists()


@pytest.mark.minutes
def test_held_memory_and_mapped_files_are_told_apart(tmp_path):
    if sys.platform != "linux":
        pytest.skip("other systems do not tell them apart from outside")
    with open(tmp_path / "file", "wb") as file:
        file.write(bytes(200 * 2**20))
        os.fsync(file.fileno())  # until then its pages cannot be dropped
    program = (
        "import mmap, time\n"
        "held = b'x' * (300 * 2**20)\n"
        f"file = open({str(tmp_path / 'file')!r}, 'rb')\n"
        "pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "sum(pages[i] for i in range(0, len(pages), 4096))\n"
        "time.sleep(1.2)\n"
    )
    took = measure.run([sys.executable, "-c", program])
    assert took.code == 0 and 300 * 2**20 <= took.held < 400 * 2**20
    assert 200 * 2**20 <= took.mapped < 280 * 2**20
    assert took.seconds >= 1.2 and 0 <= took.others <= 1


def test_files_that_are_linked_twice_count_once(tmp_path):
    (tmp_path / "a").write_bytes(os.urandom(1 << 20))
    os.link(tmp_path / "a", tmp_path / "b")
    assert measure.bytes_of(tmp_path) == pytest.approx(1 << 20, rel=0.01)


def test_the_plan_of_a_run_shows_every_stage_and_its_sum(tmp_path):
    words = ["--config", "configs/tiny.json", "--model", "models/tiny", "--run", "r", "--training",
             "configs/tiny-moe.json", "--profile", str(tmp_path / "none.json"), "--stage", "gguf=none",
             "--stage", "imatrix=none", "--stage", "eval:fixed_hermes_43:q4kxl=README.md"]  # fmt: skip
    ended = subprocess.run(
        [sys.executable, str(SCRIPT.with_name("plan_show.py")), *words], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert "still to do: 2 stages" in ended.stdout and "make profile" in ended.stdout
    assert [line for line in ended.stdout.splitlines() if "eval:fixed_hermes_43:q4kxl" in line and "done" in line]
