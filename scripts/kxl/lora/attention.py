"""Causal attention whose scores never exist as a whole: some queries and one key head at a time, also on the way back.

    with in_blocks(model):                 # mlx-lm's attention of this model's class is ours here
        loss, gradients = ...

MLX keeps the scores of all heads for the gradient: at 4,096 tokens and 32 heads 2 GiB a layer, and several times that
while it is differentiated. Here the softmax of a block is exact, kept by nobody, and computed again for the gradient.
On a CPU it is faster, too: MLX takes 23 ns for each exponential there (kxl/model/exponentials.py).
"""

import contextlib
import sys
from collections.abc import Callable, Iterator

import mlx.core as mx
import mlx.nn as nn

from kxl.lora import eager, memory
from kxl.moe.layers import attend, attend_backward


def _blocks(length: int, seen: int) -> Iterator[tuple[slice, int]]:
    """(a block of queries, how many keys it sees at most); the queries are the last `length` of `seen` places."""
    for start in range(0, length, memory.QUERIES):
        end = min(start + memory.QUERIES, length)
        yield slice(start, end), seen - length + end


def _forward(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
    grouped, blocks = _by_key(q, k), []
    for block, seen in _blocks(q.shape[2], k.shape[2]):
        heads = []
        for key in range(k.shape[1]):
            heads.append(attend(grouped[:, key, :, block], k[:, key, :seen], v[:, key, :seen]))
            mx.eval(heads[-1])
        blocks.append(mx.stack(heads, 1))
        mx.eval(blocks[-1])
    return mx.concatenate(blocks, axis=3).reshape(q.shape)


def _backward(d: mx.array, q: mx.array, k: mx.array, v: mx.array) -> list[mx.array]:
    grouped, d_grouped, keys, d_blocks = _by_key(q, k), _by_key(d, k), range(k.shape[1]), []
    d_k, d_v = ([mx.zeros_like(k[:, 0]) for _ in keys] for _ in range(2))
    for block, seen in _blocks(q.shape[2], k.shape[2]):
        d_heads = []
        for key in keys:
            to_q, to_k, to_v = attend_backward(
                grouped[:, key, :, block], k[:, key, :seen], v[:, key, :seen], d_grouped[:, key, :, block]
            )
            d_k[key] = d_k[key].at[:, :seen].add(to_k)
            d_v[key] = d_v[key].at[:, :seen].add(to_v)
            d_heads.append(to_q)
            mx.eval(to_q, d_k[key], d_v[key])
        d_blocks.append(mx.stack(d_heads, 1))
        mx.eval(d_blocks[-1])
    return [mx.concatenate(d_blocks, axis=3).reshape(q.shape), mx.stack(d_k, 1), mx.stack(d_v, 1)]


def _by_key(x: mx.array, k: mx.array) -> mx.array:
    """[B, heads, L, size] as [B, key heads, queries of a key, L, size]."""
    return x.reshape(x.shape[0], k.shape[1], -1, *x.shape[2:])


# causal(q, k, v) [B, heads, L, size]: q, of the same shape, are the last L places of k and v [B, key heads, S, size].
causal = eager.function(_forward, _backward)


@contextlib.contextmanager
def in_blocks(model: nn.Module) -> Iterator[None]:
    """Let mlx-lm's classes of `model` compute causal attention as above within the block."""
    before = _replace(model)
    try:
        yield
    finally:
        for module, original in before:
            module.scaled_dot_product_attention = original


def use(model: nn.Module) -> None:
    """The same from now on in this process, where a CPU computes. On a GPU nothing is replaced."""
    if mx.default_device() == mx.cpu:
        _replace(model)


def _replace(model: nn.Module) -> list[tuple]:
    """[(module, its attention before)] of the modules that compute with ours from now on."""
    modules = {sys.modules[type(module).__module__] for module in model.modules()}
    modules = [module for module in modules if hasattr(module, "scaled_dot_product_attention")]
    before = [(module, module.scaled_dot_product_attention) for module in modules]
    for module, original in before:
        module.scaled_dot_product_attention = _instead_of(original)
    return before


def _instead_of(original: Callable) -> Callable:
    """mlx-lm's function: ours where each query sees all before it, `original` with any other mask."""

    def attention(queries, keys, values, cache, scale, mask, **others):
        all_before = isinstance(mask, str) and mask == "causal" or mask is None and queries.shape[2] == 1
        usual = scale == queries.shape[-1] ** -0.5 and all(value is None for value in others.values())
        if all_before and usual:
            return causal(queries, keys, values)
        return original(queries, keys, values, cache=cache, scale=scale, mask=mask, **others)

    return attention
