"""Nothing that we start outlives us, however we end, and what a stranger prints is bounded."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import ROOT
from kxl.base import processes

# Starts, under the guard, a program that ignores SIGTERM and has a grandchild in a session of its own.
HOLDER = """
import sys, time
from kxl.base import processes
source = '''
import os, signal, subprocess, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(["sh", "-c", "setsid sleep NUMBER & sleep NUMBER"], start_new_session=True)
time.sleep(600)
'''
with processes.guarded([sys.executable, "-c", source]) as child:
    print(child.pid, flush=True)
    time.sleep(600)
"""


NUMBER = 900_000_000 + os.getpid()  # another test run beside this one has its own sleepers


def commands() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().decode(errors="replace"))
        except OSError:  # it ended while we looked
            continue
    return found


def sleepers(number: int) -> int:
    return sum(command == f"sleep\0{number}\0" for command in commands())


def wait_until(condition, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.fixture
def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}


@pytest.mark.minutes
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands a dead process's children to the guard")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_command_and_all_that_it_started_end_with_us(environment, number):
    source = HOLDER.replace("NUMBER", str(NUMBER))
    with subprocess.Popen(
        [sys.executable, "-c", source],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    ) as holder:
        guard = int(holder.stdout.readline())
        try:
            assert wait_until(lambda: sleepers(NUMBER) == 2)
            holder.send_signal(number)
            holder.wait(30)
            assert wait_until(lambda: sleepers(NUMBER) == 0 and not processes.alive(guard)), commands()
        finally:
            holder.kill()


def test_the_exit_code_signal_and_output_of_a_guarded_command_come_through():
    ended = processes.run(["sh", "-c", "echo out; echo err >&2; exit 7"], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, "out\n", "err\n")
    assert processes.run(["sh", "-c", "kill -SEGV $$"]).returncode == -signal.SIGSEGV


def test_a_command_that_is_not_there_is_an_error_and_leaves_no_open_file():
    before = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    with pytest.raises(FileNotFoundError), processes.guarded(["true"], cwd="/nowhere"):
        raise AssertionError("not reached")
    assert sys.platform != "linux" or len(os.listdir("/proc/self/fd")) == before


def watched(source: str, seconds: float = 20, largest: int = 1000) -> processes.Ended:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with processes.guarded([sys.executable, "-c", source], **pipes) as child:
        return processes.watch(child, seconds, largest, child.end)


def test_output_is_kept_up_to_a_limit_and_more_than_that_stops_it():
    ended = watched("print('x' * 5000)")
    assert (ended.exit_code, ended.out, ended.stopped) == (0, "x" * 1000, None)
    ended = watched("while True: print('x' * 5000)")
    assert (ended.exit_code, ended.out, ended.stopped) == (None, "x" * 1000, "it printed more than 16,000 bytes")


def test_a_pipe_that_a_survivor_holds_is_not_waited_for_and_bytes_that_are_no_text_do_not_matter():
    started = time.monotonic()
    ended = watched("import os; os.write(1, b'\\xff\\xfe'); os.close(2) if os.fork() else __import__('time').sleep(60)")
    assert ended.exit_code == 0 and ended.out == "\ufffd\ufffd" and time.monotonic() - started < 15


POOL = """
import multiprocessing, sys, time
from concurrent.futures import ProcessPoolExecutor
from kxl.base import processes
if __name__ == "__main__":
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), processes.end_with_parent) as pool:
        list(pool.map(abs, range(4)))
        print(*pool._processes, flush=True)
        time.sleep(600)
"""


@pytest.mark.minutes
def test_the_workers_of_a_pool_end_with_the_process_that_started_them(environment, tmp_path):
    (tmp_path / "pool.py").write_text(POOL)
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "pool.py")], env=environment, stdout=subprocess.PIPE, text=True
    )
    workers = list(map(int, parent.stdout.readline().split()))
    assert workers and all(map(processes.alive, workers))
    parent.kill()
    parent.wait()
    assert wait_until(lambda: not any(map(processes.alive, workers)))


def test_a_process_that_began_later_with_the_same_id_is_another():
    with subprocess.Popen(["sleep", "60"]) as child:
        assert processes.was_there(child.pid, time.time())
        assert not processes.was_there(child.pid, time.time() - 60)
        child.kill()
    assert not processes.was_there(child.pid, time.time())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system's own figure is taken")
def test_the_peak_memory_of_a_command_is_its_own_and_not_that_of_who_started_it(environment):
    held = bytearray(300 << 20)
    held[:: 1 << 12] = b"x" * (len(held) >> 12)
    source = "from kxl.base import processes; print(processes.peak_resident())"
    ended = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True)
    assert 5 << 20 < int(ended.stdout) < 150 << 20
