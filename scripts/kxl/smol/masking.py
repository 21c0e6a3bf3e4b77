"""Function masking: a row whose tools and arguments have random names, so that only their descriptions tell them apart.

    masked(row, random.Random(1))

After Lin et al. 2024, Hammer (https://arxiv.org/abs/2410.04587): a model that was trained on names alone fails where a
name misleads. Names are replaced everywhere: in the tools' schemas, in the calls, and in what is expected.
"""

import random
import string


def masked(row: dict, rng: random.Random) -> dict:
    """The row with other names for its tools and for their arguments (those of the first level); no other change."""
    names = _fresh([tool["function"]["name"] for tool in row["tools"]], rng)
    arguments, tools = {}, []
    for tool in row["tools"]:
        function = tool["function"]
        parameters = function.get("parameters") or {}
        properties = parameters.get("properties") or {}
        new = arguments[function["name"]] = _fresh(list(properties), rng)
        parameters = {**parameters, "properties": {new[key]: value for key, value in properties.items()}}
        if isinstance(parameters.get("required"), list):
            parameters["required"] = [new.get(key, key) for key in parameters["required"]]
        tools.append({**tool, "function": {**function, "name": names[function["name"]], "parameters": parameters}})

    def call(entry: dict) -> dict:
        new = arguments[entry["name"]]
        given = {new.get(key, key): value for key, value in entry["arguments"].items()}
        return {**entry, "name": names[entry["name"]], "arguments": given}

    changed = {**row, "tools": tools, "messages": [_message(message, call) for message in row["messages"]]}
    if "expected" in row:
        changed["expected"] = [call(entry) for entry in row["expected"]]
    return changed


def _message(message: dict, call) -> dict:
    if not message.get("tool_calls"):
        return message
    return {**message, "tool_calls": [{**one, "function": call(one["function"])} for one in message["tool_calls"]]}


def _fresh(names: list[str], rng: random.Random) -> dict[str, str]:
    """A random name for each, all different."""
    new = {}
    for name in names:
        while (made := _name(rng)) in new.values():
            pass
        new[name] = made
    return new


def _name(rng: random.Random) -> str:
    letters = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 6)))
    return letters + rng.choice(["", "_"]) + "".join(rng.choices(string.digits, k=rng.randint(1, 3)))
