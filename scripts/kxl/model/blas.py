"""The one place that decides which BLAS multiplies MLX's float32 matrices.

On Linux the mlx-cpu wheel links the reference BLAS, which runs at about 2 GFLOP/s; with OpenBLAS loaded
in front of it the same matmul is 20 to 50 times faster. The dynamic linker takes that order from the
environment when a process starts, so a script that wants it starts itself again, once, before any work.
macOS computes on Metal and needs none of this.

MLX gives freed buffers back above a cache of its own, 32 MiB on a CPU; `keep_memory` is for a process that trains or
generates (kxl/model/freed_memory.py).

HERMES_KXL_BLAS names another library with the CBLAS interface, by path or by soname; the value
"reference" keeps the BLAS of the wheel.
"""

import ctypes
import ctypes.util
import os
import sys

from kxl.base.cli import UserError, say
from kxl.model import freed_memory


def fast_blas() -> str | None:
    """The library to load in front of MLX's own BLAS: path or soname; None where MLX is left alone."""
    if sys.platform != "linux":
        return None
    chosen = os.environ.get("HERMES_KXL_BLAS") or ctypes.util.find_library("openblas")
    if not chosen:
        raise UserError(
            "OpenBLAS is not installed, and MLX's own BLAS is 20 to 50 times slower; run `make system-packages`,"
            " or set HERMES_KXL_BLAS=reference to go on without it"
        )
    return None if chosen == "reference" else chosen


def blas_threads() -> int:
    """How many threads OpenBLAS multiplies with, for reports: OPENBLAS_NUM_THREADS, else one for each core."""
    return int(os.environ.get("OPENBLAS_NUM_THREADS") or os.cpu_count())


def child_env(keep_memory: bool = False) -> dict[str, str]:
    """Environment for a child process that computes with MLX, such as a server (that one with `keep_memory`)."""
    environment = freed_memory.kept(dict(os.environ)) if keep_memory else dict(os.environ)
    if library := fast_blas():
        loaded = environment.get("LD_PRELOAD", "").split(":")
        environment["LD_PRELOAD"] = ":".join([library, *(name for name in loaded if name and name != library)])
    return environment


def use_fast_blas(before_restart=None, keep_memory: bool = False) -> None:
    """Make this process multiply with the fast BLAS: call it first in main(). Starts the script anew where needed.

    `keep_memory` as above; a process that is fast already stays as it is.
    `before_restart` is called before the restart, for a host that has to give back what it holds.
    """
    library = fast_blas()
    if library is None:
        return
    if library in os.environ.get("LD_PRELOAD", "").split(":"):
        # The linker only warns about a library that it cannot load.
        if not hasattr(ctypes.CDLL(None), "cblas_sgemm"):
            raise UserError(
                f"{library} was asked for through LD_PRELOAD but gives no cblas_sgemm; name another one in HERMES_KXL_BLAS"
            )
        return
    if before_restart:
        before_restart()
    say(f"MLX multiplies float32 matrices with {library}")
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], child_env(keep_memory))
