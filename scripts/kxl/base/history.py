"""What ran in a run, how long it took and how it ended: one line of JSON at each start and end.

The file is named by HERMES_KXL_HISTORY, which the Makefile sets to runs/RUN/history.jsonl; a script
that somebody calls by hand records nothing.
"""

import contextlib
import fcntl
import itertools
import os
import time
from pathlib import Path

from kxl.base import forms, jsonl, processes
from kxl.base.errors import UserError, refusal
from kxl.base.files import shown

VARIABLE = "HERMES_KXL_HISTORY"
ENTRY = {"event": str, "pid": int, "argv": [str], "seconds?": float}
LARGEST_PID = 2**31 - 1
OUTPUTS = ("--out", "--report")
OUTPUTS_IS = tuple(f"{flag}=" for flag in OUTPUTS)


def outputs(argv: list[str]) -> list[str]:
    """What a command line writes: the words behind OUTPUTS."""
    words = [word for flag in argv for word in (flag.split("=", 1) if flag.startswith(OUTPUTS_IS) else [flag])]
    return [word for flag, word in itertools.pairwise(words) if flag in OUTPUTS]


@contextlib.contextmanager
def recorded(argv: list[str]):
    """Record a command's start, and its end with the seconds between and how it ended."""
    if not (name := os.environ.get(VARIABLE)):
        yield
        return
    path, began, outcome = Path(name), time.time(), "interrupted"
    entry = {"pid": os.getpid(), "argv": [Path(argv[0]).name, *argv[1:]]}
    _append(path, {**entry, "event": "start", "at": round(began)})
    try:
        yield
        outcome = "done"
    except SystemExit as error:
        outcome = "failed" if error.code else "done"
        raise
    except Exception:
        outcome = "failed"
        raise
    finally:
        end = {**entry, "event": outcome, "at": round(time.time()), "seconds": round(time.time() - began, 1)}
        try:
            _append(path, end)
        except UserError:
            if outcome == "done":
                raise  # otherwise how the command ended matters more


def _append(path: Path, entry: dict) -> None:
    """One whole line, or none: two commands at once do not mix theirs, and a full disk leaves no half of one."""
    line = jsonl.line_of(entry).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            before = file.seek(0, os.SEEK_END)
            if before:
                file.seek(before - 1)
                line = line if file.read(1) == b"\n" else b"\n" + line  # whoever wrote last was killed at it
            try:
                written = file.write(line)
                if written < len(line):
                    file.write(line[written:])
            except OSError:
                file.truncate(before)
                raise
    except OSError as error:
        if (why := refusal(error)) is None:
            raise
        raise UserError(f"{shown(path)}: the history of this run cannot be written: {why}") from None


def last(path: Path) -> dict[str, dict]:
    """For each file that a command was to write, the last event of the last such command.

    What a command writes stands behind one of OUTPUTS. A start whose process is gone without an end was
    killed: its event reads "interrupted".
    """
    events: dict[str, dict] = {}
    for entry in jsonl.survivors(path):
        if _is_entry(entry):
            for word in outputs(entry["argv"]):
                events[word] = entry
    return {word: {**entry, "event": _state(entry)} for word, entry in events.items()}


def _is_entry(entry) -> bool:
    return forms.fits(entry, ENTRY) and len(entry["argv"]) > 0 and 0 < entry["pid"] <= LARGEST_PID


def _state(entry: dict) -> str:
    if entry["event"] != "start":
        return entry["event"]
    return "running" if processes.alive(entry["pid"]) and _is(entry["pid"], entry["argv"][0]) else "interrupted"


def _is(pid: int, script: str) -> bool:
    """Whether the process is that script, and not another that has its number since; True where nobody can tell."""
    try:
        return script.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True
