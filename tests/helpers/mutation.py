"""Small damage of the kinds that happen: cut, doubled, swapped, another type, an odd character. It repeats by seed."""

import copy
import random

PIECES = (
    *"{}[]()<>\"'`,:=\\/ \n\t\0",
    "\ud83d",
    "\u2028",
    "\ufeff",
    "é",
    "</think>",
    "<think>",
    "<tool_call>",
    "<|tool_call_start|>",
    "<|tool_call_end|>",
    "NaN",
    "1e999",
    "null",
    "9" * 50,
    "[" * 30,
    "```\n",
)
VALUES = (None, True, False, 0, -1, 2**70, 1.5, float("nan"), float("inf"), "", "x", "\ud800", [], {}, [[]], {"": None})


def text(rng: random.Random, whole: str) -> str:
    """`whole` with one to four damages."""
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(whole) + 1)
        end = min(len(whole), start + rng.choice((0, 1, 1, 2, 5, 20)))
        kind = rng.randrange(5)
        if kind == 0:
            whole = whole[:start] + rng.choice(PIECES) + whole[start:]
        elif kind == 1:
            whole = whole[:start] + whole[end:]
        elif kind == 2:
            whole = whole[:end] + whole[start:]
        elif kind == 3:
            whole = whole[:start] + rng.choice(PIECES) + whole[end:]
        else:
            whole = whole[:start] if rng.random() < 0.3 else whole[:start] + whole[start:end][::-1] + whole[end:]
    return whole


def data(rng: random.Random, whole: bytes, within: int | None = None) -> bytes:
    """Bytes with one to four damages in the first `within` of them."""
    made = bytearray(whole)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(min(len(made), within or len(made)) or 1)
        kind = rng.randrange(5)
        if kind == 0:
            made[start : start + 1] = bytes([rng.randrange(256)])
        elif kind == 1:
            size = rng.choice((4, 8))
            made[start : start + size] = rng.choice((0, 1, 2**31 - 1, 2**32 - 1)).to_bytes(size, "little")
        elif kind == 2:
            made[start : start + 8] = rng.choice((2**40, 2**63, 2**64 - 1)).to_bytes(8, "little")
        elif kind == 3:
            del made[start : start + rng.randint(1, 16)]
        else:
            made = made[:start] if rng.random() < 0.3 else made[:start] + made[start : start + 8] + made[start:]
    return bytes(made)


def value(rng: random.Random, whole):
    """A JSON value with one to four members changed, lost, renamed or doubled."""
    whole = copy.deepcopy(whole)
    for _ in range(rng.randint(1, 4)):
        holder, key = _member(rng, whole)
        if holder is None:
            return rng.choice(VALUES)
        kind = rng.randrange(5)
        if kind == 0 and isinstance(holder, dict):
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[text(rng, key)] = holder.pop(key)
        elif kind == 2 and isinstance(holder[key], str):
            holder[key] = text(rng, holder[key])
        elif kind == 3:
            holder[key] = [holder[key]] * rng.randint(1, 3)
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return whole


def _member(rng: random.Random, whole):
    """A random (list or object, key in it), or (None, None) where there is none."""
    places, left = [], [whole]
    while left:
        holder = left.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        places += [(holder, key) for key in keys]
        left += [holder[key] for key in keys]
    return rng.choice(places) if places else (None, None)
