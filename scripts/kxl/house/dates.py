"""Files of a run that are dated in the future: make would never make them again, whatever changes.

A clock that was ahead, or a disk from a machine whose clock is, leaves such dates. What make made gets an old date, so
that it is made again; what make only compares with (settings, stamps of code) gets today's. The standard library alone.
"""

import os
import time
from pathlib import Path

OLD = 946684800  # 2000-01-01, older than any input
SLACK = 60  # seconds: file systems round, and a network disk has a clock of its own
COMPARED = ("runs/code", "runs/content", "runs/{run}/settings")
MADE = ("runs/{run}",)


def mend(root: Path, run: str) -> list[Path]:
    """Redate what is dated in the future; the artifacts among it, which count as stale now."""
    now = time.time()
    compared = [root / place.format(run=run) for place in COMPARED]
    for folder in compared:
        for path in _from_the_future(folder, now):
            os.utime(path, (now, now))
    stale = []
    for place in MADE:
        for path in _from_the_future(root / place.format(run=run), now):
            if not any(path.is_relative_to(folder) for folder in compared):
                os.utime(path, (OLD, OLD))
                stale.append(path)
    return sorted(stale)


def _from_the_future(folder: Path, now: float):
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            if not path.is_symlink() and path.stat().st_mtime > now + SLACK:
                yield path
