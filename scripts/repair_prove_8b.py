"""Prove that an adapter of a large MoE trains in little memory: one real LoRA step on its int8 experts in mapped files.

In:  shapes (a config.json or gguf/*.shapes.json) and a row's length. Random int8 experts and a BF16 rest are written to
     --scratch (8.8 GiB at LFM2-8B-A1B's shapes); they stay there when the proof is stopped, so that it goes on with
     them, and are removed when the report is written.
Out: --report, results: tokens, all of them with loss; peak_gib (resident memory less clean pages of files: what the
     system cannot take back) beside predicted_peak_gib and its parts, seconds of the step and processor seconds, loss.

Refused with exit code 2, the report kept as NAME.failed.json, when a limit is missed. --layers takes the first layers
only, for a trial.

  .venv/bin/python scripts/repair_prove_8b.py --report reports/prove-8b/lora.json
"""

import time
from pathlib import Path

from kxl.base import cli, report
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, remove_tree, shown
from kxl.model import blas
from kxl.plan.random_model import LFM2_MOE
from kxl.plan.sizes import GROUP
from kxl.repair.settings import Settings

TOLERANCE = 0.15  # how far the memory model may be off
VOCABULARY = 128_000  # of LFM2.5-8B-A1B, which the shapes of LFM2-8B-A1B leave smaller


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--shapes", type=Path, default=ROOT / "gguf/lfm2-8b-a1b.shapes.json", help="config.json of the shapes"
    )
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY, help="tokens of the vocabulary (%(default)s)")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of the one row (%(default)s)")
    parser.add_argument("--layers", type=int, help="only the first layers")
    parser.add_argument("--limit-gib", type=float, default=14, help="the most that the step may hold (%(default)s)")
    parser.add_argument("--inputs-on-disk", action="store_true", help="keep the inputs of the layers in a file")
    parser.add_argument(
        "--scratch", type=Path, default=Path("runs/prove-lora-8b"), help="folder on the disk, for us alone"
    )
    parser.add_argument("--report", type=Path, required=True, help="report (JSON)")
    args = parser.parse_args()
    blas.use_fast_blas()

    from kxl.moe import core, memory

    config = {**memory.shapes(args.shapes, args.layers), **LFM2_MOE, "vocab_size": args.vocabulary}
    config = core.check_config(config, GROUP, shown(args.shapes))
    written(args.scratch / "core", config)
    results = measured(args.scratch / "core", config, args.tokens, args.scratch if args.inputs_on_disk else None)
    missed = misses(results, args.limit_gib)
    settings = {"tokens": args.tokens, "vocabulary": args.vocabulary, "layers": args.layers, "rank": Settings().rank}
    report.write_gated(args.report, not missed, [args.shapes], {**settings, "limit_gib": args.limit_gib}, results)
    remove_tree(args.scratch / "core")
    if not any(args.scratch.iterdir()):
        args.scratch.rmdir()
    if missed:
        raise UserError(f"{shown(report.failed_path(args.report))}: {'; '.join(missed)}")
    print(
        f"{shown(args.report)}: {results['peak_gib']:.2f} GiB and {results['seconds']:.0f} s for a step of "
        f"{args.tokens:,} tokens; predicted {results['predicted_peak_gib']:.2f} GiB"
    )


def written(folder: Path, config: dict) -> None:
    """Make sure that the random core of `config` is in `folder`."""
    from tqdm import tqdm

    from kxl.moe import core

    said = folder / "config.json"
    if said.is_file():
        there = {key: value for key, value in read_json(said).items() if key != "quantization"}
        if there == config:
            cli.say(f"{shown(folder)}: goes on with the core that is there")
            return
        remove_tree(folder)
    with tqdm(total=config["num_hidden_layers"] + 1, desc="random core", unit="shard", dynamic_ncols=True) as bar:
        core.write_random(folder, config, GROUP, 0, 0, lambda done, count: bar.update())


def measured(folder: Path, config: dict, tokens: int, inputs_in: Path | None) -> dict:
    """One step on the core in `folder`, with loss on each of `tokens` random tokens: what it held, beside the model."""
    import mlx.core as mx
    import numpy as np
    from tqdm import tqdm

    from kxl.lora import adapter, by_layer, int8_experts, memory, prefix
    from kxl.lora.schedule import warmup_then_linear
    from kxl.moe import hardware
    from kxl.moe.memory import CACHE

    blas.give_memory_back()
    mx.set_cache_limit(CACHE)
    settings = Settings()
    with hardware.PeakHeld() as peak:
        model = int8_experts.load(folder)
        mx.random.seed(settings.seed)
        adapter.attach(model, settings.adapter)
        rate = warmup_then_linear(settings.learning_rate, 0, final=1, planned=1)
        ids = np.random.default_rng(1).integers(0, config["vocab_size"], tokens + 1).astype(np.int32)
        batch = prefix.collate([prefix.Example(ids, np.ones(tokens + 1, bool))])
        # A stage's way back costs about three ways forward.
        with tqdm(total=8 * config["num_hidden_layers"] + 2, desc=f"step of {tokens:,} tokens", unit="part") as bar:

            def through(part: str) -> None:
                bar.update({"forward": 1, "loss": 2, "backward": 3}[part])

            trainer = by_layer.Trainer(model, prefix.loss, rate, folder / "state", inputs_in=inputs_in, done=through)
            began, cpu = time.monotonic(), time.process_time()
            (step,) = trainer.run([[0]], lambda number, places: (batch,), lambda places: tokens)
            seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    way = memory.ON_DISK if inputs_in else memory.BY_LAYER
    expected = memory.predict(config, True, memory.lengths_of([batch])[0], settings.rank, way)
    parts = {part: round(size / hardware.GIB, 3) for part, size in expected["parts"].items()}
    held, predicted = peak.bytes / hardware.GIB, expected["peak"] / hardware.GIB
    return {
        "tokens": tokens,
        "layers": config["num_hidden_layers"],
        "gradient": way,
        "peak_gib": round(held, 3),
        "predicted_peak_gib": round(predicted, 3),
        "predicted_parts_gib": parts,
        "prediction_error": round(predicted / held - 1, 4),
        "mlx_peak_gib": round(mx.get_peak_memory() / hardware.GIB, 3),
        "files_gib": round(sum(path.stat().st_size for path in folder.glob("*.safetensors")) / hardware.GIB, 3),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "blas_threads": blas.blas_threads(),
        "loss": round(step.loss, 5),
    }


def misses(results: dict, limit_gib: float) -> list[str]:
    """What the limits do not allow, in words."""
    missed = []
    if results["peak_gib"] > limit_gib:
        missed.append(f"{results['peak_gib']:.2f} GiB, and {limit_gib:g} are the limit")
    if abs(results["prediction_error"]) > TOLERANCE:
        missed.append(f"the memory model is {100 * results['prediction_error']:+.0f} % off: mend kxl/lora/memory.py")
    return missed


if __name__ == "__main__":
    cli.run(main)
