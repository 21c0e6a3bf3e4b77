"""Exponentials through numpy are those of float64, in the memory of what they are given."""

import mlx.core as mx
import numpy as np
import pytest

from kxl.model import exponentials


@pytest.mark.parametrize("shape", [(3, 70_000), (2, 5, 1000), (300_000, 2)])
def test_softmax_is_that_of_float64_also_where_most_of_a_row_is_hidden(shape):
    scores = 20 * np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    scores[..., 1:][scores[..., 1:] > 25] = -np.inf
    exact = np.exp(scores.astype(np.float64) - scores.max(-1, keepdims=True))
    exact /= exact.sum(-1, keepdims=True)
    assert np.abs(np.array(exponentials.softmax(mx.array(scores))) - exact).max() < 2e-6


def test_exp_is_that_of_float64():
    x = np.linspace(-80, 80, 600_000, dtype=np.float32).reshape(2, -1)
    found = np.array(exponentials.exp(mx.array(x)), np.float64)
    assert np.abs(found / np.exp(x.astype(np.float64)) - 1).max() < 1e-6
