"""The committed proof that a settled importance matrix costs nothing."""

from conftest import ROOT
from kxl.base.files import read_json


def test_half_of_the_text_is_enough_and_the_quant_loses_nothing_that_can_be_measured():
    report = read_json(ROOT / "reports/tiny/settling.json")
    whole, settled = report["results"]["all"], report["results"]["settled"]
    assert settled["tokens"] <= whole["tokens"] / 2
    moved = abs(settled["kld"]["mean"] - whole["kld"]["mean"])
    assert moved <= 2 * max(settled["kld"]["mean_error"], whole["kld"]["mean_error"])
    assert settled["halves_differ"] <= report["settings"]["settled"]
