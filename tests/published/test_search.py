"""The published searches: no budget where a rival is better, and no tool call that flips beyond chance."""

import pytest
from scipy.stats import binomtest

from kxl.base.files import ROOT, read_json

MODELS = ["tiny", "smollm2-135m"]


def budgets(model: str) -> dict:
    return read_json(ROOT / f"reports/{model}/policy_search.json")["results"]["budgets"]


@pytest.mark.parametrize("model", MODELS)
def test_no_rival_of_the_same_bytes_is_better_beyond_chance(model):
    assert len(budgets(model)) >= 4
    for name, one in budgets(model).items():
        equal = {rival: told for rival, told in one["rivals"].items() if told["equal_bytes"]}
        assert equal, f"{name}: nothing of the same bytes to compare with"
        for rival, told in equal.items():
            assert abs(told["bytes"] - one["bytes"]) <= 0.005 * one["bytes"], (name, rival)
            assert told["gain"] == pytest.approx(1 - one["kld"]["mean"] / told["kld"]["mean"], abs=2e-4), (name, rival)
            assert told["interval"][0] <= told["gain"] <= told["interval"][1]
            assert told["interval"][1] >= 0, f"{name}: {rival} is better"
        least = min(told["kld"]["mean"] for told in equal.values())
        assert equal[one["best_rival"]]["kld"]["mean"] == least
        assert one["gain_over_best_rival"] == equal[one["best_rival"]]["gain"]


def test_at_the_bytes_of_the_tiny_q4kxl_the_search_gains_what_it_is_for():
    one = budgets("tiny")["q4kxl"]
    assert one["gain_over_stock"] >= 0.4 and one["interval_over_stock"][0] > 0
    assert one["gain_over_best_rival"] >= 0.2 and one["interval"][0] > 0


def test_an_estimate_beats_the_written_policies_of_a_model_that_it_was_not_fitted_on():
    assert read_json(ROOT / "configs/quant_priors.json")["measured_on"] == ["tiny"]
    for name in ("q8kxl", "q4kxl"):
        assert budgets("smollm2-135m")[name]["estimate"]["over"]["hand"]["interval"][0] > 0, name


def test_no_searched_policy_flips_more_cases_than_chance_does():
    results = read_json(ROOT / "reports/tiny/search_cases.json")["results"]
    assert set(results) == {"q4search", "q5search", "q6search", "q8search"}
    for name, one in results.items():
        assert "unseen_400" in one["suites"] and not one["left_out"]
        for suite, told in {**one["suites"], "all": one["all"]}.items():
            lost, won = len(told["only_first"]), len(told["only_second"])
            p = binomtest(lost, lost + won, 0.5).pvalue if lost + won else 1.0
            assert told["p"] == pytest.approx(p) and p > 0.05, (name, suite)
            assert told["both"] + told["neither"] + lost + won == told["cases"]
