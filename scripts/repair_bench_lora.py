"""Measure one masked LoRA step of ours against stock `mlx_lm.lora`, on the same rows and adapters.

In:  a checkpoint and a repair set. Out: a report with the seconds per step and per row of either side.

  .venv/bin/python scripts/repair_bench_lora.py --model models/tiny --data repair_datasets/iter01 \\
      --report reports/tiny/lora_speed.json

Stock is `python -m mlx_lm lora --mask-prompt` in the same environment, without the BLAS that we put in front of MLX on
Linux (kxl/model/blas.py). It gets what it needs to run at all: on a CPU MLX has expert matmuls in float32 only, so the
checkpoint is a float32 copy for both sides. Its loss is on the last assistant turn, ours on all of them. Steps are timed
from one progress line to the next; the first, which compiles, is left out.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from kxl.base import cli, report
from kxl.base.cli import UserError
from kxl.base.files import read_json, shown, write_json
from kxl.lora.settings import MODULES, Settings
from kxl.model import blas, checkpoint
from kxl.repair import rows as repair_rows

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
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4], help="rows per step")
    parser.add_argument("--steps", type=int, default=3, help="steps that are timed, after one that is not")
    parser.add_argument("--max-tokens", type=int, default=8192, help="longest row in tokens")
    parser.add_argument(
        "--stock-first",
        action="store_true",
        help="measure stock with the first batch size alone: its time per row hardly depends on it",
    )
    args = parser.parse_args()

    measured = {}
    with tempfile.TemporaryDirectory(prefix="hermes-kxl-bench-") as folder:
        folder = Path(folder)
        model = float32_copy(args.model, folder / "model")
        for size in args.batch_sizes:
            rows = pick(args.data / "train.jsonl", size * (args.steps + 1))
            write_rows(folder / "data", rows)
            cli.say(f"{size} rows a step: ours")
            ours = time_ours(model, folder / "data", size, args)
            stock = None
            if size == args.batch_sizes[0] or not args.stock_first:
                cli.say(f"{size} rows a step: stock mlx_lm.lora")
                stock = time_stock(model, folder, size, args)
            measured[str(size)] = {"ours": ours, "stock": stock}
    first = measured[str(args.batch_sizes[0])]["stock"]["seconds_per_row"]
    for one in measured.values():
        one["times_as_fast"] = round(
            (one["stock"] or {"seconds_per_row": first})["seconds_per_row"] / one["ours"]["seconds_per_row"], 2
        )
    report.write(
        args.report,
        [args.model, args.data / "train.jsonl"],
        {
            "batch_sizes": args.batch_sizes,
            "steps": args.steps,
            "max_tokens": args.max_tokens,
            "blas": blas.fast_blas() and Path(blas.fast_blas()).name,
            "blas_threads": blas.blas_threads(),
        },
        {"batch_sizes": measured, "times_as_fast": {size: one["times_as_fast"] for size, one in measured.items()}},
    )
    for size, one in measured.items():
        print(
            f"{size} rows a step: {one['ours']['seconds_per_row']} s a row, stock mlx_lm.lora {(one['stock'] or {'seconds_per_row': first})['seconds_per_row']} s: {one['times_as_fast']} times as fast"
        )


def float32_copy(model: Path, out: Path) -> Path:
    """`model` in float32 at `out`; returns `out`."""
    original = checkpoint.read(model)
    checkpoint.save_mlx(
        out,
        replace(original, tensors={name: replace(tensor, dtype="F32") for name, tensor in original.tensors.items()}),
    )
    return out


def pick(path: Path, count: int) -> list[dict]:
    """The first `count` rows that share the most frequent tool list and system message, as the rows of a batch do."""
    groups = {}
    for row in repair_rows.read(path):
        system = row["messages"][0]["content"] if row["messages"][0]["role"] == "system" else ""
        groups.setdefault((system, json.dumps(row["tools"])), []).append(row)
    rows = max(groups.values(), key=len)[:count]
    if len(rows) < count:
        raise UserError(
            f"{shown(path)}: has {len(rows)} rows with one tool list, {count} are needed; fewer --steps or smaller --batch-sizes"
        )
    return rows


def write_rows(folder: Path, rows: list[dict]) -> None:
    """The rows, schemas and all: train.jsonl and valid.jsonl for us, and stock/ without a valid.jsonl, which it would want a batch of."""
    folder.mkdir(exist_ok=True)
    for path, found in (
        (folder / "train.jsonl", rows),
        (folder / "valid.jsonl", rows[:1]),
        (folder / "stock" / "train.jsonl", rows),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            "".join(json.dumps({key: row[key] for key in ("messages", "tools")}) + "\n" for row in found),
            encoding="utf-8",
        )


def seconds(times: list[float], size: int) -> dict:
    """Times of the progress lines -> seconds per step and per row, the first step left out."""
    steps = [after - before for before, after in zip(times, times[1:])]
    mean = sum(steps) / len(steps)
    return {
        "seconds_per_step": round(mean, 3),
        "seconds_per_row": round(mean / size, 3),
        "steps": [round(step, 3) for step in steps],
    }


def time_ours(model: Path, data: Path, size: int, args) -> dict:
    """repair_train.py in a process of its own, which has the fast BLAS."""
    with tempfile.TemporaryDirectory(prefix="hermes-kxl-bench-") as folder:
        told = Path(folder) / "training.json"
        command = [
            sys.executable,
            str(Path(__file__).with_name("repair_train.py")),
            "--model",
            model,
            "--data",
            data,
            "--adapter",
            f"{folder}/adapter",
            "--report",
            told,
            "--steps",
            args.steps + 1,
            "--batch-size",
            size,
            "--max-tokens",
            args.max_tokens,
        ]
        if subprocess.run(list(map(str, command))).returncode:
            raise UserError("repair_train.py failed (its error is above)")
        return seconds(read_json(told)["results"]["step_ends"], size)


def time_stock(model: Path, folder: Path, size: int, args) -> dict:
    """mlx_lm.lora as it is installed, its lines timed as they come."""
    settings = Settings()
    write_json(
        folder / "stock.yaml",
        {
            "lora_parameters": {  # JSON is YAML
                "rank": settings.rank,
                "scale": settings.alpha / settings.rank,
                "dropout": 0.0,
                "keys": [path for name in MODULES for path in PATHS[name]],
            }
        },
    )
    command = [
        sys.executable,
        "-m",
        "mlx_lm",
        "lora",
        "--train",
        "--model",
        model,
        "--data",
        folder / "data" / "stock",
        "--adapter-path",
        folder / "stock",
        "--mask-prompt",
        "--num-layers",
        -1,
        "--batch-size",
        size,
        "--iters",
        args.steps + 1,
        "--steps-per-report",
        1,
        "--val-batches",
        1,
        "--steps-per-eval",
        10**6,
        "--save-every",
        10**6,
        "--max-seq-length",
        args.max_tokens,
        "--learning-rate",
        settings.learning_rate,
        "-c",
        folder / "stock.yaml",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    times, lines = [], []
    with subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        text=True,
        env={**environment, "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    ) as process:
        try:
            for line in process.stdout:
                lines.append(line)
                if STEP_LINE.match(COLOUR.sub("", line)):
                    times.append(time.monotonic())
        except BaseException:
            process.kill()  # in a session of its own, where no Ctrl-C reaches it
            raise
    if process.returncode or len(times) != args.steps + 1:
        raise UserError(
            f"mlx_lm.lora printed {len(times)} steps of {args.steps + 1} and ended with {process.returncode}; it ends:\n{''.join(lines[-15:])}"
        )
    return seconds(times, size)


if __name__ == "__main__":
    cli.run(main)
