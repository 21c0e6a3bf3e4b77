"""The allocation is the best one that the budget allows, not merely a good one."""

import itertools
import math

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from kxl.base.cli import UserError
from kxl.search.allocate import Table, padded, solve

KINDS = (Type.Q8_0, Type.Q6_K, Type.Q4_K)


def random_table(seed: int, tensors: int = 6, exchanges: float = 0.0) -> Table:
    draw = np.random.default_rng(seed)
    cells = {}
    for number in range(tensors):
        weight, size = 10 ** draw.uniform(-5, -1), int(draw.integers(10, 200))
        cells[f"blk.{number}.w"] = {
            kind: {
                "bytes": size * bits * 100,
                "damage": weight * 4.0**-bits * draw.uniform(0.7, 1.3),
                "flips": weight * 4.0**-bits * draw.uniform(0, 2) if exchanges else 0.0,
            }
            for kind, bits in zip(KINDS, (8, 6, 4))
        }
    return Table(cells, 0.7, exchanges)


def best_of_all(table: Table, budget: int) -> float:
    """Least predicted damage of every policy that fits, by trying all of them."""
    names = list(table.cells)
    every = (dict(zip(names, kinds)) for kinds in itertools.product(KINDS, repeat=len(names)))
    return min(table.predicted(types) for types in every if table.bytes(types) <= budget)


def middle(table: Table, share: float) -> int:
    least, most = (
        sum(padded(pick(c["bytes"] for c in row.values())) for row in table.cells.values()) for pick in (min, max)
    )
    return int(least + share * (most - least))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_no_policy_of_the_same_bytes_is_predicted_to_be_better(seed, share):
    table = random_table(seed)
    budget = middle(table, share)
    found = solve(table, budget)
    assert table.bytes(found) <= budget
    assert table.predicted(found) == pytest.approx(best_of_all(table, budget), rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_with_exchanges_of_experts_it_is_within_a_hundredth_of_the_best(seed):
    table = random_table(seed, exchanges=0.3)
    budget = middle(table, 0.5)
    found = solve(table, budget)
    assert table.bytes(found) <= budget
    assert table.predicted(found) <= best_of_all(table, budget) * 1.01


def test_exchanges_count_by_the_root_of_their_sum():
    table = Table({"a": {Type.Q8_0: {"bytes": 32, "damage": 0.5, "flips": 0.04}}}, 0.5, 4.0)
    assert table.predicted({"a": Type.Q8_0}) == pytest.approx(0.5 * 0.5 + 4 * math.sqrt(0.04))


def test_a_budget_below_the_smallest_types_says_what_they_take():
    table = random_table(0)
    with pytest.raises(UserError, match="smallest types take"):
        solve(table, middle(table, 0.0) - 1)


def test_a_type_that_is_left_out_is_not_chosen_and_leaving_out_all_is_refused():
    table = random_table(1)
    found = solve(table.without({Type.Q6_K}), middle(table, 0.5))
    assert Type.Q6_K not in found.values()
    with pytest.raises(UserError, match="has no type left"):
        table.without(set(KINDS))


CELL = {"bytes": 100, "damage": 0.1, "flips": 0.0}


@pytest.mark.parametrize(
    "results",
    [
        {},
        {"tensors": {}},
        {"tensors": [CELL]},
        {"tensors": {"a.weight": {"types": {}}}},
        {"tensors": {"a.weight": {"types": {"Q99_K": CELL}}}},
        {"tensors": {"a.weight": {"types": {"Q8_0": {"bytes": 100}}}}},
        {"tensors": {"a.weight": {"types": {"Q8_0": {**CELL, "bytes": "100"}}}}},
        {"tensors": {"a.weight": {"types": {"Q8_0": {**CELL, "bytes": 1 << 2000}}}}},
        {"tensors": {"a.weight": {"types": {"Q8_0": {**CELL, "damage": -1}}}}},
        {"tensors": {"a.weight": {"types": {"Q8_0": {**CELL, "damage": math.nan}}}}},
        {"tensors": {"a.weight": {"types": {"Q8_0": CELL}}}, "scale": {"damage": math.nan}},
    ],
)
def test_what_is_no_table_is_refused_in_words(results):
    with pytest.raises(UserError, match="make it again"):
        Table.of(results)
