"""Compute the importance matrix of a model from chat text, and refuse it when an expert saw too little.

In:  the BF16 GGUF and calibration.txt (scripts/quant_build_calibration.py).
Out: imatrix.gguf, for llama-quantize, and a report of how many tokens each expert of each layer saw.

llama-imatrix reads the text in chunks of --context tokens, chat markers as the special tokens they
are, and sums the squared inputs of every matrix. An expert that no token was
routed to has no such sum; llama-quantize would then silently weigh all its columns alike. So an
imatrix is kept only when every expert of every layer saw --min-tokens tokens and every matrix that
can be quantized has an entry. The embedding is exempt: tied to the output, it is never collected.

The text is read in parts of --part-chunks chunks, each kept beside --out until the end: a run that was killed goes on
behind its last whole part. With --settled (or imatrix.settled of the config) it ends early: when every expert has seen
enough and two halves of the parts agree to that share (kxl/quant/settling.py). Without, all of the text is read in one
go. --with adds importance matrices of the same model that were computed elsewhere.

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
from kxl.quant import imatrix, policy, settling
from kxl.quant.parts import Parts
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
    parser.add_argument(
        "--settled",
        type=float,
        help="end when two halves differ by less than this share, 0.15 for instance (default: the config's "
        "imatrix.settled; without one all of the text is read)",
    )
    parser.add_argument("--part-chunks", type=int, default=2, help="chunks of a part; what a kill costs at most")
    parser.add_argument(
        "--with", dest="others", type=Path, action="append", default=[], help="another imatrix to add; may be repeated"
    )
    args = config.parse(parser, {"context": "imatrix.context_tokens", "min_tokens": "imatrix.min_tokens_per_expert"})

    if args.part_chunks < 1:
        raise UserError("--part-chunks is at least 1")
    settled = args.settled if args.settled is not None else settled_of(args.config)
    parts, differ = None, None
    with atomic_path(args.out) as partial:
        # Nothing takes its place before everything about it is known to be right.
        if settled:
            parts = Parts(args.out.with_name(f"{args.out.name}.parts"), key_of(args))
            perplexity, differ = in_parts(args, settled, partial, parts)
        else:
            perplexity = final_perplexity(run_imatrix(args.gguf, args.text, partial, args.context, args.log), args.log)
            if args.others:
                merge(args, [partial], partial)
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
    if settled:
        results |= {"halves_differ": differ, "parts": len(parts.files)}
    report.write(
        args.report,
        inputs=[args.gguf, args.text, *args.others],
        settings={"context": args.context, "min_tokens": args.min_tokens, "settled": settled},
        results=results,
    )
    if parts:
        parts.remove()
    if layers:
        least = results["fewest_tokens"]
        coverage = (
            f"{len(layers)} MoE layers x {len(layers[0]['tokens'])} experts, the least used saw "
            f"{least['tokens']:,} tokens"
        )
    else:
        coverage = "no experts in this model"
    print(f"{shown(args.out)}: {len(counts)} matrices from {results['tokens']:,} tokens; {coverage}")


def settled_of(path: Path | None) -> float | None:
    """imatrix.settled of a config, where it says so."""
    return (config.load(path).get("imatrix") or {}).get("settled") if path else None


def in_parts(args, settled: float, out: Path, parts: Parts) -> tuple[float, float]:
    """Write the importance matrix of as many parts as it takes to `out`; (perplexity, how far the halves differ)."""
    differ = 1.0

    def compute(number: int, path: Path) -> float | None:
        chosen = ("--chunk", number * args.part_chunks, "--chunks", args.part_chunks)
        with atomic_path(path) as partial:
            try:
                output = run_imatrix(args.gguf, args.text, partial, args.context, args.log, chosen)
            except UserError:
                if END_OF_TEXT.search(args.log.read_text(encoding="utf-8", errors="replace")):
                    raise TextEnds from None
                raise
            return final_perplexity(output, args.log)

    def until_the_end(number: int, path: Path) -> float | None:
        try:
            return compute(number, path)
        except TextEnds:
            return None

    def enough(matrices: list[dict]) -> bool:
        nonlocal differ
        differ = round(settling.halves(matrices), 4)
        counts = {name: entry.counts for name, entry in settling.added(*matrices).items()}
        least = fewest(expert_coverage(args.gguf, counts))
        seen = least["tokens"] if least else args.min_tokens
        cli.say(
            f"{len(matrices)} parts: halves differ by {differ:.3f}, settled below {settled}; the least used expert "
            f"saw {seen:,} tokens"
        )
        return differ <= settled and seen >= args.min_tokens

    parts.collect(until_the_end, enough)
    if not parts.files:
        raise UserError(
            f"{shown(args.text)}: is shorter than two chunks of {args.context} tokens; give a longer text or a smaller "
            "--context"
        )
    merge(args, parts.files, out)
    return float(np.exp(np.mean(np.log(parts.perplexities)))), differ


class TextEnds(Exception):
    """The text has no part of this number."""


def merge(args, files: list[Path], out: Path) -> None:
    """Add up matrices and --with, by llama-imatrix itself, which keeps what it notes beside the sums."""
    names = ",".join(os.path.relpath(path) for path in [*files, *args.others])
    arguments = ["-m", args.gguf, "--in-file", names, "-o", out, "--output-format", "gguf", "-c", args.context]
    llama_cpp.run("llama-imatrix", arguments, log=args.log.with_name(f"{args.log.stem}.merge.log"))


def key_of(args) -> dict:
    """What parts are of: they count only for the same model, text and cut."""
    described = [
        {"path": str(path), "bytes": path.stat().st_size, "changed": path.stat().st_mtime_ns}
        for path in (args.gguf, args.text)
    ]
    return {"of": described, "context": args.context, "part_chunks": args.part_chunks}


# What llama-imatrix says where a text has no chunk left behind --chunk, or too few tokens for one at all.
END_OF_TEXT = re.compile(r"not enough tokens left after removing|you need at least \d+ tokens")


def run_imatrix(model: Path, text: Path, out: Path, context: int, log: Path, chosen: tuple = ()) -> str:
    """Run llama-imatrix; return its output. `chosen`: flags that say which chunks."""
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
                *chosen,
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
