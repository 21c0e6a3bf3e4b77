"""What all requests of a batch share: a system prompt and a tool list.

    context(rng, "fixed")    # {"system": text or None, "tools": [OpenAI schemas]}

The kinds, from the shortest to Hermes's own: bare (no tool list), compact (some tools, shortened), fixed (the surface
that the suites offer), hermes_terminal and hermes_files (Hermes's long system prompt with its terminal, and files).
"""

import json
import random
import re
from functools import cache

from kxl.base.files import ROOT
from kxl.chat import hermes_tools
from kxl.tiny import forms
from kxl.tiny.requests import SHARES
from kxl.tiny.words import pick_word

CONTEXTS = ("bare", "compact", "fixed", "hermes_terminal", "hermes_files")
ALL_TOOLS = list(SHARES)
TERMINAL_TOOLS = ("process", "terminal")
FILE_TOOLS = ("patch", "process", "read_file", "search_files", "terminal", "write_file")
HERMES_PROMPT = ROOT / "configs/hermes_system_prompt.txt"
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()


def systems() -> list[str]:
    """Short system prompts; the first is what the suites ask with."""
    return forms.load("conversations")["systems"]


@cache
def schemas() -> dict[str, dict]:
    """Hermes's own schemas by name."""
    return {tool["function"]["name"]: tool for tool in hermes_tools.load()}


def compact(tool: dict) -> dict:
    """A schema with the first sentence of its description and bare properties: a short prompt for early training."""
    function = tool["function"]
    parameters = function["parameters"]
    properties = {
        name: {"type": schema.get("type", "string")} for name, schema in parameters.get("properties", {}).items()
    }
    short = {
        "name": function["name"],
        "description": re.split(r"(?<=[a-z)])[.\n]", function["description"])[0] + ".",
        "parameters": {"type": "object", "properties": properties, "required": parameters.get("required", [])},
    }
    return {"type": "function", "function": short}


def hermes_system(rng: random.Random) -> str:
    """Hermes's own system prompt with a drawn host, home, folder, date and model."""
    home = rng.choice(("/root", f"/home/{pick_word(rng)}", f"/Users/{pick_word(rng)}"))
    day, month = rng.choice(DAYS), rng.choice(MONTHS)
    date = f"{day}, {month} {rng.randint(1, 28):02}, {rng.randint(2025, 2029)}"
    kernel = f"{rng.randint(5, 7)}.{rng.randint(0, 19)}.{rng.randint(0, 99)}-{pick_word(rng)}"
    values = {
        "host": f"Linux ({kernel})",
        "home": home,
        "cwd": working_folder(rng, home),
        "date": date,
        "model": rng.choice(("hermes-kxl", "tiny", pick_word(rng))),
        "provider": "custom",
    }
    return re.sub(r"\{(\w+)\}", lambda match: values[match.group(1)], HERMES_PROMPT.read_text())


def working_folder(rng: random.Random, home: str | None = None) -> str:
    """The path of a project, in `home` or a drawn home."""
    home = home or rng.choice(("/root", f"/home/{pick_word(rng)}", "/tmp", "/work"))
    name = rng.choice((pick_word(rng), f"projects/{pick_word(rng)}", f"{pick_word(rng)}-{rng.randrange(100)}", "work"))
    return f"{home}/{name}"


def context(rng: random.Random, kind: str) -> dict:
    """One batch's system prompt and tools; `kind` is one of CONTEXTS."""
    if kind == "bare":
        return {"system": rng.choice((*systems(), None)), "tools": []}
    if kind == "fixed":
        usual = systems()[:1] * 3
        system = rng.choice((*usual, *systems(), None))
        return {"system": system, "tools": hermes_tools.load(hermes_tools.FIXED_SURFACE)}
    if kind == "hermes_terminal":
        return {"system": hermes_system(rng), "tools": hermes_tools.load(TERMINAL_TOOLS)}
    if kind == "hermes_files":
        return {"system": hermes_system(rng), "tools": hermes_tools.load(FILE_TOOLS)}
    names = rng.sample(ALL_TOOLS, rng.randint(3, len(ALL_TOOLS))) if rng.random() < 0.8 else list(ALL_TOOLS)
    others = [name for name in schemas() if name not in ALL_TOOLS]
    names += rng.sample(others, rng.choice((0, 0, 1, 2)))
    rng.shuffle(names)
    return {"system": rng.choice((*systems(), None)), "tools": [compact(schemas()[name]) for name in names]}


def tool_names(context: dict) -> list[str]:
    """The tools that a context's rows may call. The bare context, of early training, does not list them."""
    return [tool["function"]["name"] for tool in context["tools"]] or ALL_TOOLS


def system_messages(context: dict) -> list[dict]:
    """The context's system message, or none, to stand before a row's messages."""
    return [{"role": "system", "content": context["system"]}] if context["system"] else []


def fixed_texts() -> list[str]:
    """The long fixed texts that stand in prompts: tool lists as the template writes them, and Hermes's prompt."""
    listed = [json.dumps(tool, ensure_ascii=False) for tool in hermes_tools.load()]
    return [*listed, HERMES_PROMPT.read_text(), *systems()]
