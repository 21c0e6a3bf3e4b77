"""Intervals against published values and against the equation they solve."""

import pytest

from eval_statistics import Z95, wilson


@pytest.mark.parametrize("passed, cases, low, high", [(43, 43, 0.918, 1.0), (0, 10, 0.0, 0.278), (81, 263, 0.255, 0.366), (15, 148, 0.0624, 0.1605)])
def test_known_intervals(passed, cases, low, high):
    """81/263 and 15/148 are worked examples of R. G. Newcombe, Statistics in Medicine 17 (1998), method 3."""
    assert wilson(passed, cases) == pytest.approx((low, high), abs=6e-4)


@pytest.mark.parametrize("passed, cases", [(190, 200), (3, 7), (41, 43)])
def test_at_each_end_the_observed_share_is_z_standard_errors_away(passed, cases):
    for end in wilson(passed, cases):
        assert abs(passed / cases - end) == pytest.approx(Z95 * (end * (1 - end) / cases) ** 0.5)
