"""The proof of the whole line: each stage is killed once, with all that it started, and the same command goes on."""

import os
import signal
import subprocess
import sys
import time

import pytest

import plan_prove_line
from kxl.house import disturbed

# A stage as make starts it: it takes a second and is done when its file is there.
STAGE = """
import pathlib, sys, time
done = pathlib.Path(sys.argv[1])
if not done.exists():
    with open("begun", "a") as file:
        file.write(done.name + "\\n")
    time.sleep(0.1 if done.name == "short" else 1.5)
    done.touch()
"""


class Folder:
    """A folder with a line of three stages instead of a checkout."""

    def __init__(self, folder, stages=("data", "short", "gguf"), code=0):
        (folder / "scripts").mkdir()
        (folder / "scripts/plan_run.py").write_text(STAGE)
        self.folder, self.code = folder, code
        self.words = "; ".join(f"{sys.executable} scripts/plan_run.py {stage}" for stage in stages)

    def start(self, target, words):
        environment = {**os.environ, "HERMES_KXL_PLAN": "--run line --config c.json"}
        command = ["sh", "-c", f"{self.words}; exit {self.code}"]
        return subprocess.Popen(command, cwd=self.folder, env=environment, start_new_session=True)

    def running(self):
        found = []
        for entry in disturbed.Path("/proc").glob("[0-9]*"):
            try:
                if (entry / "cwd").resolve() == self.folder.resolve():
                    found.append(int(entry.name))
            except OSError:
                pass
        return found

    def kill(self, process, what):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_each_stage_that_lasts_is_killed_once_and_begun_anew(tmp_path):
    folder, killed = Folder(tmp_path), {}
    ends = [plan_prove_line.attempt(folder, [], 0.6, killed) for _ in range(3)]
    assert ends == [None, None, 0] and list(killed) == ["line/data", "line/gguf"] and not folder.running()
    assert (tmp_path / "begun").read_text().split() == ["data", "data", "short", "gguf", "gguf"]
    assert all((tmp_path / name).exists() for name in ("data", "short", "gguf"))


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_line_that_stops_at_a_gate_says_so(tmp_path):
    began = time.monotonic()
    assert plan_prove_line.attempt(Folder(tmp_path, ("short",), code=2), [], 9, {}) == 2
    assert time.monotonic() - began < 8


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_ctrl_c_ends_the_line_too(tmp_path, monkeypatch):
    def interrupted(tree):
        raise KeyboardInterrupt

    folder = Folder(tmp_path)
    monkeypatch.setattr(plan_prove_line, "stage_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        plan_prove_line.attempt(folder, [], 9, {})
    assert not folder.running() and not (tmp_path / "data").exists()
