"""Files that are either whole or absent: atomic writing, locks, and the hashes that name them."""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

from kxl.base import processes
from kxl.base.errors import UserError

ROOT = Path(__file__).resolve().parents[3]


def sha256(path: Path) -> str:
    """Hex sha256 of a file, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def shown(path: Path) -> str:
    """A path as it is printed and recorded: relative to the repository where it lies inside."""
    path = Path(path).resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _prefix(path: Path, kind: str) -> str:
    """Start of a temporary name beside `path`; what killed processes left under such names is removed first."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{kind}-*"):
        owner = left.name.rsplit(f".{kind}-", 1)[1].split("-")[0]
        if owner.isdigit() and not processes.alive(int(owner)):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    return f".{path.name}.{kind}-{os.getpid()}-"


@contextlib.contextmanager
def atomic_path(path: Path):
    """Yield a temporary path beside `path`; rename it there on success, delete it on failure.

    The temporary name is `.NAME.partial-PID-RANDOM`, on the same file system, so the rename is atomic
    and a killed process leaves only a name that nothing reads and that the next writer removes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=_prefix(path, "partial"), dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o644)  # mkstemp gives 0600
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_dir(path: Path):
    """Yield a temporary folder beside `path`; on success it takes the place of `path`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=_prefix(path, "partial"), dir=path.parent))
    try:
        yield partial
        partial.chmod(0o755)
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=_prefix(path, "old"), dir=path.parent))
            os.replace(path, old / "old")
            os.replace(partial, path)
            shutil.rmtree(old)
        else:
            os.replace(partial, path)
    finally:
        if partial.exists():
            shutil.rmtree(partial)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value) -> None:
    """Write JSON atomically: sorted keys, two-space indent, one trailing newline."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path):
    """Read JSON; a missing or malformed file is a UserError that names file, line and column."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{shown(path)}: no such file") from None
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{shown(path)}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{shown(path)}: not UTF-8 at byte {error.start}") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a thousand brackets
        raise UserError(f"{shown(path)}: not JSON that can be read: {error}") from None


def require_space(folder: Path, bytes_needed: int) -> None:
    """Refuse to start what cannot end: UserError when `folder`'s disk has less free than needed."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < bytes_needed:
        raise UserError(
            f"{shown(folder)}: needs {bytes_needed / 2**30:.2f} GiB of disk and {free / 2**30:.2f} GiB are free; "
            f"free some space and run again"
        )


@contextlib.contextmanager
def lock(path: Path, waiting: str):
    """Hold an exclusive lock on `path`; print `waiting` once if somebody else holds it.

    Yields the locked file: a child that inherits it keeps the lock when this process is killed.
    """
    from kxl.base.cli import say

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(waiting)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def size(count: int, digits: int = 2) -> str:
    """Bytes, for people."""
    unit, name = (2**30, "GiB") if count >= 2**30 else (2**20, "MiB")
    return f"{count / unit:.{digits}f} {name}"
