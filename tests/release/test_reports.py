"""Reports that somebody changed, or that are of something else: read, or refused by file and key."""

import re

import pytest

import build_visual_assets
import release_card
import release_summarize
import smol_diagnose
from conftest import ROOT
from helpers.odd_values import damaged
from kxl.base import config
from kxl.base.cli import UserError
from kxl.base.files import read_json, write_json
from kxl.figures import style
from kxl.release import reports


def whole_of(name):
    """A committed report; of an emission with each fortieth answer."""
    report = read_json(ROOT / name)
    details = report["results"].get("details")
    if isinstance(details, dict):
        report["results"]["details"] = {when: entries[::40] for when, entries in details.items()}
    return report


SETTINGS = config.load(ROOT / "configs/tiny.json")
TRAINED = read_json(ROOT / "reports/smollm2-135m/training.json")
PROOF = read_json(ROOT / "reports/prove-8b/memory.json")


def draws(figure, **others):
    """A reader that draws a figure of a report under the names that the figure takes it by."""
    needs = build_visual_assets.FIGURES[figure]

    def draw(report):
        import matplotlib.pyplot as plt

        plt.close(needs.draw({needs.needs[0]: report, "reference": None, **others}, style.LIGHT))

    return draw


def summarized(report):
    """What release_summarize.py takes from a parity report."""
    release_summarize.parity_gates(report)
    release_summarize.checkpoint(report)
    release_summarize.agreement(report["results"])


def sizes_summarized(report):
    """What it takes from a report of predicted sizes."""
    release_summarize.size_gates(report)
    release_summarize.predicted(report["results"])


def diagnosed(report):
    smol_diagnose.diagnose(report["results"], TRAINED["results"])


QUANT = {"q4kxl": {"file": "x"}}
READERS = {
    "quants": ("reports/tiny/quants.json", lambda one: release_summarize.artifacts(SETTINGS, one["results"], [], [])),
    "imatrix": ("reports/tiny/imatrix.json", lambda one: release_summarize.imatrix_gates(SETTINGS, one)),
    "parity": ("reports/tiny/parity.json", summarized),
    "sizes": ("reports/lfm2.5-8b-a1b/sizes.json", sizes_summarized),
    "equivalence": ("reports/tiny/equivalence.json", lambda one: release_card.equivalence_facts(one, QUANT)),
    "emission": ("reports/smollm2-135m/emission.failed.json", diagnosed),
    "lora": ("reports/smollm2-135m/training.json", lambda one: smol_diagnose.fallen(one["results"]["valid_losses"])),
}
DRAWN = {
    "quants": ("reports/tiny/quants.json", draws("quant-quality")),
    "sizes": ("reports/lfm2.5-8b-a1b/sizes.json", draws("quant-sizes-8b")),
    "search": ("reports/tiny/policy_search.json", draws("policy-search")),
    "dataset": ("reports/tiny/dataset.json", draws("dataset")),
    "emission": ("reports/smollm2-135m/emission.failed.json", draws("smol-emission")),
    "repair": ("reports/tiny-repair/repair.json", draws("repair")),
    "memory": ("reports/lfm2.5-8b-a1b/memory_model.json", draws("training-memory", proof=PROOF)),
    "sweep": ("reports/lfm2.5-8b-a1b/group_sweep.json", draws("group-sweep")),
}


def refusals(path, kind, name, read, count):
    """How many of `count` damaged copies of a report that is read whole were refused, each with its file; any other end
    is a traceback."""
    whole, refused = whole_of(name), 0
    read(whole)
    for report in damaged({key: whole[key] for key in ("settings", "results", "inputs")}, count):
        write_json(path, report)
        try:
            read(reports.load(kind, path))
        except UserError as error:
            refused += 1
            assert "report.json: " in str(error) and re.search("make (it|this one) again", str(error))
    return refused


@pytest.mark.parametrize("kind", READERS)
def test_a_report_with_anything_anywhere_is_read_or_refused(kind, tmp_path):
    assert refusals(tmp_path / "report.json", kind, *READERS[kind], 150) > 0


@pytest.mark.minutes
@pytest.mark.parametrize("kind", DRAWN)
def test_a_figure_of_a_report_with_anything_anywhere_is_drawn_or_refused(kind, tmp_path):
    assert refusals(tmp_path / "report.json", kind, *DRAWN[kind], 25) > 0


@pytest.mark.parametrize("kind", reports.FORMS)
def test_a_report_of_another_kind_is_refused_by_name(kind, tmp_path):
    write_json(tmp_path / "report.json", {"inputs": [], "settings": [], "results": []})
    with pytest.raises(UserError, match=r"report\.json: (settings|results|inputs).* expected .*make it again"):
        reports.load(kind, tmp_path / "report.json")
