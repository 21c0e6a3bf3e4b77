"""What a search takes is what measures better, on cases whose true losses are known."""

import itertools
import math

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from kxl.base.cli import UserError
from kxl.search import candidates, judged
from kxl.search.allocate import Table, solve

KINDS = (Type.Q8_0, Type.Q6_K, Type.Q4_K)
BITS = {Type.Q8_0: 8, Type.Q6_K: 6, Type.Q5_1: 6, Type.Q4_K: 4}
TOKENS = 64 * 256
NAMES = [f"blk.{number}.w" for number in range(6)]


def made(weights: list[float]) -> Table:
    """A table in which tensor n costs weights[n] at 4 bits and less at more bits; all are of one size."""
    cells = {
        name: {kind: {"bytes": 320 * BITS[kind], "damage": weight * 4.0 ** (4 - BITS[kind])} for kind in KINDS}
        for name, weight in zip(NAMES, weights)
    }
    return Table(cells)


class World:
    """What policies really lose: another table, on tokens that differ, with noise that is each policy's own."""

    def __init__(self, weights: list[float], noise: float = 0.0):
        self.truth, self.noise, self.asked = made(weights), noise, []
        self.tokens = np.random.default_rng(0).exponential(1.0, TOKENS)

    def scores(self, types: dict) -> judged.Scores:
        seed = [BITS[kind] for kind in types.values()]
        own = np.random.default_rng(seed).lognormal(0, self.noise, TOKENS // 256)
        kld = self.truth.predicted(types) * self.tokens * np.repeat(own, 256)
        return judged.Scores(kld, np.ones(TOKENS, bool), np.zeros(TOKENS, int))

    def measure(self, name: str, types: dict) -> judged.Scores:
        self.asked.append(name)
        return self.scores(types)


def better(world: World, one: dict, other: dict) -> bool:
    """Whether `one` loses less beyond chance: a t-test on differences of runs of tokens, no bootstrap."""
    first, second = (world.scores(types).kld.reshape(-1, 256).sum(1) for types in (one, other))
    apart = second - first
    return apart.mean() > 1.96 * apart.std(ddof=1) / math.sqrt(len(apart))


def choose(world: World, table: Table, hand: dict, budget: int | None = None, **rest) -> candidates.Choice:
    budget = table.bytes(hand) if budget is None else budget
    named = {"hand": hand, "table": solve(table, budget)}
    return candidates.choose(named, table, budget, table.bytes, world.measure, **rest)


EVEN = dict.fromkeys(NAMES, Type.Q6_K)
SLOPING = [1e-2, 8e-3, 1e-3, 9e-4, 1e-5, 1e-5]


def test_the_tables_policy_wins_where_the_table_is_right():
    world = World(SLOPING, noise=0.1)
    choice = choose(world, made(SLOPING), EVEN)
    assert choice.name == "table" and better(world, choice.types, EVEN)
    assert choice.tried["table"]["interval"][0] > 0


def test_the_hand_written_policy_wins_where_the_table_is_wrong():
    """The table takes the tensors that matter for those that do not."""
    world = World(SLOPING, noise=0.1)
    choice = choose(world, made(SLOPING[::-1]), EVEN)
    assert choice.name == "hand" and choice.types == EVEN
    assert all(better(world, EVEN, one["types"]) for name, one in choice.tried.items() if name != "hand")
    assert choice.tried["table"]["interval"][1] < 0


def test_a_gain_within_chance_leaves_the_hand_written_policy_in_its_place():
    weights = [1.75e-2, 1e-3, 4e-3, 4e-3, 4e-3, 4e-3]  # the first tensor's bits from the second gain some per cent
    world = World(weights, noise=1.5)
    choice = choose(world, made(weights), EVEN)
    hand, table = world.truth.predicted(EVEN), world.truth.predicted(choice.tried["table"]["types"])
    assert 0.9 * hand < table < hand
    low, high = choice.tried["table"]["interval"]
    assert low < 0 < high and not better(world, choice.tried["table"]["types"], EVEN)
    assert choice.name == "hand"


def test_a_step_wins_where_the_table_is_wrong_about_one_tensor_alone():
    """It sees no harm in the last tensor, which is the worst: its own policy loses, a nearer one gains."""
    weights = [1e-2, 8e-3, 1e-4, 1e-4, 1.2e-5, 1e-5]
    world, table = World([*weights[:5], 3e-2], noise=0.05), made(weights)
    choice = choose(world, table, EVEN)
    assert choice.name.startswith("step") and better(world, choice.types, EVEN)
    assert better(world, choice.types, choice.tried["table"]["types"])
    apart = set()
    for name, one in choice.tried.items():
        if name.startswith("step"):
            start, types = choice.tried[one["against"]]["types"], one["types"]
            assert 0 < len(candidates.different(start, types)) <= 2
            every = (dict(zip(NAMES, kinds)) for kinds in itertools.product(KINDS, repeat=len(NAMES)))
            least = min(
                table.predicted(other)
                for other in every
                if table.bytes(other) <= table.bytes(EVEN)
                and len(changed := candidates.different(start, other)) <= 2
                and not changed & apart
            )
            assert table.predicted(types) == pytest.approx(least, rel=1e-4)
            apart |= candidates.different(start, types) if one["interval"][0] <= 0 else set()


@pytest.mark.parametrize("seed", range(20))
def test_what_is_chosen_fits_and_is_no_worse_than_any_that_was_measured(seed):
    """Whatever the table says: beyond chance, nothing that was measured is better than what was taken."""
    draw = np.random.default_rng(seed)
    world = World(list(10 ** draw.uniform(-5, -2, 6)), noise=0.2)
    table = made(list(10 ** draw.uniform(-5, -2, 6)))
    hand = {name: KINDS[place] for name, place in zip(NAMES, draw.integers(0, 3, 6))}
    choice = choose(world, table, hand)
    assert table.bytes(choice.types) <= table.bytes(hand)
    assert len(world.asked) == choice.measured() <= candidates.most({"hand": hand, "table": hand})
    assert len(set(world.asked)) == len(world.asked)
    mean = {name: one["scores"].kld.mean() for name, one in choice.tried.items() if one["scores"]}
    if mean:
        assert mean[choice.name] <= mean["hand"]
        assert choice.name == "hand" or better(world, choice.types, hand)


def test_a_candidate_of_more_bytes_than_the_budget_is_neither_measured_nor_taken():
    world, table = World(SLOPING), made(SLOPING)
    best = dict.fromkeys(NAMES, Type.Q8_0)
    choice = choose(world, table, best, budget=table.bytes(EVEN))
    assert world.scores(best).kld.mean() < world.scores(choice.types).kld.mean()
    assert choice.name == "table" and table.bytes(choice.types) <= table.bytes(EVEN)
    assert "hand" not in world.asked
    assert "hand: too large" in choice.lines()
    with pytest.raises(UserError, match="hand, also are larger"):
        candidates.choose({"hand": best, "also": best}, table, 10, table.bytes, world.measure)


def test_a_candidate_alone_is_not_measured():
    world, table = World(SLOPING), made(SLOPING)
    choice = choose(world, table, EVEN, budget=table.bytes(dict.fromkeys(NAMES, Type.Q4_K)))
    assert choice.name == "table" and world.asked == []
    table_policy = choose(World(SLOPING), table, EVEN).tried["table"]["types"]
    choice = choose(world, table, table_policy)
    assert choice.name == "hand" and world.asked == []
    assert "table: the same as hand" in choice.lines()


def test_a_hand_written_policy_with_a_type_that_the_table_lacks_takes_part_without_steps():
    table = made(SLOPING[::-1])
    hand = {**EVEN, NAMES[0]: Type.Q5_1}
    world = World(SLOPING)
    world.truth.cells[NAMES[0]][Type.Q5_1] = {"bytes": 320 * 6, "damage": 1e-4}
    budget = table.bytes(EVEN)
    choice = candidates.choose(
        {"hand": hand, "table": solve(table, budget)}, table, budget, world.truth.bytes, world.measure
    )
    assert choice.name == "hand" and world.asked == ["hand", "table"]
