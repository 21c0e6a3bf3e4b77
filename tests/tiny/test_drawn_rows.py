"""A seed draws the same rows today as when models/tiny was trained, whatever became of the code and the wordings.

Each digest is of rows that were drawn before the wordings moved from Python to datasets/tiny/forms. A wording that is
added, removed or put elsewhere in its list makes another: that is a new training set, and the digests change with it.
"""

import hashlib
import json
import random

import pytest

import repair_build_weak_set
import tiny_generate_suite
import tiny_train_tokenizer
from kxl.repair import rows as repair_rows
from kxl.tiny import contexts, drills, episodes, requests
from kxl.tiny import rows as tiny_rows
from kxl.tiny.answers import no_tool

PIECES = drills.Pieces(["alpha", "beta", "gamma"], ["beta"])
SHARES = tiny_rows.Shares(in_a_row=0.2, introductions=0.05)
FAILURES = [
    {"suite": "s", "id": "1", "wanted": "terminal", "called": "browser_navigate", "kind": "tool_call"},
    {"suite": "s", "id": "2", "wanted": "text", "called": "read_file", "kind": "finalization"},
]


def digest(value) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False, sort_keys=True).encode()).hexdigest()[:16]


def rows_of(rng, kind):
    """Contexts and rows of every kind: held-out ones, sequences, introductions."""
    for number in range(300):
        context = contexts.context(rng, kind)
        yield context
        names = contexts.tool_names(context)
        yield tiny_rows.row(rng, names, heldout=number % 5 == 0, shares=SHARES)


DRAWS = {
    **{f"{kind} rows": lambda rng, kind=kind: list(rows_of(rng, kind)) for kind in contexts.CONTEXTS},
    "drills": lambda rng: [
        tiny_rows.row(rng, contexts.ALL_TOOLS, simple=number % 2 == 0, pieces=PIECES) for number in range(400)
    ],
    "requests": lambda rng: [
        requests.request(rng, tool, number % 3 == 0) for tool in requests.SHARES for number in range(300)
    ],
    "answers": lambda rng: [no_tool(rng, number % 4 == 0) for number in range(1500)],
    "episodes": lambda rng: [make(rng) for make in (episodes.apart, episodes.in_a_row) for _ in range(200)],
    "suite": lambda rng: tiny_generate_suite.cases(100, 3),
    "tokenizer's corpus": lambda rng: tiny_train_tokenizer.corpus(200, 1),
    "repair rows": lambda rng: [
        repair_rows.draw(rng, purpose, failure)
        for purpose in repair_rows.PURPOSES
        for failure in FAILURES
        for _ in range(100)
    ],
    "weak rows": lambda rng: [
        make(rng) for make in (repair_build_weak_set.weak_row, repair_build_weak_set.right_row) for _ in range(80)
    ],
}
DIGESTS = {
    "bare rows": "5a0791e373160d03",
    "compact rows": "4bd8f65e9a94b2bc",
    "fixed rows": "0ae3f10ac6b6e3ec",
    "hermes_terminal rows": "549b6f1e8bce02a1",
    "hermes_files rows": "749927d9b119c480",
    "drills": "18d2bd8ce9e0629e",
    "requests": "8582bc02eb17b945",
    "answers": "39289d3a0dc11dfe",
    "episodes": "c083fefa63ba6257",
    "suite": "13e70540499c48de",
    "tokenizer's corpus": "24cefc745811deb0",
    "repair rows": "8d2b77d3d196d44f",
    "weak rows": "aff5cafd14e7d313",
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_seed_draws_the_rows_that_it_always_drew(name):
    assert digest(DRAWS[name](random.Random(5))) == DIGESTS[name]
