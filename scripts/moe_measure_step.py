"""One real training step on a random core of given shapes, in a process of its own: seconds and peak memory.

In:  a config.json or gguf/*.shapes.json, a training config, mode and sequence length.
Out: one JSON line: peak_rss_gib (of the whole process), mlx_peak_gib, seconds by part and in all, processor seconds (of all
     threads: what the same step costs on a machine that does other work, too), loss.

A bar on stderr counts the layers, a backward as three forwards.
The core is random int8 experts and random BF16 rest, made in memory, so real shapes need no checkpoint.
--layers takes the first layers only, --passes runs that many groups of a grouped step from the top.

  .venv/bin/python scripts/measure_step.py --shapes gguf/lfm2-8b-a1b.shapes.json --config configs/lfm2.5-8b-a1b-moe.json \\
      --layers 6 --tokens 256 --mode streamed
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cli
import mlx_backend
from cli import UserError
from files import ROOT, read_json, shown

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
    command = [sys.executable, str(ROOT / "scripts/measure_step.py"), *map(str, arguments)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **mlx_backend.child_env()})
    if ended.returncode:
        raise UserError(f"measure_step.py {' '.join(map(str, arguments))} ended with {ended.returncode}; its message is above")
    return json.loads(ended.stdout)


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--shapes", type=Path, required=True, help="config.json of the shapes")
    parser.add_argument("--config", type=Path, required=True, help="training config")
    parser.add_argument("--mode", choices=("streamed", "grouped"), default="streamed")
    parser.add_argument("--tokens", type=int, required=True, help="tokens of the one example; all are scored")
    parser.add_argument("--layers", type=int, help="only the first layers")
    parser.add_argument("--group-layers", type=int, help="instead of the config's")
    parser.add_argument("--group-stride", type=int, help="instead of the config's")
    parser.add_argument("--passes", type=int, help="only the first groups, from the top")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    mlx_backend.use_fast_blas()
    print(json.dumps(measure(args)))


def measure(args) -> dict:
    import mlx.core as mx
    import numpy as np
    from tqdm import tqdm

    import hardware
    import memory_model
    import mixed_core
    from expert_optimizer import ExpertOptimizer
    from grouped_step import grouped_step, groups_of
    from lfm2_layers import Blocks
    from streamed_step import How, make_batch, streamed_step
    from training_run import check_settings

    given = {"group_layers": args.group_layers, "group_stride": args.group_stride}
    settings = check_settings({**read_json(args.config), **{k: v for k, v in given.items() if v}}, shown(args.config))
    mx.set_cache_limit(memory_model.CACHE)
    process = hardware.resident()
    began = time.monotonic()
    core = mixed_core.random(shapes(args.shapes, args.layers), settings["group_size"], args.seed)
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
        runs = [(groups[0].start, 0, 0), *((every - one.start, len(one), every - one.stop) for one in groups[:args.passes])]
    bar = tqdm(total=sum(forward + COST["trained"] * trained + COST["passed"] * passed for forward, trained, passed in runs),
               desc=f"{args.mode}, {args.tokens:,} tokens", unit="layer", bar_format=BAR)
    how = How(Blocks(**settings["blocks"]), settings["layer_inputs"], done=lambda part: bar.update(COST[part]))
    began, cpu = time.monotonic(), time.process_time()
    if args.mode == "streamed":
        outcome = streamed_step(core, batch, optimizer.update, how)
    else:
        outcome = grouped_step(core, batch, optimizer.update, how, settings["group_layers"], settings["group_stride"], args.passes)
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    bar.close()
    return {"mode": args.mode, "tokens": args.tokens, "layers": core.config["num_hidden_layers"], "seconds": round(seconds, 2),
            "cpu_seconds": round(cpu, 2), "blas_threads": mlx_backend.blas_threads(), "parts": {part: round(value, 2) for part, value in outcome.seconds.items()},
            "layers_done": dict(outcome.layers), "loss": round(outcome.loss, 5),
            "codes_changed": round(optimizer.report()["codes_changed"], 6), "core_gib": round(core.nbytes / hardware.GIB, 4),
            "seconds_to_make_core": round(made, 1), "process_gib": round(process / hardware.GIB, 4),
            "peak_before_step_gib": round(after_core / hardware.GIB, 4), "mlx_peak_gib": round(mx.get_peak_memory() / hardware.GIB, 4),
            "peak_rss_gib": round(hardware.peak_resident() / hardware.GIB, 4)}


if __name__ == "__main__":
    cli.run(main)
