"""What the full-size proof extrapolates, and that the committed proof keeps what the issue asks."""

import pytest

import hardware
import mixed_core
import prove_8b
from cli import UserError
from conftest import ROOT
from files import read_json

CONFIG = mixed_core.check_config(read_json(ROOT / "gguf/lfm2-8b-a1b.shapes.json"), 64, "shapes")
SETTINGS = {"group_layers": 4, "group_stride": 3}


def test_a_whole_grouped_example_is_seven_passes_over_91_layers_of_which_28_learn():
    assert prove_8b.whole_example(CONFIG, SETTINGS, 2) == {"forward": 91, "loss": 7, "trained": 28, "passed": 63}
    assert prove_8b.whole_example(CONFIG, SETTINGS, None) is None is prove_8b.whole_example(CONFIG, SETTINGS, 7)
    with pytest.raises(UserError, match="2 or more"):
        prove_8b.whole_example(CONFIG, SETTINGS, 1)


def test_each_kind_of_layer_is_extrapolated_by_itself():
    one = {"tokens": 8, "peak_rss_gib": 9.0, "seconds": 5 + 11 * 1.0 + 2 * 0.5 + 8 * 3.0 + 3 * 2.0, "cpu_seconds": 1, "core_gib": 8.8, "mlx_peak_gib": 0.5,
           "codes_changed": 0.0, "loss": 1.0, "layers_done": {"forward": 11, "loss": 2, "trained": 8, "passed": 3},
           "parts": {"boundaries": 5, "forward": 11 * 1.0, "loss": 2 * 0.5, "trained": 8 * 3.0, "passed": 3 * 2.0, "update": 4.0}}
    extrapolated = prove_8b.entry(one, 9 * hardware.GIB, prove_8b.whole_example(CONFIG, SETTINGS, 2))
    assert extrapolated["extrapolated"] and extrapolated["seconds_per_example"] == 5 + 91 * 1.0 + 7 * 0.5 + 28 * 3.0 + 63 * 2.0
    measured = prove_8b.entry(one, 9 * hardware.GIB)
    assert not measured["extrapolated"] and measured["seconds_per_example"] == one["seconds"]


PROOF = ROOT / "reports/prove-8b/memory.json"


@pytest.mark.skipif(not PROOF.exists(), reason="make prove-8b has not been run")
def test_the_committed_proof_keeps_the_limits():
    results = read_json(PROOF)["results"]
    assert results["streamed"]["tokens"] >= 1024 and not results["streamed"]["extrapolated"]
    assert results["streamed"]["peak_rss_gib"] < 13
    assert results["predicted_10240"]["streamed_gib"] < 16
    assert results["grouped"]["seconds_per_example"] / results["streamed"]["seconds_per_example"] >= 2.5
