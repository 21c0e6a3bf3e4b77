"""Text that fills a long prompt: log lines of ordinary words, the same for the same seed, with nothing to call in them.

A case with {filler} in its messages and "fill": N is padded until the whole prompt, tools included, has N tokens
(as counted by whoever reads it). Several {filler} share the lines evenly, so what stands between two of them lies in
the middle of the prompt.
"""

import random
from collections.abc import Callable

MARK = "{filler}"
PARTS = (
    "archive",
    "backup",
    "billing",
    "cache",
    "catalog",
    "gateway",
    "import",
    "indexer",
    "mailer",
    "metrics",
    "queue",
    "scheduler",
    "storage",
    "worker",
)
DID = (
    "accepted",
    "checked",
    "copied",
    "counted",
    "closed",
    "delayed",
    "merged",
    "moved",
    "opened",
    "prepared",
    "received",
    "skipped",
    "sorted",
    "stored",
)
THINGS = (
    "batch",
    "block",
    "bundle",
    "cluster",
    "document",
    "entry",
    "invoice",
    "item",
    "message",
    "package",
    "page",
    "record",
    "report",
    "segment",
    "ticket",
)
WHERE = (
    "after a short wait",
    "as planned",
    "for the north office",
    "for the south office",
    "from the old shelf",
    "in the second pass",
    "on request",
    "to the new shelf",
    "with one warning",
    "without delay",
)


def lines(count: int, seed: str) -> list[str]:
    """`count` log lines; the first lines of a longer text are those of a shorter one."""
    rng = random.Random(f"filler {seed}")
    made = []
    for number in range(count):
        minute, second = divmod(number * 7 % 3600, 60)
        made.append(
            f"{number // 514 % 24:02}:{minute:02}:{second:02} {rng.choice(PARTS)} {rng.choice(DID)} "
            f"{rng.choice(THINGS)} {rng.randrange(1000, 10000)} {rng.choice(WHERE)}"
        )
    return made


def fill(messages: list, count: int, seed: str) -> list:
    """`messages` with `count` lines in place of their {filler} marks."""
    marks = sum((message["content"] or "").count(MARK) for message in messages)
    text, done, filled = lines(count, seed), 0, []
    for message in messages:
        pieces = (message["content"] or "").split(MARK)
        content = pieces[0]
        for piece in pieces[1:]:
            share = text[count * done // marks : count * (done + 1) // marks]
            content += "\n".join(share) + piece
            done += 1
        filled.append({**message, "content": content} if len(pieces) > 1 else message)
    return filled


def most_lines(tokens: Callable[[int], int], target: int) -> int:
    """The largest number of lines whose prompt has at most `target` tokens; `tokens(lines)` counts. ValueError when
    none fits.
    """
    if tokens(0) > target:
        raise ValueError(f"the prompt has {tokens(0)} tokens before any filler, more than {target}")
    low, high = 0, 256
    while tokens(high) <= target:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if tokens(middle) <= target else (low, middle)
    return low
