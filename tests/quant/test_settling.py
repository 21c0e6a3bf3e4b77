"""When an importance matrix has settled: its measure of two halves, by hand."""

import numpy as np
import pytest

from kxl.quant.imatrix import Entry
from kxl.quant.settling import added, disagreement, halves


def entry(*experts, counts=None):
    sums = np.array(experts, np.float32)
    return Entry(sums, np.array(counts or [1] * len(sums)))


def test_equal_shares_agree_however_many_tokens_went_in():
    assert disagreement({"a": entry([1, 2, 1])}, {"a": entry([10, 20, 10])}) == 0


def test_columns_with_nothing_in_common_disagree_wholly():
    assert disagreement({"a": entry([1, 0])}, {"a": entry([0, 5])}) == 1


def test_the_distance_is_half_the_difference_of_the_shares():
    assert disagreement({"a": entry([3, 1])}, {"a": entry([1, 1])}) == pytest.approx(0.25)


def test_an_expert_that_only_one_half_reached_counts_as_disagreeing():
    assert disagreement({"a": entry([1, 1], [0, 0])}, {"a": entry([1, 1], [1, 1])}) > 0.9


def test_what_went_in_is_added_for_each_expert():
    both = added({"a": entry([1, 2], [3, 4], counts=[5, 6])}, {"a": entry([10, 0], [0, 1], counts=[1, 2])})
    assert both["a"].sums.tolist() == [[11, 2], [3, 5]] and both["a"].counts.tolist() == [6, 8]


def test_halves_are_every_other_part():
    parts = [{"a": entry(row)} for row in ([1, 0], [0, 1], [1, 0], [0, 1])]
    assert halves(parts) == 1 and halves([parts[0], parts[2], parts[1], parts[3]]) == 0
