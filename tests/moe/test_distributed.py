"""Processes that share each batch train what one process trains with the whole of it: in shares, to the bit."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from conftest import ROOT
from helpers import random_cores
from helpers.training import SETTINGS, some_rows
from kxl.base.files import read_json
from kxl.model import blas
from kxl.moe import core as moe_core
from kxl.moe import hardware, int8, memory
from kxl.moe.run import checkpoints

pytestmark = pytest.mark.minutes


def a_training(folder, **settings):
    """The command of a training on a small random core, and the core."""
    core = random_cores.random_core("six")
    moe_core.save(folder / "core", core)
    for name, seed in (("train", 1), ("valid", 2)):
        lines = [
            json.dumps({"row": r["row"], "tokens": r["tokens"].tolist(), "scored": [[0, len(r["tokens"])]]})
            for r in some_rows(core, 8, seed)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "config.json").write_text(json.dumps({**SETTINGS, "batch": 4, "steps": 2, **settings}))
    command = [sys.executable, str(ROOT / "scripts/moe_train.py"), "--core", str(folder / "core")]
    for name in ("train", "valid"):
        command += [f"--{name}", str(folder / f"{name}.jsonl")]
    return [*command, "--config", str(folder / "config.json")], core


def free_port(count):
    """The first of so many ports in a row that nobody uses: other tests may run a ring beside ours."""
    while True:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, OverflowError):
            first = 0
            for place in range(count):
                held = stack.enter_context(socket.socket())
                held.bind(("127.0.0.1", first + place if first else 0))
                first = first or held.getsockname()[1]
            return first


def launched(ranks):
    """What stands before a command that so many processes share."""
    return [
        str(ROOT / ".venv/bin/mlx.launch"),
        *("--backend", "ring", "-n", str(ranks), "--starting-port", str(free_port(ranks))),
    ]


def run(command, *more):
    """Run a training to its end."""
    command = [*command, *map(str, more)]
    ended = subprocess.run(command, capture_output=True, text=True, env=blas.child_env(), timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def trained(folder):
    """Every bit that a training leaves: codes, carry, scales, plain weights, moments; its losses, too."""
    arrays = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix == ".safetensors"}
    assert "optimizer.safetensors" in arrays and len(arrays) > 2
    state = read_json(folder / "state.json")
    losses = [(entry["loss"], entry["codes_changed"], entry["clipped"]) for entry in state["history"]]
    return {**arrays, "losses": losses, "validation": state["validation"], "updates": state["updates"]}


def different(one, other):
    """Names of what is not the same in two checkpoints."""
    return [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]


@pytest.mark.parametrize(
    "settings, storage",
    [
        ({"carry_bits": 0}, "resident"),
        ({"carry_bits": 8}, "mapped"),
        (
            {
                "carry_bits": 8,
                "gradient_clip": 0.01,
                "balance_loss": 0.01,
                "z_loss": 0.001,
                "decay_tokens": 50,
                "few_tokens": "smaller",
            },
            "resident",
        ),
        ({"carry_bits": 4, "mode": "grouped"}, "resident"),
    ],
    ids=["no carry", "mapped carry", "clipped", "grouped"],
)
def test_two_processes_train_every_bit_that_one_trains_in_two_shares(settings, storage, tmp_path):
    command, core = a_training(tmp_path, shares=2, **settings)
    run(command, "--work", tmp_path / "one")
    run([*launched(2), *command], "--work", tmp_path / "two", "--distributed", "--storage", storage)
    one, two = (trained(tmp_path / name / "step_00002_final") for name in ("one", "two"))
    assert different(one, two) == []
    codes = moe_core.load(tmp_path / "two/step_00002_final").experts
    assert np.mean([np.mean(matrix.codes != core.experts[name].codes) for name, matrix in codes.items()]) > 0.3


def test_any_number_of_processes_trains_the_same_bits_in_four_shares(tmp_path):
    command, _ = a_training(tmp_path, shares=4)
    run(command, "--work", tmp_path / "1")
    for ranks in (2, 4):
        run([*launched(ranks), *command], "--work", tmp_path / str(ranks), "--distributed")
    one, two, four = (trained(tmp_path / name / "step_00002_final") for name in "124")
    assert different(one, two) == different(one, four) == []


@pytest.mark.parametrize("storage, ranks", [("resident", 2), ("mapped", 2), ("mapped", 1)])
def test_two_processes_that_are_killed_go_on_to_the_same_bits(storage, ranks, tmp_path):
    """Both die in the middle of the run; as many as before go on from the last checkpoint, or one alone."""
    command, _ = a_training(tmp_path, shares=2, steps=6, checkpoint_every=1, gradient_clip=0.01)
    run(command, "--work", tmp_path / "whole")
    killed = tmp_path / "killed"
    processes = two_processes([*command, "--work", str(killed), "--distributed", "--storage", storage], tmp_path)
    while len(checkpoints(killed)) < 2 and all(process.poll() is None for process in processes):
        time.sleep(0.002)
    for process in processes:
        process.kill()
        process.wait()
    assert not (killed / "step_00006_final").exists(), "the run was over before it was killed"
    assert checkpoints(killed), "the run ended before its first checkpoint"
    flags = ["--work", killed, "--storage", storage]
    run([*launched(2), *command], *flags, "--distributed") if ranks == 2 else run(command, *flags)
    ended, whole = (trained(folder / "step_00006_final") for folder in (killed, tmp_path / "whole"))
    assert different(ended, whole) == []
    assert not list(killed.glob("live*"))


def test_processes_on_one_machine_share_its_memory(tmp_path):
    """A training of which the machine has room for one and a half."""
    command, core = a_training(tmp_path, batch=2)
    longest = max(len(json.loads(line)["tokens"]) for line in (tmp_path / "train.jsonl").read_text().splitlines())
    of_one, of_two = (memory.predict(core.config, SETTINGS, rows * longest, longest)["peak"] for rows in (2, 1))
    stop = 1.5 * of_one / hardware.GIB
    assert of_one < stop * hardware.GIB < 2 * of_two
    (tmp_path / "machine.json").write_text(json.dumps({"results": {"memory_gib": 64, "memory_stop_gib": stop}}))
    command += ["--hardware", str(tmp_path / "machine.json"), "--work"]
    run(command, tmp_path / "one")
    two = [*launched(2), *command, str(tmp_path / "two"), "--distributed"]
    ended = subprocess.run(two, capture_output=True, text=True, env=blas.child_env(), timeout=600)
    assert "each of the 2 processes on this machine must stop at" in ended.stdout + ended.stderr
    assert not checkpoints(tmp_path / "two")


def two_processes(command, folder):
    """Start `command` twice, as mlx.launch does, but to be killed by their own ids."""
    first = free_port(2)
    hosts = [[f"127.0.0.1:{first + rank}"] for rank in (0, 1)]
    (folder / "hosts.json").write_text(json.dumps(hosts))
    return [
        subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **blas.child_env(), "MLX_RANK": str(rank), "MLX_HOSTFILE": str(folder / "hosts.json")},
        )
        for rank in (0, 1)
    ]


@pytest.mark.parametrize("carry_bits, storage", [(0, "resident"), (8, "mapped")])
def test_two_processes_train_what_one_does_with_the_doubled_batch(carry_bits, storage, tmp_path):
    """Without shares the sums are in another order, which is all that may differ."""
    command, core = a_training(tmp_path, layer_inputs="float32", carry_bits=carry_bits)
    run(command, "--work", tmp_path / "one")
    run([*launched(2), *command], "--work", tmp_path / "two", "--distributed", "--storage", storage)

    one, two = (moe_core.load(tmp_path / name / "step_00002_final") for name in ("one", "two"))
    changed = differing = count = 0
    for name, matrix in one.experts.items():
        step = int8.bf16_to_float32(matrix.scales).max()
        apart = np.abs(int8.dequantize(matrix) - int8.dequantize(two.experts[name]))
        assert apart.max() <= 2.1 * step, name  # the noise is the same: a float32 error can tip a rounding now and then
        differing += np.count_nonzero(apart > 0.5 * step)
        changed += np.count_nonzero(matrix.codes != core.experts[name].codes)
        count += apart.size
        if carry_bits:  # what the ranks sum in another order is far below a code
            assert np.quantile(apart, 0.99) <= 0.02 * step, name
    assert changed > 0.5 * count
    assert differing < 1e-3 * count
    for name, bits in one.plain.items():
        assert np.allclose(
            int8.bf16_to_float32(bits) if bits.dtype == np.uint16 else bits,
            int8.bf16_to_float32(two.plain[name]) if bits.dtype == np.uint16 else two.plain[name],
            rtol=0.02,
            atol=1e-4,
        ), name
    losses = [
        [entry["loss"] for entry in read_json(tmp_path / name / "step_00002_final/state.json")["history"]]
        for name in ("one", "two")
    ]
    assert np.allclose(*losses, rtol=1e-4)
