"""Measure what quantizing each matrix does to a model: every matrix, every type, from one pass over a text.

In:  a checkpoint (folder as transformers loads it), its imatrix, a text apart from the one that quants are judged on.
Out: a report. Per tensor and type: `bytes`; `damage`, the mean KL divergence of the next-token probabilities
     in nats that this tensor alone would cause with every token keeping its experts (second order, Fisher information,
     kxl/search/taps.py); `flips`, the mean square by which it moves the margins between the last chosen expert and
     the next one, weighed by what an exchange does; and their relative standard errors over the chunks (`noise`).

Whole policies (two uniform ones, one with little at the beginning, one with little at the end) are then measured on
the same text with the real llama-perplexity: from them comes what a sum of damages and one of flips count (`scale`).

The report is the input of every search: another budget reads it and takes seconds. Chunks that are done are kept in
--work, so an interrupted run goes on from there. CPUs alone are meant: the rounding of a product's input, which
llama.cpp does there, is part of the damage.

  .venv/bin/python scripts/search_measure_sensitivity.py --model models/tiny --gguf runs/tiny/bf16.gguf \\
      --imatrix runs/tiny/imatrix.gguf --logs logs/tiny \\
      --text runs/tiny/calibration.txt --work runs/tiny/sensitivity --out reports/tiny/sensitivity.json
"""

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from kxl.base import cli, config, report
from kxl.base.files import lock, read_json, sha256, shown, write_json
from kxl.quant import imatrix as imatrices
from kxl.quant import policy
from kxl.search import ggml, measuring, models, table, taps
from kxl.search.allocate import Table

SHARE = 0.25  # of the tokens, in each product
FLIPPED = 0.05  # share of the tokens whose margins are the smallest, of which an exchange's damage is measured


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="checkpoint folder")
    parser.add_argument("--gguf", type=Path, required=True, metavar="FILE", help="its BF16 GGUF")
    parser.add_argument("--imatrix", type=Path, required=True, metavar="FILE", help="imatrix of this checkpoint (GGUF)")
    parser.add_argument("--text", type=Path, required=True, metavar="FILE", help="rendered text to measure on")
    parser.add_argument("--context", type=int, default=2048, help="tokens per chunk; the second half of each is scored")
    parser.add_argument("--tokens", type=int, default=8192, help="tokens of the text that are used at most")
    parser.add_argument("--whole-tokens", type=int, default=16384, help="tokens that whole policies are measured on")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder that keeps finished chunks")
    parser.add_argument("--logs", type=Path, required=True, metavar="DIR", help="folder for llama.cpp's output")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="report to write (JSON)")
    parser.add_argument("--whole-context", type=int, default=8192, help="tokens per chunk of that")
    args = config.parse(parser, {"whole_context": "kld.context_tokens"})

    tokens = models.read_tokens(args.model, args.text, args.context, args.tokens)
    files = [*sorted(args.model.glob("*.safetensors")), args.model / "config.json", args.imatrix, args.text]
    key = {
        "files": [sha256(path) for path in files],
        "context": args.context,
        "types": [kind.name for kind in table.TYPES],
        "share": SHARE,
    }
    with lock(args.work / ".lock", f"waiting for another measurement in {shown(args.work)}"):
        chunks = measured_chunks(args, key, tokens)
        results = table.combined(chunks["tensors"], chunks["parts"])
        results["routers"] = chunks["routers"]
        results["scale"] = scale_of(args, Table.of(results))
    report.write(
        args.out,
        [args.gguf, *files],
        {
            "context": args.context,
            "chunks": len(tokens),
            "scored_tokens": int(tokens.size // 2),
            "share": SHARE,
        },
        results,
    )
    floor = np.median([cell["noise"] for entry in results["tensors"].values() for cell in entry["types"].values()])
    print(
        f"{shown(args.out)}: {len(results['tensors'])} tensors, {len(table.TYPES)} types, {tokens.size:,} tokens; "
        f"median relative error {floor:.0%}"
    )


def measured_chunks(args, key: dict, tokens: np.ndarray) -> dict:
    """{"tensors": shapes, "parts": [sums of each chunk], "routers": what an exchange does}, from --work or now."""
    parts = {}
    for place in range(len(tokens)):
        record = args.work / f"chunk.{place}.json"
        if record.exists() and (kept := read_json(record))["key"] == key:
            parts[place] = kept["sums"]
    tensors_file, routers_file = args.work / "tensors.json", args.work / "routers.json"
    known = [read_json(path) if path.exists() else {"key": None} for path in (tensors_file, routers_file)]
    if len(parts) < len(tokens) or any(record["key"] != key for record in known):
        tapped = taps.Tapped(models.load(args.model), models.namer(args.model))
        tensors, errors = quantization_errors(tapped, args.imatrix)
        write_json(tensors_file, {"key": key, "tensors": tensors})
        if known[1]["key"] != key:
            write_json(routers_file, {"key": key, "routers": exchanges(tapped, tokens[0])})
        routers = read_json(routers_file)["routers"]
        for place in tqdm([n for n in range(len(tokens)) if n not in parts], desc="sensitivity", unit="chunk"):
            parts[place] = chunk_sums(tapped, errors, tokens[place], routers, place)
            write_json(args.work / f"chunk.{place}.json", {"key": key, "sums": parts[place]})
    return {
        "tensors": read_json(tensors_file)["tensors"],
        "routers": read_json(routers_file)["routers"],
        "parts": [parts[place] for place in range(len(tokens))],
    }


def scale_of(args, known: Table) -> dict:
    """{"saturation", "exchanges", "policies": {NAME: {"measured", "damage", "flips"}}} from whole policies."""
    judge = measuring.Judge(
        args.gguf, args.imatrix, args.text, args.whole_context, args.whole_tokens, args.work / "whole", args.logs
    )
    policies, made = table.uneven(known.cells), {}
    for name, types in policies.items():
        scores, _ = judge.measured(f"whole {name}", types)
        damage, flips = known.sums(types)
        made[name] = {"measured": table.rounded(float(scores.kld.mean())), "damage": damage, "flips": flips}
    return {**table.fitted_scale(list(made.values())), "policies": made}


def quantization_errors(tapped: taps.Tapped, imatrix: Path) -> tuple[dict, dict]:
    """(shape of each tensor, {tensor: {type: bfloat16 [experts, rows, columns]}} of quantized minus true weights)."""
    entries, _ = imatrices.read(imatrix)
    tensors, errors = {}, {}
    for name, matrices in tqdm(tapped.matrices.items(), desc="quantizing", unit="tensor"):
        rows, columns = matrices[0].shape
        tensors[name] = [columns, rows] + ([len(matrices)] if name.endswith("_exps.weight") else [])
        errors[name] = {}
        for kind in table.fitting(columns):
            if kind == policy.Type.BF16:
                continue
            errors[name][kind] = torch.stack(
                [
                    torch.from_numpy(
                        ggml.rounded(w.numpy(), kind, taps.importance_of(entries.get(name), expert)) - w.numpy()
                    ).bfloat16()
                    for expert, w in enumerate(matrices)
                ]
            )
    return tensors, errors


def exchanges(tapped: taps.Tapped, tokens: np.ndarray) -> list[dict]:
    """For each router: `density` of its margins at 0 (per unit of score), `damage` in nats of one exchange there."""
    ids, first = torch.from_numpy(tokens), len(tokens) // 2
    found = []
    with torch.no_grad():
        base = tapped.logits(ids, first)
        margins = tapped.margins
        for layer, margin in enumerate(margins):
            near = torch.zeros_like(margin, dtype=torch.bool)
            near[first + margin[first:].topk(int(FLIPPED * len(margin[first:])), largest=False).indices] = True
            tapped.flip = {layer: near}
            moved = taps.kl_divergence(base, tapped.logits(ids, first)).sum()
            tapped.flip = {}
            density = near.sum() / len(margin[first:]) / margin[near].max()
            found.append({"density": float(density), "damage": float(moved / near.sum())})
    return found


def chunk_sums(tapped: taps.Tapped, errors: dict, tokens: np.ndarray, routers: list[dict], seed: int) -> dict:
    """{"scored": tokens, "damage": {tensor: {type: sum}}, "flips": the same} of one chunk."""
    ids, first = torch.from_numpy(tokens), len(tokens) // 2
    generator = torch.Generator().manual_seed(seed)
    tapped.sink = taps.Sink(errors, SHARE, seed)
    logits = tapped.logits(ids, first)
    probe = taps.fisher_probe(logits, generator)
    (logits * probe).sum().backward(retain_graph=bool(tapped.margins))
    damage, tapped.sink = tapped.sink, taps.Sink(errors, SHARE, seed)
    if tapped.margins:
        signal = 0
        for margin, router in zip(tapped.margins, routers):
            signs = torch.randint(0, 2, margin[first:].shape, generator=generator, dtype=torch.float32) * 2 - 1
            # An exchange's share of tokens is density * sigma / sqrt(2 pi) where the margin moves by sigma.
            weight = router["density"] * router["damage"] / (2 * np.pi) ** 0.5
            signal = signal + (weight * signs * margin[first:]).sum()
        signal.backward()
    flips, tapped.sink = tapped.sink, None
    return {
        "scored": len(tokens) - first,
        **{
            what: {name: {kind.name: value for kind, value in row.items()} for name, row in sink.totals.items()}
            for what, sink in (("damage", damage), ("flips", flips))
        },
    }


if __name__ == "__main__":
    cli.run(main)
