"""Rows as a training step takes them, and what a step is given by its number alone: its rows and its learning rate.

Rows are tokens and the spans that are scored, read from moe_encode_rows.py's file, one JSON object per line:
{"row": line of the source, "tokens": [ids], "scored": [[start, end], ...]}.

The order of training is a permutation per epoch that depends on seed and epoch alone, so a position in the data is a
step number, and a run that was stopped goes on with the rows and the rate that it would have had.
"""

import math
from pathlib import Path

import numpy as np

from kxl.base import jsonl
from kxl.base.cli import UserError
from kxl.base.files import shown


def read(path: Path, vocabulary: int, max_tokens: int) -> list[dict]:
    """[{"row": int, "tokens": int32 [N], "mask": bool [N]}]. UserError names the line that does not fit."""
    rows = []
    for where, given in jsonl.objects(path, "scripts/moe_encode_rows.py"):
        try:
            tokens, mask = np.array(given["tokens"], np.int32), np.zeros(len(given["tokens"]), bool)
            for start, end in given["scored"]:
                mask[start:end] = True
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{where}: is no encoded row ({type(error).__name__}: {error}); make the file again with "
                "scripts/moe_encode_rows.py"
            ) from None
        if len(tokens) > max_tokens:
            raise UserError(
                f"{where}: {len(tokens)} tokens exceed max_tokens {max_tokens}; encode the rows again with this config"
            )
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < vocabulary:
            raise UserError(
                f"{where}: token {int(tokens.max())} is not in the model's vocabulary of {vocabulary}; the rows were "
                "encoded for another model"
            )
        if not mask[1:].any():
            raise UserError(
                f"{where}: no scored token; encode the rows again with scripts/moe_encode_rows.py, which leaves such "
                "rows out"
            )
        rows.append({"row": given.get("row", jsonl.number_of(where)), "tokens": tokens, "mask": mask})
    if not rows:
        raise UserError(f"{shown(path)}: holds no row")
    return rows


def steps_of(settings: dict, rows: int) -> int:
    """Number of steps: `steps`, or `epochs` times the batches of an epoch."""
    if rows < settings["batch"]:
        raise UserError(f"{rows} rows fill no batch of {settings['batch']}; add rows or lower batch")
    return settings["steps"] or settings["epochs"] * (rows // settings["batch"])


def batch_of(step: int, count: int, size: int, seed: int) -> tuple[int, list[int]]:
    """(epoch, places of the rows) of a step, from 0, of `count` rows in batches of `size`.

    Rows that fill no batch at an epoch's end wait for another epoch's order.
    """
    epoch, place = divmod(step, count // size)
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return epoch, order[place * size : (place + 1) * size].tolist()


def learning_rate(settings: dict, step: int, steps: int) -> float:
    """Learning rate of a step, from 0: linear warm-up, then a half cosine down to `final_rate` of the peak."""
    warm = settings["warmup_steps"]
    if step < warm:
        return settings["learning_rate"] * (step + 1) / warm
    share = (step - warm) / max(steps - warm - 1, 1)
    low = settings["final_rate"]
    return settings["learning_rate"] * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(share, 1))))
