"""Which rows teach the tool tokens and which are held out: tools offered, requests paired, ordinary questions beside.

No tool is on both sides. Rows are as kxl/smol/rows.py says; everything is drawn from a seeded random.Random.
"""

import random
from collections.abc import Callable, Iterator

from kxl.base.cli import UserError
from kxl.chat.rows import calls_in
from kxl.smol import requests

PAIRED = 0.8  # share of the rows that are tried together with another
MOST_TOOLS = 3  # offered in one row that came with a single one


def names(row: dict) -> set:
    """The tools that a row offers."""
    return {tool["function"]["name"] for tool in row["tools"]}


def tool_pool(rows: list[dict]) -> list[dict]:
    """Every tool that the rows offer, once, by name."""
    return list(
        {
            tool["function"]["name"]: tool for row in sorted(rows, key=lambda row: row["id"]) for tool in row["tools"]
        }.values()
    )


def offer(row: dict, pool: list[dict], count: int, rng: random.Random) -> dict:
    """The row with `count` tools: its own and others of `pool`, in random order."""
    tools, known = list(row["tools"]), names(row)
    others = [tool for tool in pool if tool["function"]["name"] not in known]
    tools += rng.sample(others, max(0, count - len(tools)))
    return {**row, "tools": rng.sample(tools, len(tools))}


def split_by_tool(
    rows: list[dict], heldout: int, rng: random.Random, fits: Callable[[dict], bool]
) -> tuple[list[dict], list[dict]]:
    """(training candidates, `heldout` rows with one BFCL call whose prompt `fits`).

    No tool is on both sides, offered or called. UserError where there are too few different tools.
    """
    shuffled = rng.sample(rows, len(rows))
    chosen = [row for row in shuffled if row["source"] == "bfcl" and len(calls_in(row)) == 1 and len(row["tools"]) == 1]
    held, taken = [], set()
    for row in chosen:
        if len(held) < heldout and not names(row) & taken and fits(row):
            held.append(row)
            taken |= names(row)
    if len(held) < heldout:
        raise UserError(
            f"only {len(held)} different tools with prompts no longer than row_tokens for {heldout} held-out prompts;"
            " lower heldout.tool in the config or raise row_tokens"
        )
    return [row for row in shuffled if not names(row) & taken], held


def sessions(rows: list[dict], pool: list[dict], rng: random.Random, fits: Callable[[dict], bool]) -> Iterator[dict]:
    """The rows as conversations that offer one to MOST_TOOLS tools, with two requests where two rows together `fits`.

    Two requests for different tools of one list teach choosing between them, for hardly more tokens than one: the list
    is the longest part of a row.
    """
    rows = iter(rows)
    for row in rows:
        alone = [row]
        if rng.random() < PAIRED and (other := next(rows, None)):
            both = {
                **row,
                "id": f"{row['id']}+{other['id']}",
                "messages": row["messages"] + other["messages"],
                "tools": row["tools"] + other["tools"],
            }
            if not names(row) & names(other) and len(both["tools"]) <= MOST_TOOLS and fits(both):
                yield {**offer(both, [], 0, rng), "kind": "tool"}
                continue
            alone = [row, other]
        for single in alone:
            yield {**offer(single, pool, rng.randint(1, MOST_TOOLS), rng), "kind": "tool"}


def ordinary_rows(
    recorded: list[dict], unanswerable: dict, pool: list[dict], twice: bool, rng: random.Random
) -> list[dict]:
    """Recorded answers as rows: each question alone or beside tools that do not help, or, with `twice`, as both.

    Beside tools: BFCL's questions beside the tools they came with, ours beside one or two of `pool`.
    """
    rows = []
    for place, answered in enumerate(recorded):
        name, question = answered["id"], {"role": "user", "content": answered["prompt"]}
        messages = [question, {"role": "assistant", "content": answered["answer"]}]
        alone = {"id": name, "source": "ordinary", "kind": "ordinary", "messages": messages, "tools": []}
        beside = {**alone, "id": name + "+tools"}
        if name in unanswerable:
            beside["tools"] = unanswerable[name]["tools"]
        else:
            beside = offer(beside, pool, rng.randint(1, 2), rng)
        rows += [alone, beside] if twice else [beside if place % 2 else alone]
    return rng.sample(rows, len(rows))


def heldout_rows(
    held: list[dict], unanswerable: list[dict], counts: dict, rng: random.Random, fits: Callable[[dict], bool]
) -> list[dict]:
    """Prompts without answers: tool (with the expected tool), ordinary (half of them beside tools), near_miss.

    Tool prompts offer one to MOST_TOOLS tools, and no more than what `fits`.
    """
    pool = tool_pool(held)
    rows = []
    for place, row in enumerate(held):
        tries = [offer(row, pool, count, rng) for count in range(1 + place % MOST_TOOLS, 0, -1)]
        offered = next(attempt for attempt in tries if fits(attempt))
        rows.append(
            {
                **offered,
                "kind": "tool",
                "messages": row["messages"][:-1],
                "expected": [call["name"] for call in calls_in(row)],
            }
        )
    for place, prompt in enumerate(requests.ordinary_prompts()[-counts["ordinary"] :]):
        row = {
            "id": f"own/heldout-{place}",
            "source": "ordinary",
            "kind": "ordinary",
            "messages": [{"role": "user", "content": prompt}],
            "tools": [],
        }
        rows.append(offer(row, pool, 1 + place // 2 % 2, rng) if place % 2 else row)
    return rows + [{**row, "kind": "near_miss"} for row in unanswerable[-counts["near_miss"] :]]
