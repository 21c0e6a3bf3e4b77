"""The type of each tensor under a budget of bytes: least predicted damage, exactly solved.

Choosing one type a tensor so that a sum of costs is least and a sum of bytes within a budget is a multiple-choice
knapsack; HiGHS (scipy.optimize.milp) solves it for hundreds of tensors in seconds. What a policy is predicted to lose
is no sum: damages saturate, and exchanges of experts grow with the root of a sum. So both are made linear at the last
solution, and solved again until it stays.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix

from kxl.base.cli import UserError
from kxl.base.files import shown
from kxl.chat import schemas
from kxl.quant.policy import ALIGNMENT, Tensor, Type, nbytes, quantizable

ROUNDS = 8  # of making the prediction linear; it has stood still by then for every table that was tried
GAP = 1e-5  # relative, of the solver
COUNT, AMOUNT = {"type": "integer", "minimum": 0, "maximum": 1 << 60}, {"type": "number", "minimum": 0, "maximum": 1e30}
ABOVE = {**AMOUNT, "exclusiveMinimum": 0}
SHAPE = {
    "type": "object",
    "required": ["tensors"],
    "properties": {
        "scale": {"type": "object", "properties": {"saturation": ABOVE, "exchanges": AMOUNT}},
        "tensors": {"type": "object", "minProperties": 1, "additionalProperties": {
            "type": "object",
            "required": ["types"],
            "properties": {"types": {
                "type": "object",
                "minProperties": 1,
                "propertyNames": {"enum": [kind.name for kind in Type]},
                "additionalProperties": {
                    "type": "object",
                    "required": ["bytes", "damage"],
                    "properties": {"bytes": COUNT, "damage": AMOUNT, "flips": AMOUNT},
                },
            }},
        }},
    },
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Cells {tensor: {Type: {"bytes", "damage", "flips"}}}, and how a policy's loss comes from its two sums.

    `saturation` is the sum of damages, in nats, from which on damages count markedly less; `exchanges` is what the root
    of the flips counts. Whole policies were measured for both.
    """

    cells: dict[str, dict[Type, dict]]
    saturation: float = math.inf
    exchanges: float = 0.0

    @classmethod
    def of(cls, results: dict, named: str = "the table") -> "Table":
        """Out of the results (kxl/search/table.py) of the report `named`. UserError for no table, or an earlier one."""
        for place, why in schemas.errors(SHAPE, results):
            raise UserError(f"{named}: {' '.join(map(str, place))}: {why[:300]}; make it again")
        cells = {
            name: {Type[kind]: cell for kind, cell in entry["types"].items()}
            for name, entry in results["tensors"].items()
        }
        fitted = results.get("scale", {"saturation": math.inf, "exchanges": 0.0})
        if "saturation" not in fitted:
            raise UserError(f"{named} is of an earlier version: make it again (make sensitivity; its work is kept)")
        told = [number for row in cells.values() for cell in row.values() for number in cell.values()]
        if any(number != number for number in (*told, *fitted.values())):
            raise UserError(f"{named}: it holds NaN; make it again")
        return cls(cells, fitted["saturation"], fitted.get("exchanges", 0.0))

    def refuse_other(self, tensors: list[Tensor], path: Path) -> None:
        """UserError unless this table, read from `path`, is of the model with these tensors."""
        wanted = {t.name: t for t in tensors if quantizable(t)}
        if other := sorted(set(wanted) ^ set(self.cells)):
            raise UserError(
                f"{shown(path)}: is of another model ({other[0]} and {len(other) - 1} more are in one of them alone): "
                f"make the table of this one (make sensitivity, or make estimate)"
            )
        for name, tensor in wanted.items():
            kind, cell = next(iter(self.cells[name].items()))
            if cell["bytes"] != nbytes(tensor.shape, kind):
                raise UserError(f"{shown(path)}: {name} has another shape there; make the table of this model")

    def without(self, left_out: set[Type]) -> "Table":
        """The table without some types. UserError where a tensor has no type left."""
        cells = {name: {k: c for k, c in row.items() if k not in left_out} for name, row in self.cells.items()}
        if empty := [name for name, row in cells.items() if not row]:
            raise UserError(f"{empty[0]} has no type left; leave out fewer")
        return Table(cells, self.saturation, self.exchanges)

    def fixed(self, types: dict[str, Type]) -> "Table":
        """The table with one type alone for some tensors."""
        cells = {name: {types[name]: row[types[name]]} if name in types else row for name, row in self.cells.items()}
        return Table(cells, self.saturation, self.exchanges)

    def bytes(self, types: dict[str, Type]) -> int:
        """Bytes of the tensors' data in a file, padded."""
        return sum(padded(self.cells[name][kind]["bytes"]) for name, kind in types.items())

    def sums(self, types: dict[str, Type]) -> tuple[float, float]:
        """(sum of damages, sum of flips) of a whole policy."""
        chosen = [self.cells[name][kind] for name, kind in types.items()]
        return sum(cell["damage"] for cell in chosen), sum(cell.get("flips", 0.0) for cell in chosen)

    def knows(self, types: dict[str, Type]) -> bool:
        """Whether each of a policy's types was measured for its tensor: a hand-written one may have others."""
        return all(kind in self.cells.get(name, {}) for name, kind in types.items())

    def predicted(self, types: dict[str, Type]) -> float:
        """Mean KL divergence in nats that a whole policy is predicted to have.

        Second order is exact where errors are small, so a small sum of damages counts as it is. A larger one counts
        less, for no token loses more than it has. Say that a token loses K (1 - exp(-d / K)) where second order says d,
        and that d has a gamma distribution of mean D and shape s over the tokens: then the mean loss is
        K (1 - (1 + D / (s K))^-s). Where few tokens make nearly all of D, s is near 0, and that is S log(1 + D / S)
        with S = s K, the saturation.
        Exchanges of experts are as frequent as the margins between experts vary, and that is the root of a variance.
        """
        damage, flips = self.sums(types)
        return saturated(damage, self.saturation) + self.exchanges * math.sqrt(flips)

    def slopes(self, damage: float, flips: float) -> tuple[float, float]:
        """Nats by which the prediction grows for each unit of damage and of flips, where the sums are these."""
        return 1 / (1 + damage / self.saturation), self.exchanges / math.sqrt(flips) / 2 if flips else 0.0


def saturated(damage: float, saturation: float) -> float:
    """Nats that a sum of damages counts: itself where it is small, and never more."""
    return damage if math.isinf(saturation) else saturation * math.log1p(damage / saturation)


def padded(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


def solve(table: Table, budget: int, near: dict[str, Type] | None = None, changes: int = 0) -> dict[str, Type]:
    """{tensor: Type} of least predicted damage whose data take at most `budget` bytes.

    near: a policy of the table's types within the budget; then at most `changes` tensors get another type than there.
    UserError when not even the smallest types fit.
    """
    smallest = sum(min(padded(cell["bytes"]) for cell in row.values()) for row in table.cells.values())
    if smallest > budget:
        raise UserError(
            f"the budget leaves {budget / 2**20:,.2f} MiB for the tensors, their smallest types take "
            f"{smallest / 2**20:,.2f}: raise the budget"
        )
    names = [(name, kind) for name, row in table.cells.items() for kind in row]
    cells = [table.cells[name][kind] for name, kind in names]
    damage = np.array([cell["damage"] for cell in cells])
    flips = np.array([cell.get("flips", 0.0) if table.exchanges else 0.0 for cell in cells])
    sizes = np.array([padded(cell["bytes"]) for cell in cells], dtype=float)
    rows = {name: place for place, name in enumerate(table.cells)}
    belongs = csr_matrix((np.ones(len(names)), ([rows[name] for name, _ in names], range(len(names)))))
    limits = [LinearConstraint(belongs, 1, 1), LinearConstraint(sizes[None] / 1024, 0, budget / 1024)]
    if near is not None:
        same = np.array([float(near[name] == kind) for name, kind in names])
        limits.append(LinearConstraint(same[None], len(rows) - changes, len(rows)))
    best, level = None, None
    slopes = table.slopes(*table.sums(near)) if near else (1.0, 0.0)
    for _ in range(ROUNDS):
        chosen = _knapsack(slopes[0] * damage + slopes[1] * flips, limits, budget)
        found = {names[place][0]: names[place][1] for place in chosen}
        if best is None or table.predicted(found) < table.predicted(best):
            best = found
        sums = damage[chosen].sum(), max(flips[chosen].sum(), 1e-15)
        if not flips.any() or (level is not None and np.allclose(level, sums, rtol=1e-9, atol=0)):
            break
        level, slopes = sums, table.slopes(*sums)
    return best


def _knapsack(costs: np.ndarray, limits: list[LinearConstraint], budget: int) -> np.ndarray:
    """Places of the cells that are taken: least cost within the limits."""
    scale = costs[costs > 0].min() if (costs > 0).any() else 1.0  # HiGHS's tolerances are absolute
    made = milp(
        costs / scale,
        integrality=np.ones(len(costs)),
        bounds=Bounds(0, 1),
        constraints=limits,
        options={"mip_rel_gap": GAP, "time_limit": 60},
    )
    if made.x is None:
        raise UserError(f"the solver found no policy for {budget:,} bytes: {made.message}")
    return np.flatnonzero(made.x > 0.5)
