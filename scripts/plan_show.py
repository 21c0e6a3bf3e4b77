"""Say before it begins what the line of a run takes on this machine: time, memory and disk of each stage still to do.

In:  the run's config, model, training settings and traces; the hardware profile of `make profile`; the stages in order,
     each as TARGET=FILE (what the target makes). Nothing is written but --report, where it is given.
Out: a table, the sum, and for each stage that does not fit what to change. Exit code 2 when one does not fit.

A stage whose FILE exists counts as done. What a stage took is in runs/RUN/plan.jsonl and in `make status`.

  .venv/bin/python scripts/plan_show.py --config configs/tiny.json --model models/tiny --run tiny \\
      --profile configs/hardware/this-machine.json --stage gguf=runs/tiny/hermes-kxl-tiny-bf16.gguf
"""

import shutil
from dataclasses import asdict
from pathlib import Path

import psutil

from kxl.base import cli, report
from kxl.base.cli import UserError
from kxl.base.files import shown
from kxl.moe import hardware
from kxl.plan import costs, line, record

GIB = record.GIB
BESIDE = 0.1  # share of the processors that other work may have had while a profile was measured


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--config", type=Path, required=True, help="config of the run")
    parser.add_argument("--run", required=True, help="name of the run")
    parser.add_argument("--model", type=Path, help="checkpoint folder (without one: the shapes of LFM2.5-8B-A1B)")
    parser.add_argument("--training", type=Path, help="settings of the MoE training")
    parser.add_argument("--trace", type=Path, action="append", default=[], help="traces; may be given several times")
    parser.add_argument(
        "--encoded", type=Path, help="rows of the MoE training (moe_encode_rows.py), once they are there"
    )
    parser.add_argument("--profile", type=Path, required=True, help="hardware profile (make profile)")
    parser.add_argument(
        "--stage", action="append", required=True, metavar="TARGET=FILE", help="a stage and what it makes; in order"
    )
    parser.add_argument("--report", type=Path, help="report to write (JSON)")
    args = parser.parse_args()

    traces = [file for path in args.trace for file in ([path] if path.is_file() else sorted(path.glob("*")))]
    traces = [trace for trace in traces if trace.is_file()]
    plan = line.of_run(args.config, args.model, args.training, args.profile, traces, args.encoded)
    memory, free = memory_of(args.profile), shutil.disk_usage(Path(".")).free
    stages = [stage_of(plan, *pair.split("=", 1), memory, free) for pair in args.stage]
    if not (args.model and (args.model / "config.json").is_file()):
        print("no checkpoint is named: these are the shapes of LFM2.5-8B-A1B")
    if plan.profile is None:
        print(f"{shown(args.profile)} says nothing of the line's speed: `make profile` measures it (half an hour)")
    elif (others := costs.others(plan.profile)) > BESIDE:
        print(
            f"{shown(args.profile)}: other work had {others:.0%} of the processors while it was measured, so times are "
            "too long; run `make profile` again with nothing beside it"
        )
    for text in table(stages, memory, free):
        print(text)
    if args.report:
        results = {
            "stages": {
                stage.name: {**asdict(stage.need), "done": stage.done, "problem": stage.problem} for stage in stages
            }
        }
        report.write(args.report, [args.config, *filter(Path.is_file, [args.profile])], {"run": args.run}, results)
    if problems := [f"{stage.name} {stage.problem}" for stage in stages if stage.problem and not stage.done]:
        raise UserError("this machine cannot do all of it:\n" + "\n".join(f"  {problem}" for problem in problems))


def memory_of(profile: Path) -> int:
    """Bytes that a stage may hold: up to the profile's stop, else what this machine's is."""
    known = hardware.load_profile(profile if profile.is_file() else None)
    return int(known.get("memory_stop_gib", psutil.virtual_memory().total / GIB) * GIB)


def stage_of(plan: line.Line, name: str, file: str, memory: int, free: int) -> line.Stage:
    """A stage with what it takes; done when its file is there."""
    done = Path(file).exists()
    return line.Stage(name, done, plan.need(name), None if done else plan.problem(name, memory, free))


def table(stages: list[line.Stage], memory: int, free: int) -> list[str]:
    """Lines for people: a stage a line, then the sum of what is still to do."""
    lines = [f"  {'stage':<34} {'time':>10} {'memory':>9} {'disk':>9}"]
    for stage in stages:
        need = stage.need
        cells = "" if need.seconds is None else record.duration(need.seconds)
        cells = f"{'done' if stage.done else cells:>10} {need.memory / GIB:>5.1f} GiB {need.room / GIB:>5.1f} GiB"
        lines.append(f"  {stage.name:<34} {cells}{'  does not fit' if stage.problem else ''}")
    todo = [stage for stage in stages if not stage.done]
    times = [stage.need.seconds for stage in todo]
    total = "unknown time" if None in times else record.duration(sum(times))
    highest = max((stage.need.memory for stage in todo), default=0)
    written = sum(stage.need.disk for stage in todo) + max((stage.need.passing for stage in todo), default=0)
    lines.append(
        f"  still to do: {len(todo)} stages, {total}; at most {highest / GIB:.1f} of {memory / GIB:.1f} GiB memory; "
        f"{written / GIB:.1f} GiB written, {free / GIB:.1f} free"
    )
    if written > free:
        lines.append(
            "  together they do not fit the disk: remove what has served as you go (the core and the training's steps "
            "after `make step`, a checkpoint after its GGUF, the BF16 GGUF after the quants and their evaluations)"
        )
    return lines


if __name__ == "__main__":
    cli.run(main)
