"""The table of a model that is not run: relative errors from weights and imatrix, or from a config alone, times priors.

Quantizing a matrix moves its output by a share of the output's own size:

    error(type) = sum of importance_j (round(w)_ij - w_ij)^2  /  sum of importance_j w_ij^2      (over rows and experts)

and what such a share does to the logits depends on what the matrix is and where it stands. That factor was measured on
small models (`fit`, configs/quant_priors.json): median over tensors of damage / error, by kind and place.
"""

import math
import re
from pathlib import Path

import numpy as np

from kxl.base import forms
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, shown
from kxl.quant import policy
from kxl.quant.imatrix import Entry
from kxl.quant.policy import Tensor, Type
from kxl.search import ggml, table, taps
from kxl.search.allocate import Table

PRIORS = ROOT / "configs" / "quant_priors.json"


def place_of(name: str, blocks: int) -> tuple[str, str]:
    """(kind, place) of a tensor: ("ffn_down_exps", "last"), ("token_embd", "-")."""
    match = re.match(r"blk\.(\d+)\.(.+)\.weight$", name)
    if not match:
        return name.removesuffix(".weight"), "-"
    number = int(match[1])
    return match[2], "first" if number == 0 else "last" if number == blocks - 1 else "between"


def input_error(kind: Type) -> float:
    """Mean square error of a product's input that llama.cpp rounds on CPUs, relative to its mean square.

    For normally distributed values: codes are steps of max / 127, and the expected square of the largest of n is about
    2 ln n - ln ln n - 1.
    """
    if kind in (Type.BF16, Type.F16, Type.F32):
        return 0.0
    block = taps.input_block(kind)
    largest = 2 * math.log(block) - math.log(math.log(block)) - 1
    return largest / 127**2 / 12


def relative_errors(tensor: Tensor, data: np.ndarray, entry: Entry | None, sample: int) -> tuple[dict, dict]:
    """({type: relative error}, {type: error in the output's own units}) of a tensor from its weights.

    data: BF16 or F32 weights as GGUFReader has them; entry: the imatrix's. At most `sample` weights are quantized,
    whole rows at equal distances, the same of each expert.
    """
    columns, rows = tensor.shape[:2]
    experts = tensor.shape[2] if len(tensor.shape) > 2 else 1
    data = data.view(np.uint16 if tensor.type == Type.BF16 else np.float32).reshape(experts, rows, columns)
    count = max(1, min(rows, sample // (columns * experts)))
    places = np.linspace(0, rows - 1, count).astype(int)
    used = entry.counts / entry.counts.sum() if entry is not None else np.ones(1) / experts
    # Types that no search would choose at this width as well: priors for other widths come from them.
    kinds = [k for k in table.TYPES if columns % policy.GGML_QUANT_SIZES[k][0] == 0 and k != Type.BF16]
    errors, size = dict.fromkeys(kinds, 0.0), 0.0
    for expert in range(experts):
        part = np.ascontiguousarray(data[expert, places])
        weights = (part.astype(np.uint32) << 16).view(np.float32) if part.dtype == np.uint16 else part
        importance = taps.importance_of(entry, expert)
        weigh = np.ones(columns) if importance is None else importance.astype(float)
        share = used[expert] if len(used) > 1 else 1.0
        size += share * float((weigh * weights.astype(float) ** 2).sum())
        for kind in kinds:
            moved = ggml.rounded(weights, kind, importance).astype(float) - weights
            errors[kind] += share * float((weigh * moved**2).sum())
    scale = rows / count
    return {k: e / size for k, e in errors.items()}, {k: e * scale for k, e in errors.items()}


def cells_of(tensor: Tensor, errors: dict[str, float], priors: dict, blocks: int) -> dict:
    """{type: {"bytes", "damage"}} of one tensor from its relative errors (by type name)."""
    factor = factor_of(tensor.name, blocks, priors)
    cells = {}
    for kind in table.fitting(tensor.shape[0]):
        error = 0.0 if kind == Type.BF16 else errors[kind.name] + input_error(kind)
        cells[kind.name] = {
            "bytes": policy.nbytes(tensor.shape, kind),
            "damage": table.rounded(factor * error),
            "flips": 0.0,
        }
    return cells


def factor_of(name: str, blocks: int, priors: dict) -> float:
    """Nats per relative error of a tensor. UserError for a kind that no measured model had."""
    kind, place = place_of(name, blocks)
    known = priors["factors"]
    if kind == "output" and kind not in known:
        kind = "token_embd"
    if kind not in known:
        raise UserError(
            f"{shown(PRIORS)}: has no factor for {kind} ({name}); it knows {', '.join(sorted(known))}. "
            "Measure this model itself: make sensitivity"
        )
    places = known[kind]
    return places.get(place) or float(np.exp(np.mean(np.log(list(places.values())))))


def read_priors(path: Path = PRIORS) -> dict:
    """{"factors": {kind: {place: nats per relative error}}, "errors": {type: relative error of ordinary weights}}."""
    priors = read_json(path)
    form = {"factors": {"+": {"+": float}}, "errors": {"+": float}}
    forms.check(priors, form, shown(path), "make it again with scripts/search_fit_priors.py")
    return priors


def loss_by_part(sensitivity: dict) -> tuple[float, float]:
    """(nats by damage, nats by flips) of a measured model, as they count where all tensors have five bits."""
    rows = [entry["types"] for entry in sensitivity["tensors"].values()]
    five = [row.get("Q5_K") or row.get("Q5_1") or {} for row in rows]
    known = Table.of(sensitivity)
    return known.slopes(*(sum(cell.get(part, 0.0) for cell in five) for part in ("damage", "flips")))


def fit(measured: dict[str, tuple[dict, dict]]) -> dict:
    """Priors out of models that were measured.

    measured: {model: (results of a sensitivity report, {tensor: {type name: relative error}})}.
    """
    factors, errors = {}, {}
    for sensitivity, relative in measured.values():
        blocks = 1 + max(int(n.split(".")[1]) for n in sensitivity["tensors"] if n.startswith("blk."))
        scale, slope = loss_by_part(sensitivity)
        for name, entry in sensitivity["tensors"].items():
            found = []
            for kind, cell in entry["types"].items():
                if kind != "BF16" and cell["damage"] > 0:
                    loss = scale * cell["damage"] + slope * cell.get("flips", 0.0)
                    found.append(math.log(loss / (relative[name][kind] + input_error(Type[kind]))))
            for kind, error in relative[name].items():
                errors.setdefault(kind, []).append(math.log(error))
            kind, place = place_of(name, blocks)
            factors.setdefault(kind, {}).setdefault(place, []).append(float(np.mean(found)))
    return {
        "factors": {
            kind: {place: table.rounded(math.exp(np.median(logs)), 3) for place, logs in places.items()}
            for kind, places in factors.items()
        },
        "errors": {kind: table.rounded(math.exp(np.median(logs)), 3) for kind, logs in errors.items()},
    }
