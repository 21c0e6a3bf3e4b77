"""The exponentials that replace MLX's slow ones: exact enough, with the gradients of what they replace."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models import llama
from mlx_lm.models.cache import make_prompt_cache

from kxl.lora import cpu_exponentials

pytestmark = pytest.mark.skipif(mx.default_device() != mx.Device(mx.cpu), reason="only a CPU computes with them")


def close(ours: mx.array, theirs: mx.array) -> bool:
    return mx.linalg.norm((ours - theirs).flatten()).item() < 2e-6 * max(1.0, mx.linalg.norm(theirs.flatten()).item())


def test_exp_is_within_four_ten_millionths_of_float64_over_its_whole_range():
    x = np.linspace(-87, 88, 1_000_003, dtype=np.float32)
    ours = np.array(mx.compile(cpu_exponentials.exp)(mx.array(x)), dtype=np.float64)
    assert np.abs(ours / np.exp(x.astype(np.float64)) - 1).max() < 4e-7


def test_exp_of_what_has_no_float32_is_tiny_or_huge_and_nan_stays_nan():
    low, high, nan = np.array(mx.compile(cpu_exponentials.exp)(mx.array([-1e9, 1e9, float("nan")])))
    assert 0 <= low < 2e-38 and 1e38 < high < float("inf") and np.isnan(nan)


def test_swiglu_and_its_gradients_are_those_of_mlx():
    mx.random.seed(0)
    gate, up, d = (mx.random.normal((3, 7, 50)) * scale for scale in (5.0, 1.0, 1.0))
    ours = mx.vjp(cpu_exponentials.swiglu, [gate, up], [d])
    theirs = mx.vjp(lambda gate, up: nn.silu(gate) * up, [gate, up], [d])
    assert all(close(one, other) for mine, stock in zip(ours, theirs) for one, other in zip(mine, stock))


@pytest.mark.parametrize(
    "batch, heads, shared_heads, length, width",
    [(1, 4, 2, 1, 8), (2, 9, 3, 127, 16), (1, 6, 2, 128, 8), (2, 3, 3, 300, 8)],
)
def test_attention_and_its_gradients_are_those_of_mlx_below_and_above_a_block(
    batch, heads, shared_heads, length, width
):
    mx.random.seed(1)
    queries, d = (3 * mx.random.normal((batch, heads, length, width)) for _ in range(2))
    keys, values = (mx.random.normal((batch, shared_heads, length, width)) for _ in range(2))
    ours = mx.vjp(lambda *qkv: cpu_exponentials.causal_attention(*qkv, 0.3), [queries, keys, values], [d])
    theirs = mx.vjp(
        lambda *qkv: mx.fast.scaled_dot_product_attention(*qkv, scale=0.3, mask="causal"), [queries, keys, values], [d]
    )
    assert all(close(one, other) for mine, stock in zip(ours, theirs) for one, other in zip(mine, stock))


@pytest.fixture
def small():
    """A small Llama; mlx-lm's module is as it was afterwards."""
    kept = llama.swiglu, llama.scaled_dot_product_attention
    mx.random.seed(2)
    args = llama.ModelArgs(
        model_type="llama",
        hidden_size=32,
        num_hidden_layers=2,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        vocab_size=50,
    )
    yield llama.Model(args)
    llama.swiglu, llama.scaled_dot_product_attention = kept


def test_a_model_computes_the_same_with_them_and_really_computes_with_them(small, monkeypatch):
    tokens = mx.random.randint(0, 50, (2, 140))
    before = small(tokens)
    cpu_exponentials.use(small)
    cpu_exponentials.use(small)  # a second time changes nothing
    called = []
    monkeypatch.setattr(
        cpu_exponentials,
        "causal_attention",
        lambda *given, ours=cpu_exponentials.causal_attention: called.append(1) or ours(*given),
    )
    assert np.allclose(np.array(small(tokens)), np.array(before), atol=1e-5)
    assert len(called) == 2 and llama.swiglu is cpu_exponentials.swiglu


def test_generation_with_a_cache_keeps_to_mlx_lms_attention(small):
    tokens = mx.random.randint(0, 50, (1, 9))
    whole = small(tokens)
    cpu_exponentials.use(small)
    cache = make_prompt_cache(small)
    parts = mx.concatenate([small(tokens[:, :6], cache=cache), small(tokens[:, 6:], cache=cache)], axis=1)
    assert np.allclose(np.array(parts), np.array(whole), atol=1e-5)
