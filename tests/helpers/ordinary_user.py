"""As root: a command line that runs another one as an ordinary user (uid 65534), to whom our files are readable."""

import shlex
import sys
from pathlib import Path

from conftest import ROOT

NOBODY = 65534


def closed_above(path: Path) -> Path | None:
    """The uppermost folder on the way to `path` that other users may not enter."""
    return next((above for above in reversed(path.parents) if not above.stat().st_mode & 0o001), None)


def command(arguments: list[str]) -> list[str]:
    """In mounts of its own, the folders that we need stand alone in a copy of the closed ones above them (/root)."""
    needed = [Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), ROOT]
    script = ["set -e", "hold=$(mktemp -d)", 'mount -t tmpfs tmpfs "$hold"']
    closed = {path: above for path in needed if (above := closed_above(path))}
    for number, path in enumerate(closed):
        script += [f'mkdir "$hold/{number}"', f'mount --bind {shlex.quote(str(path))} "$hold/{number}"']
    for above in sorted(set(closed.values())):
        script.append(f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(above))}")
    for number, path in enumerate(closed):
        quoted = shlex.quote(str(path))
        script += [f"mkdir -p {quoted}", f'mount --bind "$hold/{number}" {quoted}', f'umount "$hold/{number}"']
    script += ['umount "$hold"', 'rmdir "$hold"']
    user = f"setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups env HOME=/tmp"
    script.append(f"exec {user} {shlex.join(arguments)}")
    # An OpenBLAS in front of setpriv ends it: its threads keep their old rights.
    return ["env", "-u", "LD_PRELOAD", "unshare", "--mount", "--propagation", "private", "sh", "-c", "\n".join(script)]
