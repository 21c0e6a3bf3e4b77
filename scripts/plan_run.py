"""Run one stage of the line: refuse it at once where memory or disk cannot suffice, and note what it took.

In:  the stage's name, the run's config, model and hardware profile, and behind -- the script that does the work.
Out: what that script makes; a line in runs/RUN/plan.jsonl with seconds, memory and disk beside what was predicted.

`make` starts every heavy stage through it. The script ends as it would by itself: same output, same exit code.

  .venv/bin/python scripts/plan_run.py gguf --run tiny --config configs/tiny.json --model models/tiny \\
      -- scripts/quant_convert.py --model models/tiny --out runs/tiny/bf16.gguf
"""

import os
import shutil
import sys
from pathlib import Path

import psutil

from kxl.base import cli, history
from kxl.base.cli import UserError
from kxl.plan import line, measure, record

ANYWAY = "HERMES_KXL_ANYWAY"  # set to 1: start a stage that the plan refuses


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("stage", help="make's name of the stage, or eval:SUITE:ARTIFACT")
    parser.add_argument("--run", required=True, help="name of the run")
    parser.add_argument("--config", type=Path, required=True, help="config of the run")
    parser.add_argument("--model", type=Path, help="checkpoint folder")
    parser.add_argument("--training", type=Path, help="settings of the MoE training")
    parser.add_argument("--profile", type=Path, help="hardware profile (make profile); without one no time is told")
    args = parser.parse_args([*os.environ.get(line.FLAGS, "").split(), *sys.argv[1:]])
    if not COMMAND:
        parser.error("name the script to run behind --")

    plan = line.of_run(
        args.config, args.model, args.training, args.profile, traces_among(COMMAND), encoded_among(COMMAND)
    )
    place = Path("runs")
    place.mkdir(exist_ok=True)
    available, free = psutil.virtual_memory().available, shutil.disk_usage(place).free + begun(COMMAND)
    need = plan.need(args.stage, available)
    if os.environ.get(ANYWAY) != "1" and (why := plan.problem(args.stage, available, free)):
        raise UserError(f"{args.stage} was not started: it {why}. To start it all the same: {ANYWAY}=1 make ...")
    if need.seconds and need.seconds > 60:
        cli.say(f"{args.stage}: about {record.duration(need.seconds)}, {need.memory / record.GIB:.1f} GiB of memory")
    environment = {**os.environ, history.VARIABLE: HISTORY} if HISTORY else None
    took = measure.run([sys.executable, *COMMAND], environment)
    if took.code:
        sys.exit(took.code)
    outputs = history.outputs(COMMAND)
    written = measure.bytes_of(*map(Path, outputs))
    record.add(record.path_of(args.run), record.entry(args.stage, need, took, written, outputs))


def begun(command: list[str]) -> int:
    """Bytes that a training has written before it was stopped: what it takes up again needs no room of its own."""
    if Path(command[0]).stem != "moe_train":
        return 0
    return measure.bytes_of(Path(command[command.index("--work") + 1]))


def traces_among(command: list[str]) -> list[Path]:
    """The files that a `traces_prepare.py` command reads: its words before the first flag."""
    if Path(command[0]).stem != "traces_prepare":
        return []
    flags = next((i for i, word in enumerate(command) if word.startswith("--")), len(command))
    return [Path(word) for word in command[1:flags] if Path(word).is_file()]


def encoded_among(command: list[str]) -> Path | None:
    """The rows that a `moe_train.py` command trains on."""
    if Path(command[0]).stem != "moe_train" or "--train" not in command[:-1]:
        return None
    return Path(command[command.index("--train") + 1])


if __name__ == "__main__":
    # The script itself locks its outputs and notes itself in the run's history; this one does neither.
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    COMMAND, sys.argv = sys.argv[cut + 1 :], sys.argv[:cut]
    HISTORY = os.environ.pop(history.VARIABLE, None)
    cli.run(main)
