"""The allocation is the best one that the budget allows, not merely a good one."""

import itertools
import math

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from kxl.base.cli import UserError
from kxl.search import table as tables
from kxl.search.allocate import Table, padded, solve

KINDS = (Type.Q8_0, Type.Q6_K, Type.Q4_K)


def random_table(seed: int, tensors: int = 6, exchanges: float = 0.0, saturation: float = math.inf) -> Table:
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
    return Table(cells, saturation, exchanges)


def best_of_all(table: Table, budget: int, near: dict | None = None, changes: int = 0) -> float:
    """Least predicted damage of every policy that fits and is near enough, by trying all of them."""
    names = list(table.cells)
    every = (dict(zip(names, kinds)) for kinds in itertools.product(KINDS, repeat=len(names)))
    return min(
        table.predicted(types)
        for types in every
        if table.bytes(types) <= budget
        and (near is None or sum(types[name] != near[name] for name in names) <= changes)
    )


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
@pytest.mark.parametrize("changes", [1, 2, 4])
def test_near_a_policy_it_is_the_best_one_with_so_few_tensors_changed(seed, changes):
    table = random_table(seed)
    near = dict.fromkeys(table.cells, Type.Q6_K)
    found = solve(table, table.bytes(near), near=near, changes=changes)
    assert table.bytes(found) <= table.bytes(near)
    assert sum(found[name] != kind for name, kind in near.items()) <= changes
    assert table.predicted(found) == pytest.approx(best_of_all(table, table.bytes(near), near, changes), rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("saturation", [math.inf, 1e-3, 1e-6])
def test_with_exchanges_of_experts_it_is_within_a_hundredth_of_the_best(seed, saturation):
    table = random_table(seed, exchanges=0.3, saturation=saturation)
    budget = middle(table, 0.5)
    found = solve(table, budget)
    assert table.bytes(found) <= budget
    assert table.predicted(found) <= best_of_all(table, budget) * 1.01


def test_exchanges_count_by_the_root_of_their_sum():
    table = Table({"a": {Type.Q8_0: {"bytes": 32, "damage": 0.5, "flips": 0.04}}}, exchanges=4.0)
    assert table.predicted({"a": Type.Q8_0}) == pytest.approx(0.5 + 4 * math.sqrt(0.04))


@pytest.mark.parametrize("mean", [1e-3, 0.03, 0.3])
def test_damages_of_which_few_tokens_have_nearly_all_count_as_bounded_losses_of_tokens_do(mean):
    """Tokens whose loss by second order has a gamma distribution, and none of which loses more than `most`."""
    shape, most = 0.03, 1.0
    second_order = np.random.default_rng(0).gamma(shape, mean / shape, 2_000_000)
    lost = most * (1 - np.exp(-second_order / most))
    table = Table({"a": {Type.Q4_K: {"bytes": 32, "damage": mean}}}, saturation=shape * most)
    assert table.predicted({"a": Type.Q4_K}) == pytest.approx(lost.mean(), rel=0.05)


def test_a_small_damage_counts_as_it_is_and_slopes_are_those_of_the_prediction():
    def table(damage: float, flips: float) -> Table:
        return Table({"a": {Type.Q8_0: {"bytes": 32, "damage": damage, "flips": flips}}}, 0.02, 3.0)

    types = {"a": Type.Q8_0}
    assert table(1e-6, 0).predicted(types) == pytest.approx(1e-6, rel=1e-4)
    damage, flips, step = 0.03, 1e-6, 1e-9
    here = table(damage, flips)
    of_damage, of_flips = here.slopes(damage, flips)
    for more, slope in ((table(damage + step, flips), of_damage), (table(damage, flips + step), of_flips)):
        assert (more.predicted(types) - here.predicted(types)) / step == pytest.approx(slope, rel=1e-3)


def test_what_whole_policies_were_made_with_is_fitted_back():
    saturation, exchanges = 0.015, 9.0
    policies = [
        {
            "damage": damage,
            "flips": flips,
            "measured": saturation * math.log1p(damage / saturation) + exchanges * flips**0.5,
        }
        for damage, flips in ((0.004, 5e-8), (0.05, 6e-7), (0.037, 4e-7), (0.015, 2e-7))
    ]
    found = tables.fitted_scale(policies)
    assert found["saturation"] == pytest.approx(saturation, rel=0.02)
    assert found["exchanges"] == pytest.approx(exchanges, rel=0.02)
    without = tables.fitted_scale([{**one, "flips": 0.0} for one in policies])
    assert without["exchanges"] == 0.0


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
        {"tensors": {"a.weight": {"types": {"Q8_0": CELL}}}, "scale": {"saturation": math.nan}},
    ],
)
def test_what_is_no_table_is_refused_in_words(results):
    with pytest.raises(UserError, match="make it again"):
        Table.of(results)


def test_a_table_of_an_earlier_version_says_what_to_do():
    with pytest.raises(UserError, match="make sensitivity"):
        Table.of({"tensors": {"a.weight": {"types": {"Q8_0": CELL}}}, "scale": {"damage": 0.3, "exchanges": 20.0}})


def test_the_report_of_a_broken_table_is_named(tmp_path):
    for scale in ({"saturation": 0, "exchanges": 1.0}, {"saturation": "x"}, [], None):
        with pytest.raises(UserError, match="reports/mine.json: scale"):
            Table.of({"tensors": {"a.weight": {"types": {"Q8_0": CELL}}}, "scale": scale}, "reports/mine.json")
