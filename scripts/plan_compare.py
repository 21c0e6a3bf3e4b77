"""Set what the stages of runs took beside what was predicted for each before it began, as a report.

In:  runs/RUN/plan.jsonl of each --run, which `make` keeps; the hardware profile that the predictions are of.
Out: --report: each stage's seconds, memory and disk, predicted and measured. A stage that ran several times counts
     once, with its last time. `others` is the share of the processors that other work had meanwhile.

  .venv/bin/python scripts/plan_compare.py --run tiny --run tiny-tuned \\
      --profile configs/hardware/this-machine.json --report reports/tiny/plan.json
"""

import statistics
from pathlib import Path

from kxl.base import cli, report
from kxl.base.files import shown
from kxl.plan import costs, record


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--run", action="append", required=True, help="name of a run; may be given several times")
    parser.add_argument("--profile", type=Path, required=True, help="hardware profile (make profile)")
    parser.add_argument("--report", type=Path, required=True, help="report to write (JSON)")
    args = parser.parse_args()

    profile = costs.load(args.profile)
    stages = record.last_of(args.run)
    ratios = [took["seconds"] / took["predicted_seconds"] for took in stages.values()]
    results = {"stages": stages, "seconds_over_predicted": spread(ratios), "profile_others": costs.others(profile)}
    report.write(args.report, [args.profile], {"runs": args.run}, results)
    farthest = max(stages, key=lambda name: abs(stages[name]["seconds"] / stages[name]["predicted_seconds"] - 1))
    far = stages[farthest]
    print(
        f"{shown(args.report)}: {len(stages)} stages, seconds over predicted {min(ratios):.2f} to {max(ratios):.2f}; "
        f"farthest off: {farthest}, {far['seconds']:.0f} s where {far['predicted_seconds']:.0f} were predicted"
    )


def spread(ratios: list[float]) -> dict:
    """Smallest, median and largest."""
    return {
        "least": round(min(ratios), 3),
        "median": round(statistics.median(ratios), 3),
        "most": round(max(ratios), 3),
    }


if __name__ == "__main__":
    cli.run(main)
