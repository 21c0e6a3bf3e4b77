"""A JSON value with something odd at one of its places, or nothing there: what reads it takes it or names the place."""

import copy
import math
import random
from collections.abc import Iterator

ODD = [None, [], {}, "x", -1, 1e999, math.nan, 10**400, True, "\ud800", [["a"]], {"a": {"b": 1}}, [None], 0]


def places(value, above=()) -> Iterator[tuple]:
    """Every place in a JSON value; of a list the first two alone."""
    yield above
    inside = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, item in inside:
        yield from places(item, (*above, key))


def changed(value, place: tuple, other):
    """A copy with `other` at a place."""
    value = copy.deepcopy(value)
    if not place:
        return other
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = other
    return value


def lacking(value, place: tuple):
    """A copy without a place."""
    value = copy.deepcopy(value)
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    del inner[place[-1]]
    return value


def damaged(value, count: int, seed: int = 0) -> Iterator:
    """`count` copies, each with one place lost or odd, drawn by `seed`."""
    rng, everywhere = random.Random(seed), [place for place in places(value) if place]
    for _ in range(count):
        place = rng.choice(everywhere)
        yield lacking(value, place) if rng.random() < 0.2 else changed(value, place, rng.choice(ODD))
