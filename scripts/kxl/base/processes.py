"""Whether a process is still there."""

import os


def alive(pid: int) -> bool:
    """Whether a process with this id runs on this machine, ours or another user's."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
