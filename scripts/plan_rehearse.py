"""Rehearse the line at LFM2.5-8B-A1B's size with random weights: every stage, its seconds, memory and disk.

In:  shapes (24 layers, a vocabulary of 128,000 tokens) and the hardware profile of `make profile`.
Out: --report, for each stage what it took beside what the profile predicts. --work is removed at the end.

A stage that was measured is not run again: kill it at any time and run it again. --at-most ends a run between two
stages, so that a machine can be shared. `others` of a stage is the share of the processors that other work had
meanwhile: seconds of a stage count only where it is near 0.

  .venv/bin/python scripts/plan_rehearse.py --work runs/rehearse-8b --profile configs/hardware/this-machine.json \\
      --report reports/rehearse-8b/line.json
"""

import shutil
import time
from pathlib import Path

from kxl.base import cli, report
from kxl.base.files import ROOT, read_json, shown
from kxl.plan import costs
from kxl.plan.walk import STAGES, Pace, Walk, require_disk

SHAPES = ROOT / "gguf" / "lfm2-8b-a1b.shapes.json"
VOCABULARY = 128_000
GIB = 2**30


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the files of the rehearsal, up to 55 GiB")
    parser.add_argument("--report", type=Path, required=True, help="report to write (JSON)")
    parser.add_argument("--profile", type=Path, required=True, help="hardware profile (make profile)")
    parser.add_argument("--shapes", type=Path, default=SHAPES, help="shapes of the model")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY, help="tokens of its vocabulary")
    parser.add_argument("--at-most", type=float, help="begin no other stage after so many seconds")
    parser.add_argument("--keep", action="store_true", help="keep --work at the end")
    args = parser.parse_args()

    began = time.monotonic()
    walk = Walk(args.work, {**read_json(args.shapes), "vocab_size": args.vocabulary}, Pace())
    todo = [name for name in STAGES if name not in walk.measured]
    if todo:
        require_disk(args.work, costs.largest_moment(costs.of_walk(walk, None), STAGES, todo))
    for name in todo:
        if args.at_most and time.monotonic() - began > args.at_most:
            print(f"{name} and what follows are left: run the same command again")
            return
        if args.profile.is_file():
            expected = costs.of_walk(walk, costs.load(args.profile))[name]
            cli.say(f"{name}: about {expected.seconds:.0f} s, {expected.memory / GIB:.1f} GiB of memory")
        took = walk.stage(name)
        cli.say(f"{name}: took {took['seconds']:.0f} s, {took['held'] / GIB:.1f} GiB")
    results = compare(walk, costs.of_walk(walk, costs.load(args.profile)))
    report.write(
        args.report, [args.shapes, args.profile], {**walk.said["pace"], "vocabulary": args.vocabulary}, results
    )
    if not args.keep:
        shutil.rmtree(args.work)
    total = sum(stage["seconds"] for stage in results["stages"].values())
    highest = max(results["stages"].values(), key=lambda stage: stage["peak_gib"])
    print(
        f"{shown(args.report)}: {len(results['stages'])} stages in {total / 60:.0f} minutes, "
        f"at most {highest['peak_gib']:.1f} GiB of memory"
    )


def compare(walk: Walk, predicted: dict) -> dict:
    """The report's results: measured beside predicted, each in seconds and GiB."""
    stages = {}
    for name in STAGES:
        took, expected = walk.measured[name], predicted[name]
        stages[name] = {
            "seconds": took["seconds"],
            "predicted_seconds": round(expected.seconds, 1),
            "peak_gib": round(took["held"] / GIB, 3),
            "predicted_peak_gib": round(expected.memory / GIB, 3),
            "mapped_gib": round(took["mapped"] / GIB, 3),
            "disk_gib": round(took["disk"] / GIB, 3),
            "predicted_disk_gib": round(expected.disk / GIB, 3),
            "busy_seconds": took["busy"],
            "others": took["others"],
            "work": took["work"],
        }
    return {"stages": stages}


if __name__ == "__main__":
    cli.run(main)
