"""Two processes that share each batch train the same weights as one process with the whole batch."""

import json
import subprocess
import sys

import numpy as np
import pytest

from conftest import ROOT
from helpers import random_cores
from helpers.training import SETTINGS, some_rows
from kxl.base.files import read_json
from kxl.model import blas
from kxl.moe import core as moe_core
from kxl.moe import int8

pytestmark = pytest.mark.minutes


@pytest.mark.parametrize("carry_bits, storage", [(0, "resident"), (8, "mapped")])
def test_two_processes_train_what_one_does_with_the_doubled_batch(carry_bits, storage, tmp_path):
    core = random_cores.random_core("six")
    moe_core.save(tmp_path / "core", core)
    for name, seed in (("train", 1), ("valid", 2)):
        lines = [
            json.dumps({"row": r["row"], "tokens": r["tokens"].tolist(), "scored": [[0, len(r["tokens"])]]})
            for r in some_rows(core, 8, seed)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "config.json").write_text(
        json.dumps({**SETTINGS, "batch": 4, "steps": 2, "layer_inputs": "float32", "carry_bits": carry_bits})
    )
    script = [
        str(ROOT / "scripts/moe_train.py"),
        "--core",
        str(tmp_path / "core"),
        "--train",
        str(tmp_path / "train.jsonl"),
        "--valid",
        str(tmp_path / "valid.jsonl"),
        "--config",
        str(tmp_path / "config.json"),
    ]
    launch = [str(ROOT / ".venv/bin/mlx.launch"), "--backend", "ring", "-n", "2", sys.executable]
    for command in (
        [sys.executable, *script, "--work", str(tmp_path / "one")],
        [*launch, *script, "--work", str(tmp_path / "two"), "--distributed", "--storage", storage],
    ):
        ended = subprocess.run(command, capture_output=True, text=True, env=blas.child_env(), timeout=600)
        assert ended.returncode == 0, ended.stdout + ended.stderr

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
