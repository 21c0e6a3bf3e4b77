"""Conversations that the tiny model learns from: a context (system prompt, tools) and rows that fit it.

    context = draw_context(rng, "fixed")
    row = Dialogue(rng, context).row({"call": 1.0})      # {"kind": "call", "messages": [...]}

A context is what all rows of a batch share. A row's messages come after it; an assistant's message has
`reasoning_content`, content and tool_calls. Requests are the hand-written forms of wordings.py with slots of slots.py;
what a tool returns is recorded from Hermes's own tools or has their shape. No user message repeats an eval prompt.
"""

import json
import random
import re
from dataclasses import dataclass, field
from functools import cache

from kxl.base.files import ROOT
from kxl.chat import hermes_tools
from kxl.dialogue import wordings
from kxl.dialogue.slots import EXTENSIONS, Slots
from kxl.dialogue.wordings import SLOT, Form
from kxl.tiny.words import cased_word, number, pick_word

TOOLS = hermes_tools.FIXED_SURFACE
SHARES = {
    "terminal": 0.27,
    "read_file": 0.16,
    "search_files": 0.18,
    "write_file": 0.15,
    "browser_navigate": 0.12,
    "patch": 0.07,
    "process": 0.05,
}
CONTEXTS = ("bare", "compact", "fixed", "surface", "hermes_terminal", "hermes_files", "long")
KINDS = (
    "call",
    "drill",
    "chat",
    "asking",
    "refusing",
    "missing",
    "final",
    "error",
    "retry",
    "fallback",
    "sequence",
    "parallel",
    "followup",
)
RECORDED = {"single": ROOT / "datasets/tiny/tool_results.jsonl", "row": ROOT / "datasets/tiny/sequences.jsonl"}
HERMES_PROMPT = ROOT / "configs/hermes_system_prompt.txt"
SYSTEMS = [
    "You are Hermes Agent, a helpful assistant that can use tools.", "You are Hermes Agent.",
    "You are a helpful assistant.",
    "You are a helpful assistant with tools.", "You are an agent that works on a computer through tools.",
    "Use the tools when they help.",
]  # fmt: skip
# Other names that tools go by, besides words joined at random.
RENAMES = {
    "terminal": "shell bash run_command execute run_shell exec_command console sh cmd run_in_terminal",
    "read_file": "open_file cat_file view_file get_file file_read show_file load_text fs_read view",
    "write_file": "save_file create_file put_file file_write store_text fs_write write_text",
    "search_files": "grep find_in_files code_search ripgrep find lookup search_code scan_files",
    "browser_navigate": "open_url visit goto web_open browse open_page navigate load_page",
    "patch": "edit_file replace_in_file str_replace apply_edit modify_file substitute",
    "process": "jobs background_jobs manage_process proc task_manager processes",
}
COUNTS_TWO = re.compile(r"\b(two|both|second half|first half|pair)\b", re.IGNORECASE)
THOUGHT_PIECES = 34  # about 40 tokens
ERROR_SHAPES = ("not_found", "permission", "no_match", "timeout", "command_failed", "page_error")
MISSING = {
    "browser_navigate": "browser",
    "read_file": "read",
    "write_file": "write",
    "patch": "write",
    "search_files": "search",
    "terminal": "terminal",
    "process": "process",
}
FILE_TOOLS = ("read_file", "write_file", "search_files", "patch")
THROUGH_TERMINAL = ("read_file", "write_file", "search_files", "patch")


@dataclass
class Context:
    """system, tools: what the template gets. names: Hermes's name of each tool that rows may call → the name on offer.
    before: messages that stand in front of all rows; opened: the beginning of a user message that rows go on with."""

    kind: str
    system: str | None = None
    tools: list = field(default_factory=list)
    names: dict[str, str] = field(default_factory=lambda: {name: name for name in TOOLS})
    before: list = field(default_factory=list)
    opened: str = ""


def compact(tool: dict) -> dict:
    """A schema with the first sentence of its description and bare properties."""
    function = tool["function"]
    properties = {
        name: {key: p[key] for key in ("type", "enum") if key in p}
        for name, p in function["parameters"].get("properties", {}).items()
    }
    short = {"name": function["name"], "description": re.split(r"(?<=[a-z)])[.\n]", function["description"])[0] + ".",
             "parameters": {"type": "object", "properties": properties,
             "required": function["parameters"].get("required", [])}}  # fmt: skip
    return {"type": "function", "function": short}


def hermes_system(rng: random.Random) -> str:
    """Hermes's own system prompt with a drawn host, home, folder, date and model."""
    home = rng.choice(("/root", f"/home/{pick_word(rng)}", f"/Users/{pick_word(rng)}"))
    days, months = (
        "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
        "January February March April May June July August September October November December",
    )
    host = f"Linux ({rng.randint(5, 7)}.{rng.randint(0, 19)}.{rng.randint(0, 99)}-{pick_word(rng)})"
    cwd = working_folder(rng, home)
    day, month = rng.choice(days.split()), rng.choice(months.split())
    values = {
        "host": host,
        "home": home,
        "cwd": cwd,
        "date": f"{day}, {month} {rng.randint(1, 28):02}, {rng.randint(2025, 2029)}",
        "model": rng.choice(("hermes-kxl", "tiny", pick_word(rng))),
        "provider": "custom",
    }
    return re.sub(r"\{(\w+)\}", lambda m: values[m.group(1)], HERMES_PROMPT.read_text())


def working_folder(rng: random.Random, home: str | None = None) -> str:
    """A folder with any name, hexadecimal and dated ones among them."""
    home = home or rng.choice(("/root", f"/home/{pick_word(rng)}", "/tmp", "/work", "/srv", "/var/tmp"))
    name = rng.choice((pick_word(rng), f"projects/{pick_word(rng)}", f"{pick_word(rng)}-{rng.randrange(100)}", "work",
    f"tmp{rng.randrange(16**6):06x}",
                       f"{pick_word(rng)}_{rng.randrange(16**8):08x}/work", f"{cased_word(rng)}/{pick_word(rng)}",
                       f"live-{pick_word(rng)}/{rng.randrange(1000)}"))  # fmt: skip
    return f"{home}/{name}"


def _renames(rng: random.Random, names: list[str]) -> dict[str, str]:
    made: dict[str, str] = {}
    for name in names:
        if rng.random() < 0.5:
            new = (
                rng.choice(RENAMES[name].split())
                if rng.random() < 0.6
                else "_".join(pick_word(rng, invented=0.2) for _ in range(rng.choice((1, 2))))
            )
            if new not in made.values() and new not in TOOLS:
                made[name] = new
    return made


def draw_context(rng: random.Random, kind: str, tokens: int = 0) -> Context:
    """A context of one of CONTEXTS; `tokens`: about how long a long one gets."""
    if kind == "bare":
        return Context(kind, rng.choice((*SYSTEMS, None)))
    if kind == "fixed":
        return Context(kind, rng.choice((*SYSTEMS[:1] * 6, *SYSTEMS, None)), hermes_tools.load(TOOLS))
    if kind in ("hermes_terminal", "hermes_files"):
        names = (
            ("process", "terminal")
            if kind == "hermes_terminal"
            else ("patch", "process", "read_file", "search_files", "terminal", "write_file")
        )
        return Context(kind, hermes_system(rng), hermes_tools.load(names), {name: name for name in names})
    if kind == "long":
        return _long(rng, tokens)
    names = rng.sample(TOOLS, rng.choice((1, 2, 3, 3, 4, 4, 5, 6, 7)))
    renames = _renames(rng, names) if rng.random() < 0.4 else {}
    shown = {name: renames.get(name, name) for name in names}
    system = rng.choice((*SYSTEMS[:1] * 3, *SYSTEMS, None))
    if kind == "surface":
        return Context(kind, system, hermes_tools.surface(names, renames), shown)
    others = rng.sample(
        sorted({tool["function"]["name"] for tool in hermes_tools.load()} - set(TOOLS)), rng.choice((0, 0, 1, 2))
    )
    tools = [compact(tool) for tool in hermes_tools.surface(names, renames) + hermes_tools.load(others)]
    rng.shuffle(tools)
    return Context(kind, system, tools, shown)


def _long(rng: random.Random, tokens: int) -> Context:
    """Hermes's files or a short tool list, and a long text: in the system prompt, a tool's result or the request."""
    made = draw_context(rng, rng.choice(("compact", "compact", "hermes_files", "fixed")))
    made.kind, place = "long", rng.random()
    text = filler(rng, tokens)
    if place < 0.35:
        made.system = f"{made.system or ''}\n\n{text}".strip()
    elif place < 0.65 and "read_file" in made.names:
        path = Slots(rng).path()
        numbered = "\n".join(f"{i}|{line}" for i, line in enumerate(text.split("\n"), 1))
        result = json.dumps(
            {
                "content": numbered,
                "total_lines": text.count("\n") + 1,
                "file_size": len(text),
                "truncated": False,
                "is_binary": False,
                "is_image": False,
            },
            ensure_ascii=False,
        )
        made.before = [{"role": "user", "content": f"Read {path}, please."},
        assistant(None, "", {"name": made.names["read_file"], "arguments": {"path": path}}),
                       {"role": "tool", "content": result},
                       assistant(None, f"{path} has {text.count(chr(10)) + 1} lines.")]  # fmt: skip
    else:
        made.opened = (
            rng.choice(
                (
                    "Here is the text, for context:",
                    "This is what I have so far:",
                    "Notes from last week, ignore them:",
                    "For later, a log:",
                    "Paste:",
                )
            )
            + f"\n{text}\n\n"
        )
    return made


def filler(rng: random.Random, tokens: int) -> str:
    """Lines of one style with nothing to act on, about `tokens` tokens long."""
    style, lines, size = rng.randrange(5), [], 0
    some = [pick_word(rng) for _ in range(60)]
    while size < tokens:

        def w() -> str:
            return rng.choice(some)

        line = (
            f"{rng.randint(10, 23)}:{rng.randint(10, 59)} {w()} {w()} {w()} {rng.randrange(1000)}" if style == 0
            else f"{w()}_{w()} = {rng.randrange(100)}" if style == 1
            else " ".join(w() for _ in range(rng.randint(6, 14))).capitalize() + "." if style == 2
            else f"{w()},{w()},{rng.randrange(100)},{w()}" if style == 3
            else f"- {w()} {w()} ({w()})"
        )  # fmt: skip
        lines.append(line)
        size += 2 * len(line.split()) + sum(c.isdigit() or c in ":,_-=" for c in line) + 2
    return "\n".join(lines)


def assistant(thought: str | None, content: str, *calls: dict) -> dict:
    """An assistant's message; each call {"name", "arguments"}."""
    message: dict = {"role": "assistant", "content": content}
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = [{"type": "function", "function": call} for call in calls]
    return message


@cache
def recorded(source: str) -> tuple[list[dict], ...]:
    """Recorded real calls with results; of "row" those of which every step went well."""
    found = [json.loads(line)["calls"] for line in RECORDED[source].read_text(encoding="utf-8").splitlines()]
    return tuple(steps for steps in found if source == "single" or not any(_failed(step["result"]) for step in steps))


def _failed(result: str) -> bool:
    held = json.loads(result)
    return bool(held.get("error") or held.get("exit_code"))


def short(text: str) -> bool:
    """Whether a thought has at most about 40 tokens."""
    return len(re.findall(r"[A-Za-z]{1,5}|[^A-Za-z\s]", text)) <= THOUGHT_PIECES


class Dialogue:
    """Draws the rows of one context. heldout: forms and words that training never sees. tidy: no slips of the pen."""

    def __init__(self, rng: random.Random, context: Context, heldout: bool = False, pieces=None, rough: float = 0.3):
        self.rng, self.context, self.heldout, self.rough = rng, context, heldout, rough
        self.pieces = pieces
        self.slots = Slots(rng, heldout, pieces, 0.12)
        self.able = [tool for tool in TOOLS if tool in context.names]

    # ---- words ----

    def form(self, file: str, *kinds: str) -> Form:
        """A form of a file, of one of the `kinds` where it has some."""
        kind = self.rng.choice(kinds) if kinds else None
        return self.rng.choice(
            wordings.forms(
                file, self.heldout and file not in ("around", "results", "missing_tool", "process_input"), kind
            )
        )

    def fill(self, text: str, values: dict, rough: bool = False) -> str:
        """A form with its slots filled; with `rough` now and then as people type: no capitals, no full stop, slips."""
        if rough and self.rng.random() < self.rough:
            text = _roughen(self.rng, text)
        return SLOT.sub(lambda m: str(values[m[1]]), text)

    def request(self, text: str, values: dict) -> str:
        """A user's words, sometimes with a sentence around them."""
        text = self.fill(text, values, rough=True)
        if self.rng.random() < 0.1:
            text = self.form("around", "before").texts[0] + self.rng.choice((" ", " ", "\n")) + text
        if self.rng.random() < 0.08:
            text += (
                ("" if text[-1] in ".!?:\n" else self.rng.choice((", ", " ", ". ")))
                + " " * (text[-1] in ".!?")
                + self.form("around", "after").texts[0]
            )
        return text

    def thought(self, kind: str, values: dict, *fits: str) -> str:
        """A thought of a kind that is true here: it fits anywhere or in one of `fits`, and its slots are known."""
        usable = {
            name for name, value in values.items() if isinstance(value, str) and "\n" not in value and len(value) <= 60
        }
        known = [
            f
            for f in wordings.forms("thoughts", False, kind)
            if f.fits in ("any", *fits) and usable.issuperset(SLOT.findall(f.texts[0]))
        ]
        apt = [f for f in known if f.fits != "any"]
        for _ in range(12 if known else 0):
            chosen = self.rng.choice(apt if apt and self.rng.random() < 0.4 else known).texts[0]
            if short(text := self.fill(chosen, values)):
                return self.renamed(text)
        return self.form("around", "plain_thought").texts[0]

    def renamed(self, thought: str) -> str:
        """A thought that calls tools by the names on offer."""
        for name, shown in self.context.names.items():
            if name != shown and "_" in name:
                thought = re.sub(rf"\b{name}\b", shown, thought)
        return thought

    # ---- calls ----

    def call(self, tool: str, **arguments) -> dict:
        return {"name": self.context.names[tool], "arguments": dict(sorted(arguments.items()))}

    def pick_tool(self, tools=None) -> str:
        tools = [t for t in tools or self.able if t in self.able]
        return self.rng.choices(tools, [SHARES[t] for t in tools])[0]

    def single(self, tool: str) -> tuple[str, dict, str]:
        """One request for `tool`: (the user's words, the call, the thought before it)."""
        rng, slots = self.rng, self.slots
        if tool == "terminal":
            return self.terminal()
        if tool == "read_file":
            values = {"path": slots.path()}
            if rng.random() < 0.65:
                form, args = self.form("read_file_plain"), {}
            else:
                form = self.form("read_file_part", "limit", "offset", "both")
                values.update(limit=slots.limit(), offset=slots.offset())
                args = {name: int(values[name]) for name in ("limit", "offset") if form.kind in (name, "both")}
            return (
                self.request(form.texts[0], values),
                self.call(tool, path=values["path"], **args),
                self.thought(tool, values),
            )
        if tool == "search_files":
            return self.search()
        if tool == "write_file":
            values = self.written(slots.path(), slots.content())
            return (
                self.request(self.form(tool).texts[0], values),
                self.call(tool, path=values["path"], content=values["content"]),
                self.thought(tool, values),
            )
        if tool == "patch":
            old, new = slots.pair()
            values = {"path": slots.path(), "old": old, "new": new}
            text = self.request(self.form(tool).texts[0], values)
            if rng.random() < 0.1:
                text += rng.choice((", ", " ", ". ", "\n")) + self.form("around", "everywhere").texts[0]
                return text, self.patch(values, replace_all=True), self.thought(tool, values)
            return text, self.patch(values), self.thought(tool, values)
        if tool == "process":
            return self.process()
        values = {"url": slots.url()}
        shown = dict(values)
        if (
            values["url"].startswith("https://") and rng.random() < 0.3
        ):  # people leave the scheme away; the tool wants it
            shown["url"] = values["url"][8:]
        return (
            self.request(self.form(tool).texts[0], shown),
            self.call(tool, url=values["url"]),
            self.thought(tool, values),
        )

    def terminal(self) -> tuple[str, dict, str]:
        kind, slots = self.rng.random(), self.slots
        if kind < 0.5:
            form, values, args = self.form("terminal_command"), {"command": slots.command()}, {}
        elif kind < 0.9:
            form, values, args = self.purpose(), {}, {}
            drawn = {name: slots.draw(name) for name in sorted(set(SLOT.findall(form.kind + form.texts[0])))}
            return self.request(form.texts[0], drawn), *self._terminal({"command": self.fill(form.kind, drawn)})
        else:
            form, values, args = (
                self.form("terminal_process_start"),
                {"command": slots.background()},
                {"background": True},
            )
        return self.request(form.texts[0], values), *self._terminal(values, **args)

    def _terminal(self, values: dict, **args) -> tuple[dict, str]:
        return self.call("terminal", command=values["command"], **args), self.thought("terminal", values)

    def purpose(self) -> Form:
        """A request that names a command's purpose; each command as often as another."""
        by_command: dict[str, list[Form]] = _by_kind("terminal_purpose", self.heldout)
        return self.rng.choice(by_command[self.rng.choice(list(by_command))])

    def written(self, path: str, content: str) -> dict:
        return {
            "path": path,
            "content": content,
            "content_start": " ".join(content.split()[:3]) if "\n" not in content else content.split("\n")[0],
        }

    def patch(self, values: dict, **args) -> dict:
        return self.call(
            "patch", mode="replace", path=values["path"], old_string=values["old"], new_string=values["new"], **args
        )

    def search(self) -> tuple[str, dict, str]:
        slots = self.slots
        if self.rng.random() < 0.4:
            form = self.form("search_files", "plain", "plain", "in_directory")
            values = {"glob": slots.glob(), "directory": slots.directory()}
            args = {"pattern": values["glob"], "target": "files"}
            kind = "search_files"
        else:
            form = self.form(
                "search_content", "plain", "plain", "plain", "in_directory", "in_directory", "count", "glob"
            )
            values = {"pattern": slots.pattern(), "directory": slots.directory(), "file_glob": slots.file_glob()}
            args = {"pattern": values["pattern"]}
            if form.kind == "count":
                args["output_mode"] = "count"
            if "{file_glob}" in form.texts[0]:
                args["file_glob"] = values["file_glob"]
            kind = "search_content"
        if "{directory}" in form.texts[0]:
            args["path"] = values["directory"]
        else:
            values.pop("directory")
        return self.request(form.texts[0], values), self.call("search_files", **args), self.thought(kind, values)

    def process(self) -> tuple[str, dict, str]:
        kind = self.rng.random()
        if kind < 0.25:
            return (
                self.request(self.form("process_list").texts[0], {}),
                self.call("process", action="list"),
                self.thought_of_list(),
            )
        values = {"session": self.slots.session(), "data": self.slots.data()}
        form = (
            self.form("process_one", "poll", "log", "wait", "kill")
            if kind < 0.78
            else self.form("process_input", "submit", "write", "close")
        )
        args = {"data": values["data"]} if form.kind in ("submit", "write") else {}
        fits = "input (write, submit)" if args else form.kind
        return (
            self.request(form.texts[0], values),
            self.call("process", action=form.kind, session_id=values["session"], **args),
            self.thought("process", values, fits),
        )

    def thought_of_list(self) -> str:
        return self.rng.choice(
            [f for f in wordings.forms("thoughts", False, "process") if f.fits == "list (no slot)"]
        ).texts[0]

    def values_of(self, call: dict) -> tuple[str, dict]:
        """(the kind of clause, slots) of a call whose name is Hermes's own."""
        args = call["arguments"]
        if call["name"] == "search_files":
            if args.get("target") == "files":
                return "search_files", {"glob": args["pattern"]}
            return "search_content", {
                "pattern": args["pattern"],
                "directory": args.get("path")
                or self.rng.choice(("this folder", "the current folder", "the project", "all files")),
            }
        if call["name"] == "write_file":
            return "write_file", self.written(args["path"], args["content"])
        if call["name"] == "patch":
            return "patch", {"path": args["path"], "old": args["old_string"], "new": args["new_string"]}
        return call["name"], {k: args[k] for k in ("command", "path", "url") if k in args}

    def clause(self, call: dict) -> str:
        """A bare imperative for a call whose name is Hermes's own."""
        kind, values = self.values_of(call)
        return self.fill(self.form("clauses", kind).texts[0], values, rough=True)

    def for_clauses(self, tool: str) -> dict:
        """A drawn call (Hermes's own name) that a clause can ask for in full."""
        slots = self.slots
        if tool == "terminal":
            args = {"command": slots.command()}
        elif tool == "read_file":
            args = {"path": slots.path()}
        elif tool == "search_files":
            args = (
                {"pattern": slots.glob(), "target": "files"}
                if self.rng.random() < 0.4
                else {"pattern": slots.pattern(), "path": slots.directory()}
            )
        elif tool == "write_file":
            args = {"path": slots.path(), "content": slots.content()}
        elif tool == "patch":
            old, new = slots.pair()
            args = {"mode": "replace", "path": slots.path(), "old_string": old, "new_string": new}
        else:
            args = {"url": slots.url()}
        return {"name": tool, "arguments": dict(sorted(args.items()))}

    def shown(self, call: dict) -> dict:
        return {"name": self.context.names[call["name"]], "arguments": call["arguments"]}

    def thought_before(self, call: dict) -> str:
        kind, values = self.values_of(call)
        if "path" not in call["arguments"]:
            values.pop("directory", None)
        return self.thought(kind, values)

    # ---- results ----

    def lines(self, low: int = 1, high: int = 5) -> list[str]:
        """Lines of a file or a command's output."""
        rng, slots = self.rng, self.slots
        count, style = rng.randint(low, high), rng.randrange(7)

        def w() -> str:
            return pick_word(rng, self.heldout, 0.15)

        made = {
            0: lambda: f"{w()} = {rng.choice((w(), str(number(rng)), 'true', 'on'))}",
            1: lambda: f'  "{w()}": "{w()} {number(rng)}",',
            2: lambda: slots.words(2, 6).capitalize() + ".",
            3: lambda: f"{rng.choice('-*#')} {slots.words(1, 4)}",
            4: lambda: f"{w()}: {rng.choice((w(), str(number(rng)), f'{w()}.{w()}.com'))}",
            5: lambda: f"{w()},{number(rng)},{w()}",
            6: lambda: slots.content().split("\n")[0],
        }[style]
        return [made() for _ in range(count)]

    def output(self) -> str:
        """What a command printed: a number, a word, a sentence, some lines, or nothing."""
        rng, slots, kind = self.rng, self.slots, self.rng.random()
        if kind < 0.12:
            return ""
        if kind < 0.6:
            form = rng.choice(("{n}", "{w}", "{w}-{n}", "{n} passed in {n}.{n}s", "{n} failed, {n} passed",
            "{w} {n}.{n}.{n}", "v{n}.{n}.{n}", "{h} {W}", "{n} {p}", "{p}", "/{d}/{w}", "{W}", "{n}.{n}G",
            "2026-{m}-{m} {n}:{m}:{m}",
                               "{w}: {W}", "up {n} days", "{W} ({n})", "{w}@{D}", "{i}", "{n}%", "OK ({n})", "{u}",
                               "{U}", "On branch {b}", "{n} files changed, {n} insertions(+)"))  # fmt: skip
            return slots.fill(form)
        return "\n".join(self.lines(2, 5))

    def result(self, call: dict) -> tuple[str, str, dict]:
        """A made-up result in the shape of Hermes's: (JSON, the kind of answer, slots of it)."""
        rng, slots = self.rng, self.slots
        args, name = call["arguments"], next(k for k, v in self.context.names.items() if v == call["name"])

        def dump(held: dict) -> str:
            return json.dumps(held, ensure_ascii=False)

        if name == "terminal":
            if args.get("background"):
                session = slots.session()
                return (
                    dump(
                        {"output": "Background process started", "session_id": session, "exit_code": 0, "error": None}
                    ),
                    "output_line",
                    {"text": f"Background process started, {session}", "command": args["command"]},
                )
            text = self.output()
            return (
                dump({"output": text, "exit_code": 0, "error": None}),
                "output_none" if not text else "output_lines" if "\n" in text else "output_line",
                {"text": text, "command": args["command"]},
            )
        if name == "read_file":
            lines = self.lines(1, min(5, args.get("limit", 5))) if rng.random() < 0.95 else []
            first = args.get("offset", 1)
            text = "\n".join(lines)
            numbered = "\n".join(f"{first + i}|{line}" for i, line in enumerate(lines))
            held = {
                "content": numbered,
                "total_lines": len(lines),
                "file_size": len(text.encode()) + 1,
                "truncated": False,
                "is_binary": False,
                "is_image": False,
            }
            return (
                dump(held),
                "read_empty" if not lines else "read_lines" if len(lines) > 1 else "read_line",
                {"text": text, "path": args["path"]},
            )
        if name == "search_files":
            return self.found(args)
        if name == "write_file":
            size = len(args["content"].encode())
            held = {
                "bytes_written": size,
                "dirs_created": rng.random() < 0.7,
                "lint": {"status": "skipped", "message": "No linter for this file"},
                "resolved_path": f"{working_folder(rng)}/{args['path']}",
            }
            return dump(held), "written", {"path": args["path"], "count": str(size)}
        if name == "patch":
            old, new = args["old_string"], args["new_string"]
            held = {
                "success": True,
                "diff": f"--- a/{args['path']}\n+++ b/{args['path']}\n@@ -1 +1 @@\n-{old}\n+{new}",
                "files_modified": [args["path"]],
            }
            return dump(held), "patched", {"path": args["path"], "old": old, "new": new}
        if name == "process":
            return self.process_result(args)
        title = slots.words(1, 4).title() if rng.random() < 0.6 else slots.words(1, 5)
        held = {
            "success": True,
            "url": args["url"],
            "title": title,
            "snapshot": f'- heading "{slots.words(1, 3)}" [level=1, ref=e1]\n- link "{pick_word(rng)}" [ref=e2]',
            "element_count": rng.randint(1, 9),
        }
        return dump(held), "page", {"url": args["url"], "title": title}

    def found(self, args: dict) -> tuple[str, str, dict]:
        rng, slots = self.rng, self.slots
        count = rng.choice((0, 1, 1, 2, 2, 3, 4))
        values = {"pattern": args["pattern"], "count": str(count)}
        folder = (args.get("path") or "").rstrip("/")
        paths = [
            f"{folder}/{slots.some_word()}.{rng.choice(EXTENSIONS)}".lstrip("/")
            if folder
            else slots.path().removeprefix("./")
            for _ in range(count)
        ]
        if not count:
            return (
                json.dumps({"total_count": 0, "matches": []} if rng.random() < 0.5 else {"total_count": 0}),
                "found_none",
                values,
            )
        if args.get("target") == "files":
            name = args["pattern"].replace("**/", "")
            paths = [
                path.rpartition("/")[0] + "/" * ("/" in path) + re.sub(r"[*?]", lambda _: pick_word(rng), name)
                for path in paths
            ]
            return (
                json.dumps({"total_count": count, "files": paths}, ensure_ascii=False),
                "found_files" if count > 1 else "found_file",
                {**values, "text": "\n".join(paths)},
            )
        if args.get("output_mode") == "count":
            counts = {path: rng.randint(1, 30) for path in paths}
            values["count"] = str(sum(counts.values()))
            return (
                json.dumps({"total_count": sum(counts.values()), "counts": counts}, ensure_ascii=False),
                "counted",
                {**values, "text": "\n".join(f"{path}: {n}" for path, n in counts.items())},
            )
        matches = [
            {
                "path": path,
                "line": number(rng),
                "content": slots.fill(
                    rng.choice(("{w} = %s", "# %s", "%s {w}", "{w} %s {w}", "    %s", "{w}: %s"))
                ).replace("%s", args["pattern"]),
            }
            for path in paths
        ]
        text = "\n".join(f"{m['path']}:{m['line']}: {m['content'].strip()}" for m in matches)
        return (
            json.dumps({"total_count": count, "matches": matches}, ensure_ascii=False),
            "found_lines" if count > 1 else "found_line",
            {**values, "text": text},
        )

    def process_result(self, args: dict) -> tuple[str, str, dict]:
        rng, slots = self.rng, self.slots
        session, text = (
            args.get("session_id", ""),
            slots.fill(rng.choice(("{W} {n}", "{n} of {n}", "{w}: {n}%", "Listening on {n}", "{W}", "{n} passed"))),
        )
        if args["action"] == "list":
            jobs = [
                {
                    "session_id": slots.session(),
                    "command": slots.background(),
                    "status": "running",
                    "uptime_seconds": number(rng),
                }
                for _ in range(rng.choice((0, 1, 2)))
            ]
            told = "\n".join(f"{job['session_id']}: {job['command']} ({job['status']})" for job in jobs)
            return (
                json.dumps({"processes": jobs}, ensure_ascii=False),
                "process_list" if jobs else "process_none",
                {"text": told, "count": str(len(jobs))},
            )
        if args["action"] == "kill":
            return json.dumps({"status": "killed", "session_id": session}), "process_killed", {"session": session}
        if args["action"] in ("submit", "write"):
            return (
                json.dumps({"status": "ok", "bytes_written": len(args["data"])}),
                "process_input",
                {"session": session},
            )
        if args["action"] == "close":
            return json.dumps({"status": "ok", "message": "stdin closed"}), "process_closed", {"session": session}
        if args["action"] == "log":
            text = "\n".join(self.lines(1, 4))
            return (
                json.dumps(
                    {"session_id": session, "status": "running", "output": text, "total_lines": text.count("\n") + 1},
                    ensure_ascii=False,
                ),
                "process_log",
                {"session": session, "text": text},
            )
        state = "exited" if args["action"] == "wait" else rng.choice(("running", "running", "exited"))
        key = rng.choice(("output_preview", "output"))
        held = {"session_id": session, "status": state, key: text, **({"exit_code": 0} if state == "exited" else {})}
        return json.dumps(held, ensure_ascii=False), "process_state", {"session": session, "state": state, "text": text}

    def answer(self, kind: str, values: dict) -> str:
        return self.fill(self.form("results", kind).texts[0], values)

    def told(self, call: dict, result: str) -> tuple[str, dict]:
        """(the kind of answer, slots) for a recorded result of a call by Hermes's own name."""
        name, args, held = call["name"], call["arguments"], json.loads(result)
        if name == "terminal":
            text = held["output"]
            values = {"text": text, "command": args["command"], "code": str(held["exit_code"])}
            if held["exit_code"]:
                return "exit_code", {**values, "text": text or "no output"}
            return "output_none" if not text else "output_lines" if "\n" in text else "output_line", values
        if name == "read_file":
            lines = [line.split("|", 1)[1] for line in held["content"].split("\n") if "|" in line]
            text = "\n".join(lines).rstrip("\n")
            return "read_empty" if not text else "read_lines" if "\n" in text else "read_line", {
                "text": text,
                "path": args["path"],
            }
        if name == "write_file":
            return "written", {"path": args["path"], "count": str(held["bytes_written"])}
        if name == "search_files":
            count, values = held["total_count"], {"pattern": args["pattern"], "count": str(held["total_count"])}
            if not count:
                return "found_none", values
            if files := held.get("files"):
                return "found_files" if len(files) > 1 else "found_file", {**values, "text": "\n".join(files)}
            text = "\n".join(f"{m['path']}:{m['line']}: {m['content'].strip()}" for m in held["matches"])
            return "found_lines" if len(held["matches"]) > 1 else "found_line", {**values, "text": text}
        return "patched", {"path": args["path"], "old": args["old_string"], "new": args["new_string"]}

    def final_thought(self, kind: str, name: str) -> str:
        fits = {"output_line": ["terminal"], "output_lines": ["terminal"], "output_none": ["terminal, no output"],
        "found_lines": ["search with matches"], "found_files": ["search with matches"],
        "found_line": ["search with one match"],
                "found_file": ["search with one match"], "read_line": ["read_file"],
                "read_lines": ["read_file", "lines asked"],
                "written": ["write_file", "success to confirm (write, patch, kill)"],
                "patched": ["patch", "success to confirm (write, patch, kill)"], "page": ["page"],
                "process_killed": ["process ended or killed", "success to confirm (write, patch, kill)"],
                "process_list": ["process"], "process_state": ["process"], "process_log": ["process"]}.get(kind,
                [])  # fmt: skip
        return self.thought("final", {}, *fits)

    # ---- rows ----

    def row(self, shares: dict[str, float]) -> dict:
        """One row of a kind drawn by `shares`, none of whose user messages repeats an eval prompt."""
        while True:
            kind = self.rng.choices(list(shares), list(shares.values()))[0]
            messages = getattr(self, f"row_{kind}")()
            if messages and wordings.prompts().of_row(messages) is None:
                return {"kind": kind, "messages": messages}

    def row_call(self):
        if not self.able:
            return None
        if "terminal" in self.able and set(THROUGH_TERMINAL).isdisjoint(self.able) and self.rng.random() < 0.3:
            return self.row_through_terminal()
        text, call, thought = self.single(self.pick_tool())
        return [user(text), assistant(thought, "", call)]

    def row_through_terminal(self):
        """A file task worded as for the file tools, where only a shell is on offer."""
        slots, kind = self.slots, self.rng.random()
        if kind < 0.4:
            values = {"path": slots.path()}
            text, command = self.request(self.form("read_file_plain").texts[0], values), f"cat {values['path']}"
        elif kind < 0.75:
            values = self.written(slots.path(), slots.words(1, 5).replace("'", ""))
            text, command = (
                self.request(self.form("write_file").texts[0], values),
                f"echo '{values['content']}' > {values['path']}",
            )
        else:
            values = {"pattern": pick_word(self.rng, self.heldout), "directory": slots.folder()}
            text, command = (
                self.request(self.form("search_content", "in_directory").texts[0], values),
                f"grep -rn {values['pattern']} {values['directory']}",
            )
        call, thought = self._terminal({"command": command})
        return [user(text), assistant(thought, "", call)]

    def row_drill(self):
        """A call whose arguments are made of the vocabulary's pieces."""
        if not self.able:
            return None
        before, self.slots = self.slots, Slots(self.rng, self.heldout, self.pieces, 0.85)
        tool = self.pick_tool([t for t in self.able if t != "process"] or self.able)
        text, call, thought = self.single(tool)
        self.slots = before
        return [user(text), assistant(thought, "", call)]

    def row_chat(self):
        if self.rng.random() < 0.12:
            return self.repeat()
        text, thought, answer = self.form("chat").texts
        return [user(self.request(text, {})), assistant(thought, answer)]

    def repeat(self):
        """Words to say back exactly, with no tool: practice in copying."""
        text = self.rng.choice((self.slots.words(1, 8), self.slots.path(), self.slots.command(), self.slots.content()))
        ask = self.rng.choice(
            (
                "Repeat: {t}",
                "say exactly: {t}",
                "Copy this to the chat: {t}",
                "Write here, in the chat: {t}",
                "repeat after me: {t}",
                "Say back to me: {t}",
            )
        )
        return [user(ask.replace("{t}", text)), assistant(self.form("around", "repeat_thought").texts[0], text)]

    def row_asking(self):
        if not self.able:
            return None
        text, thought, answer = self.form("asking", self.rng.choice(self.able)).texts
        values = {name: self.slots.draw(name) for name in sorted(set(SLOT.findall(text + thought + answer)))}
        return [user(self.request(text, values)), assistant(self.fill(thought, values), self.fill(answer, values))]

    def row_refusing(self):
        kinds = ["outside"] * 3
        if self.context.tools:
            kinds += ["no_browser"] * ("browser_navigate" not in self.able)
            kinds += ["no_terminal"] * ("terminal" not in self.able)
            kinds += ["no_files"] * (not self.able or {"terminal", *FILE_TOOLS}.isdisjoint(self.able))
        text, thought, answer = self.form("refusing", self.rng.choice(kinds)).texts
        values = {name: self.slots.draw(name) for name in sorted(set(SLOT.findall(text + thought + answer)))}
        thought = self.fill(thought, values)
        return (
            [user(self.request(text, values)), assistant(thought, self.fill(answer, values))]
            if short(thought)
            else None
        )

    def row_missing(self):
        """A request for a tool that is not on offer, and that no other tool could serve."""
        gone = [
            t
            for t in TOOLS
            if t not in self.able
            and not ("terminal" in self.able and t in THROUGH_TERMINAL)
            and not (t == "patch" and "write_file" in self.able)
        ]
        if not self.context.tools or not gone:
            return None
        tool = self.rng.choice(gone)
        whole = Dialogue(self.rng, Context("bare"), self.heldout, self.pieces)
        if tool == "terminal":
            text = whole.request(whole.form("terminal_command").texts[0], {"command": whole.slots.command()})
        else:
            text = whole.single(tool)[0]
        kind = (
            "files"
            if tool in FILE_TOOLS and {*FILE_TOOLS}.isdisjoint(self.able) and self.rng.random() < 0.5
            else MISSING[tool]
        )
        thought, answer = self.form("missing_tool", kind).texts
        return [user(text), assistant(thought, answer)]

    def row_final(self):
        """A request, its call with a result, and the answer; the result is a recorded one a third of the time."""
        if not self.able:
            return None
        if self.rng.random() < 0.35:
            steps = [
                s for s in self.rng.choice(recorded("single")) if s["name"] in self.able and not _failed(s["result"])
            ]
            if not steps:
                return None
            step = self.placed(steps[:1])[0]
            kind, values = self.told(step, step["result"])
            text, _, thought = self.worded(step)
            turns = [assistant(thought, "", self.shown(step)), tool(step["result"])]
        else:
            text, call, thought = self.single(self.pick_tool())
            result, kind, values = self.result(call)
            turns = [assistant(thought, "", call), tool(result)]
        return [user(text), *turns, assistant(self.final_thought(kind, ""), self.answer(kind, values))]

    def worded(self, step: dict) -> tuple[str, dict, str]:
        """Words that ask for a recorded call."""
        kind, values = self.values_of(step)
        if kind == "search_content":
            form = self.form("search_content", "in_directory" if "path" in step["arguments"] else "plain")
        elif kind == "search_files":
            form = self.form("search_files", "plain")
        else:
            form = self.form({"terminal": "terminal_command", "read_file": "read_file_plain"}.get(kind, kind))
        return self.request(form.texts[0], values), self.shown(step), self.thought_before(step)

    def placed(self, steps: list[dict]) -> list[dict]:
        """Recorded steps in a drawn working folder, half of the time on a file of another name."""
        folder = working_folder(self.rng)
        steps = [{**s, "result": s["result"].replace("{CWD}", folder)} for s in steps]
        old = steps[0]["arguments"].get("path", "")
        if len(old) < 8 or self.rng.random() < 0.4:
            return steps
        new = self.slots.path().removeprefix("./")
        return json.loads(
            json.dumps(steps, ensure_ascii=False).replace(
                json.dumps(old, ensure_ascii=False)[1:-1], json.dumps(new, ensure_ascii=False)[1:-1]
            )
        )

    def failing(self) -> tuple[str, dict, str, str, str, dict] | None:
        """A request whose call fails: (words, call, thought, result, shape of the error, slots)."""
        rng, shape = self.rng, self.rng.choice(ERROR_SHAPES)
        tool = {
            "not_found": "read_file",
            "permission": rng.choice(("read_file", "write_file")),
            "no_match": "search_files",
            "timeout": "terminal",
            "command_failed": "terminal",
            "page_error": "browser_navigate",
        }[shape]
        if shape == "no_match" and rng.random() < 0.4:
            tool = "patch"
        if tool not in self.able:
            return None
        text, call, thought = self.single(tool)
        args = call["arguments"]
        values = {k: args[k] for k in ("path", "pattern", "command", "url") if k in args}
        if tool == "read_file":
            error = (
                f"File not found: {args['path']}"
                if shape == "not_found"
                else rng.choice(
                    (
                        f"Failed to read file: [Errno 13] Permission denied: '{args['path']}'",
                        f"Permission denied: {args['path']}",
                        "Access denied",
                    )
                )
            )
            held = {
                "content": "",
                "total_lines": 0,
                "file_size": 0,
                "truncated": False,
                "is_binary": False,
                "is_image": False,
                "error": error,
            }
        elif tool == "write_file":
            reasons = (
                "[Errno 13] Permission denied",
                "[Errno 30] Read-only file system",
                "[Errno 28] No space left on device",
            )
            error = f"Failed to write file: {rng.choice(reasons)}: '{args['path']}'"
            held = (
                {"error": error} if rng.random() < 0.5 else {"bytes_written": 0, "dirs_created": False, "error": error}
            )
            shape = "permission" if "denied" in error else "no_write"
        elif tool == "patch":
            error = "Could not find a match for old_string in the file"
            held, shape = {"success": False, "error": error}, "no_patch"
        elif tool == "search_files":
            if args.get("output_mode"):
                return None
            error, held = "", {"total_count": 0, "matches": []} if rng.random() < 0.5 else {"total_count": 0}
        elif tool == "terminal":
            code, error = self.failure(args["command"], shape)
            values["code"] = str(code)
            held = {"output": error, "exit_code": code, "error": None}
        else:
            error = rng.choice(
                (
                    f"Navigation timeout of {rng.choice((15, 30, 60))}000 ms exceeded",
                    "net::ERR_NAME_NOT_RESOLVED",
                    "net::ERR_CONNECTION_REFUSED",
                    "net::ERR_CONNECTION_TIMED_OUT",
                    f"HTTP {rng.choice((403, 404, 500, 502, 503))}",
                    "net::ERR_CERT_DATE_INVALID",
                )
            )
            held = {"success": False, "error": error}
        values["text"] = error
        return text, call, thought, json.dumps(held, ensure_ascii=False), shape, values

    def failure(self, command: str, shape: str) -> tuple[int, str]:
        """(exit code, message) of a command that fails."""
        rng, slots, first = self.rng, self.slots, command.split()[0]
        if shape == "timeout":
            return 124, rng.choice(
                (
                    f"Command timed out after {rng.choice((10, 30, 60, 180))} seconds",
                    f"[Command timed out after {rng.choice((30, 60, 120))}s]",
                )
            )
        return rng.choice((
            (127, f"bash: {first}: command not found"), (1, f"{first}: {slots.path()}: No such file or directory"),
            (126, f"bash: {first}: Permission denied"), (1, slots.fill("error: {W}")),
            (2, f"make: *** [{slots.some_word()}] Error 2"), (1, slots.fill("fatal: {W} {n}")),
            (1, slots.fill("{n} failed, {n} passed")), (1, slots.fill("ModuleNotFoundError: No module named '{w}'")),
            (rng.randint(1, 120), slots.fill("{w}: {W}")),
            (1, slots.fill("remote: error: {W}\n ! [remote rejected] {b}")),
        ))  # fmt: skip

    def report(self, shape: str, values: dict) -> dict:
        """What is said after an error: what went wrong, and mostly the tool's own words."""
        if shape in ("no_patch", "no_write"):
            thought, answer = (
                self.form("around", f"{shape}_thought").texts[0],
                self.fill(self.form("around", shape).texts[0], values),
            )
        else:
            form = self.form("after_error", shape)
            thought, answer = self.fill(form.texts[0], values), self.fill(form.texts[1], values)
        if values["text"] and self.rng.random() < 0.75:
            answer += " " + self.answer("quote", values)
        return assistant(thought if short(thought) else self.form("around", "error_thought").texts[0], answer)

    def row_error(self):
        made = self.failing()
        if made is None:
            return None
        text, call, thought, result, shape, values = made
        if self.rng.random() < 0.4 or shape == "no_patch":
            text += ("" if text[-1] in ".!?\n" else ".") + " " + self.form("around", "condition").texts[0]
        return [user(text), assistant(thought, "", call), tool(result), self.report(shape, values)]

    def row_retry(self):
        """One error that can be mended, the mended call, and mostly the end of it."""
        rng, kind = self.rng, self.rng.random()
        if kind < 0.4 and "read_file" in self.able:
            text, call, thought = self.single("read_file")
            path = call["arguments"]["path"]
            stem, dot, ending = path.rpartition(".")
            near = rng.choice(
                (
                    path + ".md",
                    (stem if dot else path) + "." + rng.choice(EXTENSIONS),
                    path.replace("_", "-"),
                    path.upper(),
                    "docs/" + path.lstrip("/~."),
                )
            )
            if near == path:
                return None
            held = {
                "content": "",
                "total_lines": 0,
                "file_size": 0,
                "truncated": False,
                "is_binary": False,
                "is_image": False,
                "error": f"File not found: {path}",
                "similar_files": [near],
            }
            second, why = (
                self.call("read_file", **{**call["arguments"], "path": near}),
                self.form("around", "retry_name").texts[0],
            )
        elif kind < 0.7 and "terminal" in self.able:
            old, new = rng.choice(
                (("python ", "python3 "), ("pip ", "pip3 "), ("node ", "nodejs "), ("python ", "python3 "))
            )
            command = old + self.slots.fill(
                rng.choice(("{p}", "-m {i}", "{p} --{w}", "install {w}" if "pip" in old else "{p} {n}"))
            )
            text = self.request(self.form("terminal_command").texts[0], {"command": command})
            call, thought = self._terminal({"command": command})
            held = {"output": f"bash: {old.strip()}: command not found", "exit_code": 127, "error": None}
            second, why = (
                self.call("terminal", command=new + command.removeprefix(old)),
                self.form("around", "retry_program").texts[0],
            )
        elif kind < 0.85 and {"patch", "read_file"} <= set(self.able):
            text, call, thought = self.single("patch")
            held = {
                "success": False,
                "error": "Could not find a match for old_string in the file",
                "_hint": "old_string not found. Use read_file to verify the current content, "
                "or search_files to locate the text.",
            }
            second, why = (
                self.call("read_file", path=call["arguments"]["path"]),
                self.form("around", "retry_read").texts[0],
            )
        elif "search_files" in self.able and "read_file" in self.able:
            text, call, thought = self.single("read_file")
            path = call["arguments"]["path"]
            held = {
                "content": "",
                "total_lines": 0,
                "error": f"File not found: {path}",
                "_hint": "Use search_files to find it.",
            }
            second, why = (
                self.call("search_files", pattern=path.rpartition("/")[2], target="files"),
                self.form("around", "retry_search").texts[0],
            )
        else:
            return None
        messages = [
            user(text),
            assistant(thought, "", call),
            tool(json.dumps(held, ensure_ascii=False)),
            assistant(why, "", second),
        ]
        if rng.random() < 0.5:
            result, kind, values = self.result(second)
            messages += [tool(result), assistant(self.final_thought(kind, ""), self.answer(kind, values))]
        return messages

    def row_fallback(self):
        """A; if that fails, B: the user names the second way, and it is taken after an error only."""
        able = [t for t in self.able if t in ("read_file", "terminal", "browser_navigate", "search_files")]
        if not able:
            return None
        first = self.for_clauses(self.pick_tool(able))
        second = self.for_clauses(self.pick_tool([t for t in self.able if t != "process"]))
        text = self.request(
            self.form("around", "fallback").texts[0], {"a": self.clause(first), "b": self.clause(second)}
        )
        call, then = self.shown(first), self.shown(second)
        messages = [user(text), assistant(self.thought_before(first), "", call)]
        if self.rng.random() < 0.35:
            result, kind, values = self.result(call)
            if kind in ("found_none", "read_empty"):
                return None
            return [
                *messages,
                tool(result),
                assistant(self.form("around", "no_plan_b").texts[0], self.answer(kind, values)),
            ]
        args = first["arguments"]
        if first["name"] == "read_file":
            held = {
                "content": "",
                "total_lines": 0,
                "file_size": 0,
                "truncated": False,
                "is_binary": False,
                "is_image": False,
                "error": f"File not found: {args['path']}",
            }
        elif first["name"] == "terminal":
            code, error = self.failure(args["command"], self.rng.choice(ERROR_SHAPES))
            held = {"output": error, "exit_code": code, "error": None}
        elif first["name"] == "search_files":
            held = {"total_count": 0, "matches": []}
        else:
            held = {
                "success": False,
                "error": self.rng.choice(
                    (
                        "net::ERR_NAME_NOT_RESOLVED",
                        "net::ERR_CONNECTION_REFUSED",
                        "Navigation timeout of 60000 ms exceeded",
                    )
                ),
            }
        messages += [
            tool(json.dumps(held, ensure_ascii=False)),
            assistant(self.form("around", "plan_b").texts[0], "", then),
        ]
        if self.rng.random() < 0.4:
            result, kind, values = self.result(then)
            messages += [tool(result), assistant(self.final_thought(kind, ""), self.answer(kind, values))]
        return messages

    def row_sequence(self):
        """Two or three calls in a row: recorded ones, made-up ones, or a search whose find is read."""
        rng, kind = self.rng, self.rng.random()
        if kind < 0.55:
            steps = rng.choice(recorded("row"))
            if not {s["name"] for s in steps} <= set(self.able):
                return None
            steps = self.placed(steps)
        elif kind < 0.8 or not {"search_files", "read_file"} <= set(self.able):
            tools = [t for t in self.able if t != "process"]
            if not tools:
                return None
            steps = [self.for_clauses(self.pick_tool(tools)) for _ in range(rng.choice((2, 2, 3)))]
            steps = [{**s, "told": (made := self.result(self.shown(s)))[1:], "result": made[0]} for s in steps]
        else:
            return self.search_then_read()
        clauses = dict(zip("abc", (self.clause(s) for s in steps)))
        text = self.request(self.form("joints", f"sequence{len(steps)}").texts[0], clauses)
        messages = [user(text)]
        for i, step in enumerate(steps):
            if i == 0:
                while (
                    (why := self.thought("sequence", {}, *["three steps"] * (len(steps) > 2)))
                    and len(steps) > 2
                    and COUNTS_TWO.search(why)
                ):
                    pass
            else:
                while (
                    (
                        why := self.thought(
                            "next_step",
                            {},
                            *["two commands"] * ({s["name"] for s in steps} == {"terminal"} and len(steps) == 2),
                        )
                    )
                    and len(steps) > 2
                    and COUNTS_TWO.search(why)
                ):
                    pass
            why = why if rng.random() < 0.5 else self.thought_before(step)
            messages += [assistant(why, "", self.shown(step)), tool(step["result"])]
        kind, values = steps[-1].get("told") or self.told(steps[-1], steps[-1]["result"])
        thought = self.thought("final", {}, "several calls done")
        return [*messages, assistant(thought, self.answer(kind, values))]

    def search_then_read(self):
        first = {"name": "search_files", "arguments": {"pattern": self.slots.glob(), "target": "files"}}
        path = f"{self.slots.folder_name()}/" * rng_bit(self.rng) + re.sub(
            r"[*?]", lambda _: pick_word(self.rng), first["arguments"]["pattern"]
        )
        found = json.dumps({"total_count": 1, "files": [path]}, ensure_ascii=False)
        text = self.request(
            self.form("joints", "sequence2").texts[0],
            {"a": self.clause(first), "b": self.form("around", "then_read").texts[0]},
        )
        second = self.call("read_file", path=path)
        result, kind, values = self.result(second)
        return [user(text), assistant(self.thought("sequence", {}, "search then read"), "", self.shown(first)),
        tool(found), assistant(self.thought("next_step", {}, "search then read"), "", second),
                tool(result),
                assistant(self.thought("final", {}, "several calls done"), self.answer(kind, values))]  # fmt: skip

    def row_parallel(self):
        """Two or three independent calls in one block, of one tool half of the time."""
        rng, tools = self.rng, [t for t in self.able if t != "process"]
        if not tools:
            return None
        count = rng.choice((2, 2, 2, 3))
        if rng.random() < 0.5:
            tools = [self.pick_tool(tools)]
        calls = [self.for_clauses(self.pick_tool(tools)) for _ in range(count)]
        text = self.request(
            self.form("joints", f"parallel{count}").texts[0], dict(zip("abc", (self.clause(c) for c in calls)))
        )
        return [
            user(text),
            assistant(self.form("around", f"parallel{count}").texts[0], "", *(self.shown(c) for c in calls)),
        ]

    def row_followup(self):
        """A finished exchange, whose thoughts are gone, and a second request."""
        earlier = self.rng.choice((self.row_final, self.row_final, self.row_chat, self.row_error, self.row_asking))()
        if earlier is None:
            return None
        kind = self.rng.random()
        if kind < 0.65:
            tools = [t for t in self.able if t != "process"]
            if not tools:
                return None
            call = self.for_clauses(self.pick_tool(tools))
            name, values = self.values_of(call)
            later = [
                user(self.fill(self.form("followups", name).texts[0], values, rough=True)),
                assistant(self.thought_before(call), "", self.shown(call)),
            ]
        else:
            later = self.rng.choice((self.row_call, self.row_call, self.row_chat, self.row_asking, self.row_final))()
        return earlier + later if later else None


def rng_bit(rng: random.Random) -> int:
    return int(rng.random() < 0.7)


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def tool(result: str) -> dict:
    return {"role": "tool", "content": result}


@cache
def _by_kind(name: str, heldout: bool) -> dict[str, list[Form]]:
    found: dict[str, list[Form]] = {}
    for form in wordings.forms(name, heldout):
        found.setdefault(form.kind, []).append(form)
    return found


def _roughen(rng: random.Random, form: str) -> str:
    """A form as someone in a hurry types it, or with one word gone or another in its place, so that no single word
    decides; its slots stay as they are."""
    parts = re.split(r"(\{\w+\})", form)
    kind = rng.random()
    if kind < 0.3:
        parts[::2] = [part.lower() for part in parts[::2]]
    elif kind < 0.36:
        parts[::2] = [part.upper() for part in parts[::2]]
    elif kind < 0.56:
        for i in range(0, len(parts), 2):
            words = [m for m in re.finditer(r"[a-z]{4,}", parts[i])]
            if words and rng.random() < 0.7:
                word = rng.choice(words)
                place = rng.randrange(word.start(), word.end() - 1)
                a, b = parts[i][place], parts[i][place + 1]
                parts[i] = parts[i][:place] + rng.choice((b + a, a, a + a + b, b)) + parts[i][place + 2 :]
    else:
        i = rng.randrange(0, len(parts), 2)
        words = [m for m in re.finditer(r"(?<=\s)[A-Za-z]+(?=\s)", parts[i])]
        if len(words) > 2:
            word = rng.choice(words)
            parts[i] = (
                parts[i][: word.start()]
                + (pick_word(rng, invented=0.1) + " " if kind < 0.8 else "")
                + parts[i][word.end() + 1 :]
            )
    text = "".join(parts)
    if rng.random() < 0.4 and not text.endswith("}"):
        text = text.rstrip(".!") or text
    return text
