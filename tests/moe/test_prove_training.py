"""The proof of learning starts from a base with something to learn, and is refused where it shows nothing."""

import numpy as np
import pytest

import moe_prove_training
from helpers import random_cores
from kxl.moe import int8

SETTINGS = {"seed": 0}


def test_noise_is_doubled_until_half_of_the_rows_are_wrong(monkeypatch):
    core, scores = random_cores.random_core("six"), iter([10, 9, 6, 5])
    monkeypatch.setattr(moe_prove_training, "exact", lambda *_: next(scores))
    before = {name: int8.dequantize(matrix) for name, matrix in core.experts.items()}
    assert moe_prove_training.weaken(core, [{}] * 10, SETTINGS) == (1.0, 5)
    for name, weights in before.items():
        moved = int8.dequantize(core.experts[name]) - weights
        assert abs(moved.std() / np.sqrt(np.mean(weights**2)) - 1) < 0.05, (
            "noise is added to what was given, not on top of less noise"
        )


def test_a_base_that_is_bad_enough_is_left_as_it_is(monkeypatch):
    core = random_cores.random_core("six")
    before = dict(core.experts)
    monkeypatch.setattr(moe_prove_training, "exact", lambda *_: 5)
    assert moe_prove_training.weaken(core, [{}] * 10, SETTINGS) == (0.0, 5)
    assert core.experts == before


GOOD = {
    "exact_before": 20,
    "streamed": {"gain": 0.5, "exact_after": 30},
    "grouped": {"gain": 0.4, "exact_after": 29},
    "nearest": {"gain": 0.05, "exact_after": 21},
}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"grouped": {"gain": 0.4, "exact_after": 20}}, "grouped training gained 0.4 nats and 0 rows"),
        (
            {"streamed": {"gain": -0.1, "exact_after": 30}, "nearest": {"gain": -0.2, "exact_after": 9}},
            "streamed training gained -0.1 nats",
        ),
        ({"nearest": {"gain": 0.2, "exact_after": 25}}, "rounding to nearest gained 0.2 nats"),
    ],
)
def test_a_proof_that_shows_nothing_says_why(change, message):
    assert moe_prove_training.misses(GOOD) == []
    (missed,) = moe_prove_training.misses({**GOOD, **change})
    assert message in missed
