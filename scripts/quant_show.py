"""Print where each finished quant is, how large it is and what it scored.

In:   GGUF files and, in the same order, their evaluation reports (scripts/eval_run.py, which holds the gates)
Out:  one line each

  .venv/bin/python scripts/quant_show.py --gguf runs/tiny/hermes-kxl-tiny-q4kxl.gguf \\
      --report runs/tiny/results/evals/fixed_hermes_43.llama_cpp.q4kxl.json
"""

from pathlib import Path

from kxl.base import cli
from kxl.base.cli import UserError
from kxl.base.files import require_regular, shown, size
from kxl.eval import scores


def line(gguf: Path, evaluation: Path) -> str:
    """`FILE  SIZE  SUITE PASSED/CASES (raw PASSED/CASES)`"""
    require_regular(gguf)
    whole = scores.load(evaluation)
    results, suite = whole["results"], whole["settings"]["suite"]
    raw = f" (raw {results['raw']['passed']}/{results['raw']['cases']})" if results["raw"] else ""
    return f"{shown(gguf)}  {size(gguf.stat().st_size)}  {suite} {results['passed']}/{results['cases']}{raw}"


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--gguf", type=Path, nargs="+", required=True, help="finished quants")
    parser.add_argument("--report", type=Path, nargs="+", required=True, help="one evaluation report for each")
    parser.add_argument("--up-to-date", action="store_true", help="say that nothing had to be made")
    args = parser.parse_args()
    if len(args.gguf) != len(args.report):
        raise UserError(f"{len(args.gguf)} GGUF files and {len(args.report)} reports: give one report for each file")

    if args.up_to_date:
        print("everything is up to date")
    for gguf, evaluation in zip(args.gguf, args.report):
        print(line(gguf, evaluation))


if __name__ == "__main__":
    cli.run(main)
