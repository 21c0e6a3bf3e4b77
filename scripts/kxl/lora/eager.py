"""Functions that MLX differentiates but does not see into: computed at once, outside of its graph.

    square = function(lambda x: x * x, lambda d, x: [2 * x * d])
    mx.grad(lambda x: square(x).sum())(x)

While MLX traces a function to differentiate it, it keeps every array that was computed on the way. Here forward and
backward get finished arrays that belong to no graph, and nothing that stands between is kept.
"""

from collections.abc import Callable

import mlx.core as mx
import numpy as np


def finished(x: mx.array) -> mx.array:
    """A copy of an array that no graph knows."""
    x = x.astype(mx.float32) if x.dtype == mx.bfloat16 else x  # numpy has no BF16
    return mx.array(np.array(x))


def function(forward: Callable[..., mx.array], backward: Callable[..., list[mx.array]]) -> Callable[..., mx.array]:
    """forward(*arrays) as a function with the gradient backward(d_output, *arrays), one for each array.

    Both see float32 where the arrays are BF16; output and gradients get the type of the first array, and of each.
    """

    @mx.custom_function
    def computed(*arrays: mx.array) -> mx.array:
        output = forward(*map(finished, arrays)).astype(arrays[0].dtype)
        mx.eval(output)
        return output

    @computed.vjp
    def gradients(arrays, d: mx.array, output: mx.array):
        arrays = arrays if isinstance(arrays, (tuple, list)) else (arrays,)
        found = [
            gradient.astype(array.dtype)
            for gradient, array in zip(backward(*map(finished, (d, *arrays))), arrays, strict=True)
        ]
        mx.eval(found)
        return tuple(found) if len(found) > 1 else found[0]

    return computed
