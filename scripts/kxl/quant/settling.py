"""When an importance matrix has settled: two halves of the text lead to the same one.

What llama-quantize takes of it are the columns' mean squared inputs, for each expert of each matrix. A column counts by
its share of the whole, so two matrices are compared as shares: half the sum of their differences, 0 for equal ones and
1 for ones that have nothing in common (the total variation distance).
"""

import numpy as np

from kxl.quant.imatrix import Entry

COMPARED = 95  # percentile over all experts of all matrices: the few that saw least do not decide alone


def added(*matrices: dict[str, Entry]) -> dict[str, Entry]:
    """One importance matrix of several, of the same model: what went in is added up."""
    first = matrices[0]
    return {
        name: Entry(
            np.sum([matrix[name].sums.astype(np.float64) for matrix in matrices], axis=0),
            np.sum([matrix[name].counts for matrix in matrices], axis=0),
        )
        for name in first
        if all(name in matrix for matrix in matrices)
    }


def disagreement(one: dict[str, Entry], other: dict[str, Entry]) -> float:
    """How far two importance matrices of one model differ, 0 to 1; 1 where an expert has no token in either."""
    distances = []
    for name, entry in one.items():
        pairs = zip(entry.sums, other[name].sums) if name in other else [(entry.sums[0], 0 * entry.sums[0])]
        distances += [_distance(a, b) for a, b in pairs]
    return float(np.percentile(distances, COMPARED)) if distances else 1.0


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    if not a.sum() or not b.sum():
        return 1.0
    return float(np.abs(a / a.sum() - b / b.sum()).sum() / 2)


def halves(parts: list[dict[str, Entry]]) -> float:
    """Disagreement of every other part with the rest; parts from all over the text are in both."""
    return disagreement(added(*parts[::2]), added(*parts[1::2]))
