"""Make the mixed core that MoE training works on: experts int8, routers and everything else BF16.

In:  --model, a BF16 checkpoint folder (moe_fetch_base.py); group size and bits of the carry of the training config.
Out: --out, a core folder (kxl/moe/core.py); --report with its bytes and the error of every expert matrix's codes.

One matrix is in memory at a time. A checkpoint that is no LFM2-MoE, or whose widths the group size does not
divide, is refused before anything is written.

  .venv/bin/python scripts/moe_build_core.py --model models/tiny --config configs/tiny-moe.json --out runs/tiny/core \\
      --report runs/tiny/results/reports/core.json
"""

import math
from pathlib import Path

from tqdm import tqdm

from kxl.base import cli, report
from kxl.base.files import read_json, shown
from kxl.model import checkpoint
from kxl.moe import core


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="BF16 checkpoint folder")
    parser.add_argument("--config", type=Path, required=True, help="training config with the group size")
    parser.add_argument("--out", type=Path, required=True, help="core folder to write")
    parser.add_argument("--report", type=Path, required=True, help="report (JSON)")
    args = parser.parse_args()

    settings = read_json(args.config)
    group, carry_bits = settings.get("group_size"), settings.get("carry_bits", 0)
    config_path = args.model / "config.json"
    # Before the shapes: the plainer error.
    config = core.check_config(read_json(config_path), group, shown(config_path))
    source = checkpoint.read(args.model)
    source = checkpoint.Checkpoint(source.folder, config, source.tensors)
    with tqdm(total=source.config["num_hidden_layers"] + 1, unit="shard", dynamic_ncols=True) as bar:
        errors = core.build(args.out, source, group, carry_bits, say=lambda done, count: bar.update())
    size = core.stored_bytes(source.config, group, carry_bits)
    bf16 = sum(2 * math.prod(tensor.shape) for tensor in source.tensors.values())
    worst = max(errors, key=lambda name: errors[name]["relative_rms"])
    inputs = sorted(path for path in args.model.iterdir() if path.suffix in (".safetensors", ".json"))
    report.write(
        args.report,
        inputs,
        {"group_size": group, "bits": 8, "carry_bits": carry_bits},
        {
            "bytes": size,
            "bf16_bytes": bf16,
            "expert_bytes": sum(expert_bytes(source.tensors[name].shape, group) for name in errors),
            "worst": worst,
            "worst_relative_rms": errors[worst]["relative_rms"],
            "errors": errors,
        },
    )
    print(
        f"{shown(args.out)}: {size / 2**20:,.1f} MiB for {bf16 / 2**20:,.1f} in BF16; {len(errors)} expert matrices, "
        f"worst relative error {errors[worst]['relative_rms']:.4f} ({worst})"
    )


def expert_bytes(shape: tuple, group: int) -> int:
    """Bytes of a matrix as int8 codes and one float32 scale a group."""
    return math.prod(shape) + 4 * math.prod(shape) // group


if __name__ == "__main__":
    cli.run(main)
