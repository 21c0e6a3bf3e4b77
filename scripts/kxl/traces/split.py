"""Which rows train, which validate, which test: by content, in groups that are never torn apart.

Rows of one task are one group: the same `task` column, or a user's first request in the same words. Groups are
taken in the order of a hash of their content; the first fill test, the next valid, the rest is train. So the
order of the input files does not matter, every machine makes the same split, and a row that is added later moves
only groups at a border. A group too large for what a split still needs goes to train.
"""

import hashlib

TRAIN, VALID, TEST = "train", "valid", "test"


def wanted(rows: int, parts: dict[str, int]) -> dict[str, int]:
    """How many of `rows` go where, in the proportions of `parts`; three rows or more leave no split empty."""
    total = sum(parts.values())
    counts = {
        split: max(round(rows * parts[split] / total), 1 if rows >= 3 and parts[split] else 0)
        for split in (TEST, VALID)
    }
    return {TRAIN: rows - sum(counts.values()), **counts}


def assign(hashes: list[str], keys: list[list[str]], parts: dict[str, int]) -> list[str]:
    """The split of each row: `hashes` name the contents, rows that share one of their `keys` are one task."""
    groups = _groups(keys)
    order = sorted(
        groups, key=lambda group: hashlib.sha256("".join(sorted(hashes[row] for row in group)).encode()).hexdigest()
    )
    splits = [TRAIN] * len(hashes)
    # Groups alone in the world stay in train: with fewer groups than splits there is nothing to hold out.
    room = {split: count for split, count in wanted(len(hashes), parts).items() if split != TRAIN}
    for group in order if len(groups) > 1 else []:
        for split in (TEST, VALID):
            if len(group) <= room[split]:
                room[split] -= len(group)
                for row in group:
                    splits[row] = split
                break
    return splits


def _groups(keys: list[list[str]]) -> list[list[int]]:
    """Rows by task: the connected components of sharing a key (union-find with path halving)."""
    parent = list(range(len(keys)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first = {}
    for row, own in enumerate(keys):
        for key in own:
            parent[root(row)] = root(first.setdefault(key, row))
    groups = {}
    for row in range(len(keys)):
        groups.setdefault(root(row), []).append(row)
    return list(groups.values())
