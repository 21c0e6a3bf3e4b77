"""The table that a search reads: what each tensor costs in bytes and in damage, by type.

    {"tensors": {NAME: {"shape": [...], "types": {TYPE: {"bytes", "damage", "flips", "noise"}}}}}

`damage` and `flips` of a whole policy are sums over its tensors; kxl/search/allocate.py makes nats of them.
"""

import math

import numpy as np

from kxl.quant import policy
from kxl.quant.policy import TYPES as KNOWN
from kxl.quant.policy import Type

# Candidates, largest first. Left out are types that lose to a smaller or equal one on every tensor that was tried
# (Q4_0, Q4_1).
TYPES = tuple(
    KNOWN[name] for name in "bf16 q8_0 q6_k q5_1 q5_k q5_0 q4_k iq4_nl iq4_xs q3_k iq3_s q2_k".split() if name in KNOWN
)
# Types that CPUs and Metal compute slowly: their codes are looked up in tables.
SLOW = ("IQ3_S",)


def fitting(columns: int) -> list[Type]:
    """The candidate types whose blocks fill rows of `columns`; where K-quants do, not their equals in size of 32."""
    fit = [kind for kind in TYPES if columns % policy.GGML_QUANT_SIZES[kind][0] == 0]
    return [kind for kind in fit if Type.Q4_K not in fit or kind not in (Type.Q5_0, Type.IQ4_NL)]


def combined(tensors: dict, parts: list[dict]) -> dict:
    """Means over chunks, of sums by `search_measure_sensitivity.chunk_sums`; noise is the mean's relative error."""
    scored = np.array([part["scored"] for part in parts], dtype=float)
    made = {}
    for name, shape in tensors.items():
        types = {}
        for kind in fitting(shape[0]):
            cell = {"bytes": policy.nbytes(tuple(shape), kind), "damage": 0.0, "flips": 0.0, "noise": 0.0}
            if kind != Type.BF16:
                sums = np.array([part["damage"].get(name, {}).get(kind.name, 0.0) for part in parts]) / 2
                flips = np.array([part["flips"].get(name, {}).get(kind.name, 0.0) for part in parts])
                cell["damage"], cell["flips"] = sums.sum() / scored.sum(), flips.sum() / scored.sum()
                if len(parts) > 1 and sums.sum():
                    spread = (sums / scored).std(ddof=1) / math.sqrt(len(parts))
                    cell["noise"] = float(spread / cell["damage"])
            types[kind.name] = {key: rounded(value) for key, value in cell.items()}
        made[name] = {"shape": list(shape), "types": types}
    return {"tensors": made}


def uneven(cells: dict[str, dict[Type, dict]]) -> dict[str, dict[str, Type]]:
    """Whole policies that tell damages and exchanges apart: {NAME: {tensor: Type}}.

    Exchanges come from what stands before a router, so little at the beginning and little at the end differ in them.
    """
    blocks = 1 + max(int(name.split(".")[1]) for name in cells if name.startswith("blk."))

    def coarse(name: str, smallest: str, of_32: str) -> Type:
        return Type[smallest] if Type[smallest] in cells[name] else Type[of_32]

    def early(name: str) -> bool:
        return not name.startswith("blk.") or int(name.split(".")[1]) < blocks // 2

    six = {name: coarse(name, "Q6_K", "Q8_0") for name in cells}
    four = {name: coarse(name, "Q4_K", "IQ4_NL") for name in cells}
    high = dict.fromkeys(cells, Type.Q8_0)
    return {
        "six": six,
        "four": four,
        "four_early": {name: four[name] if early(name) else high[name] for name in cells},
        "four_late": {name: high[name] if early(name) else four[name] for name in cells},
    }


def fitted_scale(policies: list[dict]) -> dict:
    """{"saturation", "exchanges"} (kxl/search/allocate.py) of least relative error, from `measured`, `damage`, `flips`.

    Damages have no factor of their own: where errors are small, second order is what they count.
    """
    measured = np.array([one["measured"] for one in policies])
    damage = np.array([one["damage"] for one in policies])
    flips = np.sqrt([one["flips"] for one in policies]) / measured
    made = []
    for saturation in np.geomspace(damage.min() / 100, damage.max() * 1000, 2000):
        left = 1 - saturation * np.log1p(damage / saturation) / measured
        exchanges = max(0.0, flips @ left / (flips @ flips)) if flips.any() else 0.0
        made.append((float(((left - exchanges * flips) ** 2).sum()), float(saturation), float(exchanges)))
    _, saturation, exchanges = min(made)
    return {"saturation": rounded(saturation), "exchanges": rounded(exchanges)}


def rounded(value: float, digits: int = 5) -> float:
    """`value` with some significant digits, so that a report is readable; whole numbers stay as they are."""
    return value if isinstance(value, int) or not value else float(f"{value:.{digits}g}")
