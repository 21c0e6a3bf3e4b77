"""Prove, or fail to prove, that each quant passes as many cases as its parent, within a margin, on all cases of a run.

In:   every report of eval_run.py and live_run.py of a run, the parent's among them
Out:  a report: per artifact the cases that flipped either way, the difference of the shares with its 90 % interval, and
      whether two one-sided tests at 5 % call it equivalent; by suite and over all suites that both were asked

  .venv/bin/python scripts/eval_prove_equivalence.py evals/tiny/*.llama_cpp.*.json --out reports/tiny/equivalence.json

That no difference was found is told, and is never called equivalent: a few cases find none.
"""

from pathlib import Path

from kxl.base import cli, report
from kxl.base.cli import UserError
from kxl.base.files import shown
from kxl.eval import comparison, scores

BACKEND = "llama_cpp"


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("reports", type=Path, nargs="+", help="reports of eval_run.py and live_run.py")
    parser.add_argument("--parent", default="bf16", help="the artifact that the others are compared with")
    parser.add_argument(
        "--margin", type=float, default=100 * comparison.MARGIN, help="points of the share that passes, out of 100"
    )
    parser.add_argument("--out", type=Path, required=True, help="report to write")
    args = parser.parse_args()
    if not 0 < args.margin < 100:
        parser.error("--margin is between 0 and 100 points")
    by_name, used = reports_of(args.reports, args.parent)
    results = {
        artifact: against(by_name[args.parent], suites, args.margin / 100)
        for artifact, suites in by_name.items()
        if artifact != args.parent
    }
    if not results:
        raise UserError(f"only {args.parent} was evaluated: there is nothing to compare it with; run make eval first")
    report.write(args.out, used, {"parent": args.parent, "margin": args.margin / 100, "backend": BACKEND}, results)
    for artifact, one in results.items():
        print(f"{artifact:<12} {line(one['all'])}")
    print(f"wrote {shown(args.out)}")


def reports_of(paths: list[Path], parent: str) -> tuple[dict, list[Path]]:
    """({artifact: {suite: report}}, paths) of llama-server's reports; UserError where two are of one name."""
    found: dict = {}
    used = []
    for path in sorted(paths):
        one = scores.load(path)
        settings = one["settings"]
        if settings["backend"] != BACKEND:
            continue
        suites = found.setdefault(settings["artifact"], {})
        if settings["suite"] in suites:
            raise UserError(f"{shown(path)}: a second report of {settings['suite']} on {settings['artifact']}")
        suites[settings["suite"]] = one
        used.append(path)
    if parent not in found:
        raise UserError(f"none of the reports is of {parent}; name the parent with --parent")
    return found, used


def against(parent: dict, suites: dict, margin: float) -> dict:
    """{"suites": {name: comparison}, "all": comparison} of one artifact, and the suites that could not be compared."""
    compared, left_out = {}, {}
    for name, one in suites.items():
        if name not in parent:
            left_out[name] = "the parent was not asked"
            continue
        try:
            compared[name] = comparison.compare(parent[name], one, raw=False, margin=margin)
        except UserError as error:
            left_out[name] = str(error)
    whole = comparison.together(compared, margin) if compared else None
    return {"suites": compared, "all": whole, "left_out": left_out}


def line(whole: dict | None) -> str:
    if whole is None:
        return "was asked no suite that its parent was asked"
    flips = f"{len(whole['only_first'])} cases lost, {len(whole['only_second'])} won"
    return f"{comparison.conclusion(whole)}: {comparison.difference(whole)} on {whole['cases']} cases, {flips}" + (
        f"; it differs (p = {whole['p']:.3g})" if whole["p"] < 0.05 else ""
    )


if __name__ == "__main__":
    cli.run(main)
