"""A core in mapped files trains to the bits of one in memory, and what rounding drops is carried to the next step."""

import mmap
import os
import shutil
import sys

import numpy as np
import pytest

from helpers import random_cores
from helpers.training import SETTINGS, some_rows
from kxl.base.cli import UserError
from kxl.model import checkpoint
from kxl.model.safetensors_io import bf16_to_float32
from kxl.moe import core as moe_core
from kxl.moe import hardware, int8, mapped
from kxl.moe import run as moe_run


def trained(work, core, **changes):
    settings = {**SETTINGS, "steps": 3, **changes}
    run = moe_run.Run(
        core, some_rows(core, 7, 1), some_rows(core, 4, 2), settings, work, {}, hardware.MemoryGuard(2**50, 0)
    )
    return run.train()


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix == ".safetensors"}


@pytest.mark.minutes
@pytest.mark.parametrize("built, bits", [(0, 0), (0, 8), (8, 8), (8, 4), (4, 8), (8, 0)])
def test_a_mapped_core_trains_to_the_bits_of_one_in_memory(built, bits, tmp_path):
    """Also where the core was built with another carry than the training keeps."""
    start, rng = random_cores.random_core("six"), np.random.default_rng(0)
    start.set_carry(built)
    for matrix in start.experts.values() if built else ():
        matrix.carry[:] = rng.integers(0, 256, matrix.carry.shape)
    moe_core.save(tmp_path / "core", start)
    mode = "grouped" if built == bits == 8 else "streamed"
    resident = trained(tmp_path / "resident", start, carry_bits=bits, mode=mode)
    with mapped.live(tmp_path / "mapped", tmp_path / "core", lambda folder: moe_core.set_carry(folder, bits)) as folder:
        last = trained(tmp_path / "mapped", moe_core.load(folder, mapped=True), carry_bits=bits, mode=mode)
        assert files(folder)["model-00004-of-00006.safetensors"] == files(last)["model-00004-of-00006.safetensors"]
    assert files(last) == files(resident) and len(files(last)) == (11 if bits else 7)
    assert files(last) != files(tmp_path / "core") and not (tmp_path / "mapped/live-0").exists()


def test_a_layer_that_is_through_is_written_and_its_pages_go_back(tmp_path):
    core = random_cores.random_core("six", hidden_size=256, moe_intermediate_size=512)
    moe_core.save(tmp_path / "core", core)
    core = moe_core.load(tmp_path / "core", mapped=True)
    before = hardware.held()
    for layer in core.moe_layers:
        for expert in range(6):
            for matrix in core.expert(layer, expert):
                matrix.codes[:] += 1
    changed = sum(matrix.codes.nbytes for matrix in core.experts.values())
    if sys.platform == "linux":
        assert hardware.held() - before > 0.9 * changed
    for layer in core.moe_layers:
        core.release(layer, changed=True)
    core.settle()
    assert hardware.held() - before < 0.1 * changed
    again = moe_core.load(tmp_path / "core")
    assert all(np.array_equal(again.experts[name].codes, matrix.codes) for name, matrix in core.experts.items())


def test_a_second_run_in_the_same_folder_is_refused(tmp_path):
    core = random_cores.random_core("six")
    moe_core.save(tmp_path / "core", core)
    with mapped.live(tmp_path / "work", tmp_path / "core", lambda folder: None):
        with pytest.raises(UserError, match="live-0 is being written by another process"):
            mapped.clear(tmp_path / "work")


def test_the_copies_of_a_killed_run_with_more_processes_are_removed(tmp_path):
    for rank in range(3):
        (tmp_path / f"live-{rank}").mkdir()
    mapped.clear(tmp_path, rank=1, ranks=2)  # its own alone
    assert sorted(path.name for path in tmp_path.glob("live*")) == ["live-0", "live-2"]
    mapped.clear(tmp_path, rank=0, ranks=2)
    (tmp_path / "live-1").mkdir()
    mapped.clear(tmp_path, rank=0, ranks=2)  # the other process's, which may be at work
    assert [path.name for path in tmp_path.glob("live*")] == ["live-1"]
    mapped.clear(tmp_path)
    assert not list(tmp_path.glob("live*"))


def test_a_mapped_run_needs_room_for_one_copy_more(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage._replace(free=int(3.5 * 1.02 * 2**20)))
    moe_run.require_room(2**20, {**SETTINGS, "keep_checkpoints": 2, "storage": "resident"}, 99, tmp_path)
    with pytest.raises(UserError, match="of disk"):
        moe_run.require_room(2**20, {**SETTINGS, "keep_checkpoints": 2, "storage": "mapped"}, 99, tmp_path)


def test_each_process_of_a_mapped_run_needs_room_for_a_copy_of_its_own(tmp_path, monkeypatch):
    """Two kept checkpoints, the one that is being written and two copies are five, of which 4.5 have room."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage._replace(free=int(4.5 * 1.02 * 2**20)))
    settings = {**SETTINGS, "keep_checkpoints": 2, "storage": "mapped"}
    moe_run.require_room(2**20, settings, 99, tmp_path, ranks=1)
    with pytest.raises(UserError, match="of disk"):
        moe_run.require_room(2**20, settings, 99, tmp_path, ranks=2)
    moe_run.require_room(2**20, {**settings, "storage": "resident"}, 99, tmp_path, ranks=2)  # rank 0 alone writes
    (tmp_path / "live-1").mkdir()
    (tmp_path / "live-1/model-00001-of-00001.safetensors").write_bytes(bytes(2**20))
    moe_run.require_room(2**20, settings, 99, tmp_path, ranks=2)  # the other process was faster


def test_a_run_that_writes_one_checkpoint_needs_room_for_one(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage._replace(free=int(1.5 * 1.02 * 2**20)))
    settings = {**SETTINGS, "keep_checkpoints": 2, "storage": "resident", "checkpoint_every": 6}
    moe_run.require_room(2**20, settings, 6, tmp_path)
    with pytest.raises(UserError, match="of disk"):
        moe_run.require_room(2**20, settings, 7, tmp_path)


def test_a_core_of_random_weights_is_written_as_it_is_read(tmp_path):
    config = random_cores.config("twelve")
    moe_core.write_random(tmp_path / "core", config, 32, 0, 4)
    core = moe_core.load(tmp_path / "core")
    assert core.carry_bits == 4 and core.nbytes == moe_core.stored_bytes(core.config, 32, 4)
    assert 0.019 < np.std([int8.dequantize(matrix) for matrix in core.experts.values()][0]) < 0.021
    assert not any(int8.carried(matrix).any() for matrix in core.experts.values())


# The carry.


def noise(seed):
    return np.random.SFC64(seed)


def matrix_of(bits, rows=256, columns=256):
    values = (0.02 * np.random.default_rng(0).standard_normal((rows, columns))).astype(np.float32)
    matrix = int8.quantize(values, 64)
    matrix.carry = int8.no_carry(matrix.codes.shape, bits)
    return matrix


def place(matrix):
    """Codes and carry as weights, in float64, by the definition of either."""
    half = 1 << matrix.carry_bits - 1
    carry = matrix.carry
    if matrix.carry_bits == 4:
        carry = np.stack([matrix.carry & 15, matrix.carry >> 4], -1).reshape(matrix.codes.shape)
    fine = matrix.codes + (carry.astype(np.float64) - half) / (2 * half)
    scales, biases = (
        bf16_to_float32(bits).repeat(64, axis=1).astype(np.float64) for bits in (matrix.scales, matrix.biases)
    )
    return fine * scales + biases


@pytest.mark.parametrize("bits", [4, 8])
def test_a_carry_keeps_what_a_code_is_too_coarse_for(bits):
    """A hundred updates of random size and sign: what is lost is the walk of rounding on the carry's finer grid."""
    matrix, rng = matrix_of(bits), np.random.default_rng(1)
    wanted = int8.dequantize(matrix).astype(np.float64)
    step = bf16_to_float32(matrix.scales).repeat(64, axis=1)
    assert np.allclose(place(matrix), wanted, atol=1e-9)
    variance = 0.0
    for move in range(100):
        delta = (1e-5 * rng.standard_normal(matrix.codes.shape)).astype(np.float32)
        wanted -= delta
        part = (delta / step * (1 << bits)) % 1  # of a fine step
        variance += np.mean(part * (1 - part)) / 4**bits
        int8.subtract(matrix, slice(0, 256), delta, noise(move))
    off = (place(matrix) - wanted) / step
    assert abs(np.sqrt(np.mean(off**2) / variance) - 1) < 0.05
    assert np.abs(off.mean()) < 5 * np.sqrt(variance / off.size)
    assert np.abs(int8.dequantize(matrix) - place(matrix)).max() < 1e-8
    assert np.array_equal(int8.dequantize(matrix), np.array(int8.dequantize_mlx(matrix)))


@pytest.mark.parametrize("bits", [4, 8])
def test_a_group_that_grows_takes_its_carry_to_the_new_grid(bits):
    matrix = matrix_of(bits, 1024, 64)
    wanted = place(matrix) + np.where(np.arange(64) == 7, 0.5, 1e-5)
    delta = np.where(np.arange(64) == 7, -0.5, -1e-5).astype(np.float32) * np.ones((1024, 1), np.float32)
    int8.subtract(matrix, slice(0, 1024), delta, noise(5))
    # Rounded on the old grid, which is finer, and on the new one.
    off = (place(matrix) - wanted) / bf16_to_float32(matrix.scales)
    assert np.abs(off).max() <= 1.3 / (1 << bits) and abs(off.mean()) < 0.1 / (1 << bits)


@pytest.mark.parametrize("bits, most", [(4, 1 / 32), (8, 1 / 512)])
def test_a_core_that_is_built_with_a_carry_starts_where_the_checkpoint_is(bits, most):
    values = (0.02 * np.random.default_rng(0).standard_normal((256, 256))).astype(np.float32)
    matrix = int8.quantize(values, 64, bits)
    step = bf16_to_float32(matrix.scales).repeat(64, axis=1)
    off = np.abs(int8.dequantize(matrix) - values) / step
    # A weight almost half a code above its code has no place of its own in the carry.
    assert np.quantile(off, 0.96) <= 1.01 * most and off.max() <= 2.02 * most
    assert np.array_equal(matrix.codes, int8.quantize(values, 64).codes)
    fewer = int8.Int8Matrix(matrix.codes, matrix.scales, matrix.biases, int8.carry_of(int8.carried(matrix), 4))
    assert (np.abs(int8.dequantize(fewer) - values) / step).max() <= 1.01 / 16  # 4 bits have no place for almost half


def test_a_move_far_below_a_code_is_seen_by_the_next_step():
    matrix = matrix_of(8)
    before = int8.dequantize(matrix)
    int8.subtract(matrix, slice(0, 256), np.full((256, 256), 1e-5, np.float32), noise(1))
    assert abs((before - int8.dequantize(matrix)).mean(dtype=np.float64) / 1e-5 - 1) < 0.05


def test_with_a_carry_even_rounding_to_nearest_keeps_small_updates():
    matrix = matrix_of(8)
    before = place(matrix)
    for _ in range(100):
        int8.subtract(matrix, slice(0, 256), np.full((256, 256), 1e-5, np.float32), None)
    assert abs((before - place(matrix)).mean() / 1e-3 - 1) < 0.1


@pytest.mark.parametrize("bits", [4, 8])
def test_a_checkpoint_of_floats_holds_what_is_carried(bits, tmp_path):
    core = random_cores.random_core("six")
    core.set_carry(bits)
    rng = np.random.default_rng(3)
    for matrix in core.experts.values():
        matrix.carry[:] = rng.integers(0, 256, matrix.carry.shape)
    moe_core.save(tmp_path / "core", core)
    plain, carried = checkpoint.read(tmp_path / "core"), moe_core.materialized(tmp_path / "core")
    for name, matrix in core.experts.items():
        scales = bf16_to_float32(matrix.scales).repeat(32, axis=1)
        codes = int8.dequantize(int8.Int8Matrix(matrix.codes, matrix.scales, matrix.biases))
        assert np.array_equal(plain.tensors[f"{name}.weight"].read(), codes)
        assert np.allclose(
            plain.tensors[f"{name}.weight"].read() + int8.carried(matrix) * scales, int8.dequantize(matrix)
        )
        assert np.abs(carried.tensors[f"{name}.weight"].read() - int8.dequantize(matrix)).max() < 1e-6


def test_held_memory_does_not_count_clean_pages_of_files(tmp_path):
    if sys.platform != "linux":
        pytest.skip("no other system says which pages are clean")
    path = tmp_path / "file"
    path.write_bytes(b"x" * 2**26)
    with open(path, "r+b") as file:
        mapping = mmap.mmap(file.fileno(), 0)
        os.fsync(file.fileno())
    resident, held = hardware.resident(), hardware.held()
    assert sum(mapping[::4096]) == 2**14 * ord("x")
    assert hardware.resident() - resident > 0.9 * 2**26 and hardware.held() - held < 2**22
    mapping[:] = b"y" * 2**26
    assert hardware.held() - held > 0.9 * 2**26
