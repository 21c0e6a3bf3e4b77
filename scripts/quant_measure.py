"""Measure what each quant lost: KL divergence of its next-token probabilities from its BF16 parent's.

In:  the BF16 GGUF, heldout.txt (scripts/quant_build_calibration.py) and the quants.
Out: reports/RUN/quants.json: per artifact file size, sha256, bits per weight, KL divergence (mean and its
     standard error, median, 99 %, 99.9 %, maximum; in nats), how often both models agree on the likeliest token.
     `by_kind` has the same for the tokens of thoughts, calls and answers, and of the prompts between them.

What is measured. llama-perplexity cuts the text into chunks of --context tokens and scores the second
half of each. A session of heldout.txt is as long as a chunk, so the scored tokens are turns (requests,
calls, results, answers) with their system message, tool list and earlier turns in context. Markers such
as "<|im_start|>" and "<|tool_call_start|>" are read as the special tokens of real use (--parse-special,
our patch); the report counts them. A thought is a thought only where the text has one: a model that does not think
has no figures there.

Log-probabilities are stored in 16 bits each (kxl/quant/divergence.py), 2 bytes per scored token and vocabulary entry:
0.3 GB for the tiny model, 4.3 GB for 65,536 entries. --work needs room for two such files. It keeps the parent's, and
each artifact's figures until the artifact, the parent, the text, the context or the llama.cpp build changes.

  python scripts/quant_measure.py --base runs/tiny/hermes-kxl-tiny-bf16.gguf --text runs/tiny/heldout.txt \\
      --artifact q4kxl=runs/tiny/hermes-kxl-tiny-q4kxl.gguf --artifact Q4_K_M=runs/tiny/hermes-kxl-tiny-Q4_K_M.gguf \\
      --work runs/tiny/kld --report runs/tiny/results/reports/quants.json --logs runs/tiny/results/logs
"""

import shutil
from pathlib import Path

import gguf
import numpy as np

from kxl.base import cli, config, report
from kxl.base.cli import UserError
from kxl.base.files import ROOT, atomic_path, lock, read_json, scratch_dir, sha256, shown, write_json
from kxl.model import gguf_file
from kxl.quant import chunks as quant_chunks
from kxl.quant import divergence, token_kinds
from kxl.setup import llama_cpp

# Below this the 99.9 % quantile would rest on no value at all.
MIN_SCORED = 1000


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--base", type=Path, required=True, help="BF16 parent (GGUF)")
    parser.add_argument("--text", type=Path, required=True, help="held-out text with chat markers")
    parser.add_argument(
        "--artifact",
        type=cli.pair("--artifact", "NAME=FILE", Path),
        action="append",
        required=True,
        metavar="NAME=FILE",
        help="a quant to measure, named by its policy or stock type; may be given several times",
    )
    parser.add_argument(
        "--plan",
        type=Path,
        default=ROOT / "gguf" / "export_plan.json",
        help="which names are our policies, which are stock types",
    )
    parser.add_argument(
        "--work", type=Path, required=True, help="folder that keeps log-probabilities and finished figures"
    )
    parser.add_argument("--report", type=Path, required=True, help="report to write (JSON)")
    parser.add_argument("--logs", type=Path, required=True, help="folder for llama-perplexity's output")
    parser.add_argument("--context", type=int, default=8192, help="tokens per chunk; the second half of each is scored")
    args = config.parse(parser, {"context": "kld.context_tokens"})

    policies = {name: policy_of(name, args.plan) for name, _ in args.artifact}
    with lock(args.work / ".lock", f"waiting for another measurement in {shown(args.work)}"):
        logits, key, counts = base_logits(args.base, args.text, args.context, args.work, args.logs)
        results = {}
        for name, path in args.artifact:
            figures = measured(name, path, logits, key, args)
            results[name] = {**size_of(path), **figures, "file": path.name, "policy": policies[name]}
    report.write(
        args.report,
        inputs=list(dict.fromkeys([args.base, args.text, *(path for _, path in args.artifact)])),
        settings={"context": args.context, **counts},
        results=results,
    )
    kinds = [kind for kind in token_kinds.KINDS if counts["scored_by_kind"][kind]]
    heads = "".join(f"{kind:>10}" for kind in kinds)
    print(f"{'':8} {'MiB':>9} {'bits/weight':>12} {'mean KLD':>10} {'99.9 %':>9} {'same top':>9}   mean of{heads}")
    for name, one in sorted(results.items(), key=lambda item: item[1]["bytes"]):
        means = "".join(f"{one['by_kind'][kind]['kld']['mean']:10.6f}" for kind in kinds)
        print(
            f"{name:8} {one['bytes'] / 2**20:9.2f} {one['bpw']:12.2f} {one['kld']['mean']:10.6f} "
            f"{one['kld']['p999']:9.4f} {one['same_top_p']:9.2%}          {means}"
        )
    print(f"{shown(args.report)}: {len(results)} artifacts on {counts['scored_tokens']:,} held-out tokens")


def policy_of(name: str, plan: Path) -> str:
    """Where an artifact's tensor types come from: its policy file, "stock", or "parent"."""
    if name == "bf16":
        return "parent"
    known = read_json(plan)
    if name in known["policies"]:
        return shown(plan.parent / known["policies"][name]["tensor_types"])
    if name in known["stock"]:
        return "stock"
    names = ", ".join(["bf16", *known["policies"], *known["stock"]])
    raise UserError(f"--artifact {name}: {shown(plan)} has no such policy or stock type; it has {names}")


def base_logits(base: Path, text: Path, context: int, work: Path, logs: Path) -> tuple:
    """The parent's log-probabilities, computed unless `work` has them: (file, key they depend on, counts of tokens)."""
    logits, record = work / "base.logits", work / "base.json"
    key = {
        "base": sha256(existing(base)),
        "text": sha256(existing(text)),
        "context": context,
        "read": list(quant_chunks.AS_RENDERED),
        "kinds": list(token_kinds.KINDS),
        "llama.cpp": llama_cpp.cache_key(),
    }
    if logits.exists() and record.exists():
        kept = read_json(record)
        if kept["key"] == key and kept["bytes"] == logits.stat().st_size:
            return logits, key, kept["counts"]
    record.unlink(missing_ok=True)  # so that a new file never meets an old key
    with atomic_path(logits) as partial:
        write_logits("bf16", base, text, context, partial, logs / "kld.base.log")
        counts = check_logits(partial, base, text, context)
    write_json(record, {"key": key, "bytes": logits.stat().st_size, "counts": counts})
    return logits, key, counts


def write_logits(name: str, model: Path, text: Path, context: int, out: Path, log: Path) -> None:
    """Let llama-perplexity write a model's log-probabilities of every scored token."""
    with quant_chunks.progress(f"{name} log-probabilities") as progress:
        flags = ["-m", model, "-f", text, *quant_chunks.AS_RENDERED, "-c", context, "--kl-divergence-base", out]
        llama_cpp.run("llama-perplexity", flags, log=log, progress=progress)


def check_logits(logits: Path, base: Path, text: Path, context: int) -> dict:
    """Count what was tokenized and scored; UserError when the file is cut short or the text too short.

    llama-perplexity ends with exit code 0 in both cases.
    """
    _, vocabulary, chunks = divergence.head(logits)
    scored = divergence.scored_tokens(context, chunks)
    if scored < MIN_SCORED:
        raise UserError(
            f"{shown(text)} gives {scored} scored tokens in {chunks} chunks of {context}, {MIN_SCORED} are needed: "
            "add held-out rows, raise --heldout-tokens of quant_build_calibration.py, or lower --context here"
        )
    expected = divergence.expected_bytes(context, vocabulary, chunks)
    if logits.stat().st_size != expected:
        free = shutil.disk_usage(logits.parent).free / 2**30
        raise UserError(
            f"the log-probabilities of {shown(base)} need {expected / 2**30:.2f} GiB in {shown(logits.parent)}, "
            f"{logits.stat().st_size / 2**30:.2f} GiB were written and {free:.2f} GiB are free: make room and run again"
        )
    written, reader = divergence.read(logits), gguf_file.open_reader(base)
    types = np.array(reader.get_field("tokenizer.ggml.token_type").contents())
    scored_kinds = kinds_of(written, base)
    return {
        "chunks": chunks,
        "tokens": len(written.tokens),
        "control_tokens": int((types[written.tokens] == gguf.TokenType.CONTROL).sum()),
        "scored_tokens": scored,
        "scored_by_kind": {name: int((scored_kinds == kind).sum()) for kind, name in enumerate(token_kinds.KINDS)},
    }


def kinds_of(written: divergence.LogProbabilities, base: Path) -> np.ndarray:
    """The kind of each scored token (token_kinds.KINDS), uint8 [scored]."""
    pieces = token_kinds.pieces(gguf_file.open_reader(base))
    return token_kinds.of(written.tokens, pieces)[written.targets()]


def measured(name: str, path: Path, logits: Path, key: dict, args) -> dict:
    """{"kld": {...}, "same_top_p", …, "by_kind", "sha256"} of one artifact, computed unless --work has it."""
    record = args.work / f"{name}.json"
    key = {**key, "artifact": sha256(existing(path))}
    if record.exists() and (kept := read_json(record))["key"] == key:
        return kept["figures"]
    log = args.logs / f"kld.{name}.log"
    with scratch_dir(args.work) as scratch:
        write_logits(name, path, args.text, args.context, scratch / "logits", log)
        parent, quant = divergence.read(logits), divergence.read(scratch / "logits")
        values, same = divergence.per_token(parent, quant)
        del quant  # its file goes away
    if not np.isfinite(values).all():
        raise UserError(
            f"{shown(log)}: {int((~np.isfinite(values)).sum())} of {len(values)} tokens have no finite divergence: "
            f"{shown(path)} computes NaN; quantize it again"
        )
    kinds = kinds_of(parent, args.base)
    by_kind = {
        kind: divergence.figures(values[kinds == place], same[kinds == place])
        for place, kind in enumerate(token_kinds.KINDS)
    }
    figures = {**divergence.figures(values, same), "by_kind": by_kind, "sha256": key["artifact"]}
    write_json(record, {"key": key, "figures": figures})
    return figures


def size_of(path: Path) -> dict:
    """File size in bytes, parameters, and bits per weight (tensor data only, as llama-quantize counts)."""
    tensors = gguf_file.open_reader(path).tensors
    parameters = sum(int(tensor.n_elements) for tensor in tensors)
    data = sum(int(tensor.n_bytes) for tensor in tensors)
    return {"bytes": path.stat().st_size, "parameters": parameters, "bpw": round(8 * data / parameters, 4)}


def existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{shown(path)}: no such file; `make quants` makes whatever it measures")
    return path


if __name__ == "__main__":
    cli.run(main)
