"""Rows of a parquet file, each within a limit, whatever the file unfolds to.

    for number, row, size in rows(path, 16 * 2**20): ...     # row is None where it has more than `limit` bytes

A few KiB of parquet can say that one text stands in a thousand rows, or that a list has a billion items. So a row is
measured before it becomes Python's, and reading a batch may take only so much memory; where it would take more, rows
are read one at a time, and what cannot be read even so is reported as too large with the rest of its row group.
"""

import contextlib
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pyarrow.compute
import pyarrow.parquet

BATCH_ROWS = 16  # held at a time; a row is a whole trace
FEW = 10_000  # rows that any file may have; beyond, a row takes a byte of it at least
LEAST_MEMORY = 1 << 29  # bytes that reading a batch may take beyond what the process has


def rows(path: Path, limit: int) -> Iterator[tuple[int, dict | None, int | None]]:
    """(row number from 1, row or None, its bytes or None where nobody can tell). pyarrow's errors for a broken file."""
    size = path.stat().st_size
    with pyarrow.parquet.ParquetFile(path, pre_buffer=False) as table:
        if table.metadata.num_rows > max(size, FEW):
            raise pyarrow.ArrowInvalid(f"it says that {size:,} bytes hold {table.metadata.num_rows:,} rows")
        number = 0
        for group in range(table.metadata.num_row_groups):
            count = table.metadata.row_group(group).num_rows
            for row, size in _of_group(table, group, count, limit):
                number += 1
                yield number, row, size


def _of_group(table, group: int, count: int, limit: int) -> Iterator[tuple[dict | None, int | None]]:
    done = 0
    for size in (BATCH_ROWS, 1):
        skip = done
        try:
            for batch in _batches(table, group, size, max(LEAST_MEMORY, 2 * BATCH_ROWS * limit)):
                for place in range(len(batch)):
                    if skip:
                        skip -= 1
                        continue
                    yield _row(batch, place, limit)
                    done += 1
            return
        except MemoryError:  # pyarrow's own is one
            continue
    # One row that does not fit hides those behind it.
    for _ in range(count - done):
        yield None, None


def _batches(table, group: int, size: int, memory: int) -> Iterator[pyarrow.RecordBatch]:
    batches = table.iter_batches(batch_size=size, row_groups=[group], use_threads=False)
    while True:
        with _memory(memory):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _row(batch: pyarrow.RecordBatch, place: int, limit: int) -> tuple[dict | None, int]:
    row = batch.slice(place, 1)
    size = sum(_size(column) for column in row.columns)
    return (row.to_pylist()[0] if size <= limit else None), size


def _size(values: pyarrow.Array) -> int:
    """Bytes of what an array says, each of its items counted as often as it stands there, and with 8 bytes at least."""
    kind = values.type
    if pyarrow.types.is_dictionary(kind):
        lengths = pyarrow.compute.take(_lengths(values.dictionary), values.indices)
        return pyarrow.compute.sum(lengths).as_py() or 0
    if pyarrow.types.is_struct(kind):
        return sum(_size(member) for member in values.flatten())
    if pyarrow.types.is_nested(kind):  # lists and maps
        return 8 * len(values) + _size(values.flatten())
    return max(values.nbytes, 8 * len(values))


def _lengths(values: pyarrow.Array) -> pyarrow.Array:
    """Bytes of each value of a dictionary."""
    kind = values.type
    if pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind) or pyarrow.types.is_binary(kind):
        return pyarrow.compute.cast(pyarrow.compute.binary_length(values), pyarrow.int64())
    return pyarrow.array([max(values.slice(place, 1).nbytes, 8) for place in range(len(values))], pyarrow.int64())


@contextlib.contextmanager
def _memory(more: int):
    """Let the process grow by `more` bytes; beyond that, allocating fails. Only Linux enforces such a limit."""
    if sys.platform != "linux":
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    soft = now + more
    if before[0] != resource.RLIM_INFINITY:
        soft = min(soft, before[0])
    resource.setrlimit(resource.RLIMIT_AS, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
