"""Measure time and peak memory of a training step by group size, and of the streamed step beside them.

In:  shapes of a model (its first --layers layers), a training config, the tokens of one example.
Out: --sweep, seconds and peak memory of each group size and of the streamed step; --model, the memory
     model's prediction for each of them and for sequence lengths up to 10,240 at full depth.

Every measurement is one real step on a random int8 core in a process of its own: about ten minutes on two cores.
Refused with exit code 2, the measurements kept as NAME.failed.json, when a prediction is more than 10 % off.

  .venv/bin/python scripts/moe_sweep_groups.py --sweep reports/lfm2.5-8b-a1b/group_sweep.json \\
      --model reports/lfm2.5-8b-a1b/memory_model.json
"""

from pathlib import Path

from kxl.base import cli, report
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, shown
from kxl.moe import core, hardware, memory
from kxl.moe.settings import check_settings

MEASURE = ROOT / "scripts/moe_measure_step.py"
SIZES = (1, 2, 4, 8)  # layers of a group
LENGTHS = (512, 1024, 2048, 4096, 6144, 8192, 10240)
KEPT = ("mode", "group_layers", "layers", "tokens", "peak_rss_gib", "predicted_gib", "prediction_error")
TOLERANCE = 0.10
IN_MEMORY = {"storage": "resident", "carry_bits": 0}  # the core with its codes alone, all of it resident


def main() -> None:
    parser = cli.parser(__doc__)
    memory.add_flags(parser, tokens=256)
    parser.add_argument("--layers", type=int, default=10, help="depth of the measured core")
    parser.add_argument("--sweep", type=Path, required=True, help="report of the measurements")
    parser.add_argument("--model", type=Path, required=True, help="report of the memory model")
    args = parser.parse_args()

    settings = check_settings({**read_json(args.config), **IN_MEMORY}, shown(args.config))
    config = core.check_config(memory.shapes(args.shapes, args.layers), settings["group_size"], shown(args.shapes))
    depth = config["num_hidden_layers"] - config["num_dense_layers"]
    common = ["--shapes", args.shapes, "--config", args.config, "--layers", args.layers, "--tokens", args.tokens]
    common += ["--storage", IN_MEMORY["storage"], "--carry-bits", IN_MEMORY["carry_bits"]]
    predicted = memory.predict(config, settings, args.tokens, args.tokens)["peak"] / hardware.GIB
    steps = []
    for size in [*(size for size in SIZES if size <= depth), None]:
        steps.append({**measured_step(size, common), "predicted_gib": round(predicted, 4)})
        steps[-1]["prediction_error"] = round(predicted / steps[-1]["peak_rss_gib"] - 1, 4)
        cli.say(
            f"{name_of(size)}: {steps[-1]['seconds']:.1f} s, {steps[-1]['peak_rss_gib']:.2f} GiB, "
            f"predicted {predicted:.2f}"
        )
    inputs = [args.shapes, args.config]
    off = [step for step in steps if abs(step["prediction_error"]) > TOLERANCE]
    measured = {**settings, "layers": args.layers, "tokens": args.tokens}
    report.write_gated(args.sweep, not off, inputs, measured, {"steps": steps})
    results = {
        "measured": [{key: step[key] for key in KEPT} for step in steps],
        "by_length": by_length(memory.shapes(args.shapes, None), settings),
    }
    report.write(args.model, inputs, settings, results)
    if off:
        raise UserError(
            f"the memory model is {100 * off[0]['prediction_error']:+.0f} % off at {off[0]['mode']} "
            f"{off[0]['group_layers']}; {shown(args.model)} has all of them: "
            "mend the counts in scripts/kxl/moe/memory.py"
        )
    streamed, best = steps[-1], min(steps[:-1], key=lambda step: step["seconds"])
    print(
        f"{shown(args.sweep)}: streamed {streamed['seconds']:.1f} s and {streamed['peak_rss_gib']:.2f} GiB; "
        f"fastest group size {best['group_layers']}: {best['seconds']:.1f} s and {best['peak_rss_gib']:.2f} GiB"
    )


def name_of(size: int | None) -> str:
    """A group size in words; None is the streamed step."""
    return "streamed" if size is None else f"groups of {size}"


def measured_step(size: int | None, common: list) -> dict:
    """A step with groups of `size` layers, or the streamed one for None, and its group size and stride."""
    stride = None if size is None else max(1, size - 1)
    grouped = ["--mode", "grouped", "--group-layers", size, "--group-stride", stride]
    step = memory.measured(MEASURE, common + (["--mode", "streamed"] if size is None else grouped))
    return {**step, "group_layers": size, "group_stride": stride}


def by_length(config: dict, settings: dict) -> list[dict]:
    """Predicted parts in GiB of a full-depth step for one row of each length."""
    config = core.check_config(config, settings["group_size"], "shapes")
    rows = []
    for tokens in LENGTHS:
        predicted = memory.predict(config, settings, tokens, tokens)
        parts = {part: round(size / hardware.GIB, 4) for part, size in predicted["parts"].items()}
        rows.append({"tokens": tokens, "peak_gib": round(predicted["peak"] / hardware.GIB, 3), "parts_gib": parts})
    return rows


if __name__ == "__main__":
    cli.run(main)
