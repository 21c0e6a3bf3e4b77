"""The training rows: several rows for one list of tools, so that only the request tells which call, or none, is right.

Groups of rows share their tool list (kxl/smol/packing.py then reads it once). Seven of ten rows call, three do not:

  ours  a domain's tools, three to eight; a request for each; then requests that no offered tool serves, requests that
        lack an argument, and ordinary questions, with what the base model itself said to them
  bfcl  an entry with its own tools and others of its kind; its calls; one request that does not belong there

In a share of the groups tools and arguments have random names (kxl/smol/masking.py). Rows are as kxl/smol/rows.py says;
everything is drawn from a seeded random.Random.
"""

import random
from collections.abc import Iterator

from kxl.smol import domains, masking, sets

CALLS, QUIET = 7, 3  # rows of a group of ours, at most and about
MOST_ADDED = 3  # tools that a BFCL entry gets beside its own
BESIDE = 0.5  # share of the BFCL entries that get a request which none of their tools serves


def reply(entry: dict, tools: list[dict], name: str) -> dict:
    """A recorded answer as a row beside `tools`."""
    messages = [{"role": "user", "content": entry["prompt"]}, {"role": "assistant", "content": entry["answer"]}]
    return {
        "id": f"{name}+{entry['id']}",
        "source": "recorded",
        "kind": "ordinary",
        "messages": messages,
        "tools": tools,
    }


def call_row(name: str, source: str, request: str, calls: list[dict], tools: list[dict]) -> dict:
    """A request and its calls, [{"name", "arguments"}], as a row."""
    answer = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": one} for one in calls],
    }
    messages = [{"role": "user", "content": request}, answer]
    return {"id": name, "source": source, "kind": "tool", "messages": messages, "tools": tools}


def own_group(number: int, recorded: dict[str, list], rng: random.Random) -> list[dict]:
    """Rows of one of our domains that share a list of tools. recorded: answers by kind."""
    domain = list(domains.data()["domains"])[number % len(domains.data()["domains"])]
    own = domains.data()["domains"][domain]["tools"]
    absent = [entry for entry in recorded["absent"] if entry["domain"] == domain]
    gone = rng.choice(absent) if absent else None
    tools = domains.offered(domain, set(), {gone["tool"]} if gone else set(), rng)
    name, offered = f"own/{number}", [tool["function"]["name"] for tool in tools]
    places = {tool: domain if tool in own else _domain_of(tool) for tool in offered}
    rows = []
    while len(rows) < CALLS:
        for tool in rng.sample(offered, len(offered)):
            request, arguments = domains.request(places[tool], tool, rng)
            call = {"name": tool, "arguments": arguments}
            rows.append(call_row(f"{name}/{len(rows)}", "own", request, [call], tools))
    rows = rows[:CALLS]
    quiet = [rng.choice([entry for entry in recorded["near"] if entry["domain"] == domain] or recorded["ordinary"])]
    missing = [entry for entry in recorded["missing"] if entry["tool"] in offered]
    quiet.append(rng.choice(missing) if missing and rng.random() < 0.6 else rng.choice(recorded["ordinary"]))
    quiet.append(gone if gone and rng.random() < 0.6 else rng.choice(recorded["live_irrelevance"] or recorded["near"]))
    return rows + [reply(entry, tools, name) for entry in {entry["id"]: entry for entry in quiet}.values()]


def _domain_of(tool: str) -> str:
    return next(name for name, content in domains.data()["domains"].items() if tool in content["tools"])


def entry_group(row: dict, pool: sets.Pool, recorded: dict[str, list], rng: random.Random) -> list[dict]:
    """Rows of one answered BFCL entry: with up to MOST_ADDED more tools of its kind, and a request beside them."""
    known = sets.names(row)
    tools = list(row["tools"])
    if len(tools) < sets.LEAST_TOOLS:
        near = pool.like(tools, known[0])[: 3 * MOST_ADDED]
        tools += rng.sample(near, min(len(near), rng.randint(0, MOST_ADDED)))
    tools = rng.sample(tools, len(tools))
    rows = [{**row, "kind": "tool", "tools": tools}]
    if rng.random() < BESIDE:
        kind = rng.choice(["ordinary", "near", "absent", "live_irrelevance"])
        rows.append(reply(rng.choice(recorded[kind] or recorded["ordinary"]), tools, row["id"]))
    return rows


def groups(answered: list[dict], unanswerable: list[dict], recorded: dict, own: int, masked: float, rng) -> Iterator:
    """Groups of rows in random order: `own` of ours, one for each answered and unanswerable entry of BFCL.

    recorded: answers by kind. masked: the share of groups with random names.
    """
    pool = sets.Pool([tool for row in answered for tool in row["tools"]])
    answers = {entry["id"]: entry for kind in sets.UNANSWERABLE for entry in recorded[kind]}
    makers = [lambda number=number: own_group(number, recorded, rng) for number in range(own)]
    makers += [lambda row=row: entry_group(row, pool, recorded, rng) for row in answered]
    makers += [
        lambda row=row: [reply(answers[row["id"]], row["tools"], "beside")]
        for row in unanswerable
        if row["id"] in answers
    ]
    for make in rng.sample(makers, len(makers)):
        group = make()
        if rng.random() < masked and all(len(set(sets.names(row))) == len(row["tools"]) for row in group):
            seed = rng.random()
            group = [masking.masked(row, random.Random(seed)) for row in group]
        yield group
