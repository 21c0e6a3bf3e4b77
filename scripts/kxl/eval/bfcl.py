"""The Berkeley data as rows that SmolLM is taught and judged with; the leaderboard itself is kxl/bfcl.

In:  the pinned wheel (third_party/bfcl-eval.lock, Apache-2.0), read as an archive. Out: rows

  {"id": "bfcl/multiple_0", "source": "bfcl", "tools": [OpenAI tool, ...],
   "messages": [{"role": "user", ...}, {"role": "assistant", "content": "", "tool_calls": [...]}]}

The data names types as Python does (dict, float), which become JSON schema's, and dotted functions, which no
OpenAI-compatible server takes, so dots become underscores. Of the accepted values of an argument the first is
taken; an argument that may be left out is left out. Every call is validated by its own schema; what does not
validate is left out and counted.
"""

import io
import re
import zipfile
from collections import Counter
from pathlib import Path

from kxl.base import jsonl
from kxl.base.cli import UserError
from kxl.base.files import shown
from kxl.chat import schemas as json_schemas

# One user turn, answered by calls; java and javascript write their values as source code and stay out.
ANSWERED = ("simple_python", "multiple", "parallel", "parallel_multiple", "live_simple", "live_parallel")
UNANSWERABLE = ("irrelevance",)  # a question beside tools that do not help
TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": None}


def answered(wheel: Path) -> tuple[list[dict], Counter]:
    """(rows with calls, how many were left out by reason)."""
    rows, left_out = [], Counter()
    with zipfile.ZipFile(wheel) as archive:
        for category in ANSWERED:
            truths = {
                entry["id"]: entry["ground_truth"]
                for entry in lines(archive, wheel, f"possible_answer/BFCL_v4_{category}.json")
            }
            for entry in lines(archive, wheel, f"BFCL_v4_{category}.json"):
                row, reason = _row(entry, truths.get(entry["id"]))
                if row:
                    rows.append(row)
                else:
                    left_out[reason] += 1
    return rows, left_out


def unanswerable(wheel: Path) -> list[dict]:
    """Rows of a question and tools that do not help with it: messages end with the user's."""
    with zipfile.ZipFile(wheel) as archive:
        return [
            {
                "id": f"bfcl/{entry['id']}",
                "source": "bfcl",
                "tools": [tool(function) for function in entry["function"]],
                "messages": entry["question"][0],
            }
            for category in UNANSWERABLE
            for entry in lines(archive, wheel, f"BFCL_v4_{category}.json")
        ]


def lines(archive: zipfile.ZipFile, wheel: Path, name: str) -> list[dict]:
    """The entries of one of the wheel's data files."""
    try:
        data = archive.read(f"bfcl_eval/data/{name}")
    except KeyError:
        raise UserError(
            f"{shown(wheel)}: holds no bfcl_eval/data/{name}; it is another version than the lock's"
        ) from None
    return [jsonl.parse(line) for _, line, _ in jsonl.lines(io.BytesIO(data))]


def _row(entry: dict, truth: list | None) -> tuple[dict | None, str]:
    """(row, "") or (None, why it is left out)."""
    question = entry["question"][0]
    if [message["role"] for message in question] not in (["user"], ["system", "user"]) or len(entry["question"]) > 1:
        return None, "several turns"
    if not truth:
        return None, "no answer"
    tools = [tool(function) for function in entry["function"]]
    schemas = {one["function"]["name"]: one["function"]["parameters"] for one in tools}
    calls = []
    for call in truth:
        ((name, accepted),) = call.items()
        name = tool_name(name)
        arguments = {key: chosen for key, values in accepted.items() if (chosen := pick(values)) is not None}
        if name not in schemas:
            return None, "calls a tool that is not offered"
        if json_schemas.problems(schemas[name], arguments):
            return None, "arguments not valid by the tool's schema"
        calls.append({"type": "function", "function": {"name": name, "arguments": arguments}})
    messages = [*question, {"role": "assistant", "content": "", "tool_calls": calls}]
    return {"id": f"bfcl/{entry['id']}", "source": "bfcl", "tools": tools, "messages": messages}, ""


def tool(function: dict) -> dict:
    """A BFCL function as an OpenAI tool."""
    return {
        "type": "function",
        "function": {
            "name": tool_name(function["name"]),
            "description": function["description"],
            "parameters": schema(function["parameters"]),
        },
    }


def tool_name(name: str) -> str:
    """triangle_properties.get -> triangle_properties_get"""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name)


def schema(value):
    """A BFCL parameter description as JSON schema: Python's type names replaced, "optional" dropped."""
    if isinstance(value, list):
        return [schema(item) for item in value]
    if not isinstance(value, dict):
        return value
    made = {key: schema(item) for key, item in value.items()}
    kind = made.get("type")
    if isinstance(kind, str):  # a parameter may itself be called "type": then it is a schema, not a name
        made.pop("optional", None)
        made["type"] = TYPES.get(kind.lower(), kind.lower())
        if made["type"] is None:
            del made["type"]
        if isinstance(made.get("properties"), dict) and not isinstance(made.get("required", []), list):
            del made["required"]
    return made


def pick(values: list):
    """The first accepted value of an argument; None where it may be left out ("" among them).

    Inside an object each member has its own list of accepted values.
    """
    if "" in [value for value in values if isinstance(value, str)]:
        return None
    return _plain(values[0]) if values else None


def _plain(value):
    if isinstance(value, dict):
        return {
            key: chosen
            for key, accepted in value.items()
            if (chosen := pick(accepted) if isinstance(accepted, list) else _plain(accepted)) is not None
        }
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
