"""A function outside of MLX's graph: its gradient is right, and what it computes on the way is not kept."""

import mlx.core as mx
import numpy as np
import pytest

from kxl.lora import eager

pytestmark = pytest.mark.usefixtures("on_the_cpu")


def test_value_and_gradient_are_those_of_the_function():
    product = eager.function(lambda x, y: x * y, lambda d, x, y: [d * y, d * x])
    x, y = mx.array([1.0, 2.0]), mx.array([3.0, 5.0])
    value, (d_x, d_y) = mx.value_and_grad(lambda x, y: (2 * product(x * 1, y)).sum(), (0, 1))(x, y)
    assert value.item() == 26.0
    assert d_x.tolist() == [6.0, 10.0] and d_y.tolist() == [2.0, 4.0]


def test_an_array_of_bf16_gets_a_gradient_of_its_type():
    square = eager.function(lambda x: x * x, lambda d, x: [2 * d * x])
    gradient = mx.grad(lambda x: square(x).sum())(mx.array([3.0], mx.bfloat16))
    assert gradient.dtype == mx.bfloat16 and gradient.item() == 6.0


def test_nothing_between_is_kept_neither_forward_nor_back():
    """Twenty sums of a MiB each, of which MLX would keep all on the way back."""
    peaks = []

    def summed(x: mx.array) -> mx.array:
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        for _ in range(20):
            x = x + 1.0
            mx.eval(x)
        peaks.append((mx.get_peak_memory() - before) / x.nbytes)
        return x

    function = eager.function(summed, lambda d, x: [d + 0 * summed(x)])
    x = mx.ones((512, 512))
    gradient = mx.grad(lambda x: (3 * function(2 * x)).sum())(x)
    assert np.allclose(np.array(gradient), 6.0)
    assert len(peaks) == 2 and max(peaks) < 5, peaks
