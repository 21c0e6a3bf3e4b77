"""The tool schemas that Hermes Agent sends with each request (configs/hermes_tools.json).

Names, descriptions and order are Hermes's own; scripts/setup_hermes_tools.py writes the file.
"""

import copy
import re

from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, shown

TOOLS = ROOT / "configs" / "hermes_tools.json"

# The tools that every fixed-Hermes request carries: terminal and file tools and the browser's door, in Hermes's order.
FIXED_SURFACE = ("browser_navigate", "patch", "process", "read_file", "search_files", "terminal", "write_file")


def load(names=None) -> list[dict]:
    """OpenAI-format tools in Hermes's order: all of them, or those called `names`. UserError for an unknown name."""
    tools = read_json(TOOLS, list)
    if names is None:
        return tools
    unknown = sorted(set(names) - {tool["function"]["name"] for tool in tools})
    if unknown:
        raise UserError(f"{shown(TOOLS)} has no tool named {', '.join(unknown)}")
    return [tool for tool in tools if tool["function"]["name"] in names]


def surface(names: list, rename: dict | None = None) -> list:
    """Hermes's tools `names` in this order, some under another name, also where descriptions speak of them."""
    if unknown := sorted(set(rename or {}) - set(names)):
        raise UserError(f"renames {', '.join(unknown)}, which is not among its tools")
    by_name = {tool["function"]["name"]: copy.deepcopy(tool) for tool in load(names)}
    tools = [by_name[name] for name in names]
    for tool in tools:
        tool["function"] = _renamed(tool["function"], rename or {})
        tool["function"]["name"] = (rename or {}).get(tool["function"]["name"], tool["function"]["name"])
    return tools


def _renamed(schema, rename: dict):
    """A schema whose descriptions call tools by their new names. "terminal" alone is a word, terminal( is the tool."""
    if isinstance(schema, list):
        return [_renamed(item, rename) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _renamed(value, rename) for key, value in schema.items()}
    if isinstance(made.get("description"), str):
        for old, new in rename.items():
            made["description"] = re.sub(
                rf"\b{re.escape(old)}\b" + ("" if "_" in old else r"(?=\()"), new, made["description"]
            )
    return made
