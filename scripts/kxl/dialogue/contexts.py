"""What all rows of a batch share: the system prompt, the tools on offer, and for a long one the text in front.

    context = draw_context(rng, "fixed")

A context's kind is one of CONTEXTS.
"""

import json
import random
import re
from dataclasses import dataclass, field

from kxl.base.files import ROOT
from kxl.chat import hermes_tools
from kxl.dialogue.messages import assistant
from kxl.dialogue.slots import Slots
from kxl.tiny.words import cased_word, pick_word

TOOLS = hermes_tools.FIXED_SURFACE
CONTEXTS = ("bare", "names", "compact", "fixed", "surface", "hermes_terminal", "hermes_files", "long")
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

    def offered(self) -> list[str]:
        """The names of all tools on offer, as the list has them; none where there is no list."""
        return [tool["function"]["name"] for tool in self.tools]


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


def bare_name(tool: dict) -> dict:
    """A schema of a name and the first sentence of its description: a list that is learned to be looked at."""
    function = compact(tool)["function"]
    return {"type": "function", "function": {key: function[key] for key in ("name", "description")}}


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
    if kind == "names":
        tools = [bare_name(tool) for tool in hermes_tools.surface(names, renames)]
        rng.shuffle(tools)
        return Context(kind, rng.choice((system, None)), tools, shown)
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
