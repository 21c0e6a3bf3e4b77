"""What a process that computes is started with: a fast BLAS for MLX's float32 matrices, and memory that it keeps.

On Linux the mlx-cpu wheel links the reference BLAS, which runs at about 2 GFLOP/s; with OpenBLAS loaded in front of it
the same matmul is 20 to 50 times faster. The dynamic linker takes that order from the environment when a process
starts, so a script that wants it starts itself again, once, before any work. macOS computes on Metal and needs none of
this. HERMES_KXL_BLAS names another library with the CBLAS interface, by path or by soname; the value "reference" keeps
the BLAS of the wheel.

OpenBLAS picks its kernels by the processor's model number, and falls back to those of 2004 for one that is newer than
itself: Debian 12's runs at 20 to 30 GFLOP/s on two cores of an Emerald Rapids Xeon, and at 150 with the kernels that
this processor has the instructions for. So they are named to it there, by OPENBLAS_CORETYPE, unless that is set.

`keep_memory` is for a process that trains, generates or serves on a CPU. A large buffer that is freed goes back to the
kernel, which clears its pages again for the next one (MLX gives buffers back above a cache of its own, 32 MiB on a
CPU). On a virtual machine that took seven times as long as the sums over 100 MB for which they were, and more than half
of a step of the tiny model's training. glibc reads its settings from the environment when a process starts; what the
environment says already stands, and other libcs ignore them. A process whose resident memory is measured or bounded
does without.
"""

import ctypes
import ctypes.util
import functools
import os
import sys
from pathlib import Path

from kxl.base.cli import UserError, say

# No buffer mapped by itself, nothing given back, grown in large steps, and one heap for all threads: in a thread's own,
# no block above 64 MiB has room, and a server computes in a thread.
GLIBC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "500000000",
    "MALLOC_ARENA_MAX": "1",
}


# OpenBLAS's kernels for x86, best first, with the features that they need, and those for a processor it does not know.
KERNELS = {"SkylakeX": {"avx512f", "avx512cd", "avx512dq", "avx512bw", "avx512vl"}, "Haswell": {"avx2", "fma"}}
FALLBACK = "Prescott"


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


def better_kernels(chosen: str, features: set[str]) -> str | None:
    """OpenBLAS's name of the kernels to take instead of the `chosen` ones; None where it chose well.

    features: the processor's, as /proc/cpuinfo lists them. Only the fallback for unknown x86 processors is replaced.
    """
    if chosen != FALLBACK:
        return None
    return next((name for name, needed in KERNELS.items() if needed <= features), None)


@functools.cache
def kernels_to_name(library: str) -> str | None:
    """What OPENBLAS_CORETYPE must say for `library` on this processor, None for nothing."""
    try:
        corename = ctypes.CDLL(library).openblas_get_corename
        flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, AttributeError, StopIteration):  # no OpenBLAS, or no x86 Linux
        return None
    corename.restype = ctypes.c_char_p
    return better_kernels(corename().decode(), set(flags.split(":", 1)[1].split()))


def child_env(keep_memory: bool = False) -> dict[str, str]:
    """Environment for a child process that computes with MLX, such as a server (that one with `keep_memory`)."""
    environment = keeping_memory(dict(os.environ)) if keep_memory else dict(os.environ)
    if library := fast_blas():
        loaded = environment.get("LD_PRELOAD", "").split(":")
        environment["LD_PRELOAD"] = ":".join([library, *(name for name in loaded if name and name != library)])
        if "OPENBLAS_CORETYPE" not in environment and (kernels := kernels_to_name(library)):
            environment["OPENBLAS_CORETYPE"] = kernels
    return environment


def keeping_memory(environment: dict[str, str]) -> dict[str, str]:
    """`environment` for a process that keeps what it frees; on other systems than Linux as it is."""
    return {**GLIBC, **environment} if sys.platform == "linux" else environment


def use_kept_memory() -> None:
    """Let this process keep what it frees: for one that needs no BLAS of ours, such as torch's. First in main().

    Starts the script anew, once.
    """
    environment = dict(os.environ)
    if keeping_memory(environment) != environment:
        _restart(keeping_memory(environment))


def give_memory_back() -> None:
    """From here on this process gives back what it frees, however it was started: for one whose memory is bounded.

    Undoes GLIBC's settings but that of the heaps; nothing where the libc is another one.
    """
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt"):
        # malloc.h's M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD and M_MMAP_MAX; larger buffers are mapped each.
        for parameter, value in ((-1, 1 << 20), (-2, 1 << 17), (-3, 1 << 20), (-4, 1 << 16)):
            ctypes.CDLL(None).mallopt(parameter, value)


def _restart(environment: dict[str, str]) -> None:
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


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
                f"{library} was asked for through LD_PRELOAD but gives no cblas_sgemm; "
                "name another one in HERMES_KXL_BLAS"
            )
        return
    if before_restart:
        before_restart()
    environment = child_env(keep_memory)
    kernels = environment.get("OPENBLAS_CORETYPE")
    say(f"MLX multiplies float32 matrices with {library}" + (f" and its {kernels} kernels" if kernels else ""))
    _restart(environment)
