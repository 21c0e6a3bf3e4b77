"""The published rehearsal at LFM2.5-8B-A1B's size: whole, within its limits, and of the profile that is here."""

import pytest

from conftest import ROOT
from kxl.base.files import read_json, sha256

REPORT = read_json(ROOT / "reports/rehearse-8b/line.json")
STAGES = REPORT["results"]["stages"]
NAMED = [
    "checkpoint", "data", "core", "train", "step", "lora", "fuse", "gguf", "imatrix", "q8kxl", "q6kxl", "q5kxl",
    "q4kxl", "serve", "package", "verify",
]  # fmt: skip


def test_it_is_of_the_shapes_and_the_profile_that_are_here():
    assert {one["path"] for one in REPORT["inputs"]} == {
        "gguf/lfm2-8b-a1b.shapes.json",
        "configs/hardware/linux-2-cores-24gb.json",
    }
    assert all(sha256(ROOT / one["path"]) == one["sha256"] for one in REPORT["inputs"])
    assert sorted(STAGES) == sorted(NAMED) and REPORT["settings"]["vocabulary"] == 128_000


@pytest.mark.parametrize("name", NAMED)
def test_a_stage_took_about_what_was_predicted_and_fits_a_small_machine(name):
    took = STAGES[name]
    assert abs(took["seconds"] - took["predicted_seconds"]) <= 0.4 * took["predicted_seconds"]
    assert abs(took["peak_gib"] - took["predicted_peak_gib"]) <= 0.15 * took["predicted_peak_gib"]
    assert took["peak_gib"] < 16


def test_it_was_a_model_of_that_size():
    # 8.47 billion weights of two bytes; a core has a byte and a carry of one for each weight of an expert.
    assert STAGES["checkpoint"]["disk_gib"] == pytest.approx(2 * 8.47e9 / 2**30, rel=0.01)
    assert STAGES["core"]["disk_gib"] > 2 * 7.75e9 / 2**30
    sizes = [STAGES[name]["disk_gib"] for name in ("q8kxl", "q6kxl", "q5kxl", "q4kxl")]
    assert sizes == sorted(sizes, reverse=True) and 5.5 < sizes[-1] < 6
