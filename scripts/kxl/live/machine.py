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
TERMINALS = Path("/proc/sys/kernel/pty")


def memory() -> tuple[int, int]:
    """(bytes that programs on this machine can still get, bytes that it has)."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    fields = {name: int(value.split()[0]) << 10 for name, value in (line.split(":", 1) for line in lines)}
    return fields["MemAvailable"], fields["MemTotal"]


def short() -> str | None:
    """What little is left of, as in "only 5 MiB of this machine's memory were left while it ran"; None: enough of all.

    Half of what the kernel gives without care must be left of the buffers, half of the terminals.
    """
    free, total = memory()
    if free < max(LEAST_FREE * total, LEAST_FREE_BYTES):
        return f"only {files.size(free)} of this machine's memory were left while it ran"
    for protocol, used in buffers().items():
        if used > _low(protocol, total) / 2:
            return f"{files.size(used)} of this machine's memory were {protocol} buffers while it ran"
    opened, most, kept = (int((TERMINALS / name).read_text()) for name in ("nr", "max", "reserve"))
    if opened > (most - kept) / 2:
        return f"{opened:,} of this machine's terminals were open while it ran"
    return None


def buffers() -> dict[str, int]:
    """{protocol: bytes of the machine's memory in the buffers of its sockets}, those of every network namespace."""
    lines = (line.split() for line in Path("/proc/net/sockstat").read_text().splitlines())
    return {line[0][:-1]: int(line[line.index("mem") + 1]) * PAGE for line in lines if line[0][:-1] in LOW}


def _low(protocol: str, total: int) -> float:
    mark = Path(f"/proc/sys/net/ipv4/{protocol.lower()}_mem")
    return int(mark.read_text().split()[0]) * PAGE if mark.exists() else LOW[protocol] * total
