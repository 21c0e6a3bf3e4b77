"""A copy of the tree in which targets of the line are run, killed, run twice at once and run on a full disk.

    tree = Tree(folder, run="tiny")                     # the checkout's files, the same .venv, a TMPDIR of its own
    ended = tree.make("data")                           # Ended(exit_code, seconds, output)
    before = tree.snapshot()                            # what the run holds: {name: digest or JSON}
    differences(before, after, varying)                 # names and JSON paths that are not the same

Everything that a tree starts carries a mark in its environment, so that what is left running can be found by it.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from kxl.base.files import ROOT, sha256

MARK = "HERMES_KXL_DISTURBED"
FOLDERS = ("runs", "evals", "reports", "datasets")
# Logs and the history tell what happened in between; stamps of code are the same for all runs of a checkout.
TOLD_ANEW = ("history.jsonl", "locks")
ABSENT = object()
# Keys of times and memory: no two runs need have the same.
MEASURED = re.compile(r"(^|_)(seconds|latency|gib|rss)(_|$)")
PATIENCE = 30  # seconds that processes have to end after their parent was killed


@dataclass
class Ended:
    """How a command ended: its exit code, its seconds, and the last 2,000 characters that it printed."""

    exit_code: int
    seconds: float
    output: str


class Tree:
    """The checkout's files in `folder`; heavy files of a run are made there and nowhere else."""

    def __init__(self, folder: Path, run: str):
        self.folder, self.run, self.mark = folder, run, uuid.uuid4().hex
        self.temporary = folder.with_name(folder.name + ".tmp")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(self.temporary, ignore_errors=True)
        listed = subprocess.run(
            ["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True
        ).stdout.split(b"\0")
        for name in filter(None, map(os.fsdecode, listed)):
            source = ROOT / name
            if source.is_file():
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        (folder / ".venv").symlink_to((ROOT / ".venv").resolve())
        self.temporary.mkdir()

    def command(self, target: str, arguments: list[str]) -> list[str]:
        """A make of one target in this tree."""
        return ["make", "-C", str(self.folder), target, f"RUN={self.run}", *arguments]

    def environment(self) -> dict[str, str]:
        """Ours, with the mark and the tree's TMPDIR, without what a make around us has set."""
        kept = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
        return {**kept, MARK: self.mark, "TMPDIR": str(self.temporary)}

    def start(self, target: str, arguments: list[str]) -> subprocess.Popen:
        """The make in a session of its own, its output in one pipe-free file that `output_of` reads."""
        with open(self.temporary.with_suffix(".output"), "ab") as log:
            return subprocess.Popen(
                self.command(target, arguments),
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def make(self, target: str, arguments: list[str] = ()) -> Ended:
        """Run a target to its end."""
        begun = time.monotonic()
        process = self.start(target, list(arguments))
        code = process.wait()
        return Ended(code, time.monotonic() - begun, self.printed())

    def printed(self) -> str:
        """The end of what the tree's commands have printed."""
        return self.temporary.with_suffix(".output").read_bytes()[-2000:].decode(errors="replace")

    def running(self) -> list[int]:
        """Ids of the processes that carry the tree's mark."""
        wanted, found = f"{MARK}={self.mark}".encode(), []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def strays(self) -> list[str]:
        """Command lines of what still runs PATIENCE seconds after the end; they are killed."""
        deadline = time.monotonic() + PATIENCE
        while (left := self.running()) and time.monotonic() < deadline:
            time.sleep(0.1)
        names = []
        for pid in left:
            with contextlib.suppress(OSError):
                names.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
                os.kill(pid, signal.SIGKILL)
        while set(left) & set(self.running()):  # killed, and not yet gone
            time.sleep(0.02)
        return names

    def kill(self, process: subprocess.Popen, what: str) -> None:
        """kill -9 of "all" processes of the make's session, or of the "script" that it runs at this moment."""
        if what == "script" and (pid := script_of(process.pid)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def snapshot(self) -> dict[str, object]:
        """Each file of the run: a JSON file's value, another file's sha256, by its name in the tree."""
        found = {}
        for name in FOLDERS:
            base = self.folder / name / self.run
            for path in sorted(base.rglob("*")):
                if path.is_symlink() or not path.is_file() or path.suffix == ".log" or set(path.parts) & set(TOLD_ANEW):
                    continue
                if path.name in TOLD_ANEW:
                    continue
                key = str(path.relative_to(self.folder))
                found[key] = sha256(path)
                if path.suffix == ".json":
                    with contextlib.suppress(ValueError):
                        found[key] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def keep(self) -> None:
        """Remember the run's files as they are now, times too, for `restore`."""
        for name in FOLDERS:
            kept = self.folder.with_name(self.folder.name + ".kept") / name
            shutil.rmtree(kept, ignore_errors=True)
            if (self.folder / name / self.run).exists():
                shutil.copytree(self.folder / name / self.run, kept, symlinks=True)

    def restore(self) -> None:
        """The run's files as `keep` saw them."""
        for name in FOLDERS:
            kept, own = self.folder.with_name(self.folder.name + ".kept") / name, self.folder / name / self.run
            shutil.rmtree(own, ignore_errors=True)
            if kept.exists():
                shutil.copytree(kept, own, symlinks=True)

    def left(self) -> list[str]:
        """What lies in the tree's TMPDIR."""
        return sorted(path.name for path in self.temporary.iterdir())

    def remove(self) -> None:
        """The tree and all that was kept of it."""
        for suffix in ("", ".tmp", ".kept"):
            shutil.rmtree(self.folder.with_name(self.folder.name + suffix), ignore_errors=True)
        self.temporary.with_suffix(".output").unlink(missing_ok=True)


def script_of(make: int) -> int | None:
    """The process that runs one of scripts/*.py below this make; None between two of them."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    below = children.get(make, [])
    while below:
        pid = below.pop()
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if len(words) > 1 and words[1].startswith(b"scripts/"):
                return pid
        below += children.get(pid, [])
    return None


def differences(one: dict, other: dict, varying: set[str] = frozenset(), path: str = "") -> list[str]:
    """Paths (file, then keys behind colons) at which two snapshots are not the same.

    Left out is what lies below a path in `varying`, or below a key whose name says that it was measured.
    """
    if path in varying or MEASURED.search(path.rpartition(":")[2]):
        return []
    if isinstance(one, dict) and isinstance(other, dict):
        found = []
        for key in sorted(one.keys() | other.keys()):
            below = f"{path}:{key}" if path else key
            found += differences(one.get(key, ABSENT), other.get(key, ABSENT), varying, below)
        return found
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [
            name
            for index, (left, right) in enumerate(zip(one, other))
            for name in differences(left, right, varying, f"{path}:{index}")
        ]
    return [] if one == other else [path]
