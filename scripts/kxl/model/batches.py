"""Rows of a next-token training as one batch, padded on the right: the one padder of what MLX trains.

    batch = make_batch([(tokens, mask), ...])
    batch.tokens[row, i]      # what the model reads at place i, batch.targets[row, i] what it has to say there

The tiny model, which torch trains, has its own in kxl/tiny/batches.py.

Shares of a batch: parts that are computed by themselves and added in one fixed order, whoever computes them.

    count, own = own_shares(settings, rank, ranks)    # of all shares of a batch, those that this process takes
    add_in_pairs(part, [share, ...])                  # part(share), summed over the shares of one process
    add_over_ranks(array, world, in_pairs)            # the same, summed over the processes

Floating-point sums depend on their order. With `shares` a power of two the order is a tree: a share is added to its
neighbour, that sum to its neighbour's, and so on. Processes take neighbours, as many each, so what a process adds is a
branch of that tree, and the whole is the same to the bit for one process and for any number that divides `shares`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import mlx.core as mx
import numpy as np

from kxl.base.cli import UserError


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


Share = TypeVar("Share")
Shares = Batch | Sequence[Batch]  # a batch as a whole, or in the shares that this process takes


def as_shares(batch: Shares) -> Sequence[Batch]:
    """The shares of a batch; a whole one is its only share."""
    return [batch] if isinstance(batch, Batch) else batch


def own_shares(settings: dict, rank: int, ranks: int) -> tuple[int, range]:
    """(number of shares of a batch, those of process `rank`): share s has the rows s, s + number, ... of the batch.

    With `shares` 1 each process takes one. UserError when batch or shares cannot be shared by `ranks` processes.
    """
    batch, count = settings["batch"], settings["shares"]
    if batch % ranks:
        raise UserError(
            f"a batch of {batch} rows cannot be shared by {ranks} processes; set batch to a multiple of {ranks}"
        )
    if count == 1:
        count = ranks
    if count % ranks:
        raise UserError(
            f"{count} shares of a batch cannot be shared by {ranks} processes; start as many as divide them, or set "
            "shares to 1, with which the bits depend on the number of processes"
        )
    each = count // ranks
    return count, range(rank * each, (rank + 1) * each)


def add_in_pairs(part: Callable[[Share], list[mx.array]], shares: Sequence[Share]) -> list[mx.array]:
    """Sums of the arrays of part(share): the first half of the shares', plus the second half's.

    Parts may be lazy: of one share they are returned so, and a sum makes one array of the second half at a time.
    """
    if len(shares) == 1:
        return part(shares[0])
    half = len(shares) // 2
    first = add_in_pairs(part, shares[:half])
    mx.eval(first)
    second, sums = add_in_pairs(part, shares[half:]), []
    while first:
        sums.append(first.pop(0) + second.pop(0))  # held by nobody else, so that the sum takes the memory of one
        mx.eval(sums[-1])
    return sums


def add_over_ranks(array: mx.array, world: mx.distributed.Group | None, in_pairs: bool) -> mx.array:
    """The sum over all processes, the same bits on each; `in_pairs` goes on with the tree of add_in_pairs.

    What comes from other processes lies row by row, so `in_pairs` lays a single process's arrays out so, too: numpy
    adds an array up in the order in which it lies.

    Of two processes any order gives the same bits. A ring of more adds each piece of an array in another order, so the
    arrays are gathered there and added by each process: all of them are in memory for that moment.
    """
    if world is None or world.size() == 1:
        return mx.contiguous(array) if in_pairs else array
    if in_pairs and world.size() > 2:
        gathered = mx.distributed.all_gather(array[None], group=world, stream=mx.cpu)
        mx.eval(gathered)
        (array,) = add_in_pairs(lambda rank: [gathered[rank]], range(world.size()))
    else:
        array = mx.distributed.all_sum(array, group=world, stream=mx.cpu)
    mx.eval(array)  # the processes must come to each sum in the same order
    return array
