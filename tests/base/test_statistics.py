"""Intervals against published values and against the equation they solve."""

import itertools

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from kxl.base.statistics import (
    Z90,
    Z95,
    clustered,
    equivalent,
    mcnemar,
    paired_interval,
    pass_hat,
    percentile,
    wilson,
)


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


@pytest.mark.parametrize("first, second, cases", [(3, 5, 60), (9, 0, 54), (1, 0, 43), (12, 30, 400)])
def test_at_each_end_the_score_test_of_the_likelihood_says_z(first, second, cases):
    """Independently: the constrained likelihood is maximized by a general optimizer, not by the closed formula."""
    for end, sign in zip(paired_interval(first, second, cases), (1, -1)):

        def minus_log_likelihood(share):  # of the pairs that only the first passed; the second's are share + end
            cells = (share, share + end, 1 - 2 * share - end)
            return -sum(n * np.log(max(p, 1e-300)) for n, p in zip((first, second, cases - first - second), cells))

        bounds = (max(0.0, -end), min(1.0, (1 - end) / 2))
        share = scipy.optimize.minimize_scalar(
            minus_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-12}
        ).x
        variance = cases * (2 * share + end - end * end)
        assert (second - first - cases * end) / variance**0.5 == pytest.approx(sign * Z90, abs=2e-3)


def test_few_cases_without_a_difference_are_not_equivalent_and_many_are():
    assert not equivalent(0, 0, 43, 0.02) and equivalent(0, 0, 400, 0.02)
    assert equivalent(1, 1, 400, 0.02) and not equivalent(12, 0, 400, 0.02) and equivalent(12, 0, 400, 0.08)


def test_two_one_sided_tests_rarely_call_a_difference_of_the_margin_equivalent():
    """By simulation: the true difference is the margin, so at most 5 % of the draws may say `equivalent`."""
    rng = np.random.default_rng(1)
    draws = [rng.multinomial(300, (0.03, 0.01, 0.96))[:2] for _ in range(2000)]
    wrong = sum(equivalent(int(first), int(second), 300, 0.02) for first, second in draws) / len(draws)
    assert wrong <= 0.06


def test_trials_of_one_task_are_not_counted_as_independent():
    same = clustered([3] * 18 + [0] * 2, 3)  # every task always or never passes: as many facts as tasks
    assert same == pytest.approx(wilson(18, 20), abs=0.02)
    mixed = clustered([3, 2] * 10, 3)  # tasks alike: as many facts as tries
    assert mixed == pytest.approx(wilson(50, 60), abs=1e-9)
    assert clustered([3] * 20, 3) == pytest.approx(wilson(20, 20)), "nothing is known of how trials differ"
