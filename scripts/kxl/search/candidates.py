"""Which policies a search considers at a budget, and which of them it takes: by measuring them whole, on its own text.

The table predicts what a whole policy loses by adding up what its tensors do. It is wrong by tens of per cent where a
few tokens make most of the loss, so its best policy is a candidate beside others and has to show itself better:

1. The hand-written policy of this budget, where there is one, holds the place at first: it needs no table.
2. The table's policy of least predicted damage takes the place if it measures better beyond chance.
3. Steps from the one that holds the place: the least predicted damage with few tensors changed, half as many as those
   in which it differs from the table's policy. A step that measures better beyond chance takes the place, and the next
   one goes on from there. Of one that does not, some tensor is not as the table says: the next one leaves alone all
   that it changed.

Beyond chance means that the interval of a paired bootstrap lies above zero (judged.py): 95 % for the table's, and 95 %
for all steps together.

The measuring text is never the one that judges (scripts/search_judge.py). Where there is one candidate alone, nothing
is measured.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from kxl.base.cli import UserError
from kxl.quant.policy import Type
from kxl.search import judged
from kxl.search.allocate import Table, solve

STEPS = 3  # measured at a budget at most

Types = dict[str, Type]
Measure = Callable[[str, Types], judged.Scores]  # a candidate's name and types


@dataclass
class Choice:
    """The candidate that was taken, and what became of all, by name.

    tried: "types"; "bytes" of the tensors' data; "scores", None where nothing was measured, and "unmeasured" says why;
    "gain" and "interval" over "against", the one that held the place then (judged.py).
    """

    name: str = ""
    tried: dict[str, dict] = field(default_factory=dict)

    @property
    def types(self) -> Types:
        return self.tried[self.name]["types"]

    def measured(self) -> int:
        """How many candidates were measured."""
        return sum(one["scores"] is not None for one in self.tried.values())

    def lines(self) -> list[str]:
        """What became of each candidate, for people."""
        made = []
        for name, one in self.tried.items():
            said = f"{one['scores'].kld.mean():.3g} nats" if one["scores"] else one["unmeasured"]
            if "gain" in one:
                low, high = (100 * end for end in one["interval"])
                said += f", gain over {one['against']} {100 * one['gain']:.0f} % ({low:.0f} to {high:.0f} %)"
            made.append(f"{name}: {said}{'; chosen' if name == self.name else ''}")
        return made


def most(named: dict[str, Types], steps: int = STEPS) -> int:
    """How many measurements `choose` makes at most."""
    return len(named) + steps if len(named) > 1 else 0


def choose(
    named: dict[str, Types],
    table: Table,
    budget: int,
    size_of: Callable[[Types], int],
    measure: Measure,
    steps: int = STEPS,
) -> Choice:
    """The candidate to take of `named` and of steps from it.

    named: candidates in the order in which they may hold the place, the table's own as "table".
    budget: bytes of the tensors' data; a candidate of more (`size_of`) is told, not measured and never taken.
    UserError where none fits.
    """
    choice = Choice()
    for name, types in named.items():
        one = choice.tried[name] = {"types": types, "bytes": size_of(types), "scores": None, "unmeasured": "alone"}
        if one["bytes"] > budget:
            one["unmeasured"] = "too large"
        elif not choice.name:
            choice.name = name
        elif types == choice.types:
            one["unmeasured"] = f"the same as {choice.name}"
        else:
            _challenge(choice, name, measure)
    if not choice.name:
        raise UserError(f"no candidate takes {budget:,} bytes at most: {', '.join(named)} are larger")
    if not table.knows(choice.types) or choice.types == named["table"]:
        return choice  # nothing that the table could help
    reach, apart = (len(different(choice.types, named["table"])) + 1) // 2, set()
    for number in range(1, steps + 1):
        types = solve(table.fixed({name: choice.types[name] for name in apart}), budget, choice.types, reach)
        known = any(types == one["types"] for one in choice.tried.values())
        if known or table.predicted(types) >= table.predicted(choice.types):
            break
        name = f"step{number}"
        choice.tried[name] = {"types": types, "bytes": size_of(types), "scores": None}
        if not _challenge(choice, name, measure, tries=steps):
            apart |= different(choice.types, types)
    return choice


def different(one: Types, other: Types) -> set[str]:
    """The tensors in which two policies differ."""
    return {name for name, kind in one.items() if kind != other[name]}


def _challenge(choice: Choice, name: str, measure: Measure, tries: int = 1) -> bool:
    """Measure `name` beside the one that holds the place; whether it takes it: better beyond chance."""
    for who in (choice.name, name):
        one = choice.tried[who]
        one["scores"] = one["scores"] or measure(who, one["types"])
    found = judged.gain(choice.tried[name]["scores"], choice.tried[choice.name]["scores"], tries=tries)
    choice.tried[name] |= {"against": choice.name, **found}
    if found["interval"][0] > 0:
        choice.name = name
        return True
    return False
