"""Fuse a LoRA adapter into the checkpoint that it was trained on.

In:  a checkpoint folder (BF16, F16 or F32) and an adapter folder (repair_train.py, train_lora.py).
Out: a checkpoint folder in transformers' names, tokenizer and template beside it; an LFM2 one with `tool_parser_type`.
     Each weight is added to in float32 and rounded once, to the type that it was stored in.

  .venv/bin/python scripts/repair_fuse.py --model models/tiny --adapter runs/tiny/repair/iter03/adapter \\
      --out runs/tiny/repair/iter03/fused

Every array of the adapter must find its weight, and every weight that it finds must have its shape. Tensors are
read, changed and written one by one; no model is built.
"""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from kxl.base import cli
from kxl.base.cli import UserError
from kxl.base.files import read_json, require_space, shown
from kxl.chat import parser_metadata
from kxl.lora import adapter as lora_adapter
from kxl.model import checkpoint
from kxl.model.layouts import MLX_EXPERT_NAMES
from kxl.model.shapes import MODEL_TYPES
from kxl.model.tensors import Checkpoint, Tensor, from_array


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--model", type=Path, required=True, metavar="DIR", help="checkpoint folder that the adapter was trained on"
    )
    parser.add_argument("--adapter", type=Path, required=True, metavar="DIR", help="adapter folder")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="checkpoint folder to write")
    args = parser.parse_args()

    lfm2 = read_json(args.model / "config.json").get("model_type") in MODEL_TYPES
    original = checkpoint.read_any(args.model)
    if original.config.get("quantization"):
        raise UserError(
            f"{shown(args.model)}: is quantized; fuse into the unquantized checkpoint and quantize the result"
        )
    require_space(args.out.parent, sum(path.stat().st_size for path in args.model.glob("*.safetensors")))
    fused, moved = fuse(original, args.adapter)
    checkpoint.save_hf(args.out, fused)
    if lfm2:
        parser_metadata.declare(args.out)
    print(
        f"{shown(args.out)}: {len(moved)} of {len(fused.tensors)} tensors changed, "
        f"the largest change is {max(moved.values(), default=0):.2%} of its matrix"
    )


def fuse(original: Checkpoint, adapter: Path) -> tuple[Checkpoint, dict[str, float]]:
    """(checkpoint with the adapter's changes, how far each weight moved).

    The second is |change| / |weight| in Frobenius norm by name, filled as tensors are read. UserError for an array
    without a weight; when it is read, for a weight of another shape.
    """
    tensors, moved = dict(original.tensors), {}
    for mlx_name, change in lora_adapter.changes(adapter).items():
        name = mlx_name if mlx_name in tensors else canonical(mlx_name)
        if name not in tensors:
            raise UserError(
                f"{shown(original.folder)}: has no {mlx_name}, which {shown(adapter)} changes; "
                "the adapter belongs to another model"
            )
        read_changed = partial(_changed, tensors[name], change, original.folder, moved)
        tensors[name] = replace(tensors[name], parts=(read_changed,))
    return replace(original, tensors=tensors), moved


def _changed(tensor: Tensor, change, folder: Path, moved: dict[str, float]) -> np.ndarray:
    weight = tensor.read()
    try:
        values = change.add_to(weight)
    except (ValueError, IndexError):
        raise UserError(
            f"{shown(folder)}: {tensor.name} {list(tensor.shape)} does not fit the adapter; it belongs to another model"
        ) from None
    moved[tensor.name] = float(np.linalg.norm(values - weight) / np.linalg.norm(weight))
    return from_array(tensor.name, values, tensor.dtype).read()  # refuses what is not finite


def canonical(name: str) -> str:
    """mlx-lm's name of an LFM2 weight outside the experts as transformers writes it."""
    names = {mlx: hf for hf, mlx in MLX_EXPERT_NAMES.items()}
    return re.sub(r"(feed_forward\.)(\w+_proj)(\.weight)$", lambda m: f"{m[1]}{names[m[2]]}{m[3]}", name)


if __name__ == "__main__":
    cli.run(main)
