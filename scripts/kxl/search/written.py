"""A searched policy as an ordinary .tensor-types file, with its reasons in comments, and its entry in a plan."""

import re
from pathlib import Path

from kxl.base.cli import UserError
from kxl.base.files import read_json, shown, write_json, write_text
from kxl.quant import policy
from kxl.quant.policy import Tensor, Type
from kxl.search.allocate import Table

UNITS = {"gib": 2**30, "mib": 2**20, "g": 2**30, "m": 2**20, "": 2**30}
NAME = re.compile(r"[a-z][a-z0-9-]*")


def budget_bytes(text: str, parameters: int, header: int) -> int:
    """Bytes of a file: "5.7" or "5.7GiB", "8.3MiB", or "5.5bpw" (bits per weight of the tensors, the header beside).

    UserError for anything else.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    unit = match[2].lower() if match else None
    if match and unit == "bpw":
        return header + int(float(match[1]) * parameters / 8)
    if match and unit == "bytes":
        return int(float(match[1]))
    if not match or unit not in UNITS:
        raise UserError(f"the budget is {text!r}; write it as 5.7GiB, 8.3MiB, 5.5bpw, or 5.7 for GiB")
    return int(float(match[1]) * UNITS[unit])


def base_type(types: dict[str, Type], tensors: list[Tensor]) -> str:
    """The stock type that a file of these types is called after: the largest that does not exceed its bits."""
    shapes = {t.name: t.shape for t in tensors}
    weights = sum(policy.nbytes(shapes[name], Type.I8) for name in types)
    bits = 8 * sum(policy.nbytes(shapes[name], kind) for name, kind in types.items()) / weights
    wide = all(shapes[name][0] % 256 == 0 for name in types)
    named = (("Q8_0", 8.5), ("Q6_K", 6.5), ("Q5_K_M", 5.4), ("Q4_K_M", 4.5), ("Q3_K_M", 0.0))
    if not wide:
        named = (("Q8_0", 8.5), ("Q5_1", 5.9), ("Q5_0", 5.4), ("IQ4_NL", 0.0))
    return next(name for name, least in named if bits >= least)


def rules(types: dict[str, Type], table: Table) -> list[str]:
    """Lines of a .tensor-types file: a rule for each kind of tensor and type, its blocks in a group; reasons beside.

    Where a type is not in the table, as a hand-written policy may have it, the reason says so.
    """
    known = {name: table.cells[name].get(kind, {}) for name, kind in types.items()}
    total = sum(cell.get("damage", 0.0) for cell in known.values()) or 1.0
    groups: dict[tuple[str, Type], list[str]] = {}
    for name, kind in types.items():
        groups.setdefault((re.sub(r"^blk\.\d+\.", "blk.N.", name), kind), []).append(name)
    lines, heading = [], None
    for (pattern, kind), names in sorted(groups.items(), key=lambda item: (item[0][0], -_bits(item[0][1]))):
        if pattern != heading:
            heading = pattern
            lines.append(f"# {pattern.removeprefix('blk.N.').removesuffix('.weight')}")
        blocks = sorted((name.split(".")[1] for name in names if name.startswith("blk.")), key=int)
        escaped = re.escape(pattern).replace(r"\-", "-")
        if blocks:
            group = blocks[0] if len(blocks) == 1 else f"({'|'.join(blocks)})"
            escaped = escaped.replace("blk\\.N", f"blk\\.{group}")
        reason = "not in the table"
        if all(known[name] for name in names):
            share = sum(known[name]["damage"] for name in names) / total
            size = sum(known[name]["bytes"] for name in names)
            reason = f"{share:.1%} of the damage, {_size(size)}{_lower(table, names, kind)}"
        lines.append(f"^{escaped}$ = {kind.name.lower()}  # {reason}")
    return lines


def _lower(table: Table, names: list[str], kind: Type) -> str:
    """What the next smaller type would save and cost."""
    smaller = [
        k for k in table.cells[names[0]] if table.cells[names[0]][k]["bytes"] < table.cells[names[0]][kind]["bytes"]
    ]
    if not smaller:
        return "; the smallest type"
    other = max(smaller, key=lambda k: (table.cells[names[0]][k]["bytes"], -table.cells[names[0]][k]["damage"]))
    saved = sum(table.cells[n][kind]["bytes"] - table.cells[n][other]["bytes"] for n in names)
    cost = sum(table.cells[n][other]["damage"] - table.cells[n][kind]["damage"] for n in names)
    return f"; {other.name.lower()} would save {_size(saved)} and add {cost:.2g} nats"


def _size(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:,.0f} KiB"


def _bits(kind: Type) -> float:
    block, size = policy.GGML_QUANT_SIZES[kind]
    return size / block


def write(plan: Path, name: str, types: dict[str, Type], tensors: list[Tensor], table: Table, about: dict) -> Path:
    """Write NAME.tensor-types beside `plan` and enter it there; linted first. Returns the file's path.

    about: "model" (who it is for), "bytes" (predicted size of the file), "budget" (in bytes), "source" (the table),
    "choice" (lines on how it was chosen).
    UserError for a name that cannot be a file's, or a policy that lint refuses.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"NAME={name}: a policy's name is small letters, digits and hyphens, a letter first")
    path = plan.parent / f"{name}.tensor-types"
    entries = read_json(plan) if plan.exists() else {"policies": {}, "stock": []}
    base = base_type(types, tensors)
    predicted = f"; predicted mean KL divergence {table.predicted(types):.3g} nats" if table.knows(types) else ""
    text = "\n".join(
        [
            f"# {name}: found by search for {about['model']}, from {about['source']}.",
            f"# {about['bytes']:,} bytes of {about['budget']:,}{predicted}.",
            *(f"# {line}" for line in about["choice"]),
            "# Shares are of what all tensors do while each token keeps its experts; exchanges of experts come on top.",
            *rules(types, table),
            "",
        ]
    )
    write_text(path, text)
    entries["policies"][name] = {
        "base_type": base,
        "tensor_types": path.name,
        "budget_gib": {about["model"]: round(about["budget"] / 2**30, 4)},
        "made_for": {"name": about["model"], "fingerprint": policy.fingerprint(tensors)},
    }
    write_json(plan, entries)
    found = policy.assign(policy.load(name, plan), tensors)
    if wrong := [t for t, kind in types.items() if found[t] != kind]:
        raise UserError(
            f"{shown(path)}: {wrong[0]} was to be {types[wrong[0]].name}, the rules say {found[wrong[0]].name}"
        )
    return path
