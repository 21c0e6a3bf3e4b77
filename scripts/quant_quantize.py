"""Quantize a BF16 GGUF by a KXL policy, or to a stock type, with the pinned llama-quantize.

In:  the BF16 GGUF, a policy of gguf/export_plan.json (or --stock TYPE), the imatrix.
Out: the quantized GGUF, whole or not at all, every tensor's type checked against the policy.

  .venv/bin/python scripts/quant_quantize.py --gguf runs/tiny/hermes-kxl-tiny-bf16.gguf --policy q4kxl \\
      --imatrix runs/tiny/imatrix.gguf --out runs/tiny/hermes-kxl-tiny-q4kxl.gguf \\
      --log runs/tiny/results/logs/quantize.q4kxl.log

The policy is linted, the imatrix checked for every tensor that uses it and the disk for space before
anything is written. The tied embedding needs no imatrix: llama-imatrix cannot collect one for it.
"""

from pathlib import Path

from kxl.base import cli
from kxl.base.cli import UserError
from kxl.base.files import atomic_path, require_space, shown, write_text
from kxl.quant import policy
from kxl.quant.policy import Type
from kxl.quant.quantizing import check_imatrix, compact, quantize, verify


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--gguf", type=Path, required=True, metavar="FILE", help="BF16 GGUF to quantize")
    parser.add_argument("--policy", metavar="NAME", help="policy of the export plan, such as q4kxl")
    parser.add_argument("--stock", metavar="TYPE", help="stock type of llama-quantize instead, such as Q4_K_M")
    parser.add_argument(
        "--imatrix", type=Path, metavar="FILE", help="imatrix in GGUF format (default: none, rounding without one)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="GGUF file to write")
    parser.add_argument("--log", type=Path, required=True, metavar="FILE", help="where llama-quantize's output goes")
    parser.add_argument("--plan", type=Path, default=policy.PLAN, metavar="FILE", help="export plan")
    args = parser.parse_args()
    if bool(args.policy) == bool(args.stock):
        raise UserError("name either --policy or --stock")

    tensors = policy.read_tensors(args.gguf)
    if args.policy:
        rules = policy.load(args.policy, args.plan)
        types, base_type, text = policy.assign(rules, tensors), rules.base_type, policy.plain(rules)
        needed = policy.data_bytes(tensors, types)
    else:
        stock = policy.read_plan(args.plan)["stock"]
        if args.stock not in stock:
            raise UserError(f"{shown(args.plan)}: {args.stock!r} is none of its stock types {', '.join(stock)}")
        types, base_type, text = None, args.stock, None
        needed = policy.data_bytes(tensors, {t.name: Type.Q8_0 if policy.quantizable(t) else t.type for t in tensors})
    if args.imatrix:
        check_imatrix(args.imatrix, tensors, types)
    require_space(args.out.parent, needed)

    with atomic_path(args.out) as partial:
        output = quantize(args.gguf, partial, base_type, args.imatrix, text, args.log)
        if "required fallback quantization" in output:
            raise UserError(
                f"{base_type}: llama-quantize fell back to other types for some rows; see {shown(args.log)}"
            )
        counts = verify(partial, tensors, types)
        write_text(args.log, compact(output, partial, args.out))
    kinds = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    print(f"{shown(args.out)}: {args.policy or args.stock}, {args.out.stat().st_size / 2**20:.2f} MiB ({kinds})")


if __name__ == "__main__":
    cli.run(main)
