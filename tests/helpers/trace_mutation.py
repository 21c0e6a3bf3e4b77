"""Damaged JSON values, for readers that must take whatever comes: structure first, then bytes."""

import copy
import json
import random

ATOMS = [
    None, True, False, 0, -1, 1.5, 10**30, "", " ", "null", "x", [], {}, [[]], [None], {"": None}, "\ud800", "\x00",
    "<think>", "</think>", "<think>a</think>", "<tool_call>", "</tool_call>", "<tool_response>", "<tools>", "é",
    "<|im_end|>", "```", "assistant", "tool", "user", "system", "arguments", "function", "[{",
    '{"a": 1}', '{"name": "terminal"}',
    {"type": "object"}, {"$ref": "#"}, {"type": "text", "text": "x"}, ["a", 1, {}],
]  # fmt: skip
PIECES = [b"", b'"', b"{", b"}", b"[", b"]", b",", b"\\", b"\n", b"\xff", b"\xc3", b"null", b"NaN", b"1e999",
          b"</think>", b"\\ud800", b"\x00", b"<tool_call>", b"\\u0000", b"[" * 400, b"-", b"0" * 5000]  # fmt: skip


def places(value, path=()):
    """The path of every node below the top."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield (*path, key)
        yield from places(one, (*path, key))


def at(value, path):
    for key in path:
        value = value[key]
    return value


def damaged(value, rng: random.Random, times: int = 3):
    """A copy of a JSON value with one to `times` things wrong in its structure."""
    value = copy.deepcopy(value)
    for _ in range(rng.randint(1, times)):
        found = list(places(value))
        if not found:
            return copy.deepcopy(rng.choice(ATOMS))
        path = rng.choice(found)
        parent, key = at(value, path[:-1]), path[-1]
        what = rng.randrange(8)
        if what == 0:
            del parent[key]
        elif what == 1:
            parent[key] = copy.deepcopy(at(value, rng.choice(found)))
        elif what == 2:
            parent[key] = [parent[key]]
        elif what == 3:
            parent[key] = json.dumps(parent[key])
        elif what == 4 and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        elif what == 5 and isinstance(parent, dict):
            parent[rng.choice([*(atom for atom in ATOMS if isinstance(atom, str)), "value", "content"])] = parent.pop(
                key
            )
        elif what == 6 and isinstance(parent[key], str):
            text = parent[key]
            cut = rng.randint(0, len(text))
            parent[key] = text[:cut] + rng.choice([atom for atom in ATOMS if isinstance(atom, str)]) + text[cut:]
        else:
            parent[key] = copy.deepcopy(rng.choice(ATOMS))
    return value


def damaged_line(value, rng: random.Random) -> bytes:
    """A JSON line, its structure damaged, or its bytes, or both; never two lines."""
    line = json.dumps(damaged(value, rng) if rng.random() < 0.8 else value, ensure_ascii=rng.random() < 0.5)
    data = line.encode("utf-8", "surrogatepass")
    if rng.random() < 0.3:
        for _ in range(rng.randint(1, 3)):
            cut, end = sorted(rng.randint(0, len(data)) for _ in "ab")
            data = data[:cut] + rng.choice(PIECES) + data[rng.choice([cut, end]) :]
    return data.replace(b"\n", b" ")
