"""What files hold, as make can compare it: a file counts by its sha256, whatever its time says.

  runs/content/PATH     a stamp for each file of the tree that a rule depends on, written when that says another thing
  runs/contents.json    sha256 by path, good while size and time stay the same, so that a file is read once

Files of a model, of traces and of rows lie anywhere: their hashes stand in runs/RUN/settings (run.py). The standard
library alone.
"""

import hashlib
import json
import os
import time
from pathlib import Path

from kxl.base.cli import say
from kxl.base.files import shown, write_text

KNOWN = "runs/contents.json"
STAMPS = "runs/content"
# Files of the tree that rules depend on; make's $(call content,FILES) names their stamps.
STAMPED = (
    "configs/*.json",
    "configs/*.txt",
    "datasets/tiny/*.*",
    "datasets/tiny/forms/*",
    "datasets/tiny/wordings/*",
    "evals/halves/*.json",
    "evals/suites/*.json",
    "evals/live/*.json",
    "gguf/*.*",
    "gguf/*/*",
    "models/tiny/*",
    "patches/*.patch",
    "third_party/*.lock",
    "third_party/*.txt",
)
LARGE = 1 << 30  # bytes; reading this many takes a second or more


class Contents:
    """Hashes of files by path, remembered in `root`/runs/contents.json."""

    def __init__(self, root: Path):
        self.root, self.path = root, root / KNOWN
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):  # not made yet, or cut: it only saves time
            found = {}
        found = found if isinstance(found, dict) else {}
        self.known = {name: one for name, one in found.items() if isinstance(one, list) and len(one) == 3}
        self.fresh = False

    def hash(self, path: Path) -> str:
        """Hex sha256 of a file, read only where size or time changed since."""
        path, status = self.root / path, path.stat()
        name, looks = str(path), [status.st_mtime_ns, status.st_size]
        if name not in self.known or self.known[name][:2] != looks:
            if status.st_size > LARGE:
                say(f"reading {shown(path)} ({status.st_size / 2**30:.1f} GiB) once, to know it again")
            digest = hashlib.sha256()
            with open(path, "rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
            self.known[name], self.fresh = [*looks, digest.hexdigest()], True
        return self.known[name][2]

    def of(self, place: str, names: tuple[str, ...] = ("*",)) -> dict[str, str]:
        """{file: sha256} of what `place` names: a file by its name, or the files of a folder that fit `names` by their
        path in it; {} for neither.
        """
        path = self.root / place
        if path.is_file():
            return {path.name: self.hash(path)}
        files = [file for name in names for file in sorted(path.glob(name)) if file.is_file()]
        return {file.relative_to(path).as_posix(): self.hash(file) for file in files}

    def stamp(self) -> None:
        """Write the stamps of STAMPED that say another thing than their files. A new one gets its file's time."""
        for path in (path for pattern in STAMPED for path in self.root.glob(pattern) if path.is_file()):
            stamp, new = self.root / STAMPS / path.relative_to(self.root), self.hash(path) + "\n"
            if not stamp.exists():
                write_text(stamp, new)
                os.utime(stamp, ns=(newest := min(path.stat().st_mtime_ns, time.time_ns()), newest))
            elif stamp.read_bytes() != new.encode():
                write_text(stamp, new)

    def save(self) -> None:
        """Keep what was read for the next time."""
        if self.fresh:
            write_text(self.path, json.dumps(self.known, sort_keys=True))
