"""Make an MLX variant of a fused checkpoint: 8-bit, 6-bit, or experts alone quantized.

In:  a checkpoint folder.
Out: a checkpoint folder as mlx-lm saves it, with per-layer settings in config.json, tokenizer and `tool_parser_type`.

  .venv/bin/python scripts/repair_build_variant.py --model runs/tiny/fused --variant mixed --out runs/tiny/mlx-mixed

  8bit   every matrix 8 bits in groups of 64, the router too
  6bit   the same with 6 bits; the router stays at 8, as mlx-lm wants it
  mixed  experts 8 bits, everything else as it is stored (BF16): `mlx_lm.convert` has no switch for this

`--report` gets bytes and bits per weight; --experts-bits changes the mixed variant's.
"""

import math
from pathlib import Path

from kxl.base import cli, report
from kxl.base.cli import UserError
from kxl.base.files import atomic_dir, require_space, shown, write_json
from kxl.chat import parser_metadata
from kxl.model import checkpoint

VARIANTS = ("8bit", "6bit", "mixed")
GROUP = 64


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="fused checkpoint, not quantized")
    parser.add_argument("--variant", choices=VARIANTS, required=True, help="how the weights are quantized")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="checkpoint folder to write")
    parser.add_argument(
        "--experts-bits", type=int, choices=(4, 5, 6, 8), default=8, help="bits of the experts in the mixed variant"
    )
    parser.add_argument("--report", type=Path, help="report to write (JSON)")
    args = parser.parse_args()

    original = checkpoint.read(args.model)
    if original.config.get("quantization"):
        raise UserError(f"{shown(args.model)}: is quantized already; start from the fused checkpoint")
    if original.config["model_type"] != "lfm2_moe" and args.variant == "mixed":
        raise UserError(f"{shown(args.model)}: has no experts, so there is no mixed variant of it; take 8bit or 6bit")
    require_space(args.out.parent, sum(path.stat().st_size for path in args.model.glob("*.safetensors")))
    build(args.model, args.variant, args.experts_bits, args.out)

    elements = sum(math.prod(tensor.shape) for tensor in original.tensors.values())
    size = sum(path.stat().st_size for path in args.out.glob("*.safetensors"))
    results = {"variant": args.variant, "bytes": size, "bpw": round(8 * size / elements, 3), "parameters": elements}
    if args.report:
        report.write(
            args.report,
            [args.model],
            {
                "variant": args.variant,
                "group_size": GROUP,
                "experts_bits": args.experts_bits if args.variant == "mixed" else None,
            },
            results,
        )
    print(f"{shown(args.out)}: {size / 2**20:.2f} MiB, {results['bpw']} bits per weight")


def bits_of(path: str, variant: str, experts_bits: int) -> int | None:
    """Bits of a module by its path in mlx-lm's model; None to leave it as it is."""
    if variant == "mixed":
        return experts_bits if ".switch_mlp." in path else None
    if path.endswith("feed_forward.gate"):
        return 8
    return int(variant[0])


def build(folder: Path, variant: str, experts_bits: int, out: Path) -> None:
    """Quantize and save. UserError for a matrix whose rows are no multiple of the group size."""
    from mlx_lm.utils import load_model, quantize_model, save_model

    model, config = load_model(Path(folder), lazy=True)

    def chosen(path: str, module) -> dict | bool:
        bits = bits_of(path, variant, experts_bits)
        return {"group_size": GROUP, "bits": bits, "mode": "affine"} if bits else False

    for path, module in model.named_modules():  # mlx-lm would leave such a matrix as it is, without a word
        if hasattr(module, "to_quantized") and bits_of(path, variant, experts_bits) and module.weight.shape[-1] % GROUP:
            raise UserError(
                f"{shown(folder)}: {path} has rows of {module.weight.shape[-1]}, no multiple of {GROUP}; MLX cannot "
                "quantize it in groups"
            )
    default = experts_bits if variant == "mixed" else int(variant[0])
    model, config = quantize_model(model, config, GROUP, default, quant_predicate=chosen)
    with atomic_dir(out) as partial:
        save_model(partial, model)
        config.pop(
            "quantization_config", None
        )  # the same again, under the name that transformers has for something else
        write_json(partial / "config.json", config)
        checkpoint.copy_tokenizer(folder, partial)
        parser_metadata.declare(partial)


if __name__ == "__main__":
    cli.run(main)
