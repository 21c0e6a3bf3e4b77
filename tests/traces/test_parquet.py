"""A parquet file says in a few KiB what would fill the memory: its rows obey the limit like any other's."""

import json
import multiprocessing
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

from conftest import ROOT
from helpers import traces
from kxl.base.cli import UserError
from kxl.traces import parquet, sources

MIB = 2**20


def written(path, **columns):
    pyarrow.parquet.write_table(pyarrow.table(columns), path, compression="zstd")
    return path


def repeated(text: str, times: int) -> pyarrow.Array:
    return pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * times, pyarrow.int32()), pyarrow.array([text]))


def listed(count: int, kind) -> pyarrow.Array:
    """One row: a list of so many nothings."""
    return pyarrow.ListArray.from_arrays(pyarrow.array([0, count], pyarrow.int32()), pyarrow.nulls(count, kind))


BOMBS = {
    "one text in a thousand rows": lambda: {"text": repeated("x" * 40 * MIB, 1000)},
    "one text in a thousand rows, as plain column": lambda: {"text": repeated("x" * 40 * MIB, 16).cast("large_string")},
    "a list of millions": lambda: {"list": listed(150_000_000, pyarrow.null())},
    "a list of bytes": lambda: {"list": listed(150_000_000, pyarrow.int8())},
    "a text many times in one row": lambda: {
        "list": pyarrow.ListArray.from_arrays(pyarrow.array([0, 5000], pyarrow.int32()), repeated("x" * MIB, 5000))
    },
}
READ = f"""
import json, sys
sys.path.insert(0, {str(ROOT / "scripts")!r})
from pathlib import Path
from kxl.traces import sources
found = [record.problem and record.problem[0] for record in sources.records([("b", Path(sys.argv[1]))], {16 * MIB})]
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([found, int(peak.split()[1])]))
"""


@pytest.mark.minutes
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_file_does_not_fill_the_memory(tmp_path, bomb):
    path = tmp_path / "b.parquet"
    # In a process of its own: what making it takes is not to count for the tests that follow.
    maker = multiprocessing.get_context("fork").Process(target=lambda: written(path, **BOMBS[bomb]()))
    maker.start()
    maker.join()
    assert maker.exitcode == 0 and path.stat().st_size < MIB
    ended = subprocess.run([sys.executable, "-c", READ, path], capture_output=True, text=True, timeout=100)
    assert ended.returncode == 0, ended.stderr[-2000:]
    found, peak = json.loads(ended.stdout)
    assert set(found) == {"row_too_large"} and peak < 1.2 * MIB, peak  # KiB


def test_the_rows_around_a_large_one_are_read(tmp_path):
    texts = ["a" * 100, "b" * 5 * MIB, "c" * 100] + [f"d{number}" for number in range(100)]
    path = written(tmp_path / "b.parquet", text=pyarrow.array(texts))
    records = list(sources.records([("b", path)], MIB))
    assert [record.where for record in records[:3]] == ["b row 1", "b row 2", "b row 3"]
    assert records[1].problem[0] == "row_too_large" and "5,242," in records[1].problem[1]
    assert [record.data["text"] for number, record in enumerate(records) if number != 1] == texts[:1] + texts[2:]


def test_a_file_that_says_to_have_more_rows_than_bytes_is_refused(tmp_path):
    path = written(tmp_path / "b.parquet", nothing=pyarrow.nulls(50_000_000, pyarrow.int8()))
    with pytest.raises(
        UserError, match=r"b\.parquet: cannot be read as parquet: it says that [\d,]+ bytes hold 50,000"
    ):
        list(sources.records([("b", path)], MIB))


def test_traces_of_every_shape_are_the_same_as_before(tmp_path):
    rows = [traces.good(f"t{number}") for number in range(40)]
    table = pyarrow.Table.from_pylist(rows)
    for name, changed in {
        "plain": table,
        "dictionary": table.set_column(0, "id", table.column("id").dictionary_encode()),
    }.items():
        pyarrow.parquet.write_table(changed, tmp_path / f"{name}.parquet", row_group_size=7)
        read = [row for _, row, _ in parquet.rows(tmp_path / f"{name}.parquet", MIB)]
        assert [row["id"] for row in read] == [row["id"] for row in rows]
        assert [row["conversations"] for row in read] == [row["conversations"] for row in rows]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:200], lambda data: b"PAR1" + data[40:], lambda data: b"PAR1PAR1"]
)
def test_a_broken_file_is_named(tmp_path, damage):
    path = written(tmp_path / "b.parquet", text=pyarrow.array(["a", "b"]))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"b\.parquet: cannot be read as parquet"):
        list(sources.records([("b", path)], MIB))
