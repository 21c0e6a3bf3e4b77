"""One real training step on a random core of given shapes, in a process of its own: seconds and peak memory.

In:  a config.json or gguf/*.shapes.json, a training config, mode and sequence length.
Out: one JSON line: peak_rss_gib (of the whole process), peak_gib (the same less clean pages of files, which the system
     can take back at once; Linux alone tells them apart), mlx_peak_gib, seconds by part and in all, processor seconds
     (of all threads: what the same step costs on a machine that does other work, too), loss.

A bar on stderr counts the layers, a backward as three forwards. The core is random int8 experts and random BF16 rest,
made in memory, so real shapes need no checkpoint; with --storage mapped it is written to files in --scratch, mapped,
and removed at the end. With --leave-gib another process holds all other memory that is available meanwhile. --layers
takes the first layers only, --passes runs that many groups of a grouped step from the top.

  .venv/bin/python scripts/moe_measure_step.py --shapes gguf/lfm2-8b-a1b.shapes.json \\
      --config configs/lfm2.5-8b-a1b-moe.json --layers 6 --tokens 256 --mode streamed
"""

import contextlib
import json
import time
from pathlib import Path

from kxl.base import cli, processes, report
from kxl.base.files import read_json, scratch_dir, shown
from kxl.model import blas

# What a layer costs, in forwards, for the bar alone. The grouped step's first forward counts as such.
COST = {"forward": 1, "trained": 3, "passed": 2}
BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--shapes", type=Path, required=True, help="config.json of the shapes")
    parser.add_argument("--config", type=Path, required=True, help="training config")
    parser.add_argument("--mode", choices=("streamed", "grouped"), default="streamed", help="which step is measured")
    parser.add_argument("--tokens", type=int, required=True, help="tokens of the one example; all are scored")
    parser.add_argument("--layers", type=int, help="only the first layers")
    parser.add_argument("--group-layers", type=int, help="instead of the config's")
    parser.add_argument("--group-stride", type=int, help="instead of the config's")
    parser.add_argument("--passes", type=int, help="only the first groups, from the top")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn weights (default: 0)")
    parser.add_argument("--report", type=Path, help="write the line as a report, too (JSON)")
    parser.add_argument("--storage", choices=("resident", "mapped"), help="instead of the config's")
    parser.add_argument("--carry-bits", type=int, help="instead of the config's")
    parser.add_argument("--scratch", type=Path, default=Path("runs"), help="folder on the disk of a mapped core")
    parser.add_argument("--leave-gib", type=float, help="let another process hold all available memory but this much")
    args = parser.parse_args()
    blas.use_fast_blas()
    taken = measure(args)
    if args.report:
        report.write(args.report, [args.shapes, args.config], read_json(args.config), taken)
    print(json.dumps(taken))


def measure(args) -> dict:
    """What the step took, as the line says it."""
    import mlx.core as mx
    import numpy as np
    from tqdm import tqdm

    from kxl.model.batches import make_batch
    from kxl.moe import hardware, memory
    from kxl.moe.grouped import grouped_step
    from kxl.moe.layers import Blocks
    from kxl.moe.optimizer import ExpertOptimizer
    from kxl.moe.settings import check_settings
    from kxl.moe.streamed import StepOptions, streamed_step

    given = {key: getattr(args, key) for key in ("group_layers", "group_stride", "storage", "carry_bits")}
    given = {key: value for key, value in given.items() if value is not None}
    settings = check_settings({**read_json(args.config), **given, "mode": args.mode}, shown(args.config))
    mx.set_cache_limit(memory.CACHE)
    process = hardware.resident()
    with contextlib.ExitStack() as stack:
        began = time.monotonic()
        core = made_core(args, settings, stack)
        made, after_core = time.monotonic() - began, processes.peak_resident()
        tokens = np.random.default_rng(args.seed + 1).integers(0, core.config["vocab_size"], args.tokens + 1)
        batch = make_batch([(tokens, np.ones(args.tokens + 1, bool))])
        optimizer = ExpertOptimizer(core, settings)
        optimizer.begin(0, settings["learning_rate"])
        work = work_of(core, settings, args.mode, args.passes)
        bar = tqdm(total=work, desc=f"{args.mode}, {args.tokens:,} tokens", unit="layer", bar_format=BAR)
        options = StepOptions(
            Blocks(**settings["blocks"]),
            settings["layer_inputs"],
            done=lambda part: bar.update(COST[part]),
            counted=optimizer.counted,
            balance=settings["balance_loss"],
            z=settings["z_loss"],
        )
        others = (
            stack.enter_context(hardware.OthersHold(int(args.leave_gib * hardware.GIB))) if args.leave_gib else None
        )
        with hardware.PeakHeld() as peak:
            began, cpu = time.monotonic(), time.process_time()
            if args.mode == "streamed":
                outcome = streamed_step(core, batch, optimizer.update, options)
            else:
                groups = settings["group_layers"], settings["group_stride"], args.passes
                outcome = grouped_step(core, batch, optimizer.update, options, *groups)
            core.settle()
            seconds, cpu = time.monotonic() - began, time.process_time() - cpu
        bar.close()
        return {
            "mode": args.mode,
            "storage": settings["storage"],
            "carry_bits": settings["carry_bits"],
            "device": str(mx.default_device().type).rsplit(".", 1)[-1],
            "tokens": args.tokens,
            "layers": core.config["num_hidden_layers"],
            "seconds": round(seconds, 2),
            "cpu_seconds": round(cpu, 2),
            "blas_threads": blas.blas_threads(),
            "parts": {part: round(value, 2) for part, value in outcome.seconds.items()},
            "layers_done": dict(outcome.layers),
            "loss": round(outcome.loss, 5),
            "codes_changed": round(optimizer.report()["codes_changed"], 6),
            "core_gib": round(core.nbytes / hardware.GIB, 4),
            "seconds_to_make_core": round(made, 1),
            "process_gib": round(process / hardware.GIB, 4),
            "peak_before_step_gib": round(after_core / hardware.GIB, 4),
            "mlx_peak_gib": round(mx.get_peak_memory() / hardware.GIB, 4),
            "peak_rss_gib": round(processes.peak_resident() / hardware.GIB, 4),
            "peak_gib": round(peak.bytes / hardware.GIB, 4),
            "others_held_gib": others and [round(size / hardware.GIB, 2) for size in others.held()],
        }


def made_core(args, settings: dict, stack: contextlib.ExitStack):
    """A random core of the shapes: in memory, or in mapped files in --scratch that go when `stack` closes."""
    from kxl.moe import core as moe_core
    from kxl.moe import memory

    config, bits = memory.shapes(args.shapes, args.layers), settings["carry_bits"]
    if settings["storage"] == "resident":
        core = moe_core.random(config, settings["group_size"], args.seed)
        core.set_carry(bits)
        return core
    args.scratch.mkdir(parents=True, exist_ok=True)
    folder = stack.enter_context(scratch_dir(args.scratch)) / "core"
    moe_core.write_random(folder, config, settings["group_size"], args.seed, bits)
    core = moe_core.load(folder, mapped=True)
    core.settle(everything=True)
    return core


def work_of(core, settings: dict, mode: str, passes: int | None) -> int:
    """What a step costs in forwards of a layer."""
    from kxl.moe.grouped import groups_of

    layers, first = core.config["num_hidden_layers"], core.moe_layers[0]
    if mode == "streamed":
        return layers + COST["trained"] * (layers - first)
    groups = groups_of(core.moe_layers, settings["group_layers"], settings["group_stride"])[::-1]
    work = groups[0].start
    for group in groups[:passes]:
        work += layers - group.start + COST["trained"] * len(group) + COST["passed"] * (layers - group.stop)
    return work


if __name__ == "__main__":
    cli.run(main)
