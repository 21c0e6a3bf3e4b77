"""Compute the importance matrix of a model from chat text, and refuse it when an expert saw too little.

In:  the BF16 GGUF and calibration.txt (scripts/quant_build_calibration.py).
Out: imatrix.gguf, for llama-quantize, and a report of how many tokens each expert of each layer saw.

llama-imatrix reads the text in chunks of --context tokens, chat markers as the special tokens they
are, and sums the squared inputs of every matrix. An expert that no token was
routed to has no such sum; llama-quantize would then silently weigh all its columns alike. So an
imatrix is kept only when every expert of every layer saw --min-tokens tokens and every matrix that
can be quantized has an entry. The embedding is exempt: tied to the output, it is never collected.

  python scripts/quant_compute_imatrix.py --gguf runs/tiny/hermes-kxl-tiny-bf16.gguf \\
      --text runs/tiny/calibration.txt \\
      --out runs/tiny/imatrix.gguf --report runs/tiny/results/reports/imatrix.json \\
      --log runs/tiny/results/logs/imatrix.log
"""

import math
import os
import re
from pathlib import Path

import numpy as np

from kxl.base import cli, config, report
from kxl.base.cli import UserError
from kxl.base.files import atomic_path, shown
from kxl.quant import chunks as quant_chunks
from kxl.quant import imatrix, policy
from kxl.setup import llama_cpp

EXPERTS = re.compile(r"blk\.(\d+)\.ffn_(?:gate|up|down|gate_up)_exps\.weight")
NAMED_IN_ERROR = 8


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--gguf", type=Path, required=True, help="BF16 model")
    parser.add_argument("--text", type=Path, required=True, help="calibration text with chat markers")
    parser.add_argument("--out", type=Path, required=True, help="imatrix to write (GGUF)")
    parser.add_argument("--report", type=Path, required=True, help="report to write (JSON)")
    parser.add_argument("--log", type=Path, required=True, help="llama-imatrix's output")
    parser.add_argument("--context", type=int, default=8192, help="tokens per chunk")
    parser.add_argument(
        "--min-tokens", type=int, default=64, help="tokens that every expert of every layer must have seen"
    )
    args = config.parse(parser, {"context": "imatrix.context_tokens", "min_tokens": "imatrix.min_tokens_per_expert"})

    with atomic_path(args.out) as partial:
        # Nothing takes its place before everything about it is known to be right.
        perplexity = final_perplexity(run_imatrix(args.gguf, args.text, partial, args.context, args.log), args.log)
        entries, chunks = imatrix.read(partial)
        counts = {name: entry.counts for name, entry in entries.items()}
        layers = expert_coverage(args.gguf, counts)
        refuse_gaps(args.gguf, counts, layers, args.min_tokens)
        refuse_unusable(entries)
    results = {
        "chunks": chunks,
        "tokens": chunks * args.context,
        "perplexity": perplexity,
        "matrices": len(counts),
        "fewest_tokens": fewest(layers),
        "layers": layers,
    }
    report.write(
        args.report,
        inputs=[args.gguf, args.text],
        settings={"context": args.context, "min_tokens": args.min_tokens},
        results=results,
    )
    if layers:
        least = results["fewest_tokens"]
        coverage = (
            f"{len(layers)} MoE layers x {len(layers[0]['tokens'])} experts, the least used saw "
            f"{least['tokens']:,} tokens"
        )
    else:
        coverage = "no experts in this model"
    print(f"{shown(args.out)}: {len(counts)} matrices from {results['tokens']:,} tokens; {coverage}")


def run_imatrix(model: Path, text: Path, out: Path, context: int, log: Path) -> str:
    """Run llama-imatrix; return its output."""
    with quant_chunks.progress("imatrix") as progress:
        return llama_cpp.run(
            "llama-imatrix",
            [
                # The path of the text is stored in the imatrix and from there in every quant: keep it free of this
                # machine.
                "-m",
                model,
                "-f",
                os.path.relpath(text),
                "-o",
                out,
                "--output-format",
                "gguf",
                *quant_chunks.AS_RENDERED,
                "-c",
                context,
            ],
            log=log,
            progress=progress,
        )


def final_perplexity(output: str, log: Path) -> float:
    """Perplexity of the calibration text, from llama-imatrix's last line. UserError where it is no number."""
    found = re.search(r"Final estimate: PPL = (\S+)", output)
    try:
        value = float(found[1]) if found else math.nan
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(
            f"{shown(log)}: the calibration text has the perplexity {found[1] if found else 'that nobody printed'}: "
            "the model computes NaN or infinity; check its BF16 GGUF with `make parity`, or take an earlier checkpoint"
        )
    return value


def needs_importance(model: Path) -> dict:
    """Number of experts (1 for an ordinary matrix) by name, of each matrix but the embedding that can be quantized."""
    return {
        tensor.name: tensor.shape[2] if len(tensor.shape) > 2 else 1
        for tensor in policy.read_tensors(model)
        if policy.quantizable(tensor) and tensor.name.startswith("blk.")
    }


def expert_coverage(model: Path, counts: dict) -> list:
    """Per MoE layer of the model: {"layer", "tokens" of each expert, "fewest", "median", "most"}."""
    layers = {}
    for name, experts in needs_importance(model).items():
        if match := EXPERTS.fullmatch(name):
            seen = counts.get(name, np.zeros(experts, dtype=np.int64))
            layer = int(match[1])
            layers[layer] = np.minimum(layers.get(layer, seen), seen)
    return [
        {
            "layer": layer,
            "tokens": seen.tolist(),
            "fewest": int(seen.min()),
            "median": float(np.median(seen)),
            "most": int(seen.max()),
        }
        for layer, seen in sorted(layers.items())
    ]


def fewest(layers: list) -> dict | None:
    """The expert that saw the fewest tokens: {"layer", "expert", "tokens"}; None without experts."""
    everyone = [
        {"layer": entry["layer"], "expert": expert, "tokens": tokens}
        for entry in layers
        for expert, tokens in enumerate(entry["tokens"])
    ]
    return min(everyone, key=lambda one: one["tokens"], default=None)


def refuse_gaps(model: Path, counts: dict, layers: list, min_tokens: int) -> None:
    """UserError when an expert saw fewer than `min_tokens` tokens or a matrix has no entry."""
    low = [
        f"layer {entry['layer']} expert {expert}: {tokens}"
        for entry in layers
        for expert, tokens in enumerate(entry["tokens"])
        if tokens < min_tokens
    ]
    if low:
        raise UserError(
            f"the calibration text does not reach {len(low)} experts often enough ({min_tokens} tokens each): "
            f"{listed(low)}. "
            "Add calibration rows of other kinds or raise --calibration-tokens of quant_build_calibration.py"
        )
    missing = [name for name in needs_importance(model) if name not in counts]
    if missing:
        raise UserError(
            f"the imatrix has no entry for {len(missing)} matrices of {shown(model)}: {listed(missing)}. "
            "Is the text for another model, or shorter than a chunk?"
        )


def refuse_unusable(entries: dict) -> None:
    """UserError for sums that are no numbers, by matrix and expert."""
    if bad := [f"{name}: {why}" for name, entry in entries.items() if (why := entry.problem())]:
        raise UserError(f"the imatrix cannot be used: {listed(bad)}. Check the BF16 GGUF with `make parity`")


def listed(names: list) -> str:
    more = f" and {len(names) - NAMED_IN_ERROR} more" if len(names) > NAMED_IN_ERROR else ""
    return ", ".join(names[:NAMED_IN_ERROR]) + more


if __name__ == "__main__":
    cli.run(main)
