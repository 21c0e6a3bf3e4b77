"""Requests that need one tool call, each with the call that serves it.

`request(rng, tool, heldout)` draws a wording and arguments; `wording(rng, call)` words a call that is
already there (one whose real result has been recorded). Arguments are in sorted order, as Hermes
writes them when it replays a history.
"""

import random
import re
from dataclasses import dataclass
from functools import cache

from kxl.chat import hermes_tools
from kxl.tiny import arguments
from kxl.tiny import wording as w
from kxl.tiny.wording import ask, either, question, quoted
from kxl.tiny.words import is_heldout, number, pick_word

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


def call(name: str, **args) -> dict:
    """A call as {"name", "arguments"}, arguments sorted by name."""
    return {"name": name, "arguments": dict(sorted(args.items()))}


def terminal(rng: random.Random, heldout: bool) -> tuple[str, dict]:
    kind = rng.random()
    if kind < 0.22 and not heldout:
        command = rng.choice(list(w.TASKS))
        return _task(rng, command), call("terminal", command=command)
    if kind < 0.36:
        form, slot, wording = rng.choice(w.TASKS_WITH)
        value = {"d": arguments.directory, "f": arguments.path, "w": pick_word}.get(slot, arguments.path)(rng, heldout)
        if slot in ("py", "sh"):
            value = arguments.with_extension(value, slot)
        return ask(rng, wording, p=quoted(rng, value, 0.8)), call("terminal", command=form.format(p=value))
    command = arguments.command(rng, heldout)
    return run(rng, command), call("terminal", command=command)


def _task(rng: random.Random, command: str) -> str:
    form = rng.choice(w.TASKS[command])
    return question(rng, form) if "?" in form or rng.random() < 0.3 else ask(rng, form)


def run(rng: random.Random, command: str) -> str:
    """Words that ask for a given shell command."""
    return either(rng, w.RUN, w.RUN_QUESTIONS, 0.06, q=quoted(rng, command, 0.62), b=quoted(rng, command, 0.5))


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
    return wording(rng, made := call("read_file", **args)), made


def search_files(rng: random.Random, heldout: bool) -> tuple[str, dict]:
    kind = rng.random()
    if kind < 0.3:
        args = {"pattern": arguments.glob(rng, heldout), "target": "files"}
    else:
        args = {"pattern": arguments.code_name(rng, heldout)}
        if kind > 0.92:
            args["output_mode"] = "count"
        elif kind > 0.85:
            args["file_glob"] = "*." + rng.choice(arguments.EXTENSIONS)
    if "output_mode" not in args and "file_glob" not in args and rng.random() < 0.45:
        args["path"] = arguments.directory(rng)
    return wording(rng, made := call("search_files", **args)), made


def write_file(rng: random.Random, heldout: bool) -> tuple[str, dict]:
    kind = rng.random()
    if kind < 0.8:
        content = arguments.sentence(rng, heldout)
    elif kind < 0.92:
        mark = rng.choice("'\"")
        content = rng.choice(
            (
                "print({m}{t}{m})",
                "{t} = {m}{u}{m}",
                "import {t}",
                "echo {m}{t} {u}{m}",
                "<p>{t} {u}</p>",
                "{t}/",
                "return {t}({u})",
            )
        )
        content = content.format(m=mark, t=pick_word(rng, heldout), u=pick_word(rng))
    else:
        content = arguments.command(rng, heldout)
    made = call("write_file", content=content, path=arguments.path(rng, heldout))
    return wording(rng, made), made


def patch(rng: random.Random, heldout: bool) -> tuple[str, dict]:
    make = rng.choice((pick_word, arguments.code_name))
    made = call(
        "patch", mode="replace", path=arguments.path(rng, heldout), old_string=make(rng, heldout), new_string=make(rng)
    )
    return wording(rng, made), made


def process(rng: random.Random, heldout: bool) -> tuple[str, dict]:
    if rng.random() < 0.35:
        made = call("process", action="list")
    else:
        made = call("process", action=rng.choice(list(w.PROCESS)), session_id=arguments.process_id(rng))
    return wording(rng, made), made


def browser_navigate(rng: random.Random, heldout: bool) -> tuple[str, dict]:
    address = arguments.url(rng, heldout)
    made = call("browser_navigate", url=address)
    # People leave the scheme away; the tool wants it.
    shown = address[8:] if address.startswith("https://") and rng.random() < 0.35 else address
    return _navigate(rng, shown), made


def _navigate(rng: random.Random, shown: str) -> str:
    return either(rng, w.NAVIGATE, w.NAVIGATE_QUESTIONS, 0.1, u=quoted(rng, shown, 0.9))


def sequence(rng: random.Random, calls: list[dict]) -> str:
    """Words that ask for several calls one after another."""
    clauses = [clause(rng, made) for made in calls]
    text = clauses[0]
    for i, part in enumerate(clauses[1:], 2):
        last = i == len(clauses)
        joint = (
            rng.choice((", then ", ", and then ", ". Then ", "; then ", ", after that ", ". After that, ", "\nthen "))
            if last
            else rng.choice((", ", ", then ", "; "))
        )
        text += joint + part
    text = rng.choice(("", "", "please ", "first ", "can you ", "i need three things: ", "do this: ", "ok, ")) + text
    return text[0].upper() + text[1:] if rng.random() < 0.5 else text


def clause(rng: random.Random, made: dict) -> str:
    """A short imperative for one call, to be joined with others."""
    args, short = made["arguments"], lambda form, **slots: w.fill(w.expand(rng, form), slots)
    if made["name"] == "terminal":
        return short("(run|execute|do) {c}", c=quoted(rng, args["command"], 0.4))
    if made["name"] == "read_file":
        return short("(read|open|show me|show) (the file|) {p}", p=args["path"])
    if made["name"] == "search_files":
        place = " (in|under) {d}" if args.get("path") else ""
        what = (
            "(find|list) (all|the|) files (named|matching|called) {q}"
            if args.get("target") == "files"
            else "(search|look|grep) for {q}"
        )
        return short(what + place, q=quoted(rng, args["pattern"], 0.6), d=args.get("path", ""))
    if made["name"] == "write_file":
        return short("(write|save|put) {t} (to|into|in) {p}", t=quoted(rng, args["content"], 0.2), p=args["path"])
    if made["name"] == "patch":
        return short(
            "(replace|change) {a} (with|to) {b} in {p}", a=args["old_string"], b=args["new_string"], p=args["path"]
        )
    if made["name"] == "process":
        return (
            "list the background processes"
            if args["action"] == "list"
            else f"{args['action']} the process {args['session_id']}"
        )
    return short("(open|visit|go to) {u}", u=args["url"])


def pair(rng: random.Random, tools: list[str], heldout: bool) -> tuple[str, list[dict]]:
    """A request for two independent calls of one tool."""
    able = [t for t in ("read_file", "terminal", "search_files", "browser_navigate") if t in tools] or tools
    tool = rng.choice(able)
    calls = [request(rng, tool, heldout)[1] for _ in range(2)]
    if tool == "read_file":
        calls = [call("read_file", path=made["arguments"]["path"]) for made in calls]
        a, b = (made["arguments"]["path"] for made in calls)
        return ask(
            rng,
            "(read|open|show me|print|show) (both|the files|) {a} and {b}(, both| at the same time| together|)",
            a=a,
            b=b,
        ), calls
    both = rng.choice((" and also ", " and, at the same time, ", " and in parallel ", " and "))
    return rng.choice(("", "please ", "at once: ", "in parallel, ", "")) + clause(rng, calls[0]) + both + clause(
        rng, calls[1]
    ), calls


# Where only a shell is offered, file tasks go through it.
TERMINAL_CAN = ("read_file", "write_file", "search_files")


def through_terminal(rng: random.Random, heldout: bool) -> tuple[str, dict]:
    """A file task worded as for the file tools, served by a shell command."""
    kind = rng.random()
    if kind < 0.4:
        path = arguments.path(rng, heldout)
        return wording(rng, call("read_file", path=path)), call("terminal", command=f"cat {path}")
    if kind < 0.75:
        path, text = arguments.path(rng, heldout), arguments.words(rng, 1, 5, heldout)
        return wording(rng, call("write_file", content=text, path=path)), call(
            "terminal", command=f"echo '{text}' > {path}"
        )
    pattern, folder = pick_word(rng, heldout), arguments.directory(rng)
    return wording(rng, call("search_files", pattern=pattern, path=folder)), call(
        "terminal", command=f"grep -rn {pattern} {folder}"
    )


def wording(rng: random.Random, made: dict) -> str:
    """Words that ask for a given call."""
    args = made["arguments"]
    name = made["name"]
    if name == "terminal":
        return (
            _task(rng, args["command"])
            if args["command"] in w.TASKS and rng.random() < 0.4
            else run(rng, args["command"])
        )
    if name == "read_file":
        p, n, m = quoted(rng, args["path"], 0.85), str(args.get("limit")), str(args.get("offset"))
        if "limit" in args:
            return ask(rng, rng.choice(w.READ_BOTH if "offset" in args else w.READ_LIMIT), p=p, n=n, m=m)
        if "offset" in args:
            return ask(rng, rng.choice(w.READ_OFFSET), p=p, n=m)
        return either(rng, w.READ, w.READ_QUESTIONS, 0.25, p=p)
    if name == "search_files":
        return _search(rng, args)
    if name == "write_file":
        return ask(rng, rng.choice(w.WRITE), t=quoted(rng, args["content"], 0.4), p=quoted(rng, args["path"], 0.9))
    if name == "patch":
        bare = rng.choice((0.0, 1.0))
        return ask(
            rng,
            rng.choice(w.PATCH),
            a=quoted(rng, args["old_string"], bare),
            b=quoted(rng, args["new_string"], bare),
            p=quoted(rng, args["path"], 0.9),
        )
    if name == "process":
        if args["action"] == "list":
            return either(rng, w.PROCESS_LIST[:1], w.PROCESS_LIST[1:], 0.5)
        form = rng.choice(w.PROCESS[args["action"]])
        return (question if "?" in form else ask)(rng, form, s=args["session_id"])
    return _navigate(rng, args["url"])


def _search(rng: random.Random, args: dict) -> str:
    q, d = quoted(rng, args["pattern"], 0.55), args.get("path", "") + rng.choice(("", "", "/"))
    if d.endswith("//") or not args.get("path"):
        d = args.get("path", "")
    if args.get("target") == "files":
        g = quoted(rng, args["pattern"], 0.8)
        return ask(rng, rng.choice(w.FIND_FILES_IN), g=g, d=d) if d else ask(rng, rng.choice(w.FIND_FILES), g=g)
    if "file_glob" in args:
        return ask(rng, rng.choice(w.SEARCH_GLOB), q=q, g=quoted(rng, args["file_glob"], 0.85))
    if "output_mode" in args:
        return ask(rng, rng.choice(w.COUNT), q=q)
    if d:
        return ask(rng, rng.choice(w.SEARCH_IN), q=q, d=d)
    return either(rng, w.SEARCH, w.SEARCH_QUESTIONS, 0.25, q=q)


# The tools whose arguments are free text.
DRILLED = ("terminal", "write_file", "search_files", "read_file", "patch")


@dataclass(frozen=True)
class Pieces:
    """Words of a tokenizer's vocabulary: all that are one token, and those that are another token after a space."""

    all: list[str]
    spaced: list[str]

    def word(self, rng: random.Random) -> str:
        """A piece with another one or a number glued to it. A held-out word is practised so, and never seen alone."""
        while True:
            first = rng.choice(self.spaced if rng.random() < 0.6 else self.all)
            word = first + (rng.choice(self.all) if rng.random() < 0.5 else str(rng.randrange(100)))
            if rng.random() < 0.15:
                word = str(rng.randrange(10)) + word
            if not is_heldout(word):
                return word

    def row(self, rng: random.Random, words: int) -> str:
        return "".join(
            (rng.choice((" ", " ", " ", "-", "_", ".", "/")) if i else "") + self.word(rng) for i in range(words)
        )


def drill(rng: random.Random, pieces: Pieces) -> tuple[str, dict]:
    """A request whose arguments are made of the vocabulary's pieces, evenly: practice in copying each token.

    A word inside a sentence is one token with its space and another where an argument starts with it, and that
    step has to be learned for each word apart: most drills have several short arguments, without quotes.
    """
    kind = rng.random()
    words = rng.choice((1, 1, 1, 2, 2, 3)) if rng.random() < 0.85 else rng.randint(4, 8)
    path = (
        pieces.word(rng)
        + rng.choice(("", "/" + pieces.word(rng), "_" + pieces.word(rng)))
        + "."
        + rng.choice(arguments.EXTENSIONS)
    )
    if kind < 0.15:
        made = call(
            "terminal",
            command=f"{rng.choice(('echo', 'mkdir', 'touch', 'du -sh', 'grep -rn', 'git commit -m'))} {pieces.row(rng, words)}",
        )
    elif kind < 0.45:
        made = call("write_file", content=pieces.row(rng, words), path=path)
    elif kind < 0.7:
        made = call(
            "search_files",
            pattern=pieces.row(rng, min(words, 3)),
            **({"path": pieces.word(rng)} if rng.random() < 0.5 else {}),
        )
    elif kind < 0.8:
        made = call("read_file", path=path)
    else:
        made = call(
            "patch",
            mode="replace",
            path=path,
            old_string=pieces.row(rng, min(words, 2)),
            new_string=pieces.row(rng, min(words, 2)),
        )
    text = wording(rng, made)
    if rng.random() < 0.7 and set(text) & set("'`\""):
        text = wording(rng, made)
    return shouted(text, made["arguments"].values()) if rng.random() < 0.12 else text, made


def shouted(text: str, values) -> str:
    """`text` in capitals, but for the `values` in it: what is copied stays as it is."""
    parts = re.split("(" + "|".join(re.escape(value) for value in sorted(values, key=len, reverse=True)) + ")", text)
    return "".join(part if i % 2 else part.upper() for i, part in enumerate(parts))


MAKERS = {f.__name__: f for f in (terminal, read_file, search_files, write_file, patch, process, browser_navigate)}


def request(rng: random.Random, tool: str, heldout: bool = False) -> tuple[str, dict]:
    """One request for `tool`: (what the user says, the call that serves it)."""
    return MAKERS[tool](rng, heldout)


def pick_tool(rng: random.Random, tools: list) -> str:
    """A tool out of `tools`, by SHARES."""
    known = [t for t in tools if t in SHARES]
    return rng.choices(known, [SHARES[t] for t in known])[0]
