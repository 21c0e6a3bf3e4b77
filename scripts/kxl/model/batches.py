"""Rows of a next-token training as one batch, padded on the right: the one padder of what MLX trains.

    batch = make_batch([(tokens, mask), ...])
    batch.tokens[row, i]      # what the model reads at place i, batch.targets[row, i] what it has to say there

The tiny model, which torch trains, has its own in kxl/tiny/batches.py.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Batch:
    """tokens and targets int32 [B, L]; weights float32 [B, L], of targets; real bool [B, L]: not padding."""

    tokens: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    real: np.ndarray


def make_batch(examples: list[tuple[np.ndarray, np.ndarray]]) -> Batch:
    """Examples (tokens [N], mask or weights [N]), shifted by one and padded to the longest: L is its N - 1."""
    length = max(len(tokens) for tokens, _ in examples) - 1
    ids, targets = np.zeros((2, len(examples), length), np.int32)
    weights, real = np.zeros((len(examples), length), np.float32), np.zeros((len(examples), length), bool)
    for row, (tokens, mask) in enumerate(examples):
        n = len(tokens) - 1
        ids[row, :n], targets[row, :n], weights[row, :n], real[row, :n] = tokens[:-1], tokens[1:], mask[1:], True
    return Batch(ids, targets, weights, real)
