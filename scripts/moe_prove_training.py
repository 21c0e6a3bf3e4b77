"""Prove that MoE training on an int8 core learns with stochastic rounding, in both modes, and not with nearest.

No carry is kept here: with one even rounding to nearest loses little (moe_prove_transfer.py has both).

In:  a core, encoded rows for training and validation (moe_encode_rows.py), a training config.
Out: --report: for streamed, grouped, and streamed with rounding to nearest: validation loss before and after,
     number of held-out rows of which every scored token is the model's first choice (what greedy decoding
     would write), share of int8 codes changed per step.

A model that gets most rows right has nothing to learn from them. So noise is added to its experts, from a quarter of
their root mean square on and doubled, until it gets at most half of the rows right; that is the base of all three
runs, and the report says how much noise it took (0 for a model that is worse than that by itself).

Refused with exit code 2, the report kept as NAME.failed.json, when stochastic rounding does not lower the validation
loss and raise the score in both modes, or when nearest rounding gains a fifth of that.

  .venv/bin/python scripts/moe_prove_training.py --core runs/tiny/core --train runs/tiny/moe/train.jsonl \\
      --valid runs/tiny/moe/valid.jsonl --config configs/tiny-moe.json --work runs/tiny/moe/proof --report
      runs/tiny/results/reports/moe_proof.json
"""

import sys
from pathlib import Path

from kxl.base import cli, processes
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, shown
from kxl.model import blas

VARIANTS = {
    "streamed": ("streamed", "stochastic"),
    "grouped": ("grouped", "stochastic"),
    "nearest": ("streamed", "nearest"),
}


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--core", type=Path, required=True, help="int8 core to start from")
    parser.add_argument("--train", type=Path, required=True, help="encoded rows")
    parser.add_argument("--valid", type=Path, required=True, help="encoded rows that are never trained on")
    parser.add_argument("--config", type=Path, required=True, help="training config")
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs; they resume")
    parser.add_argument("--report", type=Path, required=True, help="report (JSON)")
    args = parser.parse_args()
    blas.use_fast_blas()

    from kxl.base import report
    from kxl.moe import core as moe_core
    from kxl.moe import rows as moe_rows
    from kxl.moe.settings import check_settings

    settings = check_settings(read_json(args.config), shown(args.config))
    core = moe_core.load(args.core)
    rows = moe_rows.read(args.valid, core.config["vocab_size"], settings["max_tokens"])[: settings["validation_rows"]]
    noise, before = weaken(core, rows, settings)
    base = args.work / "base"
    moe_core.save(base, core)
    cli.say(f"{shown(base)}: noise {noise}, {before} of {len(rows)} held-out rows exact")
    results = {"rows_scored": len(rows), "noise": noise, "exact_before": before}
    for name, (mode, rounding) in VARIANTS.items():
        out = args.work / f"{name}.json"
        ended = processes.run(
            [
                sys.executable,
                str(ROOT / "scripts/moe_train.py"),
                "--core",
                str(base),
                "--train",
                str(args.train),
                "--valid",
                str(args.valid),
                "--config",
                str(args.config),
                "--work",
                str(args.work / name),
                "--mode",
                mode,
                "--rounding",
                rounding,
                "--carry-bits",
                "0",
                "--report",
                str(out),
            ]
        )
        if ended.returncode:
            raise UserError(f"the {name} training ended with {ended.returncode}; its message is above")
        trained = read_json(out)["results"]
        results[name] = {
            "mode": mode,
            "rounding": rounding,
            "validation": trained["validation"],
            "codes_changed_per_step": trained["codes_changed_per_step"],
            "steps": trained["steps"],
            "tokens": trained["tokens"],
            "seconds": trained["seconds"],
            "peak_rss_gib": trained["peak_rss_gib"],
            "gain": round(trained["validation"][0]["loss"] - trained["validation"][-1]["loss"], 5),
            "exact_after": exact(moe_core.load(ROOT / trained["checkpoint"]), rows, settings),
        }
        cli.say(
            f"{name}: validation loss {trained['validation'][0]['loss']:.4f} -> "
            f"{trained['validation'][-1]['loss']:.4f}, "
            f"exact rows {before} -> {results[name]['exact_after']} of {len(rows)}"
        )
    missed = misses(results)
    inputs = [args.train, args.valid, args.core, args.config]
    report.write_gated(args.report, not missed, inputs, settings, results)
    if missed:
        raise UserError(
            f"{shown(report.failed_path(args.report))}: {'; '.join(missed)} (settings: {shown(args.config)})"
        )
    after = ", ".join(str(results[name]["exact_after"]) for name in VARIANTS)
    print(
        f"{shown(args.report)}: validation loss gained streamed {results['streamed']['gain']}, grouped "
        f"{results['grouped']['gain']}, nearest "
        f"{results['nearest']['gain']}; exact rows {before} -> {after} of {len(rows)}"
    )


def misses(results: dict) -> list[str]:
    """What the proof does not show, in words."""
    missed = [
        f"{mode} training gained {results[mode]['gain']} nats and "
        f"{results[mode]['exact_after'] - results['exact_before']} rows: raise learning_rate or steps"
        for mode in ("streamed", "grouped")
        if results[mode]["gain"] <= 0 or results[mode]["exact_after"] <= results["exact_before"]
    ]
    if results["nearest"]["gain"] > 0.2 * results["streamed"]["gain"]:
        missed.append(
            f"rounding to nearest gained {results['nearest']['gain']} nats, more than a fifth of stochastic rounding: "
            "lower learning_rate"
        )
    return missed


def weaken(core, rows: list[dict], settings: dict) -> tuple[float, int]:
    """Add noise to the experts of `core` until at most half of `rows` are exact.

    Returns (noise over the weights' root mean square, exact rows).
    """
    import numpy as np

    from kxl.moe import int8

    given = dict(core.experts)
    noise, right = 0.0, exact(core, rows, settings)
    while right > len(rows) // 2 and noise < 4:
        noise = 2 * noise or 0.25
        random = np.random.default_rng(settings["seed"])
        for name in sorted(given):
            weights = int8.dequantize(given[name])
            spread = noise * np.sqrt(np.mean(np.square(weights)))
            core.experts[name] = int8.quantize(
                weights + spread * random.standard_normal(weights.shape, dtype=np.float32), core.group
            )
        right = exact(core, rows, settings)
    return noise, right


def exact(core, rows: list[dict], settings: dict) -> int:
    """Number of rows of which every scored token is the first choice."""
    import mlx.core as mx
    import numpy as np

    from kxl.model.batches import make_batch
    from kxl.moe.layers import Blocks
    from kxl.moe.streamed import StepOptions, log_probabilities

    options, right = StepOptions(Blocks(**settings["blocks"]), settings["layer_inputs"]), 0
    for row in rows:
        batch = make_batch([(row["tokens"], row["mask"])])
        scored = np.nonzero(batch.weights[0])[0]
        first = mx.argmax(log_probabilities(core, batch, options)[mx.array(scored)], axis=-1)
        right += bool(np.array_equal(np.array(first), batch.targets[0][scored]))
    return right


if __name__ == "__main__":
    cli.run(main)
