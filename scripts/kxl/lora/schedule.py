"""The learning rate of each step of an adapter's training."""

from collections.abc import Callable

import mlx.core as mx


def warmup_then_linear(peak: float, warmup: int, final: float, planned: int) -> Callable[[mx.array], mx.array]:
    """Rate by step (from 0): up over `warmup` steps, and linearly down to `final`, a share of `peak`, at
    step `planned`, where it stays.

    A `final` of 1 keeps the peak from the warmup on. Computed in float32, inside MLX's optimizer.
    """

    def rate(step: mx.array) -> mx.array:
        left = mx.maximum(final, 1 - (1 - final) * step / planned)
        return peak * mx.minimum(1.0, (step + 1) / max(1, warmup)) * left

    return rate
