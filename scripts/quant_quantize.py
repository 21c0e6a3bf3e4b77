"""Quantize a BF16 GGUF by a KXL policy, or to a stock type, with the pinned llama-quantize.

In:  the BF16 GGUF, a policy of gguf/export_plan.json (or --stock TYPE), the imatrix.
Out: the quantized GGUF, whole or not at all, every tensor's type checked against the policy.

  .venv/bin/python scripts/quant_quantize.py --gguf runs/tiny/hermes-kxl-tiny-bf16.gguf --policy q4kxl \\
      --imatrix runs/tiny/imatrix.gguf --out runs/tiny/hermes-kxl-tiny-q4kxl.gguf \\
      --log runs/tiny/results/logs/quantize.q4kxl.log

The policy is linted, the imatrix checked for every tensor that uses it and the disk for space before
anything is written. The tied embedding needs no imatrix: llama-imatrix cannot collect one for it.
"""

import os
import re
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from kxl.base import cli
from kxl.base.cli import UserError
from kxl.base.files import atomic_path, require_space, scratch_dir, shown, write_text
from kxl.quant import imatrix, policy
from kxl.quant.policy import Type
from kxl.setup import llama_cpp

# Types whose rounding does not look at the imatrix.
WITHOUT_IMATRIX = (Type.F32, Type.F16, Type.BF16, Type.Q8_0)


def check_imatrix(path: Path, tensors: list, types: dict[str, Type] | None) -> None:
    """Every quantized tensor that uses the imatrix must be in it, with its row length and expert count, and every
    expert must have been reached.

    `types` None (a stock type): every quantizable tensor. UserError names the tensor and the expert.
    """
    entries, _ = imatrix.read(path)
    for tensor in tensors:
        if tensor.name == "token_embd.weight" or not policy.quantizable(tensor):
            continue
        if types and types[tensor.name] in WITHOUT_IMATRIX:
            continue
        entry = entries.get(tensor.name)
        experts = tensor.shape[2] if len(tensor.shape) > 2 else 1
        if entry is None:
            raise UserError(
                f"{shown(path)}: has nothing for {tensor.name}; it belongs to another model or is not complete"
            )
        if entry.sums.shape != (experts, tensor.shape[0]):
            raise UserError(
                f"{shown(path)}: {tensor.name} has {list(reversed(entry.sums.shape))} values, the GGUF's rows and "
                f"experts are [{tensor.shape[0]}, {experts}]; it belongs to another model"
            )
        if why := entry.problem():
            raise UserError(
                f"{shown(path)}: {tensor.name}: {why}. llama-quantize would weigh all its columns alike; "
                "compute the imatrix from more and other text (scripts/quant_compute_imatrix.py)"
            )


def quantize(source: Path, out: Path, base_type: str, imatrix: Path | None, rules: str | None, log: Path) -> str:
    """Run llama-quantize to `out`; return its output. Progress on stderr."""
    with (
        scratch_dir() as folder,
        tqdm(desc=f"quantizing to {base_type}", unit="tensor", leave=False) as bar,
    ):
        options = []
        if rules is not None:
            write_text(Path(folder) / "rules.txt", rules)
            options += ["--tensor-type-file", Path(folder) / "rules.txt"]
        if imatrix is not None:
            # It writes this path into the file that is published, so none of this machine's folders.
            options += ["--imatrix", os.path.relpath(imatrix)]

        def progress(line: str) -> None:
            if match := re.match(r"\[\s*(\d+)/\s*(\d+)\]", line):
                bar.total = int(match[2])
                bar.update(int(match[1]) - bar.n)

        return llama_cpp.run("llama-quantize", [*options, source, out, base_type], log, progress)


def compact(output: str, partial: Path, out: Path) -> str:
    """llama-quantize's output without its list of metadata and without this machine's paths."""
    lines = (line for line in output.splitlines() if line.strip() and "llama_model_loader: - kv" not in line)
    return "\n".join(lines).replace(str(partial), shown(out)) + "\n"


def verify(path: Path, tensors: list, types: dict[str, Type] | None) -> Counter:
    """The file holds the source's tensors, in the policy's types (`types`); returns how many of each type."""
    made = {t.name: t for t in policy.read_tensors(path)}
    for tensor in tensors:
        found = made.get(tensor.name)
        if found is None or found.shape != tensor.shape:
            raise UserError(
                f"llama-quantize wrote {tensor.name} as {found.shape if found else 'nothing'}, not {tensor.shape}"
            )
        if types and found.type != types[tensor.name]:
            raise UserError(
                f"llama-quantize made {tensor.name} {found.type.name}, the policy says {types[tensor.name].name}"
            )
    return Counter(t.type.name for t in made.values())


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
