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
from kxl.moe.measure import measured
from kxl.moe.run import check_settings

LONG = 10240
# What the proof has to show: GiB resident at --tokens and at 10,240, how many times as fast as grouped, and how
# far the memory model may be off.
STREAMED_GIB, LONG_GIB, SPEEDUP, TOLERANCE = 13, 16, 2.5, 0.10


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--shapes", type=Path, default=ROOT / "gguf/lfm2-8b-a1b.shapes.json", help="config.json of the shapes"
    )
    parser.add_argument("--config", type=Path, default=ROOT / "configs/lfm2.5-8b-a1b-moe.json", help="training config")
    parser.add_argument("--tokens", type=int, default=1024, help="tokens of the example")
    parser.add_argument("--grouped-passes", type=int, help="run that many of the grouped step's passes (default: all)")
    parser.add_argument(
        "--long", action="store_true", help="add the streamed step at 10,240 tokens, measured, to the report"
    )
    parser.add_argument("--report", type=Path, required=True, help="report (JSON)")
    args = parser.parse_args()

    settings = check_settings(read_json(args.config), shown(args.config))
    config = core.check_config(read_json(args.shapes), settings["group_size"], shown(args.shapes))
    inputs, common = [args.shapes, args.config], ["--shapes", args.shapes, "--config", args.config]
    if args.long:
        known = proof_so_far(args.report, inputs)
        settings, results = known["settings"], known["results"]
        results["streamed_10240"] = one = streamed(config, settings, LONG, common)
        told = f"streamed {one['peak_rss_gib']:.2f} GiB and {one['seconds_per_example']:.0f} s per example of {LONG:,} tokens; predicted {one['predicted_gib']:.2f} GiB"
    else:
        whole = whole_example(
            config, settings, args.grouped_passes
        )  # refuses a wrong number before anything is measured
        one = streamed(config, settings, args.tokens, common)
        passes = ["--passes", args.grouped_passes] if args.grouped_passes else []
        grouped = entry(
            measured([*common, "--tokens", args.tokens, "--mode", "grouped", *passes]), one["predicted_gib"], whole
        )
        cli.say(
            f"grouped, {args.tokens} tokens: {grouped['seconds_per_example']:.0f} s, {grouped['peak_rss_gib']:.2f} GiB"
        )
        # Both keep the input of every MoE layer at their widest point, so the model predicts the same peak.
        predicted = memory.predict(config, settings, LONG, LONG)
        results = {
            "streamed": one,
            "grouped": grouped,
            "speedup": round(grouped["seconds_per_example"] / one["seconds_per_example"], 2),
            "predicted_10240": {
                "streamed_gib": gib(predicted["peak"]),
                "grouped_gib": gib(predicted["peak"]),
                "parts_gib": {part: gib(size) for part, size in predicted["parts"].items()},
            },
        }
        settings = {**settings, "tokens": args.tokens, "grouped_passes": args.grouped_passes}
        told = (
            f"streamed {one['peak_rss_gib']:.2f} GiB and {one['seconds_per_example']:.0f} s per example of {args.tokens} tokens, "
            f"{results['speedup']:.1f} times faster than grouped; predicted at {LONG:,} tokens: {gib(predicted['peak']):.2f} GiB"
        )
    missed = misses(results)
    report.write_gated(args.report, not missed, inputs, settings, results)
    if missed:
        raise UserError(f"{shown(report.failed_path(args.report))}: {'; '.join(missed)}")
    print(f"{shown(args.report)}: {told}")


def proof_so_far(path: Path, inputs: list[Path]) -> dict:
    """The report at `path`; UserError unless it is there and of these shapes and this config."""
    if not path.is_file():
        raise UserError(f"{shown(path)}: no such report; run without --long first")
    known = read_json(path)
    if known["inputs"] != [report.describe_input(one) for one in inputs]:
        raise UserError(f"{shown(path)}: is of other shapes or another config; run without --long first")
    return known


def streamed(config: dict, settings: dict, tokens: int, common: list) -> dict:
    """The streamed step at `tokens`, measured, as the report has it; refused where it would not fit the machine."""
    predicted, total = (
        gib(memory.predict(config, settings, tokens, tokens)["peak"]),
        hardware.load_profile(None)["memory_gib"],
    )
    if predicted > total:
        raise UserError(f"{tokens} tokens need about {predicted:.1f} GiB, the machine has {total:.1f}; lower --tokens")
    one = entry(measured([*common, "--tokens", tokens, "--mode", "streamed"]), predicted)
    cli.say(f"streamed, {tokens} tokens: {one['seconds_per_example']:.0f} s, {one['peak_rss_gib']:.2f} GiB")
    return one


def misses(results: dict) -> list[str]:
    """What the proof does not show, in words."""
    measured, found = (
        {name: one for name, one in results.items() if isinstance(one, dict) and "peak_rss_gib" in one},
        [],
    )
    for name, one in measured.items():
        if abs(one["prediction_error"]) > TOLERANCE:
            found.append(
                f"the memory model is {one['prediction_error']:+.0%} off at {name}: mend the counts in scripts/kxl/moe/memory.py"
            )
    for name, peak, limit in (
        ("streamed", results["streamed"]["peak_rss_gib"], STREAMED_GIB),
        (f"{LONG:,} tokens, predicted", results["predicted_10240"]["streamed_gib"], LONG_GIB),
        (f"{LONG:,} tokens", results.get("streamed_10240", {}).get("peak_rss_gib", 0), LONG_GIB),
    ):
        if peak >= limit:
            found.append(f"{name}: {peak:.2f} GiB, and {limit} are the limit")
    if results["speedup"] < SPEEDUP:
        found.append(f"streamed is {results['speedup']:.2f} times as fast as grouped, not {SPEEDUP}")
    return found


def gib(size: float) -> float:
    return round(size / hardware.GIB, 3)


def entry(one: dict, predicted: float, whole: dict | None = None) -> dict:
    """One measurement as the report has it, beside the GiB that were `predicted`; `whole`: how many layers of each kind a whole example goes through, if not all were run."""
    seconds, factors = one["seconds"], None
    if whole:
        factors = {part: round(count / one["layers_done"][part], 4) for part, count in whole.items()}
        seconds += sum((factor - 1) * one["parts"][part] for part, factor in factors.items())
    return {
        "tokens": one["tokens"],
        "peak_rss_gib": one["peak_rss_gib"],
        "seconds_per_example": round(seconds, 1),
        "extrapolated": bool(whole),
        "extrapolation": factors,
        "measured_seconds": one["seconds"],
        "cpu_seconds": one["cpu_seconds"],
        "blas_threads": one["blas_threads"],
        "parts_seconds": one["parts"],
        "layers_done": one["layers_done"],
        "core_gib": one["core_gib"],
        "mlx_peak_gib": one["mlx_peak_gib"],
        "predicted_gib": predicted,
        "prediction_error": round(predicted / one["peak_rss_gib"] - 1, 4),
        "codes_changed": one["codes_changed"],
        "loss": one["loss"],
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
            "--grouped-passes must be 2 or more: the first pass, at the top, has no layer that only hands the gradient down"
        )
    forward, trained = sum(layers.stop - group.start for group in groups), sum(map(len, groups))
    return {"forward": forward, "loss": len(groups), "trained": trained, "passed": forward - trained}


if __name__ == "__main__":
    cli.run(main)
