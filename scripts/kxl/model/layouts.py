"""Where and how a checkpoint stores a tensor of LFM2 or LFM2-MoE: names, stacking, MLX's quantization.

The canonical tensor is transformers': experts one by one, conv kernels as [hidden, 1, L], float. A folder may keep it
under mlx-lm's name, stacked with the other experts (switch_mlp), fused with another matrix (gate_up_proj), with conv
kernels as [hidden, L, 1], or as MLX's affine codes with scales and biases beside them.
"""

import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kxl.base.cli import UserError
from kxl.base.files import shown
from kxl.model.safetensors_io import FLOATS, Stored
from kxl.model.tensors import PART_ELEMENTS, Checkpoint, Tensor, refuse_not_finite

MLX_EXPERT_NAMES = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
EXPERT = re.compile(r"(.*\.feed_forward\.)experts\.(\d+)\.(w[123])\.weight")
DENSE = re.compile(r"(.*\.feed_forward\.)(w[123])\.weight")


class Place(NamedTuple):
    """Where a canonical tensor may be kept: a stored name, the shapes it may have, the tensor's first row in it."""

    key: str
    shapes: list[tuple[int, ...]]
    first_row: int


def find(folder: Path, name: str, shape: tuple, stored: dict[str, Stored], config: dict, used: set) -> Tensor:
    """The canonical tensor `name`, wherever and however the checkpoint stores it; the names it takes go to `used`.

    UserError when it is missing, there twice or of another shape or type than config.json says.
    """
    places = places_of(name, shape, config)
    present = [place for place in places if place.key in stored]
    if not present:
        stacked = f" (nor {places[1].key})" if ".experts." in name else ""
        raise UserError(f"{shown(folder)}: {name} is missing{stacked}; config.json asks for it")
    if len(present) > 1:
        raise UserError(f"{shown(folder)}: both {present[0].key} and {present[1].key} are present; remove one")
    place = present[0]
    source = _source(stored, place.key, config, used)
    if source.shape not in place.shapes:
        wanted = " or ".join(str(list(shape)) for shape in place.shapes)
        raise UserError(
            f"{shown(source.stored.file)}: {place.key} has shape {list(source.shape)}, config.json asks for {wanted}"
        )
    return _tensor(name, shape, source, place.first_row)


def as_stored(entry: Stored) -> Tensor:
    """A float tensor by the name and in the shape that it is stored under."""
    if entry.dtype not in FLOATS:
        raise UserError(
            f"{shown(entry.file)}: {entry.name} has type {entry.dtype}; save the checkpoint as BF16, F16 or F32"
        )
    if 0 in entry.shape:
        raise UserError(f"{shown(entry.file)}: {entry.name} has the shape {list(entry.shape)}, no number in it")
    return _tensor(entry.name, entry.shape, Source(entry, entry.shape, entry.dtype))


def _tensor(name: str, shape: tuple, source: "Source", first_row: int = 0) -> Tensor:
    count = int(np.prod(shape)) // source.columns  # for conv.conv either layout has the same bytes
    step = max(1, PART_ELEMENTS // source.columns)
    end = first_row + count
    parts = tuple(partial(source.read, start, min(start + step, end), name) for start in range(first_row, end, step))
    return Tensor(name, shape, source.dtype, parts)


def places_of(name: str, shape: tuple, config: dict) -> list[Place]:
    """Where the canonical tensor may be kept; its own name is the first."""
    here = Place(name, [shape], 0)
    if name.endswith("conv.conv.weight"):
        hidden, _, width = shape
        return [Place(name, [shape, (hidden, width, 1)], 0)]
    if match := EXPERT.fullmatch(name):
        prefix, expert, w = match[1], int(match[2]), match[3]
        rows, columns = shape
        experts = config["num_experts"]
        stacked = Place(f"{prefix}switch_mlp.{MLX_EXPERT_NAMES[w]}.weight", [(experts, rows, columns)], expert * rows)
        if w == "w2":
            fused = Place(f"{prefix}experts.down_proj", [(experts, rows, columns)], expert * rows)
        else:  # transformers keeps w1 above w3 in one matrix
            first = expert * 2 * rows + (rows if w == "w3" else 0)
            fused = Place(f"{prefix}experts.gate_up_proj", [(experts, 2 * rows, columns)], first)
        return [here, stacked, fused]
    if match := DENSE.fullmatch(name):
        return [here, Place(f"{match[1]}{MLX_EXPERT_NAMES[match[2]]}.weight", [shape], 0)]
    return [here]


@dataclass(frozen=True)
class Source:
    """A stored tensor, plain or MLX-quantized: `shape` and rows as they are after dequantizing."""

    stored: Stored
    shape: tuple[int, ...]
    dtype: str
    scales: Stored | None = None
    biases: Stored | None = None
    bits: int = 0

    @property
    def columns(self) -> int:
        return self.shape[-1]

    def read(self, start: int, stop: int, name: str) -> np.ndarray:
        values = self.stored.rows(start, stop)
        if self.bits:
            values = dequantize(values, self.scales.rows(start, stop), self.biases.rows(start, stop), self.bits)
        refuse_not_finite(values, name, f"{shown(self.stored.file)} ({self.stored.name})")
        return values


def _source(stored: dict, key: str, config: dict, used: set) -> Source:
    """Look up `key` with the scales and biases that belong to it."""
    used.add(key)
    entry, base = stored[key], key.removesuffix(".weight")
    if f"{base}.scales" not in stored:
        if entry.dtype not in FLOATS:
            raise UserError(
                f"{shown(entry.file)}: {key} has type {entry.dtype} and no {base}.scales beside it; "
                f"save the checkpoint as BF16, F16 or F32"
            )
        return Source(entry, entry.shape, entry.dtype)

    settings = config.get("quantization") or {}
    settings = {**settings, **(settings.get(base) if isinstance(settings.get(base), dict) else {})}
    mode, bits, group = settings.get("mode", "affine"), settings.get("bits"), settings.get("group_size")
    bits, group = (value if type(value) is int and value > 0 else None for value in (bits, group))
    if mode != "affine" or f"{base}.biases" not in stored:
        raise UserError(
            f"{shown(entry.file)}: {key} is quantized in mode {mode!r}; only affine is read here: "
            f"dequantize the checkpoint first (mlx_lm.convert --dequantize)"
        )
    scales, biases = stored[f"{base}.scales"], stored[f"{base}.biases"]
    used.update((scales.name, biases.name))
    if bits not in (2, 3, 4, 5, 6, 8) or not group:
        raise UserError(
            f"{shown(entry.file)}: {key} is quantized, but config.json's quantization gives "
            f"bits {bits} and group_size {group} for it"
        )
    columns = scales.columns * group
    if (
        entry.dtype != "U32"
        or entry.columns * 32 != columns * bits
        or scales.shape != biases.shape
        or scales.shape[:-1] != entry.shape[:-1]
    ):
        raise UserError(
            f"{shown(entry.file)}: {key} {list(entry.shape)} and its scales {list(scales.shape)} do not "
            f"fit {bits} bits in groups of {group}, which config.json gives for it"
        )
    return Source(entry, (*entry.shape[:-1], columns), scales.dtype, scales, biases, bits)


def dequantize(codes: np.ndarray, scales: np.ndarray, biases: np.ndarray, bits: int) -> np.ndarray:
    """MLX affine codes to float32: scale * code + bias, one scale and bias per group of columns.

    `codes` uint32 [rows, columns * bits / 32], a little-endian stream of `bits`-bit codes per row;
    `scales` and `biases` float32 [rows, columns / group]. Returns [rows, columns].
    """
    rows, groups = scales.shape
    packed = np.ascontiguousarray(codes).view(np.uint8)
    if bits in (2, 4, 8):
        shifts = np.arange(0, 8, bits, dtype=np.uint8)
        values = ((packed[:, :, None] >> shifts) & ((1 << bits) - 1)).astype(np.float32)
    else:  # codes of 3, 5 and 6 bits run across bytes
        stream = np.unpackbits(packed, axis=1, bitorder="little").reshape(rows, -1, bits)
        values = (stream @ (1 << np.arange(bits, dtype=np.uint8))).astype(np.float32)
    values = values.reshape(rows, groups, -1) * scales[:, :, None] + biases[:, :, None]
    return values.reshape(rows, -1)


def mlx_tensors(checkpoint: Checkpoint) -> list[Tensor]:
    """The checkpoint's tensors in mlx-lm's names: experts stacked, conv kernels as [hidden, L, 1]."""
    tensors, stacks = [], {}
    for name, tensor in checkpoint.tensors.items():
        if match := EXPERT.fullmatch(name):
            stacks.setdefault(f"{match[1]}switch_mlp.{MLX_EXPERT_NAMES[match[3]]}.weight", []).append(tensor)
        elif name.endswith("conv.conv.weight"):
            hidden, _, width = tensor.shape
            tensors.append(replace(tensor, shape=(hidden, width, 1)))
        elif (match := DENSE.fullmatch(name)) and checkpoint.config["model_type"] == "lfm2_moe":
            tensors.append(replace(tensor, name=f"{match[1]}{MLX_EXPERT_NAMES[match[2]]}.weight"))
        else:
            tensors.append(tensor)
    for name, experts in stacks.items():
        parts = tuple(part for expert in experts for part in expert.parts)
        tensors.append(Tensor(name, (len(experts), *experts[0].shape), experts[0].dtype, parts))
    return tensors
