"""Requests that need one tool call, each with the call that serves it.

`request(rng, tool, heldout)` draws arguments and words that ask for them (wording.py). Arguments are in sorted order,
as Hermes writes them when it replays a history.
"""

import random
from functools import cache

from kxl.chat import hermes_tools
from kxl.tiny import arguments, wording
from kxl.tiny.forms import ask, load, quoted
from kxl.tiny.words import number, pick_word

# How often each tool is asked for. terminal and the file tools are what the agent uses all day.
SHARES = {
    "terminal": 0.34,
    "read_file": 0.16,
    "search_files": 0.17,
    "write_file": 0.15,
    "browser_navigate": 0.11,
    "patch": 0.04,
    "process": 0.03,
}
# Where only a shell is offered, file tasks go through it.
TERMINAL_CAN = ("read_file", "write_file", "search_files")


def call(name: str, **args) -> dict:
    """A call as {"name", "arguments"}, arguments sorted by name."""
    return {"name": name, "arguments": dict(sorted(args.items()))}


def request(rng: random.Random, tool: str, heldout: bool = False) -> tuple[str, dict]:
    """One request for `tool`: (what the user says, the call that serves it)."""
    return _MAKERS[tool](rng, heldout)


def pick_tool(rng: random.Random, tools: list) -> str:
    """A tool out of `tools`, by SHARES."""
    known = [tool for tool in tools if tool in SHARES]
    return rng.choices(known, [SHARES[tool] for tool in known])[0]


def worded(rng: random.Random, served_by: dict) -> tuple[str, dict]:
    """(words that ask for a call, the call)."""
    return wording.wording(rng, served_by), served_by


def terminal(rng: random.Random, heldout: bool) -> tuple[str, dict]:
    tasks = load("tasks")
    kind = rng.random()
    if kind < 0.22 and not heldout:
        command = rng.choice(list(tasks["without_argument"]))
        return wording.task(rng, command), call("terminal", command=command)
    if kind < 0.36:
        task = rng.choice(tasks["with_argument"])
        draw = {"folder": arguments.directory, "word": pick_word}.get(task["argument"], arguments.path)
        value = draw(rng, heldout)
        if task["argument"] in ("py", "sh"):
            value = arguments.with_extension(value, task["argument"])
        text = ask(rng, task["form"], p=quoted(rng, value, 0.8))
        return text, call("terminal", command=task["command"].format(p=value))
    command = arguments.command(rng, heldout)
    return wording.run(rng, command), call("terminal", command=command)


@cache
def most_lines() -> int:
    """How many lines read_file returns at most, by Hermes's own schema."""
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in hermes_tools.load()}
    return schemas["read_file"]["properties"]["limit"]["maximum"]


def limit(rng: random.Random) -> int:
    """A number of lines that read_file takes; as many draws as `number`, so that nothing else changes."""
    return 1 + (number(rng) - 1) % most_lines()


def read_file(rng: random.Random, heldout: bool) -> tuple[str, dict]:
    args = {"path": arguments.path(rng, heldout)}
    kind = rng.random()
    if kind < 0.12:
        args["limit"] = limit(rng)
    elif kind < 0.17:
        args["offset"] = number(rng)
    elif kind < 0.2:
        args.update(limit=limit(rng), offset=number(rng))
    return worded(rng, call("read_file", **args))


def search_files(rng: random.Random, heldout: bool) -> tuple[str, dict]:
    kind = rng.random()
    if kind < 0.3:
        args = {"pattern": arguments.glob(rng, heldout), "target": "files"}
    else:
        args = {"pattern": arguments.code_name(rng, heldout)}
        if kind > 0.92:
            args["output_mode"] = "count"
        elif kind > 0.85:
            args["file_glob"] = "*." + arguments.extension(rng)
    if "output_mode" not in args and "file_glob" not in args and rng.random() < 0.45:
        args["path"] = arguments.directory(rng)
    return worded(rng, call("search_files", **args))


def write_file(rng: random.Random, heldout: bool) -> tuple[str, dict]:
    kind = rng.random()
    if kind < 0.8:
        content = arguments.sentence(rng, heldout)
    elif kind < 0.92:
        content = arguments.code_text(rng, heldout)
    else:
        content = arguments.command(rng, heldout)
    return worded(rng, call("write_file", content=content, path=arguments.path(rng, heldout)))


def patch(rng: random.Random, heldout: bool) -> tuple[str, dict]:
    draw = rng.choice((pick_word, arguments.code_name))
    path, old, new = arguments.path(rng, heldout), draw(rng, heldout), draw(rng)
    return worded(rng, call("patch", mode="replace", path=path, old_string=old, new_string=new))


def process(rng: random.Random, heldout: bool) -> tuple[str, dict]:
    if rng.random() < 0.35:
        return worded(rng, call("process", action="list"))
    action = rng.choice(list(load("requests")["process"]["act"]))
    return worded(rng, call("process", action=action, session_id=arguments.process_id(rng)))


def browser_navigate(rng: random.Random, heldout: bool) -> tuple[str, dict]:
    address = arguments.url(rng, heldout)
    # People leave the scheme away; the tool wants it.
    shown = address[8:] if address.startswith("https://") and rng.random() < 0.35 else address
    return wording.navigate(rng, shown), call("browser_navigate", url=address)


_MAKERS = {
    maker.__name__: maker for maker in (terminal, read_file, search_files, write_file, patch, process, browser_navigate)
}


def pair(rng: random.Random, tools: list[str], heldout: bool) -> tuple[str, list[dict]]:
    """A request for two independent calls of one tool."""
    able = [tool for tool in ("read_file", "terminal", "search_files", "browser_navigate") if tool in tools] or tools
    tool = rng.choice(able)
    first, second = (request(rng, tool, heldout)[1] for _ in range(2))
    if tool == "read_file":
        one, other = first["arguments"]["path"], second["arguments"]["path"]
        calls = [call("read_file", path=one), call("read_file", path=other)]
        return wording.two_files(rng, one, other), calls
    return wording.parallel(rng, first, second), [first, second]


def through_terminal(rng: random.Random, heldout: bool) -> tuple[str, dict]:
    """A file task worded as for the file tools, served by a shell command."""
    kind = rng.random()
    if kind < 0.4:
        path = arguments.path(rng, heldout)
        asked, command = call("read_file", path=path), f"cat {path}"
    elif kind < 0.75:
        path, text = arguments.path(rng, heldout), arguments.words(rng, 1, 5, heldout)
        asked, command = call("write_file", content=text, path=path), f"echo '{text}' > {path}"
    else:
        pattern, folder = pick_word(rng, heldout), arguments.directory(rng)
        asked, command = call("search_files", pattern=pattern, path=folder), f"grep -rn {pattern} {folder}"
    return wording.wording(rng, asked), call("terminal", command=command)
