"""Functions that MLX differentiates but does not see into: computed at once, outside of its graph.

    square = function(lambda x: x * x, lambda d, x: [2 * x * d])
    mx.grad(lambda x: square(x).sum())(x)

While MLX differentiates a function, it keeps every array that this thread computes on the way, evaluated or not. Here
forward and backward get finished arrays that belong to no graph, and compute in a thread of their own, which
differentiates nothing: what stands between is dropped (tests/lora/test_eager.py).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import numpy as np

_thread = ThreadPoolExecutor(1, "eager")


def finished(x: mx.array) -> mx.array:
    """A copy of an array that no graph knows."""
    x = x.astype(mx.float32) if x.dtype == mx.bfloat16 else x  # numpy has no BF16
    return mx.array(np.array(x))


def function(forward: Callable[..., mx.array], backward: Callable[..., list[mx.array]]) -> Callable[..., mx.array]:
    """forward(*arrays) as a function with the gradient backward(d_output, *arrays), one for each array.

    Both see float32 where the arrays are BF16; output and gradients get the type of the first array, and of each.
    """

    def compute(function: Callable, arrays: list[mx.array], types: list[mx.Dtype]) -> list[mx.array]:
        arrays = [finished(array) for array in arrays]  # here, where their graphs are known

        def work() -> list[mx.array]:
            results = [result.astype(kind) for result, kind in zip(function(*arrays), types, strict=True)]
            mx.eval(results)
            return results

        return _thread.submit(work).result()

    @mx.custom_function
    def computed(*arrays: mx.array) -> mx.array:
        return compute(lambda *arrays: [forward(*arrays)], arrays, [arrays[0].dtype])[0]

    @computed.vjp
    def gradients(arrays, d: mx.array, output: mx.array):
        arrays = arrays if isinstance(arrays, (tuple, list)) else (arrays,)
        found = compute(backward, [d, *arrays], [array.dtype for array in arrays])
        return tuple(found) if len(found) > 1 else found[0]

    return computed
