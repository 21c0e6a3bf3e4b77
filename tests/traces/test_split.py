"""The split depends on the content alone, keeps variants of a task together, and has the reference's proportions."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kxl.traces import split as traces_split

PARTS = {"train": 582, "valid": 29, "test": 26}


def digest(text) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()


def test_as_many_rows_as_the_reference_split_exactly_as_the_reference():
    splits = traces_split.assign([digest(i) for i in range(637)], [[str(i)] for i in range(637)], PARTS)
    assert {split: splits.count(split) for split in PARTS} == PARTS


@pytest.mark.parametrize("rows, counts", [(1, (1, 0, 0)), (2, (2, 0, 0)), (3, (1, 1, 1)), (60, (55, 3, 2))])
def test_few_rows_leave_no_split_empty_where_there_are_enough(rows, counts):
    splits = traces_split.assign([digest(i) for i in range(rows)], [[str(i)] for i in range(rows)], PARTS)
    assert tuple(splits.count(split) for split in ("train", "valid", "test")) == counts


@given(
    st.lists(
        st.tuples(st.integers(), st.lists(st.integers(0, 12), min_size=1, max_size=2)),
        min_size=1,
        max_size=60,
        unique_by=lambda row: row[0],
    ),
    st.randoms(),
)
def test_rows_that_share_a_task_stay_together_in_any_order_of_the_input(rows, rng):
    def split(order):
        splits = traces_split.assign(
            [digest(name) for name, _ in order], [list(map(str, keys)) for _, keys in order], PARTS
        )
        return {name: where for (name, _), where in zip(order, splits)}

    made = split(rows)
    for name, keys in rows:
        for other, others in rows:
            if set(keys) & set(others):
                assert made[name] == made[other]
    shuffled = list(rows)
    rng.shuffle(shuffled)
    assert split(shuffled) == made


def test_one_more_row_moves_only_groups_at_the_borders():
    def split(count):
        return traces_split.assign([digest(i) for i in range(count)], [[str(i)] for i in range(count)], PARTS)

    before, after = split(637), split(638)
    assert sum(a != b for a, b in zip(before, after)) <= 2


def test_a_task_of_most_rows_trains_and_the_rest_still_tests():
    splits = traces_split.assign(
        [digest(i) for i in range(100)], [["big" if i < 80 else str(i)] for i in range(100)], PARTS
    )
    assert set(splits[:80]) == {"train"} and splits.count("test") == 4 and splits.count("valid") == 5
