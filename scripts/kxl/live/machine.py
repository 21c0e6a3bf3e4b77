"""What the kernel shares out to all programs of this machine, and whether little of it is left.

    free, total = memory()      # bytes
    short()                     # None, or in words what a task must be stopped for, whoever used it

A box limits what is counted by process or by folder. Of what is counted for the whole machine a task in a box could
take all: then others get no memory, their connections stall, and no terminal opens.
"""

import os
from pathlib import Path

from kxl.base import files

# The kernel's buffers for sockets belong to no process.
LEAST_FREE, LEAST_FREE_BYTES = 0.05, 256 << 20
PAGE = os.sysconf("SC_PAGE_SIZE")
# The kernel gives buffers to a protocol without care up to its `low` mark, and none from twice of it on. A container
# does not see the mark: this is how the kernel sets it, as a share of the memory (tcp_init_mem, udp_init).
LOW = {"TCP": 3 / 64, "UDP": 3 / 32}
# Connections that a program closed and whose data the other end does not take; with too many, the kernel breaks those
# of everybody. Its limit is this share of the memory (tcp_init) where a container does not see it.
ORPHANS = Path("/proc/sys/net/ipv4/tcp_max_orphans")
BYTES_FOR_ORPHAN, MOST_ORPHANS = 256 << 10, 1 << 18
TERMINALS = Path("/proc/sys/kernel/pty")


def memory() -> tuple[int, int]:
    """(bytes that programs on this machine can still get, bytes that it has)."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    fields = {name: int(value.split()[0]) << 10 for name, value in (line.split(":", 1) for line in lines)}
    return fields["MemAvailable"], fields["MemTotal"]


def short() -> str | None:
    """What little is left of, as in "only 5 MiB of this machine's memory were left while it ran"; None: enough of all.

    Half of what the kernel gives without care must be left of the buffers, half of the closed connections and of the
    terminals.
    """
    free, total = memory()
    if free < max(LEAST_FREE * total, LEAST_FREE_BYTES):
        return f"only {files.size(free)} of this machine's memory were left while it ran"
    for protocol, used in buffers().items():
        if used > _low(protocol, total) / 2:
            return f"{files.size(used)} of this machine's memory were {protocol} buffers while it ran"
    if (closed := _sockstat()["TCP"]["orphan"]) > _most_orphans(total) / 2:
        return f"{closed:,} closed connections of this machine had data that nobody took while it ran"
    opened, most, kept = (int((TERMINALS / name).read_text()) for name in ("nr", "max", "reserve"))
    if opened > (most - kept) / 2:
        return f"{opened:,} of this machine's terminals were open while it ran"
    return None


def buffers() -> dict[str, int]:
    """{protocol: bytes of the machine's memory in the buffers of its sockets}, those of every network namespace."""
    counted = _sockstat()
    return {protocol: counted[protocol]["mem"] * PAGE for protocol in LOW if protocol in counted}


def _sockstat() -> dict[str, dict[str, int]]:
    """{protocol: {what: how many}}; `orphan` and `mem` are those of every network namespace."""
    lines = (line.split() for line in Path("/proc/net/sockstat").read_text().splitlines())
    return {line[0][:-1]: dict(zip(line[1::2], map(int, line[2::2]))) for line in lines}


def _most_orphans(total: int) -> int:
    return int(ORPHANS.read_text()) if ORPHANS.exists() else min(total // BYTES_FOR_ORPHAN, MOST_ORPHANS)


def _low(protocol: str, total: int) -> float:
    mark = Path(f"/proc/sys/net/ipv4/{protocol.lower()}_mem")
    return int(mark.read_text().split()[0]) * PAGE if mark.exists() else LOW[protocol] * total
