"""The streamed step against mlx_lm's own full fine-tuning step with gradient checkpointing, on one small model.

In:  a training config; the shapes below (an LFM2-MoE of 2 dense and 6 MoE layers).
Out: --report: seconds per step and peak resident memory of both, the mean of --steps steps after the first.

mlx_lm trains with mlx_lm.tuner.trainer.train, float32 weights, its Adafactor without momentum, and the same
fast BLAS in front; ours with the int8 core. Each runs in a process of its own, one after the other. Refused with
exit code 2, the report kept as NAME.failed.json, when ours is slower or takes more memory.

  .venv/bin/python scripts/moe_compare_mlx_lm.py --report reports/prove-8b/mlx_lm.json
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from kxl.base import cli, processes, report
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, scratch_dir, shown
from kxl.model import blas

SHAPES = {
    "model_type": "lfm2_moe",
    "vocab_size": 16384,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "moe_intermediate_size": 512,
    "num_hidden_layers": 8,
    "num_dense_layers": 2,
    "num_experts": 12,
    "num_experts_per_tok": 4,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "conv_L_cache": 3,
    "conv_bias": False,
    "full_attn_idxs": [2, 5],
    "norm_eps": 1e-5,
    "rope_theta": 1000000.0,
    "max_position_embeddings": 128000,
    "tie_embedding": True,
    "norm_topk_prob": True,
    "use_expert_bias": True,
    "routed_scaling_factor": 1.0,
}


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--config", type=Path, default=ROOT / "configs/lfm2.5-8b-a1b-moe.json", help="training config")
    parser.add_argument("--tokens", type=int, default=1024, help="tokens of an example")
    parser.add_argument("--steps", type=int, default=2, help="steps that are timed")
    parser.add_argument(
        "--side", choices=("ours", "mlx_lm"), help="run one side in this process and print what it took"
    )
    parser.add_argument("--report", type=Path, help="report (JSON)")
    args = parser.parse_args()
    if not args.side and not args.report:
        raise UserError("--report names the file to write")
    blas.use_fast_blas()
    if args.side:
        print(json.dumps({"ours": ours, "mlx_lm": theirs}[args.side](args)))
        return
    results = {side: one_side(side, args) for side in ("ours", "mlx_lm")}
    results["speedup"] = round(results["mlx_lm"]["seconds_per_step"] / results["ours"]["seconds_per_step"], 2)
    better = all(results["ours"][key] <= results["mlx_lm"][key] for key in ("seconds_per_step", "peak_rss_gib"))
    report.write_gated(
        args.report, better, [args.config], {"shapes": SHAPES, "tokens": args.tokens, "steps": args.steps}, results
    )
    summary = (
        f"{args.tokens} tokens, ours {results['ours']['seconds_per_step']:.1f} s and "
        f"{results['ours']['peak_rss_gib']:.2f} GiB, "
        f"mlx_lm {results['mlx_lm']['seconds_per_step']:.1f} s and {results['mlx_lm']['peak_rss_gib']:.2f} GiB"
    )
    if not better:
        raise UserError(
            f"{shown(report.failed_path(args.report))}: {summary}: the streamed step must not be worse; run it on an "
            "idle machine"
        )
    print(f"{shown(args.report)}: {summary}")


def one_side(side: str, args) -> dict:
    """Seconds and peak memory of one side, in a process of its own. UserError when it fails."""
    command = [
        sys.executable,
        str(ROOT / "scripts/moe_compare_mlx_lm.py"),
        "--side",
        side,
        "--tokens",
        str(args.tokens),
        "--steps",
        str(args.steps),
        "--config",
        str(args.config),
    ]
    ended = processes.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **blas.child_env()})
    if ended.returncode:
        raise UserError(f"the side {side} ended with {ended.returncode}; its message is above")
    return json.loads(ended.stdout.splitlines()[-1])


def ours(args) -> dict:
    """The streamed step on a random int8 core."""
    import mlx.core as mx
    import numpy as np

    from kxl.model.batches import make_batch
    from kxl.moe import core as moe_core
    from kxl.moe import hardware, memory
    from kxl.moe.layers import Blocks
    from kxl.moe.optimizer import ExpertOptimizer
    from kxl.moe.streamed import StepOptions, streamed_step

    settings = read_json(args.config)
    mx.set_cache_limit(memory.CACHE)
    core = moe_core.random(SHAPES, settings["group_size"], 0)
    optimizer = ExpertOptimizer(core, {**settings, "optimizer": "adafactor", "rounding": "stochastic", "seed": 0})
    options = StepOptions(Blocks(**settings["blocks"]), settings["layer_inputs"])
    batch = make_batch(
        [(np.random.default_rng(0).integers(0, SHAPES["vocab_size"], args.tokens + 1), np.ones(args.tokens + 1, bool))]
    )
    seconds = []
    for step in range(args.steps + 1):
        began = time.perf_counter()
        optimizer.begin(step, settings["learning_rate"])
        streamed_step(core, batch, optimizer.update, options)
        seconds.append(time.perf_counter() - began)
    return {
        "seconds_per_step": round(sum(seconds[1:]) / args.steps, 2),
        "peak_rss_gib": round(processes.peak_resident() / hardware.GIB, 3),
    }


def theirs(args) -> dict:
    """mlx-lm's trainer on the same shapes, all weights float32."""
    import mlx.core as mx
    import mlx.optimizers
    import numpy as np
    from mlx_lm.models import lfm2_moe
    from mlx_lm.tuner.callbacks import TrainingCallback
    from mlx_lm.tuner.trainer import TrainingArgs, train

    from kxl.moe import hardware, memory

    mx.set_cache_limit(memory.CACHE)  # on a CPU its own is 32 MiB, which would be our advantage
    model = lfm2_moe.Model(lfm2_moe.ModelArgs.from_dict(SHAPES))
    mx.eval(model.parameters())
    tokens = np.random.default_rng(0).integers(0, SHAPES["vocab_size"], args.tokens + 1).tolist()
    speeds = []

    class Speed(TrainingCallback):
        def on_train_loss_report(self, train_info):
            speeds.append(train_info["iterations_per_second"])

    optimizer = mlx.optimizers.Adafactor(learning_rate=1e-6, relative_step=False, scale_parameter=False)
    with scratch_dir() as scratch:  # it saves what it trained
        settings = TrainingArgs(
            batch_size=1,
            iters=args.steps + 1,
            steps_per_report=1,
            steps_per_save=10**9,
            max_seq_length=args.tokens + 1,
            grad_checkpoint=True,
            adapter_file=f"{scratch}/weights.safetensors",
        )
        train(model, optimizer, [(tokens, 0)] * 2, args=settings, training_callback=Speed())
    return {
        "seconds_per_step": round(sum(1 / speed for speed in speeds[1:]) / args.steps, 2),
        "peak_rss_gib": round(processes.peak_resident() / hardware.GIB, 3),
    }


if __name__ == "__main__":
    cli.run(main)
