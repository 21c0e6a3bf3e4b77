"""The one exception for what the person at the keyboard can mend, and the system's refusals in words."""

import errno

# What the system may refuse that the person can mend, and how. Anything else that it refuses is a bug of ours.
REFUSALS = {
    errno.ENOSPC: "the disk is full; free some space and run again",
    errno.EDQUOT: "your quota on this disk is used up; free some space and run again",
    errno.EFBIG: "the file grew larger than this system lets it (see ulimit -f)",
    errno.EROFS: "this disk can only be read; choose another place",
    errno.EACCES: "this user may not; change its rights or choose another place",
    errno.EPERM: "this user may not; change its rights or choose another place",
    errno.ENAMETOOLONG: "the name is too long for this disk",
    errno.EBUSY: "it is a folder in use, or a mounted disk; choose another place",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a file is in the way; choose another place",
    errno.EISDIR: "it is a folder, not a file",
    errno.ELOOP: "its links lead in a circle",
    errno.EIO: "the disk reports an error; look at it before running again",
}


class UserError(Exception):
    """Bad input, named: which file, line or tensor, and what to do next."""


class MissingKey(UserError, KeyError):
    """A file of JSON lacks a key that is needed; `key` is its name."""

    __str__ = Exception.__str__  # a KeyError shows a text in quotes

    def __init__(self, file: str, key):
        super().__init__(f"{file}: has no {key!r}, which is needed here; name another file, or make this one again")
        self.key = key

    def __reduce__(self):  # an error of a worker comes back from its process
        return MissingKey, (self.args[0].partition(": has no ")[0], self.key)


def refusal(error: BaseException) -> str | None:
    """Why the system refused, in words and with what to do; None for an error of another kind.

    A full disk is recognised behind other libraries' exceptions as well.
    """
    if isinstance(error, OSError) and error.errno in REFUSALS:
        return REFUSALS[error.errno]
    # numpy counts what it could write, others quote the system.
    full = isinstance(error, OSError) and error.errno is None and "requested and" in str(error)
    return REFUSALS[errno.ENOSPC] if full or "No space left on device" in str(error) else None
