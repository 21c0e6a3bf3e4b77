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


def softmax(x: mx.array, hidden: np.ndarray | None = None) -> mx.array:
    """Over the last axis. `x` float32; nothing else may hold it, its memory becomes the result's.

    hidden: bool [n, n]; of each n rows of x, in their order, which of the last n numbers count as minus infinity.
    """
    if mx.default_device() != mx.Device(mx.cpu):
        if hidden is not None:
            n, width = len(hidden), x.shape[-1]
            mask = mx.array(np.pad(hidden, ((0, 0), (width - n, 0))))
            x = mx.where(mask, -mx.inf, x.reshape(-1, n, width)).reshape(x.shape)
        return mx.softmax(x, axis=-1)
    _by_rows(lambda first, rows: _softmax_rows(rows, first, hidden), x)
    return x


def softmax_backward(shares: mx.array, d: mx.array) -> mx.array:
    """Gradient at what softmax made `shares` of, where d is the one at them: shares · (d - Σ shares · d).

    float32, of one shape; nothing else may hold `d`, whose memory becomes the result's.
    """
    if mx.default_device() != mx.Device(mx.cpu):
        return shares * (d - (shares * d).sum(-1, keepdims=True))
    _by_rows(_softmax_backward_rows, d, shares)
    return d


def exp(x: mx.array) -> mx.array:
    """e^x. `x` float32; nothing else may hold it, its memory becomes the result's."""
    if mx.default_device() != mx.Device(mx.cpu):
        return mx.exp(x)
    _by_rows(lambda first, rows: np.exp(rows, out=rows), x)
    return x


def _softmax_rows(rows: np.ndarray, first: int, hidden: np.ndarray | None) -> None:
    if hidden is not None:
        n = len(hidden)
        np.copyto(rows[:, -n:], -np.inf, where=hidden[np.arange(first, first + len(rows)) % n])
    rows -= rows.max(-1, keepdims=True)
    np.exp(rows, out=rows)
    rows /= rows.sum(-1, keepdims=True)


def _softmax_backward_rows(first: int, d: np.ndarray, shares: np.ndarray) -> None:
    d -= np.einsum("ij,ij->i", shares, d)[:, None]
    d *= shares


def _by_rows(work, x: mx.array, *beside: mx.array) -> None:
    """Let work(number of the first row, rows of x, rows of `beside`) change rows of x in place, some at a time."""
    mx.eval(x, *beside)
    rows, *others = (np.array(one, copy=False).reshape(-1, one.shape[-1]) for one in (x, *beside))
    if not rows.flags.c_contiguous or not np.shares_memory(rows, np.array(x, copy=False)):
        raise ValueError("x must lie row by row in memory of its own; make it so with mx.contiguous")
    step = max(BLOCK // rows.shape[-1], 1)

    def part(first: int) -> None:
        work(first, rows[first : first + step], *(one[first : first + step] for one in others))

    list(_threads.map(part, range(0, len(rows), step)))
