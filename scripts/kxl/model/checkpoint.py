"""LFM2 and LFM2-MoE checkpoints, read and written in either family of names, a few rows at a time.

In: a folder as transformers or mlx-lm saves it: sharded or not, conv kernels as [hidden, 1, L] or
[hidden, L, 1], experts one by one, stacked (switch_mlp) or fused (gate_up_proj), plain or quantized
by MLX (affine, with per-layer settings). Out: one canonical view, in transformers' names and order:

    checkpoint = read("models/tiny")
    for tensor in checkpoint.tensors.values():
        tensor.name, tensor.shape, tensor.dtype    # known from the headers, nothing read yet
        tensor.read()                              # float32, dequantized, refused when not finite

`save_hf` and `save_mlx` write such tensors back, in shards, whole or not at all; `save_trained` writes arrays. Every
error names the file and the tensor.
"""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from kxl.base.cli import UserError
from kxl.base.files import atomic_dir, read_json, require_space, shown, write_json
from kxl.model import layouts, safetensors_io, wrappers
from kxl.model.shapes import MODEL_TYPES, expected_shapes, normalize_config
from kxl.model.tensors import Checkpoint, Tensor, from_array

SHARD_BYTES = 5_000_000_000  # the shard size transformers and mlx-lm use
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


def read(folder: Path) -> Checkpoint:
    """Open a checkpoint: check every name and shape against its config.json, read no weights yet."""
    folder = Path(folder)
    stored = safetensors_io.index_folder(folder)
    config = normalize_config(read_json(folder / "config.json"), shown(folder / "config.json"))
    shapes, tensors, used = expected_shapes(config), {}, set()
    known = {place.key for name, shape in shapes.items() for place in layouts.places_of(name, shape, config)}
    if problem := wrappers.problem(list(stored), known, config["architectures"][0]):
        raise UserError(f"{shown(folder)}: {problem}")
    for name, shape in shapes.items():
        tensors[name] = layouts.find(folder, name, shape, stored, config, used)
    unknown = sorted(set(stored) - used)
    if unknown:
        raise UserError(
            f"{shown(stored[unknown[0]].file)}: {unknown[0]} is no tensor of a {config['model_type']} "
            f"with this config.json ({len(unknown)} such){_advice(unknown[0])}"
        )
    return Checkpoint(folder, config, tensors)


def read_dense(folder: Path) -> Checkpoint:
    """Open an unquantized checkpoint of any other architecture: its tensors by the names they are stored under."""
    stored = safetensors_io.index_folder(folder)
    tensors = {name: layouts.as_stored(entry) for name, entry in stored.items()}
    return Checkpoint(Path(folder), read_json(Path(folder) / "config.json"), tensors)


def read_any(folder: Path) -> Checkpoint:
    """Open a checkpoint as `read` does where it is an LFM2, else as `read_dense` does."""
    lfm2 = read_json(Path(folder) / "config.json").get("model_type") in MODEL_TYPES
    return (read if lfm2 else read_dense)(folder)


def float32_copy(source: Path, target: Path) -> Path:
    """Write a checkpoint as float32, the one type that MLX computes fast on a CPU; returns `target`."""
    original = read_any(source)
    require_space(target.parent, 4 * sum(math.prod(tensor.shape) for tensor in original.tensors.values()))
    tensors = {name: replace(tensor, dtype="F32") for name, tensor in original.tensors.items()}
    save_mlx(target, replace(original, config={**original.config, "dtype": "float32"}, tensors=tensors))
    return target


def _advice(name: str) -> str:
    if "lora" in name or "dora" in name:
        return (
            "; fuse the adapter into the checkpoint first (scripts/repair_fuse.py, or mlx_lm.fuse for one of mlx-lm's)"
        )
    if name == "lm_head.weight":
        return "; with tied embeddings it must be absent: remove it if it equals model.embed_tokens.weight"
    return ""


def save_hf(folder: Path, checkpoint: Checkpoint, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a checkpoint in transformers' names, with the tokenizer files of `checkpoint.folder`."""
    _save(folder, list(checkpoint.tensors.values()), checkpoint, {"format": "pt"}, shard_bytes)


def save_mlx(folder: Path, checkpoint: Checkpoint, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a checkpoint in mlx-lm's names, with the tokenizer files of `checkpoint.folder`."""
    _save(folder, layouts.mlx_tensors(checkpoint), checkpoint, {"format": "mlx"}, shard_bytes)


def save_trained(folder: Path, config: dict, weights: dict[str, np.ndarray]) -> None:
    """Write float32 `weights`, by transformers' names, in mlx-lm's and as BF16 (a router's expert_bias as F32) beside
    the tokenizer in `folder`.
    """
    tensors = {
        name: from_array(name, values, "F32" if name.endswith("expert_bias") else "BF16")
        for name, values in weights.items()
    }
    save_mlx(folder, Checkpoint(folder, config, tensors))


def _save(folder: Path, tensors: list[Tensor], checkpoint: Checkpoint, metadata: dict, shard_bytes: int) -> None:
    shards = _shards(tensors, shard_bytes)
    with atomic_dir(folder) as partial:
        for name, shard in shards.items():
            safetensors_io.write_file(partial / name, shard, metadata)
        if len(shards) > 1:
            weight_map = {tensor.name: name for name, shard in shards.items() for tensor in shard}
            total = sum(map(_bytes_of, tensors))
            write_json(partial / safetensors_io.INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
        quantization = ("quantization", "quantization_config")
        config = {key: value for key, value in checkpoint.config.items() if key not in quantization}
        write_json(partial / "config.json", config)
        copy_tokenizer(checkpoint.folder, partial)


def _shards(tensors: list[Tensor], shard_bytes: int) -> dict[str, list[Tensor]]:
    """The tensors in order, cut into files of at most `shard_bytes` bytes."""
    shards, size = [[]], 0
    for tensor in tensors:
        if size + _bytes_of(tensor) > shard_bytes and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += _bytes_of(tensor)
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    return {f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors": shard for i, shard in enumerate(shards)}


def _bytes_of(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * safetensors_io.BYTES[tensor.dtype]


def tokenizer_files(folder: Path) -> dict[str, bytes]:
    """{name: content} of the tokenizer, chat template and generation settings that stand beside a checkpoint."""
    paths = [Path(folder) / name for name in TOKENIZER_FILES]
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer, chat template and generation settings that stand beside a checkpoint."""
    for name in TOKENIZER_FILES:
        if (Path(source) / name).is_file():
            shutil.copyfile(Path(source) / name, Path(target) / name)
