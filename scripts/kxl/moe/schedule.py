"""What a training step is given by its number alone: its rows and its learning rate; and how many steps there are.

The order of training is a permutation per epoch that depends on seed and epoch alone, so a position in the data is a
step number, and a run that was stopped goes on with the rows and the rate that it would have had.
"""

import math

import numpy as np

from kxl.base.cli import UserError


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
