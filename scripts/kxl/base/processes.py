"""Other processes: whether one is there, and how none of ours outlives us.

with processes.guarded(["llama-server", ...], stdout=log) as child: ...     # gone after the block, or kill -9 of us
processes.run(["llama-quantize", ...])                  # subprocess.run under the same guard
processes.end_with_parent()                             # first thing in a worker of a pool
ended = processes.watch(child, 300, 1 << 20, child.end) # output and time are bounded
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import re
import resource
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

GUARD = Path(__file__).resolve().parents[2] / "kxl/base/guard.py"
GUARD_SECONDS = 15  # guard.PATIENCE and time to kill what is left
CLOCK_TICK = 2  # seconds by which a process's start may be off: the boot is told in whole ones
TICK = 0.2  # seconds between two looks at what a watched process uses


def alive(pid: int) -> bool:
    """Whether a process with this id runs on this machine, ours or another user's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def was_there(pid: int, moment: float) -> bool:
    """Whether the process with this id runs and already ran at `moment` (seconds since 1970).

    Ids come again after some ten thousand processes: one that began later is another. Where the system has no /proc,
    only the id counts.
    """
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        booted = int(re.search(r"^btime (\d+)", Path("/proc/stat").read_text(), re.MULTILINE)[1])
    except (OSError, IndexError, TypeError):
        return alive(pid)
    return booted + ticks / os.sysconf("SC_CLK_TCK") <= moment + CLOCK_TICK


def peak_resident() -> int:
    """The most memory that this process ever held, in bytes.

    On Linux not getrusage's figure, which begins with what the parent held when it started us.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


@contextlib.contextmanager
def guarded(command: list, **options) -> Iterator[subprocess.Popen]:
    """Start `command` under the guard; it and all that it started are gone when the block ends, or when we are killed.

    `options` are Popen's, but for stdin, which the guard has: the command itself reads nothing. Its return code is
    the guard's: 128 + N where signal N ended it (`ended_by` says that again as subprocess does). `child.end()` ends
    it before the block does.
    """
    theirs, ours = os.pipe()
    try:
        # Its own session: a Ctrl-C in the terminal reaches us alone, and we end the command in order.
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD), *map(str, command)],
            stdin=theirs,
            start_new_session=True,
            **options,
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    pipe = open(ours, "wb", buffering=0)

    def end() -> None:
        pipe.close()
        try:
            child.wait(GUARD_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()

    child.end = end
    try:
        yield child
    finally:
        end()


def run(command: list, **options) -> subprocess.CompletedProcess:
    """subprocess.run for a command that must not outlive us; `timeout` in seconds, no input, no `check`."""
    seconds = options.pop("timeout", None)
    if options.pop("capture_output", False):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with guarded(command, **options) as child:
        out, err = child.communicate(timeout=seconds)
    return subprocess.CompletedProcess(command, ended_by(child.returncode), out, err)


def ended_by(code: int) -> int:
    """A guard's return code as subprocess would tell the command's: -N where signal N ended it."""
    return 128 - code if code - 128 in signal.valid_signals() else code


def end_with_parent() -> None:
    """End this worker process at once when the process that started it ends, in whatever way."""
    sentinel = multiprocessing.parent_process().sentinel

    def watch_parent() -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch_parent, daemon=True).start()


@dataclass
class Ended:
    """How a watched process ended.

    exit_code: None where it was stopped.
    out, err:  what it printed, cut at the limit, undecodable bytes replaced.
    stopped:   why it was stopped, as in "it took longer than 300 s"; None where it ended by itself.
    """

    exit_code: int | None
    out: str
    err: str
    seconds: float
    stopped: str | None = None


def watch(
    child: subprocess.Popen,
    seconds: float,
    largest_output: int,
    kill: Callable[[], None],
    breach: Callable[[], str | None] = lambda: None,
) -> Ended:
    """Read the output of `child` (its pipes) until it ends, or until time, output (bytes) or `breach` stop it.

    `kill` ends it and all that it started; it is called in any case. A pipe that some survivor still holds is not
    waited for.
    """
    started = time.monotonic()
    kept = {child.stdout: bytearray(), child.stderr: bytearray()}
    printed, stopped = 0, None
    with selectors.DefaultSelector() as selector:
        for pipe in kept:
            os.set_blocking(pipe.fileno(), False)
            selector.register(pipe, selectors.EVENT_READ)

        def read(wait: float) -> int:
            taken = 0
            for key, _ in selector.select(wait) if selector.get_map() else ():
                piece = os.read(key.fd, 1 << 16)
                taken += len(piece)
                kept[key.fileobj] += piece[: max(0, largest_output - len(kept[key.fileobj]))]
                if not piece:
                    selector.unregister(key.fileobj)
            return taken

        try:
            looked = started
            while child.poll() is None and not stopped:
                printed += read(TICK / 4)
                if not selector.get_map():
                    time.sleep(TICK / 4)
                now = time.monotonic()
                if now - started > seconds:
                    stopped = f"it took longer than {seconds:g} s"
                elif printed > OUTPUT_FACTOR * largest_output:
                    stopped = f"it printed more than {OUTPUT_FACTOR * largest_output:,} bytes"
                elif now - looked > TICK:
                    looked, stopped = now, breach()
        finally:
            kill()
        for _ in range(64):  # what stands in the pipes, each at most 1 MiB
            if not read(0):
                break
    for pipe in kept:
        pipe.close()
    out, err = (bytes(text).decode("utf-8", "replace") for text in kept.values())
    return Ended(None if stopped else child.returncode, out, err, time.monotonic() - started, stopped)


OUTPUT_FACTOR = 16  # what is printed beyond the kept part is read and dropped, up to this many times as much
