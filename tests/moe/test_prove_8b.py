"""What the full-size proof extrapolates, and what it refuses."""

import pytest

import moe_prove_8b
import moe_prove_mapped
import moe_sweep_groups
from conftest import ROOT
from kxl.base import report
from kxl.base.cli import UserError
from kxl.base.files import read_json
from kxl.moe import core

CONFIG = core.check_config(read_json(ROOT / "gguf/lfm2-8b-a1b.shapes.json"), 64, "shapes")
SETTINGS = {"group_layers": 4, "group_stride": 3}


def test_a_whole_grouped_example_is_seven_passes_over_91_layers_of_which_28_learn():
    assert moe_prove_8b.whole_example(CONFIG, SETTINGS, 2) == {"forward": 91, "loss": 7, "trained": 28, "passed": 63}
    assert moe_prove_8b.whole_example(CONFIG, SETTINGS, None) is None is moe_prove_8b.whole_example(CONFIG, SETTINGS, 7)
    with pytest.raises(UserError, match="2 or more"):
        moe_prove_8b.whole_example(CONFIG, SETTINGS, 1)


def test_each_kind_of_layer_is_extrapolated_by_itself():
    one = {
        "tokens": 8,
        "peak_rss_gib": 9.0,
        "seconds": 5 + 11 * 1.0 + 2 * 0.5 + 8 * 3.0 + 3 * 2.0,
        "cpu_seconds": 1,
        "core_gib": 8.8,
        "mlx_peak_gib": 0.5,
        "blas_threads": 2,
        "codes_changed": 0.0,
        "loss": 1.0,
        "layers_done": {"forward": 11, "loss": 2, "trained": 8, "passed": 3},
        "parts": {
            "boundaries": 5,
            "forward": 11 * 1.0,
            "loss": 2 * 0.5,
            "trained": 8 * 3.0,
            "passed": 3 * 2.0,
            "update": 4.0,
        },
    }
    extrapolated = moe_prove_8b.entry(one, 9.0, moe_prove_8b.whole_example(CONFIG, SETTINGS, 2))
    assert (
        extrapolated["extrapolated"]
        and extrapolated["seconds_per_example"] == 5 + 91 * 1.0 + 7 * 0.5 + 28 * 3.0 + 63 * 2.0
    )
    measured = moe_prove_8b.entry(one, 9.0)
    assert not measured["extrapolated"] and measured["seconds_per_example"] == one["seconds"]


GOOD = {
    "streamed": {"peak_rss_gib": 9.5, "prediction_error": 0.01},
    "grouped": {"peak_rss_gib": 9.6, "prediction_error": -0.02},
    "predicted_10240": {"streamed_gib": 10.8},
    "speedup": 3.4,
}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"streamed": {"peak_rss_gib": 13.2, "prediction_error": 0.01}}, "streamed: 13.20 GiB, and 13 are the limit"),
        ({"predicted_10240": {"streamed_gib": 16.5}}, "10,240 tokens, predicted: 16.50 GiB, and 16 are the limit"),
        ({"streamed_10240": {"peak_rss_gib": 17.0, "prediction_error": 0.0}}, "10,240 tokens: 17.00 GiB"),
        ({"speedup": 2.4}, "2.40 times as fast as grouped, not 2.5"),
        ({"grouped": {"peak_rss_gib": 12.0, "prediction_error": -0.2}}, "the memory model is -20% off at grouped"),
    ],
)
def test_a_proof_that_misses_a_limit_says_which_and_by_how_much(change, message):
    assert moe_prove_8b.misses(GOOD) == []
    (missed,) = moe_prove_8b.misses({**GOOD, **change})
    assert message in missed


def test_the_long_step_is_added_only_to_a_report_of_the_same_shapes_and_config(tmp_path):
    inputs = [ROOT / "gguf/lfm2-8b-a1b.shapes.json", ROOT / "configs/lfm2.5-8b-a1b-moe.json"]
    known = tmp_path / "memory.json"
    with pytest.raises(UserError, match="run without --long first"):
        moe_prove_8b.proof_so_far(known, inputs)
    report.write(known, inputs, {}, GOOD)
    assert moe_prove_8b.proof_so_far(known, inputs)["results"] == GOOD
    report.write(known, [inputs[0], ROOT / "configs/tiny-moe.json"], {}, GOOD)
    with pytest.raises(UserError, match="other shapes or another config"):
        moe_prove_8b.proof_so_far(known, inputs)


@pytest.mark.parametrize("script, tokens", [(moe_prove_8b, 1024), (moe_prove_mapped, 1024), (moe_sweep_groups, 256)])
def test_each_measurement_says_alike_whose_shapes_it_takes(script, tokens, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [script.__name__, "--help"])
    monkeypatch.setenv("COLUMNS", "400")  # no line is broken within a path
    with pytest.raises(SystemExit):
        script.main()
    said = " ".join(capsys.readouterr().out.split())
    for flag, word, default in (
        ("--shapes", "SHAPES config.json of the shapes", ROOT / "gguf/lfm2-8b-a1b.shapes.json"),
        ("--config", "CONFIG training config", ROOT / "configs/lfm2.5-8b-a1b-moe.json"),
        ("--tokens", "TOKENS tokens of the example", tokens),
    ):
        assert f"{flag} {word} (default: {default})" in said
