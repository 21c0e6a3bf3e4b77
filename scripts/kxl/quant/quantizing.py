"""llama-quantize, told what to do and checked before and after."""

import os
import re
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from kxl.base.cli import UserError
from kxl.base.files import scratch_dir, shown, write_text
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


def dry_run(model: Path, base_type: str, log: Path, rules: Path | None = None) -> tuple[float, dict[str, str]]:
    """(MiB of all tensors, type of each quantized tensor) as llama-quantize would write them.

    Raises UserError when it would fall back to types that nobody asked for.
    """
    options = ["--tensor-type-file", rules] if rules else []
    output = llama_cpp.run("llama-quantize", ["--dry-run", *options, model, base_type], log)
    if "required fallback quantization" in output:
        raise UserError(f"{base_type}: llama-quantize would fall back to other types for some rows; see {shown(log)}")
    size = re.search(r"quant size\s*=\s*([\d.]+) MiB", output)
    if not size:
        raise UserError(f"{base_type}: llama-quantize printed no size; see {shown(log)}")
    return float(size[1]), dict(re.findall(r"\] (\S+)\s+- \[.*\((\w+)\)", output))


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
