"""Small traces in each format, for tests: what public sets and agents write, and what goes wrong in them."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

TERMINAL = {
    "name": "terminal",
    "description": "Runs a command.",
    "parameters": {
        "type": "object",
        "properties": {
            "command": {"type": "string"},
            "timeout": {"type": "integer", "minimum": 1},
            "background": {"type": "boolean", "default": False},
        },
        "required": ["command"],
    },
}
SNAPSHOT = {
    "name": "browser_snapshot",
    "description": "Shows the page.",
    "parameters": {"type": "object", "properties": {"full": {"type": "boolean", "default": False}}},
}
CLOSE = {"name": "browser_close", "description": "Closes the page.", "parameters": {"type": "object", "properties": {}}}
PROSE = (
    "You are a function calling AI model. You are provided with function signatures within <tools> </tools> XML "
    "tags. You may call one or more functions."
    " Here are the available tools:\n<tools>\n{tools}\n</tools>\nFor each function call return a JSON "
    "object:\n{{'title': 'FunctionCall'}}\n"
    "Each function call should be enclosed within <tool_call> </tool_call> XML "
    "tags.\nExample:\n<tool_call>\n{{'name': <function-name>,'arguments': <args-dict>}}\n</tool_call>"
)


def gpt(*calls: dict, say: str = "", think: str = "") -> dict:
    """A gpt turn as Hermes saves it."""
    blocks = "".join(f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>\n" for call in calls)
    return {
        "from": "gpt",
        "value": (f"<think>\n{think}\n</think>\n" if think else "<think>\n</think>\n")
        + (say + "\n" if say and calls else say)
        + blocks.rstrip(),
    }


def results(*contents, name: str = "terminal") -> dict:
    """A tool turn with the results of all calls of the turn before."""
    made = ({"tool_call_id": f"c{i}", "name": name, "content": content} for i, content in enumerate(contents))
    blocks = [f"<tool_response>\n{json.dumps(one, ensure_ascii=False)}\n</tool_response>" for one in made]
    return {"from": "tool", "value": "\n".join(blocks)}


def run(command: str, **more) -> dict:
    return {"name": "terminal", "arguments": {"command": command, **more}}


def hermes(name: str, *turns: dict, ask: str = "", tools: list = (TERMINAL,), task: str | None = None) -> dict:
    """A row of the public Hermes trace sets."""
    listed = json.dumps([{**tool, "required": None} for tool in tools])
    system = {"from": "system", "value": PROSE.format(tools=listed)}
    return {
        "id": name,
        "conversations": [system, {"from": "human", "value": ask or f"please do the thing called {name}"}, *turns],
        "tools": listed,
        "category": "c",
        "subcategory": "s",
        "task": task or f"task {name}",
    }


def good(name: str, ask: str = "") -> dict:
    """A trace with nothing wrong; each name makes another one."""
    return hermes(
        name,
        gpt(run(f"echo {name}"), run(f"cat {name}.txt")),
        results({"output": name, "exit_code": 0}, f"text of {name}"),
        gpt(say=f"The command said {name}, and the file has the text of {name}."),
        ask=ask,
    )


def openai(name: str) -> dict:
    """An OpenAI chat row; its arguments are a JSON string, its results have the ids of the calls, in another order."""
    call = {
        "type": "function",
        "function": {"name": "terminal", "arguments": json.dumps({"timeout": 5, "command": f"ls {name}"})},
    }
    return {
        "id": name,
        "tools": [{"type": "function", "function": TERMINAL}],
        "messages": [
            {"role": "system", "content": "You are Hermes Agent."},
            {"role": "user", "content": [{"type": "text", "text": f"list {name}"}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "x", **call}, {"id": "y", **call}]},
            {"role": "tool", "tool_call_id": "y", "content": "second"},
            {"role": "tool", "tool_call_id": "x", "content": "first"},
            {"role": "assistant", "content": f"{name} is listed."},
        ],
    }


def write(path: Path, rows: list) -> Path:
    """JSON lines; a str or bytes row is written as it is."""
    lines = [
        row
        if isinstance(row, bytes)
        else (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)).encode()
        for row in rows
    ]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path
