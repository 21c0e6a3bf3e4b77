"""Fuse a LoRA adapter into the checkpoint that it was trained on.

In:  a checkpoint folder (BF16, F16 or F32) and an adapter folder (train_repair.py).
Out: a checkpoint folder in transformers' names, with tokenizer, template and `tool_parser_type`. Each weight is
     added to in float32 and rounded once, to the type that it was stored in.

  .venv/bin/python scripts/fuse_adapter.py --model models/tiny --adapter runs/tiny/repair/iter03/adapter \\
      --out runs/tiny/repair/iter03/fused

Every array of the adapter must find its weight, and every weight that it finds must have its shape.
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

import checkpoint
import cli
import mlx_backend
import parser_metadata
from cli import UserError
from files import require_space, shown


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="checkpoint that the adapter was trained on")
    parser.add_argument("--adapter", type=Path, required=True, metavar="DIR", help="adapter folder")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="checkpoint folder to write")
    args = parser.parse_args()
    mlx_backend.use_fast_blas()

    original = checkpoint.read(args.model)
    if original.config.get("quantization"):
        raise UserError(f"{shown(args.model)}: is quantized; fuse into the unquantized checkpoint and quantize the result")
    require_space(args.out.parent, sum(path.stat().st_size for path in args.model.glob("*.safetensors")))
    fused, norm = fuse(original, args.adapter)
    checkpoint.save_hf(args.out, fused)
    parser_metadata.declare(args.out)
    changed = sum(fused.tensors[name] is not tensor for name, tensor in original.tensors.items())
    print(f"{shown(args.out)}: {changed} matrices changed, the largest change is {norm:.2%} of its matrix")


def fuse(original: checkpoint.Checkpoint, adapter: Path) -> tuple[checkpoint.Checkpoint, float]:
    """(checkpoint with the adapter's changes, largest |change| / |weight| in Frobenius norm).

    UserError for an array without a weight of its shape.
    """
    import lora

    tensors, largest = dict(original.tensors), 0.0
    for mlx_name, change in lora.changes(adapter).items():
        name = canonical(mlx_name)
        tensor = original.tensors.get(name)
        if tensor is None:
            raise UserError(f"{shown(adapter)}: has a change for {mlx_name}, which {shown(original.folder)} does not have; it belongs to another model")
        weight = tensor.read()
        try:
            values = lora.apply_change(weight, change, embedding="embed_tokens" in name)
        except ValueError:
            raise UserError(f"{shown(adapter)}: its change for {mlx_name} does not fit {list(tensor.shape)}; it belongs to another model") from None
        largest = max(largest, float(np.linalg.norm(values - weight) / np.linalg.norm(weight)))
        tensors[name] = checkpoint.from_array(name, values, tensor.dtype)
    return replace(original, tensors=tensors), largest


def canonical(name: str) -> str:
    """mlx-lm's name of a weight outside the experts as transformers writes it."""
    names = {mlx: hf for hf, mlx in checkpoint.MLX_EXPERT_NAMES.items()}
    return re.sub(r"(feed_forward\.)(\w+_proj)(\.weight)$", lambda m: f"{m[1]}{names[m[2]]}{m[3]}", name)


if __name__ == "__main__":
    cli.run(main)
