"""Rows that train what failed, for tools that are not Hermes's: composed from the tools' own JSON Schemas.

A request is the tool's own description (or its name) with the arguments told in it, in one of several forms. Values fit
the schema (its enum, examples, bounds, formats) and what a parameter's name suggests; the schema checks each call.
The purposes are those of rows.py.
"""

import datetime
import json
import random
import re

from kxl.base.cli import UserError
from kxl.chat import schemas
from kxl.tiny import arguments
from kxl.tiny import rows as tiny_rows
from kxl.tiny.answers import no_tool
from kxl.tiny.words import pick_word

OPTIONAL = 0.4  # share of optional arguments that a request names
TRIES = 50  # draws until a value fits what the schema asks beyond its type
DEEPEST = 4  # objects in objects
MOST_VALUES = 1000  # in the arguments of one call; a schema that refers to itself may ask for millions
LONGEST_TASK = 140  # characters of a description that stands in a request

OPENERS = ("", "Please ", "Can you ", "Could you ", "I need you to ", "Now ", "Hey, ", "Next: ", "I want you to ")
JOINTS = (": ", ". ", " with ", ", using ", " - ", " for ")
DONE = ("Done: {}.", "That worked: {}.", "Here is the result: {}.", "The answer is {}.")


class TooLarge(Exception):
    """A schema asks for more values than a call has."""


def draw(rng: random.Random, purpose: str, failure: dict | None, tools: list[dict]) -> list[dict]:
    """One row {"messages"}, or two for a contrast, that offers `tools` (OpenAI schemas).

    `failure` (diagnosis.failures) is what they answer to; None only for negative and keep. UserError where a tool's
    schema takes no value that can be drawn.
    """
    by_name = {tool["function"]["name"]: tool["function"] for tool in tools}
    if purpose == "negative" or (purpose == "keep" and rng.random() < 0.25):
        return [words_row(rng)]
    if purpose == "keep":
        return [rng.choice((call_row, finished_row))(rng, rng.choice(list(by_name.values())))]
    wanted, called = failure["wanted"], failure["called"]
    if purpose == "contrast":
        others = [name for name in by_name if name != wanted]
        other = called if called in others else rng.choice(others) if others else None
        rows = [words_row(rng) if name not in by_name else call_row(rng, by_name[name]) for name in (wanted, other)]
        return rows
    if failure["kind"] == "finalization":
        return [finished_row(rng, rng.choice(list(by_name.values())))]
    return [call_row(rng, by_name[wanted]) if wanted in by_name else words_row(rng)]


def words_row(rng: random.Random) -> dict:
    """A request that wants words, and its answer."""
    text, reply = no_tool(rng, False)
    return {"messages": [tiny_rows.user(text), tiny_rows.assistant(reply)]}


def call_row(rng: random.Random, tool: dict) -> dict:
    """A request for one call of `tool`, and the call."""
    call = {"name": tool["name"], "arguments": some_arguments(rng, tool)}
    return {"messages": [tiny_rows.user(request(rng, tool, call["arguments"])), tiny_rows.assistant("", call)]}


def finished_row(rng: random.Random, tool: dict) -> dict:
    """A request, its call, a result, and the sentence that tells of it."""
    row, word = call_row(rng, tool), pick_word(rng)
    told = rng.choice(
        (
            word,
            f"{word} {rng.randint(1, 900)}",
            *map(spoken, row["messages"][1]["tool_calls"][0]["function"]["arguments"].values()),
        )
    )
    result = {"role": "tool", "content": json.dumps({"result": told}, ensure_ascii=False), "name": tool["name"]}
    return {"messages": [*row["messages"], result, tiny_rows.assistant(rng.choice(DONE).format(told))]}


def request(rng: random.Random, tool: dict, given: dict) -> str:
    """How a person could ask for a call with the arguments `given`."""
    task = task_of(rng, tool)
    opener = rng.choice(OPENERS)
    text = opener + (task[0].lower() + task[1:] if opener and not task[:2].isupper() else task)
    if given:
        properties = schemas.properties(tool.get("parameters", {}))
        form = rng.choice(
            ("{name} {value}", "{name}: {value}", "{name} = {value}", "the {name} is {value}", "{name} is {value}")
        )
        told = [
            form.format(name=name if rng.random() < 0.5 else name.replace("_", " "), value=spoken(value))
            if rng.random() < 0.85 or len(given) > 1 or not isinstance(properties.get(name), dict)
            else spoken(value)
            for name, value in sample(rng, list(given.items()))
        ]
        text += rng.choice(JOINTS) + (rng.choice((", ", "; ", " and ")) if len(told) > 1 else "").join(told)
    return text + ("?" if opener.startswith(("Can", "Could")) else rng.choice(("", ".", "!")))


def sample(rng: random.Random, items: list) -> list:
    """The items in their order, or in another."""
    return items if rng.random() < 0.6 else rng.sample(items, len(items))


def task_of(rng: random.Random, tool: dict) -> str:
    """What the tool does: the first sentence of its description, or its name in words."""
    named = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[_.-]+", " ", tool["name"]).strip().lower()
    said = re.split(r"(?<=[.!?])\s|\n", (tool.get("description") or "").strip(), maxsplit=1)[0].rstrip(".!? ")
    return rng.choice((said, said, named)) if 0 < len(said) <= LONGEST_TASK else named


def spoken(value) -> str:
    """A value as a person would type it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and value and all(isinstance(item, str | int | float) for item in value):
        return ", ".join(map(spoken, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def some_arguments(rng: random.Random, tool: dict) -> dict:
    """Arguments that the tool's schema takes: every required one, some of the others."""
    schema = tool.get("parameters") or {}
    problem = None
    for _ in range(TRIES):
        try:
            given = value_of(rng, {"type": "object", **schema}, tool["name"], {"schema": schema, "values": 0}, 0)
        except TooLarge:
            problem = f"it takes more than {MOST_VALUES:,} values"
            break
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            problem = f"it cannot be read: {type(error).__name__}: {error}"  # a keyword of another type than it has
            continue
        if not (problem := next(iter(schemas.problems(schema, given)), None)):
            return given
    raise UserError(
        f"tool {tool['name']}: no arguments could be drawn from its schema ({problem}); give its parameters an enum or "
        "examples, or give rows of your own (the config's repair.add)"
    )


def value_of(rng: random.Random, schema, name: str, root: dict, depth: int):
    """A value for the parameter `name` that fits its schema, as far as its type, enum, bounds and format say.

    root: {"schema": the whole schema, "values": how many values were drawn for it}. TooLarge beyond MOST_VALUES.
    """
    root["values"] += 1
    if root["values"] > MOST_VALUES:
        raise TooLarge
    if not isinstance(schema, dict):
        return pick_word(rng)
    if isinstance(reference := schema.get("$ref"), str) and reference.startswith("#/") and depth < DEEPEST:
        found = root["schema"]
        for step in reference[2:].split("/"):
            found = found.get(step, {}) if isinstance(found, dict) else {}
        return value_of(rng, found, name, root, depth + 1)
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list) and schema[key]:
            kinds = [kind for kind in schema[key] if kind != {"type": "null"}] or schema[key]
            return value_of(rng, rng.choice(kinds), name, root, depth + 1)
    if "const" in schema:
        return schema["const"]
    for key, share in (("enum", 1), ("examples", 0.5)):
        if isinstance(schema.get(key), list) and schema[key] and rng.random() < share:
            return rng.choice(schema[key])
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = next((one for one in kind if one != "null"), "null") if isinstance(kind, list) else kind
    if kind == "object":
        required, properties = schema.get("required", []), schemas.properties(schema)
        taken = [key for key in properties if key in required or (rng.random() < OPTIONAL and depth < DEEPEST)]
        return {key: value_of(rng, properties[key], key, root, depth + 1) for key in taken}
    if kind == "array":
        low = schema.get("minItems", 1)
        count = rng.randint(low, max(low, min(schema.get("maxItems", 3), low + 2)))
        if count > MOST_VALUES:
            raise TooLarge
        return [value_of(rng, schema.get("items", {}), name, root, depth + 1) for _ in range(count)]
    if kind == "boolean":
        return rng.random() < 0.5
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0) + ("exclusiveMinimum" in schema))
        high = schema.get("maximum", schema.get("exclusiveMaximum", low + rng.choice((9, 99, 999))))
        step = schema.get("multipleOf", 1)
        drawn = rng.randint(-(-low // step), max(-(-low // step), high // step)) * step if step else low
        return int(drawn) if kind == "integer" else rng.choice((drawn, round(rng.uniform(low, high), 1)))
    return None if kind == "null" else text_of(rng, schema, name)


def text_of(rng: random.Random, schema: dict, name: str) -> str:
    """A text by the schema's format, or by what the parameter's name says it is."""
    day = datetime.date(2024, 1, 1) + datetime.timedelta(days=rng.randrange(1500))
    clock = f"{rng.randrange(24):02}:{rng.choice((0, 15, 30, 45)):02}"
    words = set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()))
    kinds = {
        "date": lambda: day.isoformat(),
        "date-time": lambda: f"{day.isoformat()}T{clock}:00Z",
        "time": lambda: clock,
        "email": lambda: f"{pick_word(rng)}@{arguments.domain(rng)}",
        "uri": lambda: arguments.url(rng),
        "path": lambda: arguments.path(rng),
        "sentence": lambda: arguments.sentence(rng),
        "name": lambda: pick_word(rng).capitalize(),
    }
    named = {
        "date": {"date", "day"},
        "time": {"time", "hour"},
        "email": {"email", "mail", "recipient"},
        "uri": {"url", "uri", "link", "website"},
        "path": {"path", "file", "filename", "folder", "directory"},
        "sentence": {"text", "message", "body", "content", "note", "comment", "query", "question", "prompt"},
        "name": {"name", "city", "place", "location", "person", "customer", "restaurant", "company", "country"},
    }
    kind = schema.get("format") if schema.get("format") in kinds else None
    kind = kind or next((kind for kind, signs in named.items() if words & signs), None)
    text = kinds[kind]() if kind else rng.choice((pick_word(rng), arguments.words(rng, 2, 3), code(rng)))
    return text[: schema["maxLength"]] if isinstance(schema.get("maxLength"), int) else text


def code(rng: random.Random) -> str:
    """Letters and digits, as an order number has them."""
    return f"{rng.choice('ABCDEFGHKLMNPRSTVWXYZ')}{rng.choice('ABCDEFGHKLMNPRSTVWXYZ')}-{rng.randint(100, 99999)}"
