"""Exponentials of arrays that are computed already, through numpy on a CPU: MLX's take ten times as long there.

mlx-cpu computes exp one number at a time (20 ns on a Linux CPU), numpy several at once (below 2 ns). So these take a
finished array and change it in its own memory, in blocks that stay in the cache, on all cores. On a GPU they are
MLX's own functions. Neither can be differentiated: their callers know the gradient.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import numpy as np

BLOCK = 1 << 18  # numbers of one task: 1 MiB
_threads = ThreadPoolExecutor(os.cpu_count())


def softmax(x: mx.array) -> mx.array:
    """Over the last axis. `x` float32; nothing else may hold it, its memory becomes the result's."""
    if mx.default_device() != mx.Device(mx.cpu):
        return mx.softmax(x, axis=-1)
    _by_rows(x, _softmax_rows)
    return x


def exp(x: mx.array) -> mx.array:
    """e^x. `x` float32; nothing else may hold it, its memory becomes the result's."""
    if mx.default_device() != mx.Device(mx.cpu):
        return mx.exp(x)
    _by_rows(x, lambda rows: np.exp(rows, out=rows))
    return x


def _softmax_rows(rows: np.ndarray) -> None:
    rows -= rows.max(-1, keepdims=True)
    np.exp(rows, out=rows)
    rows /= rows.sum(-1, keepdims=True)


def _by_rows(x: mx.array, work) -> None:
    """Let `work` change the rows of `x` in place, some at a time."""
    mx.eval(x)
    rows = np.array(x, copy=False).reshape(-1, x.shape[-1])
    if not rows.flags.c_contiguous or not np.shares_memory(rows, np.array(x, copy=False)):
        raise ValueError("x must lie row by row in memory of its own; make it so with mx.contiguous")
    step = max(BLOCK // rows.shape[-1], 1)
    list(_threads.map(lambda start: work(rows[start : start + step]), range(0, len(rows), step)))
