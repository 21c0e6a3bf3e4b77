"""Prove that a large MoE trains from mapped files: one real step, its memory, and its time beside one in memory.

In:  the shapes, a training config, a sequence length. Random int8 experts, their carry and a BF16 rest, written to
     files in --scratch (2.2 bytes per weight of an expert with a carry of 8 bits) and removed at the end.
Out: --report, results.mapped: tokens, peak_gib (resident memory less clean pages of files: what the system cannot take
     back), the memory model's figures, seconds, and with --beside ratio_to_resident, the same step from memory without
     a carry, run just before. With --leave-gib the step runs again while another process holds all memory but that
     much: results.mapped.squeezed. A report that is there, of the same shapes and settings, keeps its other results.

Refused with exit code 2, the report kept as NAME.failed.json, when a limit is missed.

  .venv/bin/python scripts/moe_prove_mapped.py --beside --leave-gib 6 --report reports/prove-8b/memory.json
"""

from pathlib import Path

from kxl.base import cli, report
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, require_space, shown
from kxl.moe import core, hardware, memory
from kxl.moe.settings import check_settings

MEASURE = ROOT / "scripts/moe_measure_step.py"
LONG = 10240
RATIO, TOLERANCE = 1.3, 0.10  # times the time of a step in memory; how far the memory model may be off


def main() -> None:
    parser = cli.parser(__doc__)
    memory.add_flags(parser)
    parser.add_argument("--limit-gib", type=float, default=5, help="the most that the step may hold")
    parser.add_argument("--beside", action="store_true", help="take the time of the same step from memory first")
    parser.add_argument("--leave-gib", type=float, help="run it again with all other memory held by another process")
    parser.add_argument("--carry-bits", type=int, help="instead of the config's")
    parser.add_argument("--scratch", type=Path, default=Path("runs"), help="folder on the disk for the core")
    parser.add_argument("--report", type=Path, required=True, help="report (JSON)")
    args = parser.parse_args()

    settings = check_settings(read_json(args.config), shown(args.config)) | {"storage": "mapped"}
    settings |= {} if args.carry_bits is None else {"carry_bits": args.carry_bits}
    config = core.check_config(read_json(args.shapes), settings["group_size"], shown(args.shapes))
    so_far = earlier(args.report, args.shapes, settings)
    require_space(args.scratch, core.stored_bytes(config, settings["group_size"], settings["carry_bits"]))
    flags = ["--shapes", args.shapes, "--config", args.config, "--tokens", args.tokens, "--scratch", args.scratch]
    mapped = [*flags, "--storage", "mapped", "--carry-bits", settings["carry_bits"]]
    resident = None
    if args.beside:
        resident = memory.measured(MEASURE, [*flags, "--storage", "resident", "--carry-bits", 0])
        cli.say(f"in memory: {resident['seconds']:.0f} s, {resident['peak_gib']:.2f} GiB")
    results = {**so_far["results"], "mapped": entry(memory.measured(MEASURE, mapped), resident, config, settings)}
    cli.say(f"mapped: {results['mapped']['seconds_per_example']:.0f} s, {results['mapped']['peak_gib']:.2f} GiB")
    inputs = [args.shapes, args.config]
    if args.leave_gib:  # what is there stays, should this one be stopped
        passed = not misses(results["mapped"], args.limit_gib)
        report.write_gated(args.report, passed, inputs, so_far["settings"], results)
        step = memory.measured(MEASURE, [*mapped, "--leave-gib", args.leave_gib])
        squeezed = {"left_gib": args.leave_gib, "others_held_gib": step["others_held_gib"]}
        squeezed |= {"peak_gib": step["peak_gib"], "seconds_per_example": round(step["seconds"], 1)}
        results["mapped"]["squeezed"] = squeezed
        cli.say(f"squeezed: {step['seconds']:.0f} s, {step['peak_gib']:.2f} GiB")
    missed = misses(results["mapped"], args.limit_gib)
    report.write_gated(args.report, not missed, inputs, so_far["settings"], results)
    if missed:
        raise UserError(f"{shown(report.failed_path(args.report))}: {'; '.join(missed)}")
    step = results["mapped"]
    print(
        f"{shown(args.report)}: {step['peak_gib']:.2f} GiB and {step['seconds_per_example']:.0f} s per example of "
        f"{step['tokens']:,} tokens; predicted at {LONG:,} tokens: {step['predicted_10240_gib']:.2f} GiB"
    )


def earlier(path: Path, shapes: Path, settings: dict) -> dict:
    """The report at `path`, or an empty one. UserError for one of other shapes or settings."""
    if not path.is_file():
        return {"settings": settings, "results": {}}
    known = read_json(path)
    same = [file for file in known["inputs"] if file == report.describe_input(shapes)]
    apart = ("storage", "carry_bits", "mode", "steps")  # of its other results
    changed = [key for key in settings.keys() & known["settings"].keys() if known["settings"][key] != settings[key]]
    if not same or set(changed) - set(apart):
        raise UserError(f"{shown(path)}: is of other shapes or settings; name another --report")
    return known


def entry(step: dict, resident: dict | None, config: dict, settings: dict) -> dict:
    """A measured step as the report has it, beside what the memory model says and the step from memory."""
    predicted = {
        tokens: round(memory.predict(config, settings, tokens, tokens)["peak"] / hardware.GIB, 3)
        for tokens in (step["tokens"], LONG)
    }
    found = {key: step[key] for key in ("tokens", "storage", "carry_bits", "device", "peak_gib", "peak_rss_gib")}
    found |= {
        "seconds_per_example": round(step["seconds"], 1),
        "cpu_seconds": step["cpu_seconds"],
        "blas_threads": step["blas_threads"],
        "parts_seconds": step["parts"],
        "files_gib": step["core_gib"],
        "loss": step["loss"],
        "codes_changed": step["codes_changed"],
        "predicted_gib": predicted[step["tokens"]],
        "prediction_error": round(predicted[step["tokens"]] / step["peak_gib"] - 1, 4),
        "predicted_10240_gib": predicted[LONG],
    }
    if resident:
        found["resident"] = {key: resident[key] for key in ("seconds", "cpu_seconds", "peak_gib", "carry_bits")}
        found["ratio_to_resident"] = round(step["seconds"] / resident["seconds"], 3)
    return found


def misses(step: dict, limit_gib: float) -> list[str]:
    """What the limits do not allow, in words."""
    missed = []
    if step["peak_gib"] > limit_gib:
        missed.append(f"{step['peak_gib']:.2f} GiB, and {limit_gib:g} are the limit")
    if step.get("ratio_to_resident", 0) > RATIO:
        missed.append(f"{step['ratio_to_resident']:.2f} times the time of a step in memory, and {RATIO} are the limit")
    if abs(step["prediction_error"]) > TOLERANCE:
        missed.append(f"the memory model is {100 * step['prediction_error']:+.0f} % off")
    squeezed = step.get("squeezed")
    if squeezed and not squeezed["others_held_gib"][0]:
        missed.append("the process that held the rest of the memory did not live to the end of the step")
    return missed


if __name__ == "__main__":
    cli.run(main)
