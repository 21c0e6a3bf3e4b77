"""Intervals against published values and against the equation they solve."""

import itertools

import pytest
import scipy.stats

from kxl.base.statistics import Z95, mcnemar, pass_hat, percentile, wilson


@pytest.mark.parametrize(
    "passed, cases, low, high",
    [(43, 43, 0.918, 1.0), (0, 10, 0.0, 0.278), (81, 263, 0.255, 0.366), (15, 148, 0.0624, 0.1605)],
)
def test_known_intervals(passed, cases, low, high):
    """81/263 and 15/148 are worked examples of R. G. Newcombe, Statistics in Medicine 17 (1998), method 3."""
    assert wilson(passed, cases) == pytest.approx((low, high), abs=6e-4)


@pytest.mark.parametrize("passed, cases", [(190, 200), (3, 7), (41, 43)])
def test_at_each_end_the_observed_share_is_z_standard_errors_away(passed, cases):
    for end in wilson(passed, cases):
        assert abs(passed / cases - end) == pytest.approx(Z95 * (end * (1 - end) / cases) ** 0.5)


def test_pass_hat_k_is_the_share_of_k_trials_in_which_all_passed():
    trials = [[1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 1, 0]]
    for k in (1, 2, 3, 4):
        counted = [all(chosen) for one in trials for chosen in itertools.combinations(one, k)]
        assert pass_hat([sum(one) for one in trials], 4, k) == pytest.approx(sum(counted) / len(counted))
    with pytest.raises(ValueError, match="k is 5"):
        pass_hat([1], 4, 5)


@pytest.mark.parametrize("first, second", [(0, 0), (1, 0), (3, 3), (5, 1), (9, 0), (12, 4), (2, 15)])
def test_mcnemar_is_the_exact_binomial_test(first, second):
    expected = scipy.stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == mcnemar(second, first) == pytest.approx(expected)


def test_percentiles_are_values_that_were_measured():
    assert [percentile([5, 1, 4, 2, 3], share) for share in (0.5, 0.95, 0.2, 0.0)] == [3, 5, 1, 1]
