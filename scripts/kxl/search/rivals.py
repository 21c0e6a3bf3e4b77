"""What a search is compared with: other ways to spend the same bytes.

Each rival is {tensor: Type} within a budget and as near to it as its own rule lets it come. None of them sees the
sensitivity table.
"""

from pathlib import Path

from kxl.base.files import scratch_dir
from kxl.quant import policy
from kxl.quant.policy import Tensor, Type
from kxl.quant.quantizing import dry_run
from kxl.search import table
from kxl.search.allocate import Table, padded, solve

LADDER = ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_0")
LADDER_OF_32 = ("iq4_nl", "q5_0", "q5_1", "q8_0")  # for rows that are no multiple of 256


def size_of(types: dict[str, Type], shapes: dict[str, tuple]) -> int:
    return sum(padded(policy.nbytes(shapes[name], kind)) for name, kind in types.items())


def hand_written(plan: Path, tensors: list[Tensor]) -> dict[str, dict[str, Type]]:
    """{policy of a plan: {tensor: Type}}, of the tensors that are quantized."""
    found = {name: policy.assign(policy.load(name, plan), tensors) for name in policy.read_plan(plan)["policies"]}
    free = [t.name for t in tensors if policy.quantizable(t)]
    return {name: {tensor: types[tensor] for tensor in free} for name, types in found.items()}


def stock_types(plan: Path, base: Path, tensors: list[Tensor]) -> dict[str, dict[str, Type]]:
    """{stock type of a plan: {tensor: Type}}, as llama-quantize would assign them to the BF16 GGUF `base`."""
    free = [t.name for t in tensors if policy.quantizable(t)]
    known = {}
    with scratch_dir() as folder:
        for name in policy.read_plan(plan)["stock"]:
            _, found = dry_run(base, name, Path(folder) / "log")
            known[name] = {tensor: policy.TYPES[found[tensor].lower()] for tensor in free}
    return known


def ladder(columns: int) -> list[Type]:
    """The types of a tensor from small to large, as a rival goes up them."""
    return [policy.TYPES[name] for name in (LADDER if columns % 256 == 0 else LADDER_OF_32)]


def raised(lower: dict[str, Type], upper: dict[str, Type], order: list[str], shapes: dict, budget: int) -> dict:
    """`lower` with tensors in `order` raised to `upper` as long as the budget lasts; None where `lower` exceeds it."""
    if size_of(lower, shapes) > budget:
        return None
    types = dict(lower)
    left = budget - size_of(lower, shapes)
    for name in order:
        more = padded(policy.nbytes(shapes[name], upper[name])) - padded(policy.nbytes(shapes[name], lower[name]))
        if 0 < more <= left:
            types[name], left = upper[name], left - more
    return types


def stock(known: dict[str, dict[str, Type]], tensors: list[Tensor], budget: int) -> dict[str, Type] | None:
    """Between two stock types: the largest that fits, its tensors raised to the next one's in the order of the file.

    known: {stock type: {tensor: Type}} as llama-quantize assigns them. None below the smallest, and of none.
    """
    shapes = {t.name: t.shape for t in tensors}
    ordered = sorted(known.values(), key=lambda types: size_of(types, shapes))
    best = None
    for lower, upper in zip(ordered, [*ordered[1:], *ordered[-1:]]):
        if size_of(lower, shapes) <= budget:
            best = raised(lower, upper, [t.name for t in tensors if t.name in lower], shapes, budget)
    return best


def edges(tensors: list[Tensor], budget: int) -> dict[str, Type] | None:
    """More bits at both ends, as APEX spends them: one step up for the embedding and the outer blocks, then inwards.

    All tensors begin at the highest type of their ladder at which the budget holds; the next step goes to the
    embedding, then to the first and last block, and so on to the middle.
    """
    mine = [t for t in tensors if policy.quantizable(t)]
    shapes = {t.name: t.shape for t in mine}
    blocks = 1 + max(int(t.name.split(".")[1]) for t in mine if t.name.startswith("blk."))

    def depth(name: str) -> int:
        number = int(name.split(".")[1]) if name.startswith("blk.") else 0
        return -1 if not name.startswith("blk.") else min(number, blocks - 1 - number)

    steps = max(len(ladder(t.shape[0])) for t in mine)
    best = None
    for step in range(steps):
        levels = [
            {t.name: ladder(t.shape[0])[min(s, len(ladder(t.shape[0])) - 1)] for t in mine} for s in (step, step + 1)
        ]
        order = sorted(shapes, key=depth)
        if (made := raised(*levels, order, shapes, budget)) is None:
            break
        best = made
    return best


def target_bpw(estimated: dict, budget: int) -> dict[str, Type]:
    """Least sum of the tensors' weighted squared errors, as `--target-bpw` of llama.cpp's pull request 15550 chooses.

    estimated: results of an estimate report. Its errors are of weights, by the imatrix, all tensors on one scale.
    """
    cells = {
        name: {
            Type[kind]: {"bytes": cell["bytes"], "damage": cell.get("weighted_error", 0.0)}
            for kind, cell in entry["types"].items()
        }
        for name, entry in estimated["tensors"].items()
    }
    return solve(Table(cells), budget)


def all_of(estimated: dict, stock_types: dict, tensors: list[Tensor], budget: int) -> dict[str, dict[str, Type]]:
    """Each rival that exists at this budget of tensor data, by name."""
    made = {
        "stock": stock(stock_types, tensors, budget),
        "edges": edges(tensors, budget),
        "target_bpw": target_bpw(estimated, budget),
    }
    return {name: types for name, types in made.items() if types is not None}


def describe(types: dict[str, Type]) -> dict[str, int]:
    """{type: how many tensors}, largest type first."""
    return {kind.name: sum(k == kind for k in types.values()) for kind in table.TYPES if kind in types.values()}
