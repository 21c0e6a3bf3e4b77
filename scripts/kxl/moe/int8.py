"""Expert matrices as int8: quantize, dequantize, and move the codes in place by updates far below one step.

A matrix is stored as MLX's affine codes: weight = scale * code + bias, code 0..255, one BF16 scale and
bias per group of columns. Training must not touch what it does not mean to change: an update is applied
to the codes on their own grid (code - delta / scale), so a weight without update keeps its code exactly,
and no dequantized copy is needed. A group gets a new grid only when one of its codes leaves 0..255.

Codes are rounded as rounding.py says. A carry of 4 or 8 bits beside each code keeps what rounding would drop: the
weight is scale * (code + carry) + bias with a carry in [-0.5, 0.5), and updates are rounded on the carry's finer grid.
The rounding noise of a long training falls with the square root of that grid's step: to a quarter with 4 bits, to a
sixteenth with 8. Forward and backward see the carry, too: a weight that starts in the middle of a code would otherwise
have to go half a step before anything computes with its move.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from kxl.base.cli import UserError
from kxl.model.safetensors_io import bf16_to_float32, float32_to_bf16
from kxl.moe.rounding import round_in_place

CODES = 255  # highest code
HEADROOM = 8  # codes left free on either side of a group's new grid, so that it lasts
SMALLEST_SCALE = 1e-12
CARRIES = (0, 4, 8)  # bits that a carry may have


@dataclass
class Int8Matrix:
    """codes uint8 [rows, columns]; scales and biases uint16, the bits of BF16 [rows, columns / group].

    carry uint8 [rows, columns * bits / 8], None for 0 bits. Half of its range is no carry: 128 of 8 bits; of 4 bits, 8,
    with the even column in the low half of the byte.
    """

    codes: np.ndarray
    scales: np.ndarray
    biases: np.ndarray
    carry: np.ndarray | None = None

    @property
    def group(self) -> int:
        return self.codes.shape[1] // self.scales.shape[1]

    @property
    def carry_bits(self) -> int:
        return 0 if self.carry is None else 8 * self.carry.shape[1] // self.codes.shape[1]

    @property
    def nbytes(self) -> int:
        return (
            self.codes.nbytes
            + self.scales.nbytes
            + self.biases.nbytes
            + (0 if self.carry is None else self.carry.nbytes)
        )


def no_carry(shape: tuple[int, int], bits: int) -> np.ndarray | None:
    """The carry of codes [rows, columns] that nothing was dropped from."""
    return np.full((shape[0], shape[1] * bits // 8), 0x88 if bits == 4 else 0x80, np.uint8) if bits else None


def carried(matrix: Int8Matrix) -> np.ndarray:
    """What the carry adds to each code, float32 [rows, columns] in [-0.5, 0.5)."""
    bits = matrix.carry_bits
    if not bits:
        return np.zeros(matrix.codes.shape, np.float32)
    fine = _places(matrix, slice(None)) & ((1 << bits) - 1)
    return (fine.astype(np.float32) - (1 << bits - 1)) / (1 << bits)


def carry_of(fractions: np.ndarray, bits: int) -> np.ndarray | None:
    """The carry of `bits` that adds about `fractions`, float32 [rows, columns] in [-0.5, 0.5), to the codes."""
    if not bits:
        return None
    fine = np.clip(np.rint(fractions * (1 << bits)) + (1 << bits - 1), 0, (1 << bits) - 1).astype(np.uint8)
    return fine if bits == 8 else fine[:, ::2] | fine[:, 1::2] << 4


def _places(matrix: Int8Matrix, rows: slice) -> np.ndarray:
    """Code and carry of some rows as one whole number, code * 2^bits + carry: uint16, or uint8 without a carry."""
    codes, bits = matrix.codes[rows], matrix.carry_bits
    if not bits:
        return codes
    places, carry = codes.astype(np.uint16) << bits, matrix.carry[rows]
    if bits == 8:
        places |= carry
    else:
        places[:, ::2] |= carry & 15
        places[:, 1::2] |= carry >> 4
    return places


def _set_places(matrix: Int8Matrix, rows: slice, places: np.ndarray) -> int:
    """Write what _places reads; return how many codes changed."""
    bits = matrix.carry_bits
    if bits:
        fine = places.astype(np.uint8)
        matrix.carry[rows] = fine if bits == 8 else (fine[:, ::2] & 15) | (fine[:, 1::2] << 4)
    codes = (places >> bits).astype(np.uint8)
    changed = np.count_nonzero(codes != matrix.codes[rows])
    matrix.codes[rows] = codes
    return changed


def check_group(name: str, columns: int, group: int) -> None:
    """UserError when rows of `columns` weights cannot be cut into groups that MLX knows (32, 64 or 128)."""
    if group not in (32, 64, 128) or columns % group:
        fitting = [size for size in (32, 64, 128) if columns % size == 0]
        raise UserError(
            f"{name}: its {columns} columns cannot be quantized in groups of {group}; "
            f"set group_size to {' or '.join(map(str, fitting)) or 'nothing: no size fits'}"
        )


def quantize(values: np.ndarray, group: int, carry_bits: int = 0) -> Int8Matrix:
    """float32 [rows, columns] to the nearest codes between each group's least and greatest weight.

    With `carry_bits` the carry holds what the codes are too coarse for; the codes are the same.
    """
    rows, columns = values.shape
    grouped = values.reshape(rows, columns // group, group)
    scales, biases = _grid(grouped.min(-1), grouped.max(-1), headroom=0)
    codes = (grouped - bf16_to_float32(biases)[..., None]) / bf16_to_float32(scales)[..., None]
    exact = codes.reshape(rows, columns)
    codes = np.clip(np.rint(exact), 0, CODES).astype(np.uint8)
    return Int8Matrix(codes, scales, biases, carry_of(exact - codes, carry_bits))


def dequantize(matrix: Int8Matrix) -> np.ndarray:
    """float32 [rows, columns]."""
    rows, columns = matrix.codes.shape
    scales, biases = _fine_grid(matrix)
    values = _places(matrix, slice(None)).reshape(rows, -1, matrix.group).astype(np.float32)
    values *= scales[..., None]
    values += biases[..., None]
    return values.reshape(rows, columns)


def dequantize_mlx(matrix: Int8Matrix) -> mx.array:
    """The same as a lazy MLX array (on these CPUs twice as fast as mx.dequantize)."""
    rows, columns = matrix.codes.shape
    scales, biases = (mx.array(values)[..., None] for values in _fine_grid(matrix))
    places = mx.array(_places(matrix, slice(None))).reshape(rows, -1, matrix.group).astype(mx.float32)
    return (places * scales + biases).reshape(rows, columns)


def _fine_grid(matrix: Int8Matrix) -> tuple[np.ndarray, np.ndarray]:
    """(scales, biases) float32 [rows, columns / group] with which places are weights."""
    scales, biases = bf16_to_float32(matrix.scales), bf16_to_float32(matrix.biases)
    if matrix.carry_bits:
        biases = biases - np.float32(0.5) * scales  # a carry of nothing is half its range
        scales = scales * np.float32(2.0**-matrix.carry_bits)
    return scales, biases


def subtract(matrix: Int8Matrix, rows: slice, delta: np.ndarray, random: np.random.BitGenerator | None) -> int:
    """Lower the weights of some rows by `delta`, in place; return how many codes changed.

    delta float32 [rows, columns] in units of weights, overwritten. `random` rounds stochastically,
    None to nearest.
    """
    bits = matrix.carry_bits
    grouped = delta.reshape(len(delta), -1, matrix.group)
    grouped /= -bf16_to_float32(matrix.scales[rows])[..., None] * np.float32(2.0**-bits)
    # Before the codes are added: beside a 255 float32 would lose the last bits of a small move.
    round_in_place(delta, random)
    delta += _places(matrix, rows)
    # The rounded value decides who leaves the grid: deciding by the exact one would be a bias.
    with np.errstate(invalid="ignore"):  # a move too far for int32 becomes its end, which lies outside, too
        outside = delta.astype(np.int32)
    outside &= ~_highest(bits)
    if outside.any():
        groups = np.nonzero(outside.reshape(grouped.shape).view(np.uint64).any(-1))
        grouped[groups] = _regrid(matrix, rows, groups, grouped[groups], random)
    return _set_places(matrix, rows, delta.astype(np.uint16 if bits else np.uint8))


def _highest(bits: int) -> int:
    """The highest place of a code and a carry of `bits`."""
    return ((CODES + 1) << bits) - 1


def _regrid(matrix: Int8Matrix, rows: slice, groups: tuple, places: np.ndarray, random) -> np.ndarray:
    """Give `groups` a grid that holds their places [n, group], which may lie outside; return the new places."""
    scales, biases = matrix.scales[rows], matrix.biases[rows]  # views
    fine = 1 << matrix.carry_bits
    middle = fine // 2  # of a carry: none
    codes = (places.astype(np.float64) - middle) / fine  # as above
    values = codes * bf16_to_float32(scales[groups])[:, None] + bf16_to_float32(biases[groups])[:, None]
    scales[groups], biases[groups] = _grid(values.min(-1), values.max(-1), HEADROOM)
    codes = (values - bf16_to_float32(biases[groups])[:, None]) / bf16_to_float32(scales[groups])[:, None]
    places = codes * fine
    round_in_place(places, random)
    return np.clip(places + middle, 0, _highest(matrix.carry_bits))


def _grid(low: np.ndarray, high: np.ndarray, headroom: int) -> tuple[np.ndarray, np.ndarray]:
    """BF16 bits of (scale, bias) that put `low` at code `headroom` and `high` as far from the other end.

    The bias is rounded down and the scale up, so that no weight falls off the grid.
    """
    span = np.maximum((high - low) / (CODES - 2 * headroom), SMALLEST_SCALE).astype(np.float32)
    biases = _bf16_below(low - headroom * span)
    scales = _bf16_above(np.maximum((high - bf16_to_float32(biases)) / (CODES - headroom), span))
    return scales, biases


def _bf16_below(values: np.ndarray) -> np.ndarray:
    bits = float32_to_bf16(values)
    # A step towards minus infinity is one more for a negative number and one less for a positive one.
    too_high = bf16_to_float32(bits) > values
    down = np.where(bits & 0x8000, bits + 1, np.where(bits == 0, 0x8001, bits - 1))
    return np.where(too_high, down, bits).astype(np.uint16)


def _bf16_above(values: np.ndarray) -> np.ndarray:
    return (_bf16_below(-values) ^ 0x8000).astype(np.uint16)
