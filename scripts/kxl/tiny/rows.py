"""Training conversations of the tiny model: a context (system prompt and tools) and rows that fit it.

A context is what all requests of a batch share: {"system": str | None, "tools": [schemas]}. A row is
{"kind", "messages"} without the system message; kinds are tool_call, no_tool, no_fitting_tool,
finalization (ends after real tool results), sequence (does so after two or three calls), parallel. Everything is drawn from a seeded random.Random.
"""

import json
import random
import re
from functools import cache
from pathlib import Path

from kxl.base import jsonl
from kxl.base.files import ROOT
from kxl.chat import hermes_tools
from kxl.tiny import arguments, requests
from kxl.tiny import wording as w
from kxl.tiny.answers import no_tool
from kxl.tiny.words import cased_word, pick_word

ALL_TOOLS = list(requests.SHARES)
RESULTS = ROOT / "datasets/tiny/tool_results.jsonl"
SEQUENCES = ROOT / "datasets/tiny/sequences.jsonl"
HERMES_PROMPT = ROOT / "configs/hermes_system_prompt.txt"
SYSTEMS = [
    "You are Hermes Agent, a helpful assistant that can use tools.", "You are Hermes Agent.", "You are a helpful assistant.",
    "You are a helpful assistant with tools.", "You are an agent that works on a computer through tools.",
]  # fmt: skip
CONTEXTS = ("bare", "compact", "fixed", "hermes_terminal", "hermes_files")
# Not among tiny_answers: each word there is a token of the committed tokenizer.
INTRODUCE = (
    "((hello|hi|hey|good morning|good evening|greetings)(!|,|.|)|) (please|can you|could you|would you|) (introduce|present|describe) yourself( to me| briefly| shortly| in one sentence| in a few words|)(.|!|)",
    "(hello|hi|hey)(!|,|.) (who are you|what are you|what is your name|tell me who you are|tell me about yourself|say something about yourself|say who you are)( please|)(?|.|!)",
    "(please|) (say|tell us|tell me|write) (hello and|) who you are( and what you do|)(.|)",
)
INTRODUCTION = "I am Hermes Agent, a small assistant that can use tools."
FINALIZATIONS = 0.13  # share of rows that end after tool results, where a training config does not say


@cache
def schemas() -> dict[str, dict]:
    """Hermes's own schemas by name."""
    return {tool["function"]["name"]: tool for tool in hermes_tools.load()}


def compact(tool: dict) -> dict:
    """A schema with the first sentence of its description and bare properties: a short prompt for early training."""
    function = tool["function"]
    properties = {
        name: {"type": p.get("type", "string")} for name, p in function["parameters"].get("properties", {}).items()
    }
    short = {"name": function["name"], "description": re.split(r"(?<=[a-z)])[.\n]", function["description"])[0] + ".",
             "parameters": {"type": "object", "properties": properties, "required": function["parameters"].get("required", [])}}  # fmt: skip
    return {"type": "function", "function": short}


def hermes_system(rng: random.Random) -> str:
    """Hermes's own system prompt with a drawn host, home, folder, date and model."""
    home = rng.choice(("/root", f"/home/{pick_word(rng)}", f"/Users/{pick_word(rng)}"))
    day = f"{rng.choice('Monday Tuesday Wednesday Thursday Friday Saturday Sunday'.split())}, {rng.choice('January February March April May June July August September October November December'.split())} {rng.randint(1, 28):02}, {rng.randint(2025, 2029)}"
    values = {"host": f"Linux ({rng.randint(5, 7)}.{rng.randint(0, 19)}.{rng.randint(0, 99)}-{pick_word(rng)})", "home": home, "cwd": working_folder(rng, home),
              "date": day, "model": rng.choice(("hermes-kxl", "tiny", pick_word(rng))), "provider": "custom"}  # fmt: skip
    return re.sub(r"\{(\w+)\}", lambda m: values[m.group(1)], HERMES_PROMPT.read_text())


def working_folder(rng: random.Random, home: str | None = None) -> str:
    home = home or rng.choice(("/root", f"/home/{pick_word(rng)}", "/tmp", "/work"))
    return (
        home
        + "/"
        + rng.choice((pick_word(rng), f"projects/{pick_word(rng)}", f"{pick_word(rng)}-{rng.randrange(100)}", "work"))
    )


def context(rng: random.Random, kind: str) -> dict:
    """One batch's system prompt and tools; `kind` is one of CONTEXTS."""
    if kind == "bare":
        return {"system": rng.choice((*SYSTEMS, None)), "tools": []}
    if kind == "fixed":
        return {
            "system": rng.choice((*SYSTEMS[:1] * 3, *SYSTEMS, None)),
            "tools": hermes_tools.load(hermes_tools.FIXED_SURFACE),
        }
    if kind == "hermes_terminal":
        return {"system": hermes_system(rng), "tools": hermes_tools.load(("process", "terminal"))}
    if kind == "hermes_files":
        return {
            "system": hermes_system(rng),
            "tools": hermes_tools.load(("patch", "process", "read_file", "search_files", "terminal", "write_file")),
        }
    names = rng.sample(ALL_TOOLS, rng.randint(3, len(ALL_TOOLS))) if rng.random() < 0.8 else list(ALL_TOOLS)
    others = [n for n in schemas() if n not in ALL_TOOLS]
    names += rng.sample(others, rng.choice((0, 0, 1, 2)))
    rng.shuffle(names)
    return {"system": rng.choice((*SYSTEMS, None)), "tools": [compact(schemas()[n]) for n in names]}


def assistant(content: str | None, *calls: dict) -> dict:
    message = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = [{"type": "function", "function": c} for c in calls]
    return message


@cache
def episodes(path: Path = RESULTS) -> list[list[dict]]:
    """Recorded real calls with results (tiny_record_results.py)."""
    return [row["calls"] for _, row in jsonl.objects(path, "scripts/tiny_record_results.py")]


@cache
def sequences(tools: frozenset[str], heldout: bool) -> list[list[dict]]:
    """The recorded sequences that need no other tools; one in eight is held out."""
    return [
        steps
        for i, steps in enumerate(episodes(SEQUENCES))
        if (i % 8 == 0) == heldout and tools.issuperset(s["name"] for s in steps)
    ]


def _browser_episode(rng: random.Random, heldout: bool) -> list[dict]:
    """A page visit in the shape of Hermes's browser tool; the page itself is made up (no network)."""
    made = requests.call("browser_navigate", url=arguments.url(rng, heldout))
    title = arguments.words(rng, 1, 4, heldout).title()
    result = {
        "success": True,
        "url": made["arguments"]["url"],
        "title": title,
        "snapshot": f'- heading "{title}" [level=1, ref=e1]',
        "element_count": 1,
    }
    return [{**made, "result": json.dumps(result)}]


def answer(step: dict) -> str:
    """The final answer after one real call: what a person wants to know of its result."""
    name, args, result = step["name"], step["arguments"], json.loads(step["result"])
    if name == "terminal":
        output = result["output"]
        if result["exit_code"]:
            return f"The command ended with exit code {result['exit_code']}" + (f": {output}" if output else ".")
        return f"The output is: {output}" if output else "Done, there was no output."
    if result.get("error"):
        return f"That did not work: {result['error']}"
    if name == "read_file":
        lines = [line.split("|", 1)[1] for line in result["content"].split("\n") if "|" in line]
        return f"{args['path']} contains:\n" + "\n".join(lines).rstrip("\n")
    if name == "write_file":
        return f"Saved {args['path']} ({result['bytes_written']} bytes)."
    if name == "search_files":
        if not result["total_count"]:
            return f"There is no match for {args['pattern']}."
        found = result.get("files") or [f"{m['path']}:{m['line']}: {m['content']}" for m in result["matches"]]
        return f"Found {result['total_count']}:\n" + "\n".join(found)
    if name == "patch":
        return f"Changed {args['path']}." if result.get("success") else "The patch did not apply."
    return f"The page is open. Its title is {result['title']}."


def _renamed(rng: random.Random, steps: list[dict]) -> list[dict]:
    """The same steps on a file of another name, one without extension half of the time: VERSION, Makefile."""
    old = steps[0]["arguments"].get("path", "")
    if len(old) < 8:  # a short name could stand in other text by chance
        return steps
    new = cased_word(rng) if rng.random() < 0.5 else arguments.path(rng).removeprefix("./")
    return json.loads(json.dumps(steps, ensure_ascii=False).replace(json.dumps(old, ensure_ascii=False)[1:-1], new))


def finalization(rng: random.Random, tools: list[str], heldout: bool = False) -> dict:
    """A request, its calls one after another with real results, and the final answer."""
    while True:
        steps = (
            _browser_episode(rng, heldout)
            if "browser_navigate" in tools and rng.random() < 0.08
            else rng.choice(episodes())
        )
        steps = [s for s in steps if s["name"] in tools]
        if steps:
            break
    steps = _placed(rng, steps)
    if len(steps) > 1 and rng.random() < 0.25:
        steps = steps[:1]
    if rng.random() < 0.5:
        steps = _renamed(rng, steps)
    text = requests.wording(rng, steps[0]) if len(steps) == 1 else requests.sequence(rng, steps)
    return {"kind": "finalization", "messages": _conversation(text, steps)}


def sequence(rng: random.Random, tools: list[str], heldout: bool = False) -> dict:
    """A request for two or three calls in a row with their real results, to the end: no answer before the last call."""
    steps = _placed(rng, rng.choice(sequences(frozenset(tools), heldout)))
    return {"kind": "sequence", "messages": _conversation(requests.sequence(rng, steps), steps)}


def _placed(rng: random.Random, steps: list[dict]) -> list[dict]:
    """The steps in a drawn working folder."""
    folder = working_folder(rng)
    return [{**s, "result": s["result"].replace("{CWD}", folder)} for s in steps]


def _conversation(text: str, steps: list[dict]) -> list[dict]:
    messages = [{"role": "user", "content": text}]
    for step in steps:
        messages.append(assistant("", {"name": step["name"], "arguments": step["arguments"]}))
        messages.append({"role": "tool", "name": step["name"], "content": step["result"]})
    messages.append(assistant(answer(steps[-1])))
    return messages


def tool_call(rng: random.Random, tools: list[str], heldout: bool = False) -> dict:
    if set(tools) == {"process", "terminal"} and rng.random() < 0.3:
        text, made = requests.through_terminal(rng, heldout)
    else:
        text, made = requests.request(rng, requests.pick_tool(rng, tools), heldout)
    return {"kind": "tool_call", "messages": [{"role": "user", "content": text}, assistant("", made)]}


def parallel(rng: random.Random, tools: list[str], heldout: bool = False) -> dict:
    """Two independent calls of one tool in one turn."""
    text, calls = requests.pair(rng, tools, heldout)
    return {"kind": "parallel", "messages": [{"role": "user", "content": text}, assistant("", *calls)]}


def row(
    rng: random.Random,
    tools: list[str],
    heldout: bool = False,
    simple: bool = False,
    pieces: requests.Pieces | None = None,
    finalizations: float = FINALIZATIONS,
    in_a_row: float = 0,
    introductions: float = 0,
) -> dict:
    """One row for a context that offers `tools` (names); a simple one is a single request with its answer or call.

    With `pieces` some rows are drills in copying them; rows that nothing is trained on have none. `finalizations` is the
    share of rows that end after tool results. Before all others, `in_a_row` is the share of sequences and `introductions`
    that of requests for who the assistant is.
    """
    known = [t for t in tools if t in ALL_TOOLS]
    if in_a_row and "terminal" in known and rng.random() < in_a_row:
        return sequence(rng, known, heldout)
    if introductions and rng.random() < introductions:
        text = w.expand(rng, rng.choice(INTRODUCE))
        return {
            "kind": "no_tool",
            "messages": [
                {"role": "user", "content": text[0].upper() + text[1:] if rng.random() < 0.6 else text},
                assistant(INTRODUCTION),
            ],
        }
    kind = rng.random()
    if kind < 0.17 or not known:
        text, reply = no_tool(rng, heldout)
        return {"kind": "no_tool", "messages": [{"role": "user", "content": text}, assistant(reply)]}
    if pieces and set(requests.DRILLED) <= set(known) and rng.random() < (0.45 if simple else 0.25):
        text, made = requests.drill(rng, pieces)
        return {"kind": "tool_call", "messages": [{"role": "user", "content": text}, assistant("", made)]}
    if simple:
        return tool_call(rng, known, heldout)
    missing = [t for t in ALL_TOOLS if t not in tools and not (t in requests.TERMINAL_CAN and "terminal" in tools)]
    if kind < 0.21 and missing:
        text, _ = requests.request(rng, rng.choice(missing), heldout)
        return {
            "kind": "no_fitting_tool",
            "messages": [{"role": "user", "content": text}, assistant("I have no tool for that here.")],
        }
    if kind < 0.21 + finalizations and set(known) & {"terminal", "read_file", "write_file", "search_files"}:
        return finalization(rng, known, heldout)
    if kind < 0.26 + finalizations:
        return parallel(rng, known, heldout)
    if kind < 0.4 + finalizations:  # a second exchange after an earlier one
        first, second = row_simple(rng, known, heldout), tool_call(rng, known, heldout)
        return {"kind": "tool_call", "messages": first["messages"] + second["messages"]}
    return tool_call(rng, known, heldout)


def row_simple(rng: random.Random, tools: list[str], heldout: bool) -> dict:
    """A short finished exchange to stand before another."""
    if rng.random() < 0.6 and set(tools) & {"terminal", "read_file", "write_file", "search_files"}:
        return finalization(rng, tools, heldout)
    text, reply = no_tool(rng, heldout)
    return {"kind": "no_tool", "messages": [{"role": "user", "content": text}, assistant(reply)]}


def tool_names(context: dict) -> list[str]:
    """The tools that a context's rows may call. The bare context, of early training, does not list them."""
    return [tool["function"]["name"] for tool in context["tools"]] or ALL_TOOLS


def fixed_texts() -> list[str]:
    """The long fixed texts that stand in prompts: tool lists as the template writes them, and Hermes's prompt."""
    return [json.dumps(tool, ensure_ascii=False) for tool in hermes_tools.load()] + [
        HERMES_PROMPT.read_text(),
        *SYSTEMS,
    ]
