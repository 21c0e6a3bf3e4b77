"""Requests that we compose for the tool-token training: calls with results and answers, and ordinary questions.

`tool_rows(count, seed)` gives rows as bfcl.answered does, half of them with the tool's result and the answer that
follows. `ordinary_prompts()` gives questions that need no tool; their answers are recorded from the base model itself
(scripts/smol_record_ordinary.py), so that training keeps what it said before.

Tools, wordings and words are data (datasets/smol/requests.json); rows are drawn by place in its lists. write_file and
save_config stay out on purpose: they are the prompts of scripts/smol_inspect.py.
"""

import json
import random
from functools import cache

from kxl.base.files import ROOT, read_json

DATA = ROOT / "datasets" / "smol" / "requests.json"
MOST_REPEATED = 2000  # draws in a row that are all known already

# What an argument, a result or an answer is drawn from, by the name that the data has for it.
DRAWS = {
    "place": lambda rng: _one_of(rng, "places"),
    "person": lambda rng: _one_of(rng, "people"),
    "thing": lambda rng: _one_of(rng, "things"),
    "path": lambda rng: f"{_one_of(rng, 'folders')}/{_one_of(rng, 'stems')}.{_one_of(rng, 'endings')}",
    "snippet": lambda rng: _one_of(rng, "snippets"),
    "minutes": lambda rng: rng.randint(2, 90),
    "amount": lambda rng: _one_of(rng, "amounts"),
    "from": lambda rng: _one_of(rng, "currencies_from"),
    "to": lambda rng: _one_of(rng, "currencies_to"),
    "language": lambda rng: _one_of(rng, "languages"),
    "phrase": lambda rng: _one_of(rng, "phrases"),
    "day": lambda rng: _one_of(rng, "days"),
    "hour": lambda rng: rng.randint(8, 19),
    "degrees": lambda rng: rng.randint(-8, 34),
    "flag": lambda rng: rng.choice([True, False]),
    "folder": lambda rng: _one_of(rng, "folders"),
}


@cache
def data() -> dict:
    """lists, tools, questions, topics and small_talk of DATA. UserError for a file that is missing or no JSON."""
    return read_json(DATA)


def _one_of(rng: random.Random, name: str):
    return rng.choice(data()["lists"][name])


def definition(name: str) -> dict:
    """One of the data's tools as an OpenAI tool."""
    tool = data()["tools"][name]
    properties = {
        argument: {"type": given["type"], "description": given["description"]}
        for argument, given in tool["arguments"].items()
    }
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": tool["description"],
            "parameters": {"type": "object", "properties": properties, "required": list(tool["arguments"])},
        },
    }


def tool_rows(count: int, seed: int) -> list[dict]:
    """`count` different rows; every second round over the tools goes on with the result and the answer.

    Raises ValueError when the parts do not give so many different requests.
    """
    rng = random.Random(f"smol requests {seed}")
    tools = data()["tools"]
    rows, seen, repeated = [], set(), 0
    while len(rows) < count:
        name = list(tools)[len(rows) % len(tools)]
        messages = _exchange(rng, name, answered=len(rows) // len(tools) % 2 == 1)
        request = messages[0]["content"]
        if request in seen:
            repeated += 1
            if repeated > MOST_REPEATED:
                raise ValueError(f"{len(rows)} different requests, {count} were asked for")
            continue
        repeated = 0
        seen.add(request)
        rows.append({"id": f"own/{len(rows)}", "source": "own", "tools": [definition(name)], "messages": messages})
    return rows


def _exchange(rng: random.Random, name: str, answered: bool) -> list[dict]:
    """A request for a tool and its call; with `answered` also the tool's result and what the user is told."""
    tool = data()["tools"][name]
    drawn = {source: draw(rng) for source, draw in DRAWS.items()}
    arguments = {argument: drawn[given["drawn_from"]] for argument, given in tool["arguments"].items()}
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    messages = [
        {"role": "user", "content": rng.choice(tool["wordings"]).format(**arguments)},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    if answered:
        result = {key: _filled(value, drawn) for key, value in tool["result"].items()}
        messages += [
            {"role": "tool", "content": json.dumps(result)},
            {"role": "assistant", "content": tool["answer"].format(**{**drawn, **arguments})},
        ]
    return messages


def _filled(value, drawn: dict):
    """A value of a tool's result; "{minutes}" stands for what was drawn, with its type."""
    return drawn[value[1:-1]] if isinstance(value, str) and value[:1] == "{" else value


def ordinary_prompts() -> list[str]:
    """Questions that need no tool, all different, in a fixed order that mixes kinds and topics."""
    questions, topics = data()["questions"], data()["topics"]
    composed = [
        questions[(turn + place) % len(questions)].format(topic)
        for turn in range(len(questions))
        for place, topic in enumerate(topics)
    ]
    return data()["small_talk"] + composed
