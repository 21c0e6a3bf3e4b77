"""Fuse a LoRA adapter into its checkpoint.

In:  a checkpoint folder and an adapter folder of scripts/train_lora.py.
Out: a checkpoint folder of the same names and types, tokenizer and template beside it. Tensors are read, changed
     and written one by one; no model is built.

  .venv/bin/python scripts/fuse_lora.py --model runs/smollm2-135m/base --adapter runs/smollm2-135m/adapter --out runs/smollm2-135m/fused
"""

import math
import shutil
from pathlib import Path

import cli
import lora
import safetensors_io
from checkpoint import Tensor, copy_tokenizer, from_array
from cli import UserError
from files import atomic_dir, shown


def fused_tensors(folder: Path, changes: dict) -> list[Tensor]:
    """The checkpoint's tensors, those named in `changes` with their change added when they are read."""
    stored = safetensors_io.index_folder(folder)
    if unknown := sorted(set(changes) - set(stored)):
        raise UserError(f"{shown(folder)}: has no {unknown[0]} ({len(unknown)} such), which the adapter changes; it belongs to another model")
    tensors = []
    for name, entry in stored.items():
        if entry.dtype not in safetensors_io.FLOATS:
            raise UserError(f"{shown(entry.file)}: {name} has type {entry.dtype}; dequantize the checkpoint before fusing")
        tensors.append(Tensor(name, entry.shape, entry.dtype, (lambda entry=entry, name=name: _fused(entry, name, changes.get(name)),)))
    return tensors


def _fused(entry, name: str, change):
    values = entry.rows(0, math.prod(entry.shape[:-1])).reshape(entry.shape)
    if change is None:
        return values
    try:
        values = lora.apply_change(values, change, embedding=name.endswith("embed_tokens.weight"))
    except ValueError:
        raise UserError(f"{shown(entry.file)}: {name} {list(entry.shape)} does not fit the adapter; it belongs to another model") from None
    return from_array(name, values, entry.dtype).read()  # refuses what is not finite


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="checkpoint folder that the adapter was trained on")
    parser.add_argument("--adapter", type=Path, required=True, metavar="DIR", help="adapter folder")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="checkpoint folder to write")
    args = parser.parse_args()

    changes = lora.changes(args.adapter)
    tensors = fused_tensors(args.model, changes)
    with atomic_dir(args.out) as partial:
        # One file: what a LoRA on this machine is trained on is far below a shard's size.
        safetensors_io.write_file(partial / "model.safetensors", tensors, {"format": "pt"})
        shutil.copyfile(args.model / "config.json", partial / "config.json")
        copy_tokenizer(args.model, partial)
    print(f"{shown(args.out)}: {len(changes)} of {len(tensors)} tensors changed")


if __name__ == "__main__":
    cli.run(main)
