"""What this machine has, and the memory at which a training run must stop before the system swaps.

A profile (configs/hardware/NAME.json, made by moe_profile_hardware.py) is what was measured once; `now` is what
can be asked at any time.
"""

import multiprocessing
import sys
import threading
import time
from pathlib import Path

import psutil

from kxl.base.cli import UserError
from kxl.base.files import read_json, shown

GIB = 2**30
MOST_GIB = 1 << 20  # of memory, that any machine has
RESERVE = 0.08  # share of the memory that stays with the system and its file cache


def memory_stop(total_bytes: int) -> int:
    """Resident bytes at which a run stops: all but RESERVE, and all but 1 GiB."""
    return int(min(total_bytes * (1 - RESERVE), total_bytes - GIB))


def resident() -> int:
    """Resident bytes of this process now."""
    return psutil.Process().memory_info().rss


def held() -> int:
    """Bytes that this process holds and the system cannot take back at once: resident, less clean pages of files.

    A page of a mapped file that is as on the disk costs nothing: the system drops it when another process needs room.
    """
    if sys.platform != "linux":
        return resident()  # no other system says which pages are clean; mapped.py gives them back by itself
    sizes = dict.fromkeys(("Rss", "Shared_Clean", "Private_Clean"), 0)
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in sizes:
            sizes[name] = int(rest.split()[0]) * 1024
    return sizes["Rss"] - sizes["Shared_Clean"] - sizes["Private_Clean"]


class PeakHeld:
    """The most that `held` said within a `with` block: .bytes.

    Asked every `seconds`, or less often where asking takes long (0.1 s for ten GiB): at most a twentieth of the time.
    """

    def __init__(self, seconds: float = 0.1):
        self.seconds, self.bytes, self._over = seconds, 0, threading.Event()

    def __enter__(self):
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            began = time.monotonic()
            self.bytes = max(self.bytes, held())
            if self._over.wait(max(self.seconds, 20 * (time.monotonic() - began))):
                return


class OthersHold:
    """Within a `with` block another process holds all available memory but `leave` bytes.

    It gives way before the machine runs out: where less than half of `leave` is left it frees some, and the system
    would end it first. `held()` says the least and the most that it held.
    """

    PIECE = 2**28

    def __init__(self, leave: int):
        self.leave = leave

    def __enter__(self):
        context = multiprocessing.get_context("spawn")
        self._sizes, self._ready = context.Array("q", [0, 0]), context.Event()
        arguments = (self.leave, self.PIECE, self._sizes, self._ready)
        self._process = context.Process(target=_hold, args=arguments, daemon=True)
        self._process.start()
        self._ready.wait()
        return self

    def __exit__(self, *error):
        self._process.terminate()
        self._process.join()

    def held(self) -> list[int]:
        """[least, most] bytes; nothing at all where the process did not live to the end."""
        return list(self._sizes) if self._process.is_alive() else [0, 0]


def _hold(leave: int, piece: int, sizes, ready) -> None:
    """Take pieces until `leave` bytes are left, then watch."""
    if sys.platform == "linux":
        Path("/proc/self/oom_score_adj").write_text("1000")
    pieces = []
    while psutil.virtual_memory().available > leave + piece:
        pieces.append(bytearray(piece))
        pieces[-1][:: 2**12] = b"x" * (piece // 2**12)  # a page is taken when it is written
    sizes[0] = sizes[1] = len(pieces) * piece
    ready.set()
    while True:
        if psutil.virtual_memory().available < leave // 2 and pieces:
            pieces.pop()
            sizes[0] = len(pieces) * piece
        time.sleep(0.1)


def load_profile(path: Path | None) -> dict:
    """The `results` of a profile, or what can be asked of this machine when there is none."""
    if path is None:
        return {
            "memory_gib": psutil.virtual_memory().total / GIB,
            "memory_stop_gib": memory_stop(psutil.virtual_memory().total) / GIB,
        }
    profile = read_json(path).get("results")
    told = [profile.get(key) for key in ("memory_gib", "memory_stop_gib")] if isinstance(profile, dict) else [None]
    if not all(isinstance(one, (int, float)) and not isinstance(one, bool) and 0 < one < MOST_GIB for one in told):
        raise UserError(f"{shown(path)}: is no hardware profile; make one with `make profile`")
    return profile


class MemoryStop(Exception):
    """Raised when a run holds more than it may."""


class MemoryGuard:
    """Raise MemoryStop when this process exceeds the stop, or the machine has almost nothing left."""

    def __init__(self, stop_bytes: int, least_free: int = GIB // 2):
        self.stop, self.least_free = stop_bytes, least_free

    def __call__(self, where: str) -> None:
        mine, free = held(), psutil.virtual_memory().available
        if mine > self.stop:
            raise MemoryStop(
                f"at {where} the process held {mine / GIB:.2f} GiB of the {self.stop / GIB:.2f} it may hold"
            )
        if free < self.least_free:
            raise MemoryStop(f"at {where} only {free / GIB:.2f} GiB of the machine's memory were left")
