"""Rows that train what failed: drawn from the requests we compose, for the tools that were missed or mistaken.

`draw(rng, purpose, failure)` gives {"messages"} without system message. The purposes of a repair set:

  focus     the kind of request that failed: one that needs the wanted tool, or, after a false call, words
  contrast  two rows about one thing, such as a URL, that differ in what is asked and so in the tool
  negative  a request that names commands, files or pages and wants words
  keep      what already works, so that it is not forgotten: the other tools, finalizations, second turns

In files a row's "tools" may be names of Hermes's tools, since their schemas are twenty times its own text; `read`
puts the schemas in.
"""

import random
from pathlib import Path

from kxl.base import jsonl
from kxl.base.cli import UserError
from kxl.chat import hermes_tools
from kxl.tiny import arguments, requests, wording
from kxl.tiny import rows as tiny_rows
from kxl.tiny.answers import no_tool
from kxl.tiny.words import pick_word

PURPOSES = ("focus", "contrast", "negative", "keep")
# Tools that can be asked to do something with one and the same thing: (maker of the thing, what each tool is asked to do).
_ABOUT = (
    (
        arguments.url,
        {
            "browser_navigate": lambda x: {"url": x},
            "terminal": lambda x: {"command": f"curl {x}"},
            "write_file": lambda x: {"path": "links.txt", "content": x},
        },
    ),
    (
        arguments.path,
        {
            "read_file": lambda x: {"path": x},
            "terminal": lambda x: {"command": f"cat {x}"},
            "write_file": lambda x: {"path": x, "content": "done"},
            "search_files": lambda x: {"pattern": x.rsplit("/", 1)[-1], "target": "files"},
        },
    ),
    (
        pick_word,
        {
            "search_files": lambda x: {"pattern": x},
            "terminal": lambda x: {"command": f"grep -rn {x} ."},
            "write_file": lambda x: {"path": "notes.txt", "content": x},
            "browser_navigate": lambda x: {"url": f"https://{x}.com"},
            "read_file": lambda x: {"path": f"{x}.txt"},
        },
    ),
)


def call_row(text: str, call: dict) -> dict:
    return {"messages": [{"role": "user", "content": text}, tiny_rows.assistant("", call)]}


def pair(rng: random.Random, one: str, other: str) -> list[dict]:
    """Two rows about one thing, the first for tool `one`, the second for `other`; "text" stands for no call."""
    if "text" in (one, other):
        tool = other if one == "text" else one
        tool = tool if tool in requests.SHARES else "terminal"
        text, reply = no_tool(rng, False)
        rows = [
            {"messages": [{"role": "user", "content": text}, tiny_rows.assistant(reply)]},
            call_row(*requests.request(rng, tool)),
        ]
        return rows if one == "text" else rows[::-1]
    able = [(make, asks) for make, asks in _ABOUT if one in asks and other in asks]
    if not able or one == other:
        return [call_row(*requests.request(rng, tool)) for tool in (one, other)]
    make, asks = rng.choice(able)
    thing = make(rng)
    calls = [requests.call(tool, **asks[tool](thing)) for tool in (one, other)]
    return [call_row(wording.wording(rng, call), call) for call in calls]


def draw(rng: random.Random, purpose: str, failure: dict | None) -> list[dict]:
    """One row, or two for a contrast. `failure` (diagnosis.failures) is what they answer to; None only for negative and keep."""
    if purpose == "negative":
        return [_words(rng)]
    if purpose == "keep":
        return [{"messages": tiny_rows.row(rng, list(requests.SHARES))["messages"]}]
    wanted, called = failure["wanted"], failure["called"]
    if wanted not in (*requests.SHARES, "text"):
        raise UserError(
            f"{failure['suite']}, case {failure['id']}: wants {wanted}, and requests are composed for {', '.join(requests.SHARES)} alone; "
            "give rows of your own with repair_build_set.py --add and leave this report out"
        )
    if purpose == "contrast":
        others = [tool for tool in requests.SHARES if tool != wanted]
        return pair(
            rng, wanted, called if called in (*others, "text") and called != wanted else rng.choice(others)
        )  # it may have called a tool that there is not
    if failure["kind"] == "finalization":
        return [{"messages": tiny_rows.finalization(rng, list(requests.SHARES))["messages"]}]
    return [_words(rng) if wanted == "text" else call_row(*requests.request(rng, wanted))]


def _words(rng: random.Random) -> dict:
    text, reply = no_tool(rng, False)
    return {"messages": [{"role": "user", "content": text}, tiny_rows.assistant(reply)]}


def read(path: Path) -> list[dict]:
    """The rows of a JSON lines file, with schemas in place of tool names; UserError with file and line for a malformed one."""
    rows = []
    for where, row in jsonl.read(path):
        messages = row.get("messages") if isinstance(row, dict) else None
        if not isinstance(messages, list) or not all(isinstance(m, dict) and "role" in m for m in messages):
            raise UserError(f'{where}: needs "messages", a list of chat messages, and "tools"')
        if not any(message["role"] == "assistant" for message in messages):
            raise UserError(f"{where}: no message is from the assistant; it would train nothing")
        tools = row.get("tools") or []
        names = [tool for tool in tools if isinstance(tool, str)]
        rows.append({**row, "tools": hermes_tools.load(names) if names else tools})
    return rows
