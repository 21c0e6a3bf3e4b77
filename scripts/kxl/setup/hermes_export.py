"""A program, not a module: inside Hermes's environment, write the schemas of its tools as they go on the wire.

  python -I hermes_export.py OUT.json TOOLSET,TOOLSET

Each tool has a check for keys and programs that hides it where they are missing. The schema is the same either way, so
every check says yes. get_tool_definitions is what goes on the wire; registry.get_schema() is not.
"""

import json
import sys

import model_tools
import tools.registry


def main(out: str, toolsets: list[str]) -> None:
    tools.registry._check_fn_cached = lambda check: True
    schemas = model_tools.get_tool_definitions(
        enabled_toolsets=toolsets, quiet_mode=True, skip_tool_search_assembly=True
    )
    with open(out, "w", encoding="utf-8") as file:
        json.dump(schemas, file, ensure_ascii=False)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2].split(","))
