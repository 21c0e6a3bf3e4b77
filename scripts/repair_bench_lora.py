"""Measure one masked LoRA step of ours against stock `mlx_lm.lora`, on the same rows, adapters, batch and BLAS.

In:  a checkpoint and a repair set. Out: a report. In `results`:
     equal_blas    {ours_seconds, stock_seconds, ratio}: a step of either side with the same OpenBLAS in front of MLX
     as_installed  {stock_seconds, ratio}: stock as pip installs it, without that; on Linux only, where it matters

  .venv/bin/python scripts/repair_bench_lora.py --model models/tiny --data repair_datasets/iter01 \\
      --report reports/tiny/lora_speed.json

Stock is `python -m mlx_lm lora --mask-prompt` in the same environment. It gets what it needs to run at all: on a CPU
MLX has expert matmuls in float32 only, so the checkpoint is a float32 copy for both sides. Its loss is on the last
assistant turn, ours on all of them. Steps are timed from one progress line to the next; the first, which compiles, is
left out. Cores that are at work already are refused: what one side shares with other work the other may not.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil

from kxl.base import cli, processes, report
from kxl.base.cli import UserError
from kxl.base.files import read_json, scratch_dir, shown, write_json
from kxl.model import blas, checkpoint
from kxl.repair import rows as repair_rows
from kxl.repair.settings import MODULES, Settings

BUSY = 10  # per cent of all cores
STEP_LINE = re.compile(r"^\s*(\d+)\s+\d+\.\d+ [▼▲]")
COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # it writes colours into a pipe, too
# mlx_lm.lora wants paths inside a layer where we name the last part.
PATHS = {
    "q_proj": ["self_attn.q_proj"],
    "k_proj": ["self_attn.k_proj"],
    "v_proj": ["self_attn.v_proj"],
    "out_proj": ["self_attn.out_proj", "conv.out_proj"],
    "in_proj": ["conv.in_proj"],
    "gate_proj": ["feed_forward.gate_proj"],
    "up_proj": ["feed_forward.up_proj"],
    "down_proj": ["feed_forward.down_proj"],
}


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="checkpoint folder")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="repair set with train.jsonl")
    parser.add_argument("--report", type=Path, required=True, help="report to write (JSON)")
    parser.add_argument("--batch-size", type=int, default=1, help="rows per step, on both sides")
    parser.add_argument("--steps", type=int, default=5, help="steps that are timed, after one that is not")
    parser.add_argument("--max-tokens", type=int, default=8192, help="longest row in tokens")
    parser.add_argument("--busy", action="store_true", help="measure beside other work; the report says so")
    args = parser.parse_args()
    busy = psutil.cpu_percent(interval=2)
    if busy > BUSY and not args.busy:
        raise UserError(
            f"the cores are {busy:.0f} % at work, and a comparison wants them idle; wait, or give --busy, which the "
            "report then says"
        )

    preloaded = blas.child_env(keep_memory=True)
    plain = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    with scratch_dir() as folder:
        folder = Path(folder)
        model = checkpoint.float32_copy(args.model, folder / "model")
        write_rows(folder / "data", pick(args.data / "train.jsonl", args.batch_size * (args.steps + 1)))
        measured = {}
        for side, time_side, environment in (
            ("ours", time_ours, preloaded),
            ("stock", time_stock, preloaded),
            ("stock as installed", time_stock, plain if blas.fast_blas() else None),
        ):
            if environment is not None:
                cli.say(f"{side}: {args.steps + 1} steps of {args.batch_size} rows")
                measured[side] = time_side(model, folder, environment, args)
    results = compare(measured)
    report.write(
        args.report,
        [args.model, args.data / "train.jsonl"],
        {
            "batch_size": args.batch_size,
            "steps": args.steps,
            "max_tokens": args.max_tokens,
            "blas": blas.fast_blas() and Path(blas.fast_blas()).name,
            "blas_threads": blas.blas_threads(),
            "beside_other_work": busy > BUSY,
        },
        results,
    )
    equal, installed = results["equal_blas"], results["as_installed"]
    print(
        f"a step of {args.batch_size} rows: ours {equal['ours_seconds']} s, mlx_lm.lora with the same BLAS "
        f"{equal['stock_seconds']} s ({equal['ratio']} times)"
        + (f", as installed {installed['stock_seconds']} s ({installed['ratio']} times)" if installed else "")
    )


def compare(measured: dict[str, list[float]]) -> dict:
    """Seconds of each timed step by side -> the report's results: means, and how many times as long stock takes."""
    mean = {side: sum(steps) / len(steps) for side, steps in measured.items()}
    ratio = {side: round(seconds / mean["ours"], 2) for side, seconds in mean.items()}
    installed = "stock as installed"
    return {
        "equal_blas": {
            "ours_seconds": round(mean["ours"], 3),
            "stock_seconds": round(mean["stock"], 3),
            "ratio": ratio["stock"],
        },
        "as_installed": {"stock_seconds": round(mean[installed], 3), "ratio": ratio[installed]}
        if installed in mean
        else None,
        "steps": {side: [round(step, 3) for step in steps] for side, steps in measured.items()},
    }


def pick(path: Path, count: int) -> list[dict]:
    """The first `count` rows that share the most frequent tool list and system message, as the rows of a batch do."""
    groups = {}
    for row in repair_rows.read(path):
        system = row["messages"][0]["content"] if row["messages"][0]["role"] == "system" else ""
        groups.setdefault((system, json.dumps(row["tools"])), []).append(row)
    rows = max(groups.values(), key=len)[:count]
    if len(rows) < count:
        raise UserError(
            f"{shown(path)}: has {len(rows)} rows with one tool list, {count} are needed; fewer --steps or a smaller "
            "--batch-size"
        )
    return rows


def write_rows(folder: Path, rows: list[dict]) -> None:
    """The rows, schemas and all: train.jsonl and valid.jsonl for us, stock/ without the latter: it wants a batch."""
    folder.mkdir(exist_ok=True)
    for path, chosen in (
        (folder / "train.jsonl", rows),
        (folder / "valid.jsonl", rows[:1]),
        (folder / "stock" / "train.jsonl", rows),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            "".join(json.dumps({key: row[key] for key in ("messages", "tools")}) + "\n" for row in chosen),
            encoding="utf-8",
        )


def timed(ends: list[float]) -> list[float]:
    """When each step ended -> how long each took, the first left out."""
    return [after - before for before, after in zip(ends, ends[1:])]


def time_ours(model: Path, folder: Path, environment: dict, args) -> list[float]:
    """Seconds of each timed step of repair_train.py."""
    with scratch_dir() as scratch:
        summary = Path(scratch) / "training.json"
        command = [sys.executable, str(Path(__file__).with_name("repair_train.py"))]
        command += ["--model", model, "--data", folder / "data", "--adapter", f"{scratch}/adapter", "--report", summary]
        command += ["--steps", args.steps + 1, "--batch-size", args.batch_size, "--max-tokens", args.max_tokens]
        if processes.run(command, env=environment).returncode:
            raise UserError("repair_train.py failed (its error is above)")
        return timed(read_json(summary)["results"]["step_ends"])


def time_stock(model: Path, folder: Path, environment: dict, args) -> list[float]:
    """Seconds of each timed step of mlx_lm.lora as it is installed, its lines timed as they come."""
    settings, config = Settings(), folder / "stock.yaml"
    lora = {
        "rank": settings.rank,
        "scale": settings.alpha / settings.rank,
        "dropout": 0.0,
        "keys": [path for name in MODULES for path in PATHS[name]],
    }
    write_json(config, {"lora_parameters": lora})  # JSON is YAML
    command = [sys.executable, "-m", "mlx_lm", "lora", "--train", "-c", config, "--model", model]
    command += ["--data", folder / "data" / "stock", "--adapter-path", folder / "stock", "--mask-prompt"]
    command += ["--num-layers", -1, "--batch-size", args.batch_size, "--iters", args.steps + 1]
    command += ["--steps-per-report", 1, "--val-batches", 1, "--steps-per-eval", 10**6, "--save-every", 10**6]
    command += ["--max-seq-length", args.max_tokens, "--learning-rate", settings.learning_rate]
    times, lines = [], []
    with processes.guarded(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**environment, "PYTHONUNBUFFERED": "1"},
    ) as process:
        for line in process.stdout:
            lines.append(line)
            if STEP_LINE.match(COLOUR.sub("", line)):
                times.append(time.monotonic())
    if process.returncode or len(times) != args.steps + 1:
        raise UserError(
            f"mlx_lm.lora printed {len(times)} steps of {args.steps + 1} and ended with {process.returncode}; "
            f"it ends:\n{''.join(lines[-15:])}"
        )
    return timed(times)


if __name__ == "__main__":
    cli.run(main)
