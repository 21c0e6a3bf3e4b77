"""The tool schemas that Hermes Agent sends with each request (configs/hermes_tools.json).

Names, descriptions and order are Hermes's own; scripts/export_hermes_tools.py writes the file.
"""

from cli import UserError
from files import ROOT, read_json, shown

TOOLS = ROOT / "configs" / "hermes_tools.json"

# The tools that every fixed-Hermes request carries: terminal and file tools and the browser's door, in Hermes's order.
FIXED_SURFACE = ("browser_navigate", "patch", "process", "read_file", "search_files", "terminal", "write_file")


def load(names=None) -> list[dict]:
    """OpenAI-format tools in Hermes's order: all of them, or those called `names`. UserError for an unknown name."""
    tools = read_json(TOOLS)
    if names is None:
        return tools
    unknown = sorted(set(names) - {tool["function"]["name"] for tool in tools})
    if unknown:
        raise UserError(f"{shown(TOOLS)} has no tool named {', '.join(unknown)}")
    return [tool for tool in tools if tool["function"]["name"] in names]
