"""Several rows as one sequence without padding, in which what they share from the beginning stands once.

    pack = packing.pack([(tokens, mask), ...])

Rows that offer the same tools begin with the same hundreds of tokens; their requests are a few dozen. The rows of a
pack form a tree: a token is there once for each different beginning, its position is its depth, and it sees its
ancestors alone. What the model computes at a token is then exactly what it computes in the row by itself, and so is the
gradient, for less work. Loss stands at the places that the model emits, once for each row.
"""

import random
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pack:
    """tokens, positions int64 [N]; visible bool [N, N], True where the row's token sees the column's.

    places, targets int64 [M]: where logits are needed, and which token has to follow there. Behind the tokens of the
    rows may stand some that see themselves alone and that nobody sees.
    """

    tokens: np.ndarray
    positions: np.ndarray
    visible: np.ndarray
    places: np.ndarray
    targets: np.ndarray


def pack(rows: list[tuple[np.ndarray, np.ndarray]], multiple: int = 1) -> Pack:
    """Rows (tokens [n], mask [n]: True where the token has loss), in an order that puts alike beginnings together.

    multiple: N is filled up to one of it, so that packs have few different sizes.
    """
    tokens, positions, parents, places, targets = [], [], [], [], []
    children: dict[tuple[int, int], int] = {}
    for row, mask in rows:
        node = -1
        for depth, (token, target, has_loss) in enumerate(zip(row[:-1].tolist(), row[1:].tolist(), mask[1:].tolist())):
            if (node, token) not in children:
                children[node, token] = len(tokens)
                parents.append(node)
                tokens.append(token)
                positions.append(depth)
            node = children[node, token]
            if has_loss:
                places.append(node)
                targets.append(target)
    size = -(-len(tokens) // multiple) * multiple
    visible = np.eye(size, dtype=bool)
    for place, parent in enumerate(parents):
        if parent >= 0:
            visible[place] |= visible[parent]
    tokens, positions = (
        np.pad(np.array(numbers, np.int64), (0, size - len(parents))) for numbers in (tokens, positions)
    )
    return Pack(tokens, positions, visible, np.array(places), np.array(targets))


def new_tokens(before: list[np.ndarray], row: np.ndarray) -> int:
    """How many tokens a row adds to a pack of the rows `before`."""
    shared = 0
    for other in before:
        length = min(len(row), len(other)) - 1
        different = np.nonzero(row[:length] != other[:length])[0]
        shared = max(shared, int(different[0]) if len(different) else length)
    return len(row) - 1 - shared


def plan(rows: list[np.ndarray], most: int, seed: str) -> list[list[int]]:
    """Places of the rows, in packs of at most `most` tokens (a longer row is a pack by itself), drawn from `seed`.

    Rows that share half of themselves with their neighbour, in the order of their tokens, stay together.
    """
    rng = random.Random(seed)
    order = sorted(range(len(rows)), key=lambda place: rows[place].tolist())
    groups = [[order[0]]]
    for before, place in zip(order, order[1:]):
        alone = new_tokens([rows[before]], rows[place])
        groups[-1].append(place) if 2 * alone < len(rows[place]) else groups.append([place])
    rng.shuffle(groups)
    packs: list[list[int]] = [[]]
    size = 0
    for group in groups:
        for place in rng.sample(group, len(group)):
            added = new_tokens([rows[other] for other in packs[-1]], rows[place])
            if packs[-1] and size + added > most:
                packs.append([])
                size, added = 0, len(rows[place]) - 1
            packs[-1].append(place)
            size += added
    rng.shuffle(packs)
    return packs
