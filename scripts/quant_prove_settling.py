"""Prove that a settled importance matrix costs nothing: quants from it beside quants from all of the text.

In:  the BF16 GGUF, calibration.txt and heldout.txt of a run.
Out: a report: tokens of each, how far the halves differed, KL divergence of a policy's quant from BF16 by each matrix.
     Exit code 2 when the settled one's mean lies further from that of all text than the larger error of the two means
     times two, or when it took more than half of the tokens.

  .venv/bin/python scripts/quant_prove_settling.py --gguf runs/tiny/hermes-kxl-tiny-bf16.gguf \\
      --text runs/tiny/calibration.txt --heldout runs/tiny/heldout.txt --work runs/tiny/settling \\
      --report reports/tiny/settling.json
"""

import shutil
import sys
from pathlib import Path

from kxl.base import cli, processes, report
from kxl.base.cli import UserError
from kxl.base.files import read_json, shown

SCRIPTS = Path(__file__).parent
LIMIT = 2.0  # errors of a mean


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--gguf", type=Path, required=True, help="BF16 model")
    parser.add_argument("--text", type=Path, required=True, help="calibration text")
    parser.add_argument("--heldout", type=Path, required=True, help="text that the KL divergence is measured on")
    parser.add_argument("--work", type=Path, required=True, help="folder for matrices and quants; removed at the end")
    parser.add_argument("--report", type=Path, required=True, help="report to write (JSON)")
    parser.add_argument("--policy", default="q4kxl", help="policy of the quants")
    parser.add_argument("--settled", type=float, default=0.15, help="share by which halves of a settled one may differ")
    parser.add_argument("--context", type=int, default=512, help="tokens of a chunk, of both texts")
    parser.add_argument("--part-chunks", type=int, default=16, help="chunks of a part")
    args = parser.parse_args()

    read = {name: compute(args, name, flags) for name, flags in {
        "all": (), "settled": ("--settled", args.settled, "--part-chunks", args.part_chunks)
    }.items()}  # fmt: skip
    results = {
        name: {
            "tokens": read[name]["tokens"],
            "halves_differ": read[name].get("halves_differ"),
            "kld": measure(args, name),
        }
        for name in read
    }
    whole, settled = results["all"], results["settled"]
    results["moved"] = abs(settled["kld"]["mean"] - whole["kld"]["mean"])
    results["floor"] = LIMIT * max(settled["kld"]["mean_error"], whole["kld"]["mean_error"])
    passed = results["moved"] <= results["floor"] and settled["tokens"] <= whole["tokens"] / 2
    settings = {
        "policy": args.policy,
        "settled": args.settled,
        "context": args.context,
        "part_chunks": args.part_chunks,
    }
    report.write_gated(args.report, passed, [args.gguf, args.text, args.heldout], settings, results)
    shutil.rmtree(args.work)
    said = (
        f"{settled['tokens']:,} of {whole['tokens']:,} tokens, mean KL divergence {settled['kld']['mean']:.4f} beside "
        f"{whole['kld']['mean']:.4f}, floor {results['floor']:.4f}"
    )
    if not passed:
        raise UserError(f"{shown(report.failed_path(args.report))}: not settled: {said}")
    print(f"{shown(args.report)}: {said}")


def compute(args, name: str, flags: tuple) -> dict:
    """The importance matrix of one kind; its report's results."""
    words = ["--gguf", args.gguf, "--text", args.text, "--context", args.context, *flags]
    run("quant_compute_imatrix", [*words, *outputs(args, name), "--log", args.work / f"{name}.log"])
    return report.results(args.work / f"{name}.json")


def outputs(args, name: str) -> list:
    return ["--out", args.work / f"{name}.gguf", "--report", args.work / f"{name}.json"]


def measure(args, name: str) -> dict:
    """KL divergence of the policy's quant by one matrix from BF16, as quant_measure.py reports it."""
    quant, found = args.work / f"{args.policy}.{name}.gguf", args.work / f"kld.{name}.json"
    words = ["--gguf", args.gguf, "--policy", args.policy, "--imatrix", args.work / f"{name}.gguf", "--out", quant]
    run("quant_quantize", [*words, "--log", args.work / f"quantize.{name}.log"])
    words = ["--base", args.gguf, "--text", args.heldout, "--context", args.context, "--work", args.work / "kld"]
    words += ["--artifact", f"{args.policy}={quant}", "--report", found, "--logs", args.work]
    run("quant_measure", words)
    return read_json(found)["results"][args.policy]["kld"]


def run(script: str, words: list) -> None:
    """Run one of the line's scripts; UserError when it fails."""
    if processes.run([sys.executable, SCRIPTS / f"{script}.py", *map(str, words)]).returncode:
        raise UserError(f"{script}.py failed; its message is above")


if __name__ == "__main__":
    cli.run(main)
