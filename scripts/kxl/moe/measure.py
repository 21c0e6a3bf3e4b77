"""One training step on a random core of given shapes: seconds by part and peak memory.

`measure` runs it in this process; `measured` in a process of its own, whose peak is the step's alone.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, shown
from kxl.model import blas

# What a layer costs, in forwards, for the bar alone. The grouped step's first forward counts as such.
COST = {"forward": 1, "trained": 3, "passed": 2}

BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


def shapes(path: Path, layers: int | None) -> dict:
    """The config of the first `layers` layers of a model."""
    config = read_json(path)
    if layers is not None:
        if "layer_types" in config:
            config["layer_types"] = config["layer_types"][:layers]
        else:
            config["full_attn_idxs"] = [i for i in config["full_attn_idxs"] if i < layers]
        config["num_hidden_layers"] = layers
    return config


def measured(arguments: list[str]) -> dict:
    """What this script says, run in a fresh process. UserError with its last words if it fails."""
    command = [sys.executable, str(ROOT / "scripts/moe_measure_step.py"), *map(str, arguments)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **blas.child_env()})
    if ended.returncode:
        raise UserError(
            f"moe_measure_step.py {' '.join(map(str, arguments))} ended with {ended.returncode}; its message is above"
        )
    return json.loads(ended.stdout)


def measure(args) -> dict:
    import mlx.core as mx
    import numpy as np
    from tqdm import tqdm

    from kxl.model.batches import make_batch
    from kxl.moe import core as moe_core
    from kxl.moe import hardware, memory
    from kxl.moe.grouped import grouped_step, groups_of
    from kxl.moe.layers import Blocks
    from kxl.moe.optimizer import ExpertOptimizer
    from kxl.moe.run import check_settings
    from kxl.moe.streamed import How, streamed_step

    given = {"group_layers": args.group_layers, "group_stride": args.group_stride}
    settings = check_settings({**read_json(args.config), **{k: v for k, v in given.items() if v}}, shown(args.config))
    mx.set_cache_limit(memory.CACHE)
    process = hardware.resident()
    began = time.monotonic()
    core = moe_core.random(shapes(args.shapes, args.layers), settings["group_size"], args.seed)
    made, after_core = time.monotonic() - began, hardware.peak_resident()
    tokens = np.random.default_rng(args.seed + 1).integers(0, core.config["vocab_size"], args.tokens + 1)
    batch = make_batch([(tokens, np.ones(args.tokens + 1, bool))])
    optimizer = ExpertOptimizer(core, settings["optimizer"], settings["rounding"], settings["update_clip"], args.seed)
    optimizer.begin(0, settings["learning_rate"])
    every, first = core.config["num_hidden_layers"], core.moe_layers[0]
    if args.mode == "streamed":
        runs = [(every, every - first, 0)]  # (layers forward, trained, passed) of the forward to the loss and back
    else:
        groups = groups_of(core.moe_layers, settings["group_layers"], settings["group_stride"])[::-1]
        runs = [
            (groups[0].start, 0, 0),
            *((every - one.start, len(one), every - one.stop) for one in groups[: args.passes]),
        ]
    bar = tqdm(
        total=sum(forward + COST["trained"] * trained + COST["passed"] * passed for forward, trained, passed in runs),
        desc=f"{args.mode}, {args.tokens:,} tokens",
        unit="layer",
        bar_format=BAR,
    )
    how = How(Blocks(**settings["blocks"]), settings["layer_inputs"], done=lambda part: bar.update(COST[part]))
    began, cpu = time.monotonic(), time.process_time()
    if args.mode == "streamed":
        outcome = streamed_step(core, batch, optimizer.update, how)
    else:
        outcome = grouped_step(
            core, batch, optimizer.update, how, settings["group_layers"], settings["group_stride"], args.passes
        )
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    bar.close()
    return {
        "mode": args.mode,
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
        "peak_rss_gib": round(hardware.peak_resident() / hardware.GIB, 4),
    }
