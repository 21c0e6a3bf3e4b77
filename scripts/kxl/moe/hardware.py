"""What this machine has, and the memory at which a training run must stop before the system swaps.

A profile (configs/hardware/NAME.json, made by moe_profile_hardware.py) is what was measured once; `now` is what
can be asked at any time.
"""

import resource
import sys
from pathlib import Path

import psutil

from kxl.base.cli import UserError
from kxl.base.files import read_json, shown

GIB = 2**30
RESERVE = 0.08  # share of the memory that stays with the system and its file cache


def memory_stop(total_bytes: int) -> int:
    """Resident bytes at which a run stops: all but RESERVE, and all but 1 GiB."""
    return int(min(total_bytes * (1 - RESERVE), total_bytes - GIB))


def resident() -> int:
    """Resident bytes of this process now."""
    return psutil.Process().memory_info().rss


def peak_resident() -> int:
    """The most this process ever held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def load_profile(path: Path | None) -> dict:
    """The `results` of a profile, or what can be asked of this machine when there is none."""
    if path is None:
        return {
            "memory_gib": psutil.virtual_memory().total / GIB,
            "memory_stop_gib": memory_stop(psutil.virtual_memory().total) / GIB,
        }
    profile = read_json(path).get("results", {})
    if "memory_stop_gib" not in profile:
        raise UserError(f"{shown(path)}: is no hardware profile; make one with `make profile`")
    return profile


class MemoryStop(Exception):
    """Raised when a run holds more than it may."""


class MemoryGuard:
    """Raise MemoryStop when this process exceeds the stop, or the machine has almost nothing left."""

    def __init__(self, stop_bytes: int, least_free: int = GIB // 2):
        self.stop, self.least_free = stop_bytes, least_free

    def __call__(self, where: str) -> None:
        held, free = resident(), psutil.virtual_memory().available
        if held > self.stop:
            raise MemoryStop(
                f"at {where} the process held {held / GIB:.2f} GiB of the {self.stop / GIB:.2f} it may hold"
            )
        if free < self.least_free:
            raise MemoryStop(f"at {where} only {free / GIB:.2f} GiB of the machine's memory were left")
