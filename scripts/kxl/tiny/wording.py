"""How people ask for a call that is given: the whole request, or a clause that stands beside others.

    wording(rng, {"name": "read_file", "arguments": {"path": "notes.txt"}})    # "Show me notes.txt please"

A call is {"name", "arguments"} (requests.call). forms.py draws from the forms.
"""

import random

from kxl.tiny.forms import ask, either, expand, fill, load, question, quoted


def wording(rng: random.Random, call: dict) -> str:
    """Words that ask for a given call."""
    return _WORDINGS[call["name"]](rng, call["arguments"])


def task(rng: random.Random, command: str) -> str:
    """Words for a command of forms/tasks.json that do not name it."""
    form = rng.choice(load("tasks")["without_argument"][command])
    return question(rng, form) if "?" in form or rng.random() < 0.3 else ask(rng, form)


def run(rng: random.Random, command: str) -> str:
    """Words that ask for a given shell command."""
    given = load("requests")["terminal"]
    slots = {"q": quoted(rng, command, 0.62), "b": quoted(rng, command, 0.5)}
    return either(rng, given["run"], given["questions"], 0.06, **slots)


def navigate(rng: random.Random, address: str) -> str:
    """Words that ask for a web page, by its address as a person would type it."""
    given = load("requests")["browser_navigate"]
    return either(rng, given["open"], given["questions"], 0.1, u=quoted(rng, address, 0.9))


def _terminal(rng: random.Random, args: dict) -> str:
    command = args["command"]
    if command in load("tasks")["without_argument"] and rng.random() < 0.4:
        return task(rng, command)
    return run(rng, command)


def _read_file(rng: random.Random, args: dict) -> str:
    given = load("requests")["read_file"]
    path, lines, first_line = quoted(rng, args["path"], 0.85), str(args.get("limit")), str(args.get("offset"))
    if "limit" in args:
        return ask(
            rng, rng.choice(given["with_both" if "offset" in args else "with_limit"]), p=path, n=lines, m=first_line
        )
    if "offset" in args:
        return ask(rng, rng.choice(given["with_offset"]), p=path, n=first_line)
    return either(rng, given["read"], given["questions"], 0.25, p=path)


def _search_files(rng: random.Random, args: dict) -> str:
    given = load("requests")["search_files"]
    pattern, folder = quoted(rng, args["pattern"], 0.55), args.get("path", "")
    slash = rng.choice(("", "", "/"))
    if folder and not (folder + slash).endswith("//"):
        folder += slash
    if args.get("target") == "files":
        glob = quoted(rng, args["pattern"], 0.8)
        if folder:
            return ask(rng, rng.choice(given["find_in_folder"]), g=glob, d=folder)
        return ask(rng, rng.choice(given["find"]), g=glob)
    if "file_glob" in args:
        return ask(rng, rng.choice(given["with_glob"]), q=pattern, g=quoted(rng, args["file_glob"], 0.85))
    if "output_mode" in args:
        return ask(rng, rng.choice(given["count"]), q=pattern)
    if folder:
        return ask(rng, rng.choice(given["in_folder"]), q=pattern, d=folder)
    return either(rng, given["search"], given["questions"], 0.25, q=pattern)


def _write_file(rng: random.Random, args: dict) -> str:
    form = rng.choice(load("requests")["write_file"]["write"])
    return ask(rng, form, t=quoted(rng, args["content"], 0.4), p=quoted(rng, args["path"], 0.9))


def _patch(rng: random.Random, args: dict) -> str:
    bare = rng.choice((0.0, 1.0))
    form = rng.choice(load("requests")["patch"]["replace"])
    old, new = quoted(rng, args["old_string"], bare), quoted(rng, args["new_string"], bare)
    return ask(rng, form, a=old, b=new, p=quoted(rng, args["path"], 0.9))


def _process(rng: random.Random, args: dict) -> str:
    given = load("requests")["process"]
    if args["action"] == "list":
        return either(rng, given["list"], given["list_questions"], 0.5)
    form = rng.choice(given["act"][args["action"]])
    return (question if "?" in form else ask)(rng, form, s=args["session_id"])


_WORDINGS = {
    "terminal": _terminal,
    "read_file": _read_file,
    "search_files": _search_files,
    "write_file": _write_file,
    "patch": _patch,
    "process": _process,
    "browser_navigate": lambda rng, args: navigate(rng, args["url"]),
}


def sequence(rng: random.Random, calls: list[dict]) -> str:
    """Words that ask for several calls one after another."""
    given = load("requests")["sequence"]
    clauses = [clause(rng, call) for call in calls]
    text = clauses[0]
    for number, part in enumerate(clauses[1:], 2):
        text += rng.choice(given["before_last" if number == len(clauses) else "between"]) + part
    text = rng.choice(given["begin"]) + text
    return text[0].upper() + text[1:] if rng.random() < 0.5 else text


def parallel(rng: random.Random, first: dict, second: dict) -> str:
    """Words that ask for two independent calls."""
    given = load("requests")["parallel"]
    between = rng.choice(given["between"])
    return rng.choice(given["begin"]) + clause(rng, first) + between + clause(rng, second)


def two_files(rng: random.Random, first: str, second: str) -> str:
    """Words that ask to read two files at once."""
    return ask(rng, load("requests")["read_file"]["two"], a=first, b=second)


def clause(rng: random.Random, call: dict) -> str:
    """A short imperative for one call, to be joined with others."""
    name, args = call["name"], call["arguments"]
    given = load("requests")[name]
    form, slots = given["clause"], {}
    if name == "terminal":
        slots = {"c": quoted(rng, args["command"], 0.4)}
    elif name == "read_file":
        slots = {"p": args["path"]}
    elif name == "search_files":
        form = given["clause_find"] if args.get("target") == "files" else form
        form += given["clause_in_folder"] if args.get("path") else ""
        slots = {"q": quoted(rng, args["pattern"], 0.6), "d": args.get("path", "")}
    elif name == "write_file":
        slots = {"t": quoted(rng, args["content"], 0.2), "p": args["path"]}
    elif name == "patch":
        slots = {"a": args["old_string"], "b": args["new_string"], "p": args["path"]}
    elif name == "process":
        form = given["clause_list"] if args["action"] == "list" else form
        slots = {"action": args["action"], "s": args.get("session_id", "")}
    elif name == "browser_navigate":
        slots = {"u": args["url"]}
    return fill(expand(rng, form), slots)
