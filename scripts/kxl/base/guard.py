"""A program, not a module: run a command, and end it with all that it started when our standard input closes.

  python -I -S guard.py COMMAND ...

Whoever starts it holds the other end of that pipe. However the starter ends (done, error, Ctrl-C, kill -9), the pipe
closes, the command gets SIGTERM, and SIGKILL PATIENCE seconds later. On Linux, processes that the command left behind
are handed to this one and are killed, too. The exit code is the command's; 128 + N where signal N ended it.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

PATIENCE = 5  # seconds that a server may take to put its memory away
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # of prctl(2)


def main() -> int:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, preexec_fn=_die_with_guard)

    def watch() -> None:
        os.read(0, 1)
        child.terminate()
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()

    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    threading.Thread(target=watch, daemon=True).start()
    code = child.wait()
    _kill_the_rest()
    return code if code >= 0 else 128 - code


def _die_with_guard() -> None:
    if sys.platform == "linux":  # somebody may kill this process itself
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _kill_the_rest() -> None:
    """Kill what the command left behind; each killed process may hand us its own children."""
    while left := _children():
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                continue  # it ended by itself, or is another thread's child


def _children() -> list[int]:
    if sys.platform != "linux":
        return []
    mine, found = os.getpid(), []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # PID (NAME) STATE PARENT ...; the name may hold anything, brackets and spaces, too.
            if int(path.read_text(errors="replace").rpartition(")")[2].split()[1]) == mine:
                found.append(int(path.parent.name))
        except (OSError, ValueError, IndexError):  # it ended while we looked
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())
