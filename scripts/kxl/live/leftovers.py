"""What a task left in its folder, read as a stranger's: nothing in it is opened that could answer back.

    found = read(root, "work")                 # a folder in an open one (file descriptor)
    found["sub/a.txt"].kind, .text             # "file", bytes

No link is followed, at no level; only regular files are opened; their number, size and depth are limited. A folder
that is over a limit is the task's own fault: Unreadable says what is wrong, in one sentence.
"""

import os
import stat
from dataclasses import dataclass

from kxl.base.cli import printable

DEPTH, ENTRIES = 32, 2000
FILE_BYTES, ALL_BYTES = 1 << 20, 32 << 20

KINDS = {
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


class Unreadable(Exception):
    """A folder that no verdict can be read from, and why."""


@dataclass(frozen=True)
class Entry:
    """One name in the folder. kind: "file", "folder", "link", "FIFO", "socket" or "device"; `text` of files alone."""

    kind: str
    text: bytes | None = None


def read(root: int, name: str = ".") -> dict[str, Entry]:
    """{path: Entry} of everything in the folder `name` of the open `root`.

    Names that are not UTF-8 hold surrogates, as in os.fsdecode. Unreadable where a limit is passed, and where `name`
    is no folder any more.
    """
    found: dict[str, Entry] = {}
    try:
        folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=root)
    except PermissionError:
        raise Unreadable(f"{name} cannot be read: its owner may not") from None
    except OSError as error:
        raise Unreadable(f"{name} is no folder any more: {error.strerror}") from None
    try:
        for opened in (root, folder):
            _require_readable(os.fstat(opened), name)
        _read(folder, "", 0, found, [0])
    finally:
        os.close(folder)
    return found


def _read(folder: int, above: str, depth: int, found: dict, total: list) -> None:
    if depth > DEPTH:
        raise Unreadable(f"folders lie more than {DEPTH} deep in one another")
    with os.scandir(folder) as entries:
        for entry in entries:
            path = above + entry.name
            if len(found) >= ENTRIES:
                raise Unreadable(f"there are more than {ENTRIES:,} files and folders")
            try:
                found[path] = _entry(folder, entry, path, total)
                if found[path].kind == "folder":
                    inner = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
                    try:
                        _read(inner, path + "/", depth + 1, found, total)
                    finally:
                        os.close(inner)
            except OSError as error:
                raise Unreadable(f"{printable(path)[:200]} cannot be read: {error.strerror}") from None


def _require_readable(status: os.stat_result, path: str) -> None:
    """Unreadable where the owner of a file or folder may not read it. Root could: one verdict for both."""
    needed = stat.S_IRUSR | stat.S_IXUSR if stat.S_ISDIR(status.st_mode) else stat.S_IRUSR
    if status.st_mode & needed != needed:
        raise Unreadable(f"{printable(path)[:200]} cannot be read: its owner may not")


def _entry(folder: int, entry: os.DirEntry, path: str, total: list) -> Entry:
    status = entry.stat(follow_symlinks=False)
    folder_or_file = stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)
    if not folder_or_file:
        return Entry(KINDS.get(stat.S_IFMT(status.st_mode), "device"))
    _require_readable(status, path)
    if stat.S_ISDIR(status.st_mode):
        return Entry("folder")
    # Between the look and the opening a survivor may put something else there: opened without waiting, looked at again.
    opened = os.open(entry.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with open(opened, "rb") as file:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise Unreadable(f"{printable(path)[:200]} changes while it is read")
        text = file.read(FILE_BYTES + 1)
    total[0] += len(text)
    if len(text) > FILE_BYTES:
        raise Unreadable(f"{printable(path)[:200]} has more than {FILE_BYTES:,} bytes")
    if total[0] > ALL_BYTES:
        raise Unreadable(f"its files have more than {ALL_BYTES:,} bytes together")
    return Entry("file", text)
