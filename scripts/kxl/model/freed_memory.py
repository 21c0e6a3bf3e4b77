"""Let glibc keep the memory that a process frees, for training and serving on a CPU.

A large buffer that is freed goes back to the kernel, which clears its pages again for the next one. On a virtual machine
that took seven times as long as the sums over 100 MB for which they were, and more than half of a step of the tiny
model's training. glibc reads its settings from the environment when a process starts. A process whose resident
memory is measured or bounded does without. Other libcs ignore them, and what the environment says already stands.
"""

import os
import sys

# No buffer mapped by itself, nothing given back, grown in large steps, and one heap for all threads: in a thread's own,
# no block above 64 MiB has room, and a server computes in a thread.
SETTINGS = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "500000000",
    "MALLOC_ARENA_MAX": "1",
}


def kept(environment: dict[str, str]) -> dict[str, str]:
    """`environment` for a process that keeps what it frees; on other systems than Linux as it is."""
    return {**SETTINGS, **environment} if sys.platform == "linux" else environment


def restart_keeping() -> None:
    """Start this script anew, once, as a process that keeps what it frees: call it first in main()."""
    environment = dict(os.environ)
    if kept(environment) != environment:
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], kept(environment))
