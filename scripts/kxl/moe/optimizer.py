"""What becomes of an expert's gradient: a direction, clipped, times the learning rate, onto the int8 codes.

Adafactor (Shazeer and Stern 2018, arXiv 1804.04235) without momentum and with an absolute learning rate:
second moments are kept as one number per row and per column (15 KB beside a matrix of 3.7 MB), the direction
is G / sqrt(V), clipped to a root mean square of `update_clip`. "sgd" takes G itself. This clipping is by
matrix, which needs no gradient of the rest of the layer; `scale` takes what is known of the whole step.

Second moments forget by the number of updates, or with `decay_tokens` by the tokens that reached the expert (its
half-life): then the memory is as long for an expert that few tokens choose. With few_tokens "smaller", an expert that
n tokens reached moves sqrt(n / mean over the experts) as far as the rate says, and never farther (the square root rule
for batch sizes, Malladi et al. 2022, arXiv 2205.10287).

Either direction is G * r * c with a factor per row and per column, so the last pass over the matrix is one:
blocks of rows that stay in the cache, on all cores. An expert that saw no token keeps weights and moments.
The noise of a block depends on seed, step, pass, layer, expert, matrix and block alone, so a run is
reproducible whatever its threads do and resumes without a random state.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from kxl.moe import int8
from kxl.moe.core import MATRICES, MixedCore, expert_name, router_name
from kxl.moe.int8 import Int8Matrix
from kxl.moe.rounding import generator, subtract_bf16
from kxl.moe.streamed import NotFinite

ROWS = 128  # rows of one task: 1 MiB of float32 at 2,048 columns
DECAY = 0.8  # beta2 of update t is 1 - t^-0.8 (section 7.2)
TINY = 1e-30  # added to squared gradients (epsilon 1)
KINDS = ("adafactor", "sgd")
FEW = ("full", "smaller")  # how far an expert moves that few tokens reached
_threads = ThreadPoolExecutor(os.cpu_count())


@dataclass
class Moments:
    """Adafactor's factored second moment of one matrix."""

    rows: np.ndarray  # float32 [rows]: running mean of squared gradients along each row
    columns: np.ndarray  # float32 [columns]
    updates: int = 0  # or with decay_tokens the tokens that it has seen


class ExpertOptimizer:
    """Updates a MixedCore in place. settings: as settings.check_settings gives them."""

    def __init__(self, core: MixedCore, settings: dict):
        self.core, self.kind, self.rounding = core, settings["optimizer"], settings["rounding"]
        self.clip, self.seed = settings["update_clip"], settings["seed"]
        self.half_life, self.few = settings["decay_tokens"], settings["few_tokens"]
        self.moments: dict[str, Moments] = {}
        self.tokens: dict[int, np.ndarray] = {}
        self.begin(0, 0.0)

    def begin(self, step: int, learning_rate: float) -> None:
        """Start a step: its number (from 0) keys the noise; the counts of `report` begin anew."""
        self.step, self.rate, self.scale = step, learning_rate, 1.0
        self.codes = self.changed = self.matrices = self.clipped = 0

    def counted(self, layer: int, tokens: np.ndarray) -> None:
        """Be told how many tokens reached each expert of a layer, before its updates."""
        self.tokens[layer] = tokens

    def report(self) -> dict:
        """Of this step: share of the updated experts' int8 codes that changed, share of matrices that were clipped."""
        return {"codes_changed": self.changed / max(self.codes, 1), "clipped": self.clipped / max(self.matrices, 1)}

    def update(self, number: int, layer: int, expert: int | None, gradients: list) -> None:
        """Take the gradients (MLX arrays) of an expert's three matrices, or of the router, in pass `number`."""
        gradients = [np.array(gradient, copy=False) for gradient in gradients]
        if self.scale != 1:
            gradients = [gradient * np.float32(self.scale) for gradient in gradients]
        if expert is None:
            self._update_router(number, layer, gradients[0])
            return
        tasks = []
        for place, (matrix, gradient) in enumerate(zip(MATRICES, gradients)):
            name = expert_name(layer, expert, matrix)
            rows, columns = self._factors(name, gradient, layer, expert)
            for start in range(0, len(gradient), ROWS):
                part, key = slice(start, start + ROWS), (number, layer, expert, place, start)
                tasks.append(partial(self._move, self.core.experts[name], gradient, rows, columns, part, key))
            self.codes += gradient.size
        self.changed += sum(_threads.map(lambda task: task(), tasks))

    def _update_router(self, number: int, layer: int, gradient: np.ndarray) -> None:
        name = router_name(layer)
        rows, columns = self._factors(name, gradient, layer, None)
        delta = gradient * rows[:, None] * columns
        noise = self._noise(number, layer, self.core.config["num_experts"], 0, 0)
        subtract_bf16(self.core.plain[name], delta, noise)

    def _move(self, matrix: Int8Matrix, gradient, rows, columns, part: slice, key: tuple) -> int:
        """Lower the rows `part` of a matrix by gradient * rows * columns; how many codes changed."""
        delta = gradient[part] * columns
        delta *= rows[part, None]
        return int8.subtract(matrix, part, delta, self._noise(*key))

    def _noise(self, *key: int) -> np.random.BitGenerator | None:
        if self.rounding != "stochastic":
            return None
        return generator(self.seed, self.step, *key)

    def _reached(self, layer: int, expert: int | None) -> float:
        """Tokens that reached an expert in this step; of all of them for the router."""
        tokens = self.tokens[layer]
        return int(tokens.sum()) // self.core.config["num_experts_per_tok"] if expert is None else int(tokens[expert])

    def _decay(self, moments: Moments, layer: int, expert: int | None) -> np.float32:
        """The weight of this update in the second moments, 1 for the first (so that none is biased to zero)."""
        if not self.half_life:
            moments.updates += 1
            return np.float32(moments.updates**-DECAY)
        new = self._reached(layer, expert)
        moments.updates += new
        # 1 - 2^(-new / half-life) over 1 - 2^(-all / half-life)
        return np.float32(
            np.expm1(-np.log(2) * new / self.half_life) / np.expm1(-np.log(2) * moments.updates / self.half_life)
        )

    def _rate(self, layer: int, expert: int | None) -> float:
        if self.few == "full" or expert is None:
            return self.rate
        return self.rate * min(1.0, (self._reached(layer, expert) / self.tokens[layer].mean()) ** 0.5)

    def _factors(
        self, name: str, gradient: np.ndarray, layer: int, expert: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(r [rows], c [columns]): what to subtract is gradient * r * c. Takes the gradient into the moments."""
        count = gradient.size
        by_row, by_column = _squares(gradient)
        if not np.isfinite(by_row.sum(dtype=np.float64)):
            raise NotFinite(f"the gradient of {name} is not finite")
        if self.kind == "sgd":
            rows, columns = np.ones(gradient.shape[0], np.float32), np.ones(gradient.shape[1], np.float32)
            mean_square = by_row.sum(dtype=np.float64) / count
        else:
            moments = self.moments.setdefault(name, Moments(np.zeros_like(by_row), np.zeros_like(by_column)))
            new = self._decay(moments, layer, expert)
            moments.rows += new * (by_row / np.float32(gradient.shape[1]) + np.float32(TINY) - moments.rows)
            moments.columns += new * (by_column / np.float32(gradient.shape[0]) + np.float32(TINY) - moments.columns)
            # V = rows x columns / mean(rows)
            rows = np.sqrt(moments.rows.mean(dtype=np.float64) / moments.rows).astype(np.float32)
            columns = 1 / np.sqrt(moments.columns)
            weighted = _in_blocks(gradient, lambda g: np.einsum("ij,ij,j->i", g, g, np.square(columns)))
            mean_square = float(np.concatenate(weighted) @ np.square(rows, dtype=np.float64)) / count
        scale = self._rate(layer, expert)
        self.matrices += 1
        if mean_square > self.clip**2:
            scale *= self.clip / mean_square**0.5
            self.clipped += 1
        return rows * np.float32(scale), columns

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, int]]:
        """(float32 arrays by name, number of updates by matrix): all that a resumed run needs."""
        held = sorted(self.moments.items())
        arrays = {f"{name}.{part}": getattr(moments, part) for name, moments in held for part in ("rows", "columns")}
        return arrays, {name: moments.updates for name, moments in held}

    def restore(self, arrays: dict[str, np.ndarray], updates: dict[str, int]) -> None:
        self.moments = {
            name: Moments(arrays[f"{name}.rows"], arrays[f"{name}.columns"], count) for name, count in updates.items()
        }


def _in_blocks(matrix: np.ndarray, function) -> list:
    return list(_threads.map(lambda start: function(matrix[start : start + ROWS]), range(0, len(matrix), ROWS)))


def _squares(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of squares by row and by column, added up in a fixed order."""
    parts = _in_blocks(matrix, lambda g: (np.einsum("ij,ij->i", g, g), np.einsum("ij,ij->j", g, g)))
    return np.concatenate([rows for rows, _ in parts]), np.sum([columns for _, columns in parts], axis=0)
