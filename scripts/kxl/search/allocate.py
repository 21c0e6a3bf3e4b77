"""The type of each tensor under a budget of bytes: least predicted damage, exactly solved.

Choosing one type a tensor so that a sum of costs is least and a sum of bytes within a budget is a multiple-choice
knapsack; HiGHS (scipy.optimize.milp) solves it for hundreds of tensors in seconds. What exchanges of experts cost grows
with the root of a sum over tensors, so its cost is made linear at the last solution, and solved again until it stays.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix

from kxl.base.cli import UserError
from kxl.chat import schemas
from kxl.quant.policy import ALIGNMENT, Type

ROUNDS = 8  # of making the root linear; it has stood still by then for every table that was tried
GAP = 1e-5  # relative, of the solver
COUNT, AMOUNT = {"type": "integer", "minimum": 0, "maximum": 1 << 60}, {"type": "number", "minimum": 0, "maximum": 1e30}
SHAPE = {
    "type": "object",
    "required": ["tensors"],
    "properties": {
        "scale": {"type": "object", "properties": {"damage": AMOUNT, "exchanges": AMOUNT}},
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
    """Cells {tensor: {Type: {"bytes", "damage", "flips"}}}, and how much of a policy's loss each of its two sums tells.

    `scale` is what a damage counts, `exchanges` what the root of the flips does; whole policies were measured for them.
    """

    cells: dict[str, dict[Type, dict]]
    scale: float = 1.0
    exchanges: float = 0.0

    @classmethod
    def of(cls, results: dict) -> "Table":
        """Out of a report's results (kxl/search/table.py). UserError where they are no table."""
        for place, why in schemas.errors(SHAPE, results):
            raise UserError(f"the table: {' '.join(map(str, place))}: {why[:300]}; make it again")
        cells = {
            name: {Type[kind]: cell for kind, cell in entry["types"].items()}
            for name, entry in results["tensors"].items()
        }
        fitted = results.get("scale", {})
        told = [number for row in cells.values() for cell in row.values() for number in cell.values()]
        if any(number != number for number in (*told, *fitted.values())):
            raise UserError("the table: it holds NaN; make it again")
        return cls(cells, fitted.get("damage", 1.0), fitted.get("exchanges", 0.0))

    def without(self, left_out: set[Type]) -> "Table":
        """The table without some types. UserError where a tensor has no type left."""
        cells = {name: {k: c for k, c in row.items() if k not in left_out} for name, row in self.cells.items()}
        if empty := [name for name, row in cells.items() if not row]:
            raise UserError(f"{empty[0]} has no type left; leave out fewer")
        return Table(cells, self.scale, self.exchanges)

    def bytes(self, types: dict[str, Type]) -> int:
        """Bytes of the tensors' data in a file, padded."""
        return sum(padded(self.cells[name][kind]["bytes"]) for name, kind in types.items())

    def sums(self, types: dict[str, Type]) -> tuple[float, float]:
        """(sum of damages, sum of flips) of a whole policy."""
        chosen = [self.cells[name][kind] for name, kind in types.items()]
        return sum(cell["damage"] for cell in chosen), sum(cell.get("flips", 0.0) for cell in chosen)

    def predicted(self, types: dict[str, Type]) -> float:
        """Mean KL divergence in nats that a whole policy is predicted to have.

        Exchanges of experts are as frequent as the margins between experts vary, and that is the root of a variance.
        """
        damage, flips = self.sums(types)
        return self.scale * damage + self.exchanges * math.sqrt(flips)


def padded(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


def solve(table: Table, budget: int) -> dict[str, Type]:
    """{tensor: Type} of least predicted damage whose data take at most `budget` bytes.

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
    damage = table.scale * np.array([cell["damage"] for cell in cells])
    flips = np.array([cell.get("flips", 0.0) if table.exchanges else 0.0 for cell in cells])
    sizes = np.array([padded(cell["bytes"]) for cell in cells], dtype=float)
    rows = {name: place for place, name in enumerate(table.cells)}
    belongs = csr_matrix((np.ones(len(names)), ([rows[name] for name, _ in names], range(len(names)))))
    best, level = None, None
    for _ in range(ROUNDS):
        slope = table.exchanges / math.sqrt(level) / 2 if level else 0.0
        chosen = _knapsack(damage + slope * flips, sizes, belongs, budget)
        found = {names[place][0]: names[place][1] for place in chosen}
        if best is None or table.predicted(found) < table.predicted(best):
            best = found
        if not flips.any() or (level is not None and math.isclose(level, flips[chosen].sum(), rel_tol=1e-9)):
            break
        level = max(flips[chosen].sum(), 1e-15)
    return best


def _knapsack(costs: np.ndarray, sizes: np.ndarray, belongs: csr_matrix, budget: int) -> np.ndarray:
    """Places of the cells that are taken, one of each row of `belongs`."""
    scale = costs[costs > 0].min() if (costs > 0).any() else 1.0  # HiGHS's tolerances are absolute
    made = milp(
        costs / scale,
        integrality=np.ones(len(costs)),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(belongs, 1, 1), LinearConstraint(sizes[None] / 1024, 0, budget / 1024)],
        options={"mip_rel_gap": GAP, "time_limit": 60},
    )
    if made.x is None:
        raise UserError(f"the solver found no policy for {budget:,} bytes: {made.message}")
    return np.flatnonzero(made.x > 0.5)
