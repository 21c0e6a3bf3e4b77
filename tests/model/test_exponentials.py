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


@pytest.mark.parametrize("width, last", [(300, 300), (5000, 130), (9, 1)])
def test_what_is_hidden_of_the_last_places_has_no_share(width, last):
    scores = np.random.default_rng(1).standard_normal((3, 2 * last, width)).astype(np.float32)
    visible = np.tile(np.tril(np.ones((last, width)), width - last), (2, 1))  # two heads
    exact = np.exp(scores.astype(np.float64)) * visible
    exact /= exact.sum(-1, keepdims=True)
    found = exponentials.softmax(mx.array(scores), hidden=~np.tri(last, dtype=bool))
    assert np.abs(np.array(found) - exact).max() < 2e-6


def test_the_gradient_of_softmax_is_that_of_float64():
    rng = np.random.default_rng(2)
    shares, d = rng.dirichlet(np.ones(70_000), 9), rng.standard_normal((9, 70_000))
    exact = shares * (d - (shares * d).sum(-1, keepdims=True))
    found = np.array(exponentials.softmax_backward(mx.array(shares), mx.array(d)))
    assert np.abs(found - exact).max() < 5e-6 * np.abs(exact).max()


def test_exp_is_that_of_float64():
    x = np.linspace(-80, 80, 600_000, dtype=np.float32).reshape(2, -1)
    found = np.array(exponentials.exp(mx.array(x)), np.float64)
    assert np.abs(found / np.exp(x.astype(np.float64)) - 1).max() < 1e-6
