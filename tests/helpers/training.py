"""Training settings and rows that a small random core learns in a few steps."""

import numpy as np

from conftest import ROOT
from kxl.base.files import read_json
from kxl.moe.settings import check_settings

SETTINGS = check_settings(
    {
        **read_json(ROOT / "configs/tiny-moe.json"),
        "group_size": 32,
        "group_layers": 2,
        "group_stride": 1,
        "batch": 2,
        "max_tokens": 64,
        "steps": 6,
        "learning_rate": 3e-3,
        "warmup_steps": 1,
        "validate_every": 2,
        "checkpoint_every": 2,
        "validation_rows": 4,
    },
    "test",
)


def some_rows(core, count, seed):
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        tokens = np.repeat(rng.integers(0, core.config["vocab_size"], 8), 3)[: rng.integers(12, 24)].astype(
            np.int32
        )  # each token thrice: learnable
        rows.append({"row": number + 1, "tokens": tokens, "mask": np.ones(len(tokens), bool)})
    return rows
