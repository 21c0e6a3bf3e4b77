"""LFM2 and LFM2-MoE checkpoints, read and written in either family of names, a few rows at a time.

In: a folder as transformers or mlx-lm saves it: sharded or not, conv kernels as [hidden, 1, L] or
[hidden, L, 1], experts one by one, stacked (switch_mlp) or fused (gate_up_proj), plain or quantized
by MLX (affine, with per-layer settings). Out: one canonical view, in transformers' names and order:

    checkpoint = read("models/tiny")
    for tensor in checkpoint.tensors.values():
        tensor.name, tensor.shape, tensor.dtype    # known from the headers, nothing read yet
        tensor.read()                              # float32, dequantized, refused when not finite

`save_hf` and `save_mlx` write such tensors back, in shards, whole or not at all. Every error names
the file and the tensor.
"""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kxl.base.cli import UserError
from kxl.base.files import atomic_dir, read_json, shown, write_json
from kxl.model import safetensors_io, wrappers
from kxl.model.safetensors_io import FLOATS, Stored
from kxl.model.shapes import expected_shapes, normalize_config

PART_ELEMENTS = 1 << 22  # 16 MiB of float32 is what one step of reading or writing holds
SHARD_BYTES = 5_000_000_000  # the shard size transformers and mlx-lm use
MLX_EXPERT_NAMES = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
)


@dataclass(frozen=True)
class Tensor:
    """A named tensor that is read when asked for.

    `dtype` is what it is stored as ("BF16", "F16" or "F32"); `parts` return consecutive float32
    pieces of it, cut along the leading dimensions.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    parts: tuple[Callable[[], np.ndarray], ...]

    def read(self) -> np.ndarray:
        """The whole tensor as float32 of `shape`."""
        return np.concatenate([part().reshape(-1) for part in self.parts]).reshape(self.shape)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder: normalized `config` and its tensors by canonical (transformers) name."""

    folder: Path
    config: dict
    tensors: dict[str, Tensor]


def from_array(name: str, array: np.ndarray, dtype: str = "BF16") -> Tensor:
    """A Tensor out of memory, to be saved as `dtype`."""
    if dtype not in FLOATS:
        raise ValueError(f"{name}: {dtype} is none of {', '.join(FLOATS)}")
    values = np.asarray(array, dtype=np.float32)
    _refuse_not_finite(values, name, "memory")
    return Tensor(name, values.shape, dtype, (lambda: values,))


def read(folder: Path) -> Checkpoint:
    """Open a checkpoint: check every name and shape against its config.json, read no weights yet."""
    folder = Path(folder)
    stored = safetensors_io.index_folder(folder)
    config = normalize_config(read_json(folder / "config.json"), shown(folder / "config.json"))
    shapes, tensors, used = expected_shapes(config), {}, set()
    known = {place[0] for name, shape in shapes.items() for place in _places(name, shape, config)}
    if problem := wrappers.problem(list(stored), known, config["architectures"][0]):
        raise UserError(f"{shown(folder)}: {problem}")
    for name, shape in shapes.items():
        tensors[name] = _find(folder, name, shape, stored, config, used)
    unknown = sorted(set(stored) - used)
    if unknown:
        raise UserError(
            f"{shown(stored[unknown[0]].file)}: {unknown[0]} is no tensor of a {config['model_type']} "
            f"with this config.json ({len(unknown)} such){_advice(unknown[0])}"
        )
    return Checkpoint(folder, config, tensors)


def read_dense(folder: Path) -> Checkpoint:
    """Open an unquantized checkpoint of any other architecture: its tensors by the names they are stored under."""
    folder, tensors = Path(folder), {}
    for name, entry in safetensors_io.index_folder(folder).items():
        if entry.dtype not in FLOATS:
            raise UserError(
                f"{shown(entry.file)}: {name} has type {entry.dtype}; save the checkpoint as BF16, F16 or F32"
            )
        if 0 in entry.shape:
            raise UserError(f"{shown(entry.file)}: {name} has the shape {list(entry.shape)}, no number in it")
        tensors[name] = _tensor(name, entry.shape, _Source(entry, entry.shape, entry.dtype))
    return Checkpoint(folder, read_json(folder / "config.json"), tensors)


def _advice(name: str) -> str:
    if "lora" in name or "dora" in name:
        return (
            "; fuse the adapter into the checkpoint first (scripts/repair_fuse.py, or mlx_lm.fuse for one of mlx-lm's)"
        )
    if name == "lm_head.weight":
        return "; with tied embeddings it must be absent: remove it if it equals model.embed_tokens.weight"
    return ""


def _find(folder, name, shape, stored, config, used) -> Tensor:
    """The canonical tensor `name`, wherever and however the checkpoint stores it."""
    found = [place for place in _places(name, shape, config) if place[0] in stored]
    if not found:
        stacked = f" (nor {_places(name, shape, config)[1][0]})" if ".experts." in name else ""
        raise UserError(f"{shown(folder)}: {name} is missing{stacked}; config.json asks for it")
    if len(found) > 1:
        raise UserError(f"{shown(folder)}: both {found[0][0]} and {found[1][0]} are present; remove one")
    key, full_shapes, first_row = found[0]
    source = _source(stored, key, config, used)
    if source.shape not in full_shapes:
        wanted = " or ".join(str(list(full)) for full in full_shapes)
        raise UserError(
            f"{shown(source.stored.file)}: {key} has shape {list(source.shape)}, config.json asks for {wanted}"
        )
    return _tensor(name, shape, source, first_row)


def _tensor(name: str, shape: tuple, source: "_Source", first_row: int = 0) -> Tensor:
    count = int(np.prod(shape)) // source.columns  # for conv.conv either layout has the same bytes
    step = max(1, PART_ELEMENTS // source.columns)
    parts = tuple(
        (lambda a=a, b=min(a + step, first_row + count): source.read(a, b, name))
        for a in range(first_row, first_row + count, step)
    )
    return Tensor(name, shape, source.dtype, parts)


def _places(name: str, shape: tuple, config: dict) -> list[tuple[str, list[tuple], int]]:
    """(stored name, acceptable shapes, first row) where the canonical tensor may be kept."""
    here = [(name, [shape], 0)]
    if name.endswith("conv.conv.weight"):
        hidden, _, width = shape
        return [(name, [shape, (hidden, width, 1)], 0)]
    if match := re.fullmatch(r"(.*\.feed_forward\.)experts\.(\d+)\.(w[123])\.weight", name):
        prefix, expert, w = match[1], int(match[2]), match[3]
        rows, columns = shape
        experts = config["num_experts"]
        stacked = (f"{prefix}switch_mlp.{MLX_EXPERT_NAMES[w]}.weight", [(experts, rows, columns)], expert * rows)
        if w == "w2":
            fused = (f"{prefix}experts.down_proj", [(experts, rows, columns)], expert * rows)
        else:  # transformers keeps w1 above w3 in one matrix
            first = expert * 2 * rows + (rows if w == "w3" else 0)
            fused = (f"{prefix}experts.gate_up_proj", [(experts, 2 * rows, columns)], first)
        return here + [stacked, fused]
    if match := re.fullmatch(r"(.*\.feed_forward\.)(w[123])\.weight", name):
        return here + [(f"{match[1]}{MLX_EXPERT_NAMES[match[2]]}.weight", [shape], 0)]
    return here


@dataclass(frozen=True)
class _Source:
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
        _refuse_not_finite(values, name, f"{shown(self.stored.file)} ({self.stored.name})")
        return values


def _refuse_not_finite(values: np.ndarray, name: str, where: str) -> None:
    if not np.isfinite(values).all():
        bad = values[~np.isfinite(values)]
        raise UserError(
            f"{where}: {name} holds {bad.size} values that are not finite ({bad.flat[0]} first); "
            f"the checkpoint is broken, take an earlier one"
        )


def _source(stored: dict, key: str, config: dict, used: set) -> _Source:
    """Look up `key` with the scales and biases that belong to it."""
    used.add(key)
    entry, base = stored[key], key.removesuffix(".weight")
    if f"{base}.scales" not in stored:
        if entry.dtype not in FLOATS:
            raise UserError(
                f"{shown(entry.file)}: {key} has type {entry.dtype} and no {base}.scales beside it; "
                f"save the checkpoint as BF16, F16 or F32"
            )
        return _Source(entry, entry.shape, entry.dtype)

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
    return _Source(entry, (*entry.shape[:-1], columns), scales.dtype, scales, biases, bits)


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
        if match := re.fullmatch(r"(.*\.feed_forward\.)experts\.\d+\.(w[123])\.weight", name):
            stacks.setdefault(f"{match[1]}switch_mlp.{MLX_EXPERT_NAMES[match[2]]}.weight", []).append(tensor)
        elif name.endswith("conv.conv.weight"):
            hidden, _, width = tensor.shape
            tensors.append(replace(tensor, shape=(hidden, width, 1)))
        elif (match := re.fullmatch(r"(.*\.feed_forward\.)(w[123])\.weight", name)) and checkpoint.config[
            "model_type"
        ] == "lfm2_moe":
            tensors.append(replace(tensor, name=f"{match[1]}{MLX_EXPERT_NAMES[match[2]]}.weight"))
        else:
            tensors.append(tensor)
    for name, experts in stacks.items():
        parts = tuple(part for expert in experts for part in expert.parts)
        tensors.append(Tensor(name, (len(experts), *experts[0].shape), experts[0].dtype, parts))
    return tensors


def save_hf(folder: Path, checkpoint: Checkpoint, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a checkpoint in transformers' names, with the tokenizer files of `checkpoint.folder`."""
    _save(folder, list(checkpoint.tensors.values()), checkpoint, {"format": "pt"}, shard_bytes)


def save_mlx(folder: Path, checkpoint: Checkpoint, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a checkpoint in mlx-lm's names, with the tokenizer files of `checkpoint.folder`."""
    _save(folder, mlx_tensors(checkpoint), checkpoint, {"format": "mlx"}, shard_bytes)


def _save(folder, tensors, checkpoint, metadata, shard_bytes) -> None:
    shards, size = [[]], 0
    for tensor in tensors:
        nbytes = int(np.prod(tensor.shape)) * safetensors_io.BYTES[tensor.dtype]
        if size + nbytes > shard_bytes and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += nbytes
    names = (
        ["model.safetensors"]
        if len(shards) == 1
        else [f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    )
    with atomic_dir(folder) as partial:
        for name, shard in zip(names, shards, strict=True):
            safetensors_io.write_file(partial / name, shard, metadata)
        if len(shards) > 1:
            total = sum(int(np.prod(t.shape)) * safetensors_io.BYTES[t.dtype] for t in tensors)
            write_json(
                partial / safetensors_io.INDEX,
                {
                    "metadata": {"total_size": total},
                    "weight_map": {t.name: name for name, shard in zip(names, shards, strict=True) for t in shard},
                },
            )
        config = {
            key: value for key, value in checkpoint.config.items() if key not in ("quantization", "quantization_config")
        }
        write_json(partial / "config.json", config)
        copy_tokenizer(checkpoint.folder, partial)


def tokenizer_files(folder: Path) -> dict[str, bytes]:
    """{name: content} of the tokenizer, chat template and generation settings that stand beside a checkpoint."""
    found = [Path(folder) / name for name in TOKENIZER_FILES]
    return {path.name: path.read_bytes() for path in found if path.is_file()}


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer, chat template and generation settings that stand beside a checkpoint."""
    for name in TOKENIZER_FILES:
        if (Path(source) / name).is_file():
            shutil.copyfile(Path(source) / name, Path(target) / name)
