"""Stochastic rounding: weights on a coarse grid, moved by updates far below one of its steps.

A value is rounded up with the probability of its fraction, so that the mean moves by exactly the update (Gupta et al.
2015, arXiv 1502.02551). Rounding to nearest is here to show what it loses: an update below half a step, always.
"""

import numpy as np

from kxl.model.safetensors_io import bf16_to_float32, float32_to_bf16

ROUNDINGS = ("stochastic", "nearest")


def generator(*key: int) -> np.random.BitGenerator:
    """The noise of one piece of one step, the same for the same key, whatever was rounded before: runs resume by it."""
    return np.random.SFC64(np.random.SeedSequence(key))


def round_in_place(values: np.ndarray, random: np.random.BitGenerator | None) -> None:
    """Round floats to whole numbers; stochastically with `random`, whose noise has 65,536 levels, else to nearest."""
    if random is None:
        np.rint(values, out=values)
        return
    values += (_noise(values, random) + np.float32(0.5)) * np.float32(2**-16)  # in the middle of each level: no bias
    np.floor(values, out=values)


def subtract_bf16(bits: np.ndarray, delta: np.ndarray, random: np.random.BitGenerator | None) -> int:
    """Lower BF16 weights (their bits, uint16) by float32 `delta`, in place; return how many changed.

    Stochastic rounding adds 16 random bits below BF16's last one and cuts them off; `random` None rounds to nearest.
    """
    exact = np.ascontiguousarray(bf16_to_float32(bits) - delta, dtype=np.float32)
    if random is None:
        moved = float32_to_bf16(exact)
    else:
        moved = ((exact.view(np.uint32) + _noise(bits, random)) >> 16).astype(np.uint16)
    changed = np.count_nonzero(moved != bits)
    bits[...] = moved
    return changed


def _noise(like: np.ndarray, random: np.random.BitGenerator) -> np.ndarray:
    """Uniform uint16 in the shape of `like`, four out of each draw of 64 bits."""
    return random.random_raw((like.size + 3) // 4).view(np.uint16)[: like.size].reshape(like.shape)
