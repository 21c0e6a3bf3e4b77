"""Files that are either whole or absent: atomic writing, locks, and the hashes that name them."""

import contextlib
import ctypes
import errno
import fcntl
import filecmp
import glob
import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kxl.base import processes
from kxl.base.errors import REFUSALS, MissingKey, UserError, refusal

ROOT = Path(__file__).resolve().parents[3]
FULL = 1 << 20  # bytes left on a disk that is full: no library leaves a block of its own unused
AT_FDCWD = -100  # renameat2: paths count from the current folder


def sha256(path: Path) -> str:
    """Hex sha256 of a file, read in 1 MiB pieces. UserError for a pipe or device, which may never end."""
    if Path(path).exists():
        require_regular(path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def shown(path: Path) -> str:
    """A path as it is printed and recorded: relative to the repository where it lies inside."""
    path = Path(os.path.realpath(path))  # Path.resolve refuses links that lead in a circle
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def _temporary(path: Path) -> str:
    """Start of a temporary name beside `path`; what killed processes left under such names is removed first.

    A folder that was killed out of its name (atomic_dir) gets it back before.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*-*"):
        kind, _, rest = left.name.removeprefix(f".{path.name}.").partition("-")
        owner = rest.split("-")[0]
        if kind not in ("partial", "old") or not owner.isdigit():
            continue
        with contextlib.suppress(FileNotFoundError):  # its owner has just put it in its place
            if processes.was_there(int(owner), left.lstat().st_ctime):
                continue
        if kind == "old" and (left / "old").is_dir() and not os.path.lexists(path):
            os.replace(left / "old", path)
        _remove(left)
    return f".{path.name}.partial-{os.getpid()}-"


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _require_name(path: Path) -> None:
    """UserError for what is to be written and has no name of its own, as "" or "/"."""
    if not path.name:
        raise UserError(f"{str(path)!r} names a folder, where a file or folder is to be written; give it a name")


def make_place(path: Path) -> None:
    """Make the folder that `path` is to stand in. UserError where none can be made, or where it would replace a device.

    Who may do everything, as root in a container, would have a file in the place of /dev/null from then on.
    """
    _require_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: cannot be written: {error.filename} cannot be made; choose another place") from None
    except RecursionError:
        raise UserError(f"{str(path)[:100]}…: cannot be written: it lies below a thousand folders") from None
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # nothing is there, or a link that leads nowhere
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or os.path.realpath(path.parent) == "/dev":
        raise UserError(f"{path}: is a pipe or device, which a file would replace; choose another place")


@contextlib.contextmanager
def _refusals_named(path: Path):
    """What the system refuses while `path` is written is a UserError that names it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        why = refusal(error)
        if why is None and isinstance(error, RuntimeError) and shutil.disk_usage(path.parent).free < FULL:
            why = f"{REFUSALS[errno.ENOSPC]} ({error})"  # torch and MLX do not say what the system said
        if why is None:
            raise
        other = getattr(error, "filename", None)  # a temporary name means `path`; another file is the one to name
        place = path if not isinstance(other, str) or f".{path.name}.partial-" in other else Path(other)
        raise UserError(f"{shown(_lasting(place))}: cannot be written: {why}") from error


def _lasting(path: Path) -> Path:
    """A path by the names that its folders will have once they are written."""
    return Path(*(re.sub(r"^\.(.+)\.partial-\d+-\w+$", r"\1", part) for part in path.parts))


@contextlib.contextmanager
def atomic_path(path: Path, keep_time: bool = False):
    """Yield a temporary path beside `path`; rename it there on success, delete it on failure.

    The temporary name is `.NAME.partial-PID-RANDOM`, on the same file system, so the rename is atomic
    and a killed process leaves only a name that nothing reads and that the next writer removes.
    A full disk, a folder that is read-only and the like are a UserError. `keep_time`: a file that says the same again
    keeps its time, so that make holds nothing for stale that is made from it.
    """
    path = Path(path)
    with _refusals_named(path):
        make_place(path)
        handle, name = tempfile.mkstemp(prefix=_temporary(path), dir=path.parent)
        os.close(handle)
    partial = Path(name)
    try:
        with _refusals_named(path):
            yield partial
            partial.chmod(0o644)  # mkstemp gives 0600
            if keep_time and path.is_file() and filecmp.cmp(path, partial, shallow=False):
                os.utime(partial, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_dir(path: Path):
    """Yield a temporary folder beside `path`; on success it takes the place of `path`.

    At every moment `path` is the old folder or the new one. Where the system cannot exchange two names, there is a
    moment between two renames; a process that is killed there leaves the old folder to the next writer, which puts it
    back first.
    """
    path = Path(path)
    with _refusals_named(path):
        make_place(path)
        partial = Path(tempfile.mkdtemp(prefix=_temporary(path), dir=path.parent))
    try:
        with _refusals_named(path):
            yield partial
            partial.chmod(0o755)
            if not os.path.lexists(path):
                os.replace(partial, path)
            elif not _exchange(partial, path):
                old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old-{os.getpid()}-", dir=path.parent))
                os.replace(path, old / "old")
                os.replace(partial, path)
                _remove(old)
    finally:
        _remove(partial)  # after an exchange: what was there before


def _exchange(one: Path, other: Path) -> bool:
    """Give each of two paths the other's content in one step; False where this system or disk cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if hasattr(libc, "renameat2"):  # Linux: RENAME_EXCHANGE
        failed = libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], 2)
    elif hasattr(libc, "renamex_np"):  # macOS: RENAME_SWAP
        failed = libc.renamex_np(names[0], names[1], 2)
    else:
        return False
    if failed and ctypes.get_errno() not in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(other))
    return not failed


def read_text(path: Path) -> str:
    """A UTF-8 text. UserError for a file that is not there, is none or may never end."""
    require_regular(path)
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{shown(path)}: not UTF-8 at byte {error.start}") from None


def write_text(path: Path, text: str, keep_time: bool = False) -> None:
    """Write UTF-8 text atomically; `keep_time` as for atomic_path."""
    with atomic_path(path, keep_time) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value) -> None:
    """Write JSON atomically: sorted keys, two-space indent, one trailing newline.

    A lone surrogate (a server's answer or a file name may hold one) is no UTF-8: such a value is written in ASCII.
    """
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    if not _is_unicode(text):
        text = json.dumps(value, indent=2, sort_keys=True)
    write_text(path, text + "\n")


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class Object(dict):
    """An object of a JSON file: to ask it for a key that it lacks is the file's fault, and the error names both."""

    file = "the file"

    def __missing__(self, key):
        raise MissingKey(self.file, key)


def read_json(path: Path, kind: type = dict):
    """Read JSON of the given kind, an object unless said otherwise.

    A missing or malformed file is a UserError that names file, line and column; a pipe or a device, which may never
    end, is one as well. So is a key that somebody asks an object of it for and that is not there (Object).
    """
    name = shown(path)

    def of_file(found: dict) -> Object:
        made = Object(found)
        made.file = name
        return made

    try:
        if Path(path).exists() and not Path(path).is_dir():
            require_regular(path)
        value = json.loads(Path(path).read_text(encoding="utf-8-sig"), object_hook=of_file)
    except FileNotFoundError:
        raise UserError(f"{shown(path)}: no such file") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{shown(path)}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{shown(path)}: not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise UserError(f"{shown(path)}: nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{shown(path)}: not JSON: {str(error).split(';')[0]}") from None
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be read: {error.strerror}") from None
    if not isinstance(value, kind):
        names = {dict: "an object", list: "a list"}
        held = "dict" if isinstance(value, Object) else type(value).__name__
        raise UserError(f"{shown(path)}: holds {held}, not {names.get(kind, kind.__name__)}")
    return value


def require_regular(path: Path) -> None:
    """UserError unless `path` is a file that can be read: no folder, pipe or device."""
    path = Path(path)
    name = Path(shown(path.parent)) / path.name  # of a link itself, not of what it leads to
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        broken = ", only a link that leads nowhere" if path.is_symlink() else ""
        raise UserError(f"{name}: no such file{broken}") from None
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise UserError(f"{name}: is a {'folder' if stat.S_ISDIR(mode) else 'pipe or device'}, not a file")
    if not os.access(path, os.R_OK):
        raise UserError(f"{name}: may not be read by this user")


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


LONG_NAME = 200  # bytes; most disks take 255, and the lock's name has some more


@contextlib.contextmanager
def sole_writer(paths: list):
    """Hold the right to write `paths` until the block ends; where another process has it, UserError names that one.

    The lock is a file `.NAME.lock` beside each; it goes with the block, and a killed process's does not hold.
    """
    with contextlib.ExitStack() as stack:
        for path in paths:
            _require_name(Path(path))
        for path in sorted({Path(path).absolute() for path in paths}):
            stack.enter_context(_sole_writer(path))
        yield


@contextlib.contextmanager
def _sole_writer(path: Path):
    short = path.name if len(os.fsencode(path.name)) < LONG_NAME else hashlib.sha256(os.fsencode(path.name)).hexdigest()
    name = path.parent / f".{short}.lock"
    try:
        make_place(path)
        file = _locked(name)
    except BlockingIOError:
        raise UserError(
            f"{shown(path)} is being written by another process ({name.read_text(errors='replace').strip()});"
            " wait until it has ended, or write to another name"
        ) from None
    except OSError as error:
        raise UserError(
            f"{shown(path)}: cannot be written: {refusal(error) or error.strerror} ({error.filename})"
        ) from None
    with file:
        with contextlib.suppress(OSError):  # a full disk: the lock holds without a name, too
            file.truncate(0)
            os.pwrite(file.fileno(), f"process {os.getpid()}: {Path(sys.argv[0]).name}\n".encode(), 0)
        try:
            yield
        finally:
            name.unlink(missing_ok=True)


def _locked(name: Path):
    """`name`, open and locked. BlockingIOError where another process has it."""
    while True:
        # A link of somebody else in a shared folder is an error, not followed.
        file = open(os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), "r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(name)):
                return file
        except FileNotFoundError:
            pass  # the holder ended and removed it while we opened it: ours is no longer the file of that name
        except OSError:
            file.close()
            raise
        file.close()


@contextlib.contextmanager
def scratch_dir(base: Path | None = None):
    """Yield a new folder in `base` (the system's temporary folder), removed at the end.

    Those that killed processes of ours left there are removed first.
    """
    base = Path(base or tempfile.gettempdir()).resolve()
    for left in (*base.glob(f"{SCRATCH}*"), *base.glob(f"new-{SCRATCH}*")):
        if left.name.startswith("new-") and _age(left) < NEW_SECONDS:
            continue  # its process is about to lock it
        if (taken := take_dir(left)) is not None:
            remove_tree(left)
            os.close(taken)
    # Another name until it is ours, so that nobody else takes it for one that was left.
    fresh = Path(tempfile.mkdtemp(prefix=f"new-{SCRATCH}", dir=base))
    folder = fresh.with_name(fresh.name.removeprefix("new-"))
    taken = take_dir(fresh)
    try:
        fresh.rename(folder)
        yield folder
    finally:
        remove_tree(folder if folder.exists() else fresh)
        os.close(taken)


SCRATCH = "kxl-scratch-"
NEW_SECONDS = 3600  # in which a process has locked the folder that it made, also one that gets little of a processor


def _age(path: Path) -> float:
    """Seconds since a path was changed; 0 for one that is gone."""
    with contextlib.suppress(FileNotFoundError):
        return time.time() - path.lstat().st_mtime
    return 0.0


def take_dir(path: Path) -> int | None:
    """Lock a folder of our own and return it open; None where it is a link, a stranger's or another process's."""
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if os.fstat(folder).st_uid == os.geteuid():
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(folder), os.lstat(path)):
                return folder
    except OSError:
        pass  # locked, or gone since
    os.close(folder)
    return None


def remove_tree(folder: Path) -> None:
    """Remove a folder whatever lies in it: closed folders, ten thousand levels, names that are not UTF-8."""
    with contextlib.suppress(OSError, RecursionError):  # of closed folders, and of a thousand levels
        shutil.rmtree(folder)
        return
    # These go through folders one by one and follow no link either.
    for command in (["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
        subprocess.run([*command, "--", str(folder)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if folder.exists():
        raise UserError(f"{folder} cannot be removed; remove it by hand")


def size(count: int, digits: int = 2) -> str:
    """Bytes, for people."""
    unit, name = (2**30, "GiB") if count >= 2**30 else (2**20, "MiB")
    return f"{count / unit:.{digits}f} {name}"
