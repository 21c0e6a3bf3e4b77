"""Prove that an 8B MoE trains on this machine: one real step, streamed and grouped, at LFM2-8B-A1B's shapes.

In:  the shapes, a training config, a sequence length. Random int8 experts, BF16 rest, made in memory.
Out: --report: seconds per part and peak resident memory of both modes, and the memory model's figure for
     10,240 tokens. With --grouped-passes N only the first N of the grouped step's passes run (from the top,
     the cheapest); the rest is extrapolated by kind of layer (forward, trained, passed through), and the
     report says so.

Both steps run in processes of their own, one after the other: 10 minutes at 1,024 tokens on two cores with
--grouped-passes 3, which by its own extrapolation are 19 with all seven. --long measures the streamed step at 10,240
tokens instead (an hour or two) and adds it to the report that is there. Refused with exit code 2, the report kept as
NAME.failed.json, when a limit below is missed.

  .venv/bin/python scripts/moe_prove_8b.py --tokens 1024 --report reports/prove-8b/memory.json
"""

from pathlib import Path

from kxl.base import cli, report
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, shown
from kxl.moe import core, hardware, memory
from kxl.moe.grouped import groups_of
from kxl.moe.settings import check_settings

MEASURE = ROOT / "scripts/moe_measure_step.py"
LONG = 10240
IN_MEMORY = {"storage": "resident", "carry_bits": 0}  # from mapped files, with a carry: moe_prove_mapped.py
# What the proof has to show: GiB resident at --tokens and at 10,240, how many times as fast as grouped, and how
# far the memory model may be off.
STREAMED_GIB, LONG_GIB, SPEEDUP, TOLERANCE = 13, 16, 2.5, 0.10


def main() -> None:
    parser = cli.parser(__doc__)
    memory.add_flags(parser)
    parser.add_argument("--grouped-passes", type=int, help="run that many of the grouped step's passes (default: all)")
    parser.add_argument(
        "--long", action="store_true", help="add the streamed step at 10,240 tokens, measured, to the report"
    )
    parser.add_argument("--report", type=Path, required=True, help="report (JSON)")
    args = parser.parse_args()

    settings = check_settings({**read_json(args.config), **IN_MEMORY}, shown(args.config))
    config = core.check_config(read_json(args.shapes), settings["group_size"], shown(args.shapes))
    inputs, common = [args.shapes, args.config], ["--shapes", args.shapes, "--config", args.config]
    common += ["--storage", IN_MEMORY["storage"], "--carry-bits", IN_MEMORY["carry_bits"]]
    if args.long:
        so_far = proof_so_far(args.report, inputs)
        settings, results = so_far["settings"], so_far["results"]
        results["streamed_10240"] = step = streamed(config, settings, LONG, common)
        summary = f"predicted {step['predicted_gib']:.2f} GiB"
    else:
        results = both_modes(config, settings, args.tokens, args.grouped_passes, common)
        settings = {**settings, "tokens": args.tokens, "grouped_passes": args.grouped_passes}
        step, predicted = results["streamed"], results["predicted_10240"]["streamed_gib"]
        summary = (
            f"{results['speedup']:.1f} times faster than grouped; predicted at {LONG:,} tokens: {predicted:.2f} GiB"
        )
    missed = misses(results)
    report.write_gated(args.report, not missed, inputs, settings, results)
    if missed:
        raise UserError(f"{shown(report.failed_path(args.report))}: {'; '.join(missed)}")
    print(
        f"{shown(args.report)}: streamed {step['peak_rss_gib']:.2f} GiB and {step['seconds_per_example']:.0f} s per "
        f"example of {step['tokens']:,} tokens, {summary}"
    )


def proof_so_far(path: Path, inputs: list[Path]) -> dict:
    """The report at `path`; UserError unless it is there and of these shapes and this config."""
    if not path.is_file():
        raise UserError(f"{shown(path)}: no such report; run without --long first")
    known = read_json(path)
    if known["inputs"] != [report.describe_input(file) for file in inputs]:
        raise UserError(f"{shown(path)}: is of other shapes or another config; run without --long first")
    return known


def streamed(config: dict, settings: dict, tokens: int, common: list) -> dict:
    """The streamed step at `tokens`, measured, as the report has it; refused where it would not fit the machine."""
    predicted = gib(memory.predict(config, settings, tokens, tokens)["peak"])
    total = hardware.load_profile(None)["memory_gib"]
    if predicted > total:
        raise UserError(f"{tokens} tokens need about {predicted:.1f} GiB, the machine has {total:.1f}; lower --tokens")
    step = entry(memory.measured(MEASURE, [*common, "--tokens", tokens, "--mode", "streamed"]), predicted)
    cli.say(f"streamed, {tokens} tokens: {step['seconds_per_example']:.0f} s, {step['peak_rss_gib']:.2f} GiB")
    return step


def both_modes(config: dict, settings: dict, tokens: int, passes: int | None, common: list) -> dict:
    """The results of a streamed step and of a grouped one of that many `passes` (all for None)."""
    whole = whole_example(config, settings, passes)  # refuses a wrong number before anything is measured
    step = streamed(config, settings, tokens, common)
    flags = [*common, "--tokens", tokens, "--mode", "grouped", *(["--passes", passes] if passes else [])]
    grouped = entry(memory.measured(MEASURE, flags), step["predicted_gib"], whole)
    cli.say(f"grouped, {tokens} tokens: {grouped['seconds_per_example']:.0f} s, {grouped['peak_rss_gib']:.2f} GiB")
    # Both keep the input of every MoE layer at their widest point, so the model predicts the same peak.
    predicted = memory.predict(config, settings, LONG, LONG)
    return {
        "streamed": step,
        "grouped": grouped,
        "speedup": round(grouped["seconds_per_example"] / step["seconds_per_example"], 2),
        "predicted_10240": {
            "streamed_gib": gib(predicted["peak"]),
            "grouped_gib": gib(predicted["peak"]),
            "parts_gib": {part: gib(size) for part, size in predicted["parts"].items()},
        },
    }


def misses(results: dict) -> list[str]:
    """What the proof does not show, in words."""
    missed = [
        f"the memory model is {step['prediction_error']:+.0%} off at {name}: mend the counts in "
        "scripts/kxl/moe/memory.py"
        for name, step in results.items()
        if isinstance(step, dict) and "peak_rss_gib" in step and abs(step["prediction_error"]) > TOLERANCE
    ]
    for name, peak, limit in (
        ("streamed", results["streamed"]["peak_rss_gib"], STREAMED_GIB),
        (f"{LONG:,} tokens, predicted", results["predicted_10240"]["streamed_gib"], LONG_GIB),
        (f"{LONG:,} tokens", results.get("streamed_10240", {}).get("peak_rss_gib", 0), LONG_GIB),
    ):
        if peak >= limit:
            missed.append(f"{name}: {peak:.2f} GiB, and {limit} are the limit")
    if results["speedup"] < SPEEDUP:
        missed.append(f"streamed is {results['speedup']:.2f} times as fast as grouped, not {SPEEDUP}")
    return missed


def gib(size: float) -> float:
    """Bytes as GiB, three digits."""
    return round(size / hardware.GIB, 3)


def entry(step: dict, predicted: float, whole: dict | None = None) -> dict:
    """A measured step as the report has it, beside the GiB that were `predicted`.

    whole: how many layers of each kind a whole example goes through, if not all were run.
    """
    seconds, factors = step["seconds"], None
    if whole:
        factors = {part: round(count / step["layers_done"][part], 4) for part, count in whole.items()}
        seconds += sum((factor - 1) * step["parts"][part] for part, factor in factors.items())
    return {
        "tokens": step["tokens"],
        "peak_rss_gib": step["peak_rss_gib"],
        "seconds_per_example": round(seconds, 1),
        "extrapolated": bool(whole),
        "extrapolation": factors,
        "measured_seconds": step["seconds"],
        "cpu_seconds": step["cpu_seconds"],
        "blas_threads": step["blas_threads"],
        "parts_seconds": step["parts"],
        "layers_done": step["layers_done"],
        "core_gib": step["core_gib"],
        "mlx_peak_gib": step["mlx_peak_gib"],
        "predicted_gib": predicted,
        "prediction_error": round(predicted / step["peak_rss_gib"] - 1, 4),
        "codes_changed": step["codes_changed"],
        "loss": step["loss"],
    }


def whole_example(config: dict, settings: dict, passes: int | None) -> dict | None:
    """How many layers a grouped example takes forward, trains and only passes, and how often it computes the loss.

    None when every pass was run. Each kind is extrapolated by itself: a layer that learns costs more.
    """
    layers = range(config["num_dense_layers"], config["num_hidden_layers"])
    groups = groups_of(layers, settings["group_layers"], settings["group_stride"])
    if passes is None or passes >= len(groups):
        return None
    if passes < 2:
        raise UserError(
            "--grouped-passes must be 2 or more: the first pass, at the top, has no layer that only hands the gradient "
            "down"
        )
    forward, trained = sum(layers.stop - group.start for group in groups), sum(map(len, groups))
    return {"forward": forward, "loss": len(groups), "trained": trained, "passed": forward - trained}


if __name__ == "__main__":
    cli.run(main)
