"""The committed proofs of data and training keep their limits, and agree with the memory model as the code has it now.

The proofs take minutes to hours; each test here takes milliseconds.
"""

import pytest

import moe_compare_mlx_lm
import moe_measure_noise
import moe_prove_8b
import moe_prove_mapped
import moe_prove_training
import moe_prove_transfer
import moe_sweep_groups
from conftest import ROOT
from kxl.base.files import read_json
from kxl.moe import core, hardware, memory

CONFIG = core.check_config(read_json(ROOT / "gguf/lfm2-8b-a1b.shapes.json"), 64, "shapes")

SHAPES = ROOT / "gguf/lfm2-8b-a1b.shapes.json"


def committed(path: str, target: str) -> dict:
    assert (ROOT / path).exists(), f"{path} is gone: make {target} writes it"
    return read_json(ROOT / path)


def predicted_gib(one: dict, settings: dict) -> float:
    config = core.check_config(memory.shapes(SHAPES, one.get("layers")), settings["group_size"], "shapes")
    return memory.predict(config, settings, one["tokens"], one["tokens"])["peak"] / hardware.GIB


def test_the_8b_proof_keeps_its_limits_and_the_model_predicts_what_it_measured():
    report = committed("reports/prove-8b/memory.json", "prove-8b")
    results, settings = report["results"], report["settings"]
    assert moe_prove_8b.misses(results) == []
    streamed, grouped = results["streamed"], results["grouped"]
    assert streamed["tokens"] == grouped["tokens"] >= 1024 and not streamed["extrapolated"]
    assert results["speedup"] == round(grouped["seconds_per_example"] / streamed["seconds_per_example"], 2)
    assert results["streamed_10240"]["tokens"] == 10240 and not results["streamed_10240"]["extrapolated"]
    for name in ("streamed", "grouped", "streamed_10240"):
        assert abs(predicted_gib(results[name], settings) / results[name]["peak_rss_gib"] - 1) < 0.10, name
    assert abs(predicted_gib({"tokens": 10240}, settings) / results["predicted_10240"]["streamed_gib"] - 1) < 0.01
    # Every layer that a whole example goes through was run, or stands in the factor by which its kind was multiplied.
    whole = moe_prove_8b.whole_example(CONFIG, settings, 2)
    assert {
        part: round(count * ((grouped["extrapolation"] or {}).get(part, 1)))
        for part, count in grouped["layers_done"].items()
    } == whole
    assert bool(grouped["extrapolation"]) == grouped["extrapolated"]


def test_the_sweep_agrees_with_the_model_and_streaming_is_the_fastest():
    report = committed("reports/lfm2.5-8b-a1b/group_sweep.json", "sweep")
    steps, settings = report["results"]["steps"], report["settings"]
    for one in steps:
        assert (
            abs(predicted_gib({**one, "layers": settings["layers"]}, settings) / one["peak_rss_gib"] - 1)
            < moe_sweep_groups.TOLERANCE
        )
    streamed = next(one for one in steps if one["group_layers"] is None)
    assert all(one["seconds"] > streamed["seconds"] for one in steps if one["group_layers"] in (1, 2, 4))


def test_the_memory_model_report_says_what_the_model_says_now():
    report = committed("reports/lfm2.5-8b-a1b/memory_model.json", "sweep")
    now = moe_sweep_groups.by_length(memory.shapes(SHAPES, None), report["settings"])
    for one, other in zip(report["results"]["by_length"], now, strict=True):
        assert one["tokens"] == other["tokens"] and abs(one["peak_gib"] / other["peak_gib"] - 1) < 0.01


def test_the_streamed_step_is_no_worse_than_mlx_lms_own():
    report = committed("reports/prove-8b/mlx_lm.json", "compare-mlx-lm")
    results, settings = report["results"], report["settings"]
    assert settings["tokens"] >= 1024 and settings["shapes"] == moe_compare_mlx_lm.SHAPES
    assert all(results["ours"][key] <= results["mlx_lm"][key] for key in ("seconds_per_step", "peak_rss_gib"))


def test_the_tiny_model_learns_in_both_modes_and_not_with_rounding_to_nearest():
    results = committed("reports/tiny/moe_proof.json", "train-proof")["results"]
    assert moe_prove_training.misses(results) == []
    for name, (mode, rounding) in moe_prove_training.VARIANTS.items():
        one = results[name]
        assert (one["mode"], one["rounding"]) == (mode, rounding)
        assert one["gain"] == pytest.approx(one["validation"][0]["loss"] - one["validation"][-1]["loss"], abs=1e-5)


NOISE, MAPPED = "reports/tiny/rounding_noise.json", {"8b": (1024, 5), "24b": (256, 12)}


@pytest.mark.xfail(not (ROOT / NOISE).exists(), run=False, reason="not measured yet: make rounding-noise")
def test_no_shipped_schedule_shakes_the_weights_more_than_half_a_code_or_as_much_as_q8_0():
    results = committed(NOISE, "rounding-noise")["results"]
    assert moe_measure_noise.misses(results) == []
    for path in ROOT.glob("configs/*-moe.json"):
        entry = results["schedules"][path.stem.removesuffix("-moe")]
        assert entry["carry_bits"] == read_json(path)["carry_bits"]
        assert entry["codes_rms"] == entry["updates"]["random"][str(entry["carry_bits"])]["codes_rms"]
    assert results["schedules"]["lfm2.5-8b-a1b"]["steps"] == 1746
    updates = results["schedules"]["lfm2.5-8b-a1b"]["updates"]["random"]
    assert updates["0"]["codes_rms"] > 1 > updates["4"]["codes_rms"] > updates["8"]["codes_rms"]
    assert updates["factored"]["codes_rms"] > updates["0"]["codes_rms"]


@pytest.mark.parametrize("size", MAPPED)
def test_a_step_from_mapped_files_keeps_its_limits(size):
    path = f"reports/prove-{size}/memory.json"
    if not (ROOT / path).exists() or "mapped" not in read_json(ROOT / path)["results"]:
        pytest.xfail(f"not measured yet: make prove-{size}" + ("-mapped" if size == "8b" else ""))
    step, (tokens, limit) = read_json(ROOT / path)["results"]["mapped"], MAPPED[size]
    assert moe_prove_mapped.misses(step, limit) == [] and step["tokens"] >= tokens
    if size == "8b" and "ratio_to_resident" not in step:
        pytest.xfail("its time beside a step in memory is not measured yet: make prove-8b-mapped")


def test_what_the_transfer_proof_says_follows_from_its_runs():
    results = committed("reports/tiny/moe_proof.json", "train-proof")["results"]
    if "undamaged" not in results:
        pytest.xfail("not measured yet: make transfer-proof")
    undamaged = results["undamaged"]
    assert moe_prove_transfer.verdict(undamaged) == undamaged["verdict"]
    for kind in ("own", "tuned"):
        assert set(undamaged[kind]) == set(moe_prove_transfer.METHODS)
        for method in undamaged[kind].values():
            assert all(len(method[name]["values"]) == undamaged["seeds"] for name in moe_prove_transfer.MEASURES)
            assert method["gain"]["mean"] == pytest.approx(sum(method["gain"]["values"]) / undamaged["seeds"], abs=1e-5)


SPEED = "reports/tiny/lora_speed.json"


def test_a_masked_lora_step_is_faster_than_mlx_loras_with_the_same_blas():
    report = committed(SPEED, "repair-speed")
    results, settings = report["results"], report["settings"]
    assert settings["steps"] >= 5 and not settings["beside_other_work"]
    means = {side: sum(steps) / len(steps) for side, steps in results["steps"].items()}
    equal = results["equal_blas"]
    assert equal["ratio"] == pytest.approx(means["stock"] / means["ours"], abs=0.01) and equal["ratio"] > 1
    assert results["as_installed"]["ratio"] == pytest.approx(means["stock as installed"] / means["ours"], abs=0.01)


def test_an_adapter_of_an_8b_is_trained_at_4096_tokens_in_the_memory_that_was_predicted():
    results = committed("reports/prove-8b/lora.json", "prove-lora-8b")["results"]
    assert results["tokens"] == 4096 and results["peak_gib"] <= 14
    assert abs(results["peak_gib"] / results["predicted_peak_gib"] - 1) <= 0.15


def test_traces_are_prepared_at_half_the_speed_of_tokenizing_in_a_gigabyte():
    results = committed("reports/bench/prepare_traces.json", "bench-data")["results"]
    assert results["traces"] >= 8000 and results["mean_tokens"] > 7000
    assert results["speed_of_tokenizing_alone"] >= 0.5 and results["prepare"]["peak_mib"] < 1000


@pytest.mark.parametrize("name", ["linux-2-cores-24gb"])
def test_a_hardware_profile_stops_a_run_before_the_machine_swaps(name):
    profile = hardware.load_profile(ROOT / f"configs/hardware/{name}.json")
    assert 0 < profile["memory_stop_gib"] < profile["memory_gib"] - 0.99
    assert profile["matmul_gflops"] > 0 and profile["disk_write_mib_s"] > 0
