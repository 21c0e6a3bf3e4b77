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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kxl.base import jsonl
from kxl.base.cli import UserError
from kxl.chat import hermes_tools
from kxl.chat.rows import calls_in
from kxl.repair import own_tools
from kxl.tiny import arguments, contexts, requests, wording
from kxl.tiny import rows as tiny_rows
from kxl.tiny.answers import no_tool
from kxl.tiny.words import pick_word

SHARES = {"focus": 0.35, "contrast": 0.2, "negative": 0.15, "keep": 0.3}  # of the rows of a set
PURPOSES = tuple(SHARES)
ANSWERING = ("focus", "contrast")  # purposes whose rows answer to a failed case
CONTEXTS = ("fixed", "fixed", "hermes_terminal")  # few: the rows of a batch share the one that they begin with
CONTEXT_WEIGHTS = (6, 3, 1)
THOUGHTS = ("none", "rule")  # of hand-made rows (kxl/repair/thoughts.py)


@dataclass(frozen=True)
class Subject:
    """A thing that several tools can be asked to do something with: its draw, and each tool's arguments for it."""

    draw: Callable[[random.Random], str]
    arguments: dict[str, Callable[[str], dict]]


SUBJECTS = (
    Subject(
        arguments.url,
        {
            "browser_navigate": lambda url: {"url": url},
            "terminal": lambda url: {"command": f"curl {url}"},
            "write_file": lambda url: {"path": "links.txt", "content": url},
        },
    ),
    Subject(
        arguments.path,
        {
            "read_file": lambda path: {"path": path},
            "terminal": lambda path: {"command": f"cat {path}"},
            "write_file": lambda path: {"path": path, "content": "done"},
            "search_files": lambda path: {"pattern": path.rsplit("/", 1)[-1], "target": "files"},
        },
    ),
    Subject(
        pick_word,
        {
            "search_files": lambda word: {"pattern": word},
            "terminal": lambda word: {"command": f"grep -rn {word} ."},
            "write_file": lambda word: {"path": "notes.txt", "content": word},
            "browser_navigate": lambda word: {"url": f"https://{word}.com"},
            "read_file": lambda word: {"path": f"{word}.txt"},
        },
    ),
)


def call_row(text: str, call: dict) -> dict:
    """A request and the call that serves it."""
    return {"messages": [tiny_rows.user(text), tiny_rows.assistant("", call)]}


def words_row(rng: random.Random) -> dict:
    """A request that wants words, and its answer."""
    text, reply = no_tool(rng, False)
    return {"messages": [tiny_rows.user(text), tiny_rows.assistant(reply)]}


def pair(rng: random.Random, wanted: str, other: str) -> list[dict]:
    """Two rows about one thing, the first for tool `wanted`, the second for `other`; "text" stands for no call."""
    if "text" in (wanted, other):
        tool = other if wanted == "text" else wanted
        tool = tool if tool in requests.SHARES else "terminal"
        rows = [words_row(rng), call_row(*requests.request(rng, tool))]
        return rows if wanted == "text" else rows[::-1]
    shared = [subject for subject in SUBJECTS if wanted in subject.arguments and other in subject.arguments]
    if not shared or wanted == other:
        return [call_row(*requests.request(rng, tool)) for tool in (wanted, other)]
    subject = rng.choice(shared)
    thing = subject.draw(rng)
    calls = [requests.call(tool, **subject.arguments[tool](thing)) for tool in (wanted, other)]
    return [call_row(wording.wording(rng, call), call) for call in calls]


def draw(rng: random.Random, purpose: str, failure: dict | None) -> list[dict]:
    """One row, or two for a contrast.

    `failure` (diagnosis.failures) is what they answer to; None only for negative and keep. UserError for a failure that
    wants a tool for which no requests are composed.
    """
    tools = list(requests.SHARES)
    if purpose == "negative":
        return [words_row(rng)]
    if purpose == "keep":
        return [{"messages": tiny_rows.row(rng, tools)["messages"]}]
    wanted, called = failure["wanted"], failure["called"]
    if wanted not in (*tools, "text"):
        raise UserError(
            f"{failure['suite']}, case {failure['id']}: wants {wanted}, and requests are composed for "
            f"{', '.join(tools)} alone; give rows of your own (repair.add in the config, or repair_build_set.py --add)"
        )
    if purpose == "contrast":
        others = [tool for tool in tools if tool != wanted]
        mistaken = called in (*others, "text") and called != wanted  # it may have called a tool that there is not
        return pair(rng, wanted, called if mistaken else rng.choice(others))
    if failure["kind"] == "finalization":
        return [{"messages": tiny_rows.finalization(rng, tools)["messages"]}]
    return [words_row(rng) if wanted == "text" else call_row(*requests.request(rng, wanted))]


def draw_in_turn(rng: random.Random, purpose: str, failure: dict) -> list[dict]:
    """Rows for the failure in turn (diagnosis.of_reports); with its case's own tools where those are not Hermes's."""
    answered = failure if purpose in ANSWERING else None
    if not (offer := failure.get("offer")):
        return draw(rng, purpose, answered)
    drawn = own_tools.draw(rng, purpose, answered, offer["tools"])
    return [{"messages": offer["system"] + row["messages"], "tools": offer["tools"]} for row in drawn]


def draw_contexts(rng: random.Random) -> list[dict]:
    """The contexts of one set's rows; the first is what the suites ask with."""
    drawn = [contexts.context(rng, kind) for kind in CONTEXTS]
    drawn[0]["system"] = contexts.systems()[0]
    return drawn


def put_in_context(rng: random.Random, drawn: list[dict], row: dict) -> None:
    """Give a row one of the contexts, whose tools can do what it calls."""
    context = rng.choices(drawn, CONTEXT_WEIGHTS)[0]
    if not {call["name"] for call in calls_in(row)} <= set(contexts.tool_names(context)):
        context = drawn[0]
    row["messages"] = contexts.system_messages(context) + row["messages"]
    row["tools"] = contexts.tool_names(context)


def read(path: Path) -> list[dict]:
    """The rows of a JSON lines file, with schemas in place of tool names.

    UserError with file and line for a malformed one.
    """
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
