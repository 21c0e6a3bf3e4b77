"""Run a stage and measure it: seconds, and the most memory that it held.

Two kinds of memory are told apart. Held memory cannot be taken back at once: a stage ends without it. Clean pages of
mapped files can: the system drops them when it needs room, and reads them again, which costs time. llama.cpp maps its
models. A page that was changed and is not yet on the disk is held.
"""

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

GIB = 2**30
TICK = 0.2  # seconds between two looks


@dataclass
class Measured:
    """One run of a stage. Bytes; `mapped` is what it had of mapped files when it had most of them.

    busy: processor seconds of its own. others: share of the machine's processors that other work had meanwhile.
    """

    code: int
    seconds: float
    held: int
    mapped: int
    busy: float
    others: float


def run(command: list, env: dict | None = None, log: Path | None = None) -> Measured:
    """Run `command` to its end and measure it with all that it starts.

    With `log`, its output goes there. Ctrl-C reaches the command, which ends in order; other signals are handed on.
    """
    watch, began = _Watch(), time.monotonic()
    own, all_work = _children_seconds(), _machine_seconds()
    output = open(log, "w", encoding="utf-8") if log else None
    try:
        child = subprocess.Popen([str(word) for word in command], env=env, stdout=output, stderr=output)
    finally:
        if output:
            output.close()
    before = {
        number: signal.signal(number, handler)
        for number, handler in (
            (signal.SIGINT, lambda *_: None),  # the terminal sends it to both
            (signal.SIGTERM, lambda *_: child.terminate()),
            (signal.SIGHUP, lambda *_: child.send_signal(signal.SIGHUP)),
        )
        if threading.current_thread() is threading.main_thread()
    }
    looker = threading.Thread(target=watch.look_until_gone, args=(child.pid,), daemon=True)
    looker.start()
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    watch.ended.set()
    looker.join()
    seconds, busy = time.monotonic() - began, _children_seconds() - own
    others = max(0.0, _machine_seconds() - all_work - busy) / (max(seconds, 0.01) * os.cpu_count())
    return Measured(code if code >= 0 else 128 - code, seconds, watch.held, watch.mapped, busy, min(others, 1.0))


def _children_seconds() -> float:
    """Processor seconds of all children that have ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _machine_seconds() -> float:
    """Processor seconds of all that ran on this machine."""
    times = psutil.cpu_times()
    return sum(getattr(times, kind, 0) for kind in ("user", "system", "irq", "softirq", "nice"))


class _Watch:
    """The most that a process and its children held, seen from outside every TICK seconds.

    Changed pages of files are looked for less often where that takes long (0.1 s for ten GiB): at most a twentieth of
    the time. In between they count as they were last.
    """

    def __init__(self):
        self.held = self.mapped = 0
        self.ended = threading.Event()
        self._changed: dict[int, int] = {}
        self._next = 0.0

    def look_until_gone(self, pid: int) -> None:
        try:
            root = psutil.Process(pid)
        except psutil.NoSuchProcess:
            return
        while not self.ended.wait(TICK):
            held = mapped = 0
            began = time.monotonic()
            try:
                for process in [root, *root.children(recursive=True)]:
                    try:
                        if began >= self._next:
                            self._changed[process.pid] = changed_pages(process.pid)
                        own, files = memory_of(process)
                    except (psutil.Error, OSError):  # it ended meanwhile
                        continue
                    changed = min(self._changed.get(process.pid, 0), files)
                    held, mapped = held + own + changed, mapped + files - changed
            except psutil.Error:
                return
            if began >= self._next:
                self._next = time.monotonic() + 20 * (time.monotonic() - began)
            self.held, self.mapped = max(self.held, held), max(self.mapped, mapped)


def memory_of(process: psutil.Process) -> tuple[int, int]:
    """(own, of files) resident bytes of a process. Where the system does not tell them apart, all of it is its own."""
    if sys.platform != "linux":
        return process.memory_info().rss, 0
    numbers = {}
    with open(f"/proc/{process.pid}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("Rss"):
                name, value = line.split(":")
                numbers[name] = int(value.split()[0]) * 1024
    return numbers.get("RssAnon", 0) + numbers.get("RssShmem", 0), numbers.get("RssFile", 0)


def changed_pages(pid: int) -> int:
    """Bytes of a process's pages of files that are not on the disk yet; of another user's process none are told."""
    if sys.platform != "linux":
        return 0
    own = changed = 0
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii", errors="replace") as file:
            for line in file:
                name, _, rest = line.partition(":")
                if name in ("Shared_Dirty", "Private_Dirty"):
                    changed += int(rest.split()[0]) * 1024
                elif name == "Anonymous":
                    own = int(rest.split()[0]) * 1024
    except PermissionError:
        return 0
    return max(changed - own, 0)


def bytes_of(*paths: Path) -> int:
    """Bytes that files and folders take on the disk, without holes; what is linked twice counts once."""
    seen, total = set(), 0
    for path in paths:
        for file in [path] if path.is_file() else path.rglob("*") if path.is_dir() else []:
            stat = file.lstat()
            if file.is_file() and (stat.st_dev, stat.st_ino) not in seen:
                seen.add((stat.st_dev, stat.st_ino))
                total += stat.st_blocks * 512
    return total


def python(script: str) -> list[str]:
    """The beginning of a command that runs one of this repository's scripts."""
    return [sys.executable, os.fspath(Path(__file__).resolve().parents[2] / f"{script}.py")]
