"""Training conversations of the tiny model: rows that fit a context (contexts.py).

A row is {"kind", "messages"} without the system message; kinds are tool_call, no_tool, no_fitting_tool, finalization
(ends after real tool results), sequence (does so after two or three calls), parallel. Everything is drawn from a seeded
random.Random.
"""

import random
from dataclasses import dataclass

from kxl.tiny import drills, recorded, requests, wording
from kxl.tiny.answers import no_tool
from kxl.tiny.contexts import ALL_TOOLS, TERMINAL_TOOLS
from kxl.tiny.forms import expand, load

RECORDED_TOOLS = {"terminal", "read_file", "write_file", "search_files"}


@dataclass(frozen=True)
class Shares:
    """Shares of the rows that are of a kind, as a training config names them.

    finalizations: end after tool results. in_a_row: sequences, drawn before all others. introductions: ask who the
    assistant is, drawn before what is left.
    """

    finalizations: float = 0.13
    in_a_row: float = 0
    introductions: float = 0


USUAL = Shares()


def user(text: str) -> dict:
    """A user's turn."""
    return {"role": "user", "content": text}


def assistant(content: str | None, *calls: dict) -> dict:
    """An assistant's turn with text, calls ({"name", "arguments"}) or both."""
    message = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = [{"type": "function", "function": call} for call in calls]
    return message


def row(
    rng: random.Random,
    tools: list[str],
    heldout: bool = False,
    simple: bool = False,
    pieces: drills.Pieces | None = None,
    shares: Shares = USUAL,
) -> dict:
    """One row for a context that offers `tools` (names); a simple one is a single request with its answer or call.

    With `pieces` some rows are drills in copying them; rows that nothing is trained on have none.
    """
    known = [tool for tool in tools if tool in ALL_TOOLS]
    if shares.in_a_row and "terminal" in known and rng.random() < shares.in_a_row:
        return sequence(rng, known, heldout)
    if shares.introductions and rng.random() < shares.introductions:
        return introduction(rng)
    kind = rng.random()
    if kind < 0.17 or not known:
        return in_words(rng, heldout)
    if pieces and set(drills.DRILLED) <= set(known) and rng.random() < (0.45 if simple else 0.25):
        return _called(*drills.drill(rng, pieces))
    if simple:
        return tool_call(rng, known, heldout)
    if kind < 0.21 and (missing := missing_tools(tools)):
        return no_fitting_tool(rng, missing, heldout)
    if kind < 0.21 + shares.finalizations and RECORDED_TOOLS & set(known):
        return finalization(rng, known, heldout)
    if kind < 0.26 + shares.finalizations:
        return parallel(rng, known, heldout)
    if kind < 0.4 + shares.finalizations:
        return second_exchange(rng, known, heldout)
    return tool_call(rng, known, heldout)


def missing_tools(tools: list[str]) -> list[str]:
    """The tools whose tasks nothing among `tools` can do."""
    missing = [tool for tool in ALL_TOOLS if tool not in tools]
    return [tool for tool in missing if not ("terminal" in tools and tool in requests.TERMINAL_CAN)]


def tool_call(rng: random.Random, tools: list[str], heldout: bool = False) -> dict:
    """One request and the call that serves it."""
    if set(tools) == set(TERMINAL_TOOLS) and rng.random() < 0.3:
        return _called(*requests.through_terminal(rng, heldout))
    return _called(*requests.request(rng, requests.pick_tool(rng, tools), heldout))


def _called(text: str, call: dict) -> dict:
    return {"kind": "tool_call", "messages": [user(text), assistant("", call)]}


def in_words(rng: random.Random, heldout: bool = False) -> dict:
    """A request that no tool is needed for, answered in words."""
    text, reply = no_tool(rng, heldout)
    return {"kind": "no_tool", "messages": [user(text), assistant(reply)]}


def introduction(rng: random.Random) -> dict:
    """A request for who the assistant is. Not among answers.py: each word there is a token of the tokenizer."""
    given = load("conversations")
    text = expand(rng, rng.choice(given["introduce"]))
    text = text[0].upper() + text[1:] if rng.random() < 0.6 else text
    return {"kind": "no_tool", "messages": [user(text), assistant(given["introduction"])]}


def no_fitting_tool(rng: random.Random, missing: list[str], heldout: bool = False) -> dict:
    """A request for a tool that is not on offer, declined."""
    text, _ = requests.request(rng, rng.choice(missing), heldout)
    declined = load("conversations")["no_fitting_tool"]
    return {"kind": "no_fitting_tool", "messages": [user(text), assistant(declined)]}


def parallel(rng: random.Random, tools: list[str], heldout: bool = False) -> dict:
    """Two independent calls of one tool in one turn."""
    text, calls = requests.pair(rng, tools, heldout)
    return {"kind": "parallel", "messages": [user(text), assistant("", *calls)]}


def finalization(rng: random.Random, tools: list[str], heldout: bool = False) -> dict:
    """A request, its calls one after another with real results, and the final answer."""
    steps = recorded.steps_of_episode(rng, tools, heldout)
    text = wording.wording(rng, steps[0]) if len(steps) == 1 else wording.sequence(rng, steps)
    return {"kind": "finalization", "messages": _carried_out(text, steps)}


def sequence(rng: random.Random, tools: list[str], heldout: bool = False) -> dict:
    """A request for two or three calls in a row with their real results: no answer before the last call."""
    steps = recorded.steps_of_sequence(rng, tools, heldout)
    return {"kind": "sequence", "messages": _carried_out(wording.sequence(rng, steps), steps)}


def second_exchange(rng: random.Random, tools: list[str], heldout: bool = False) -> dict:
    """A request and its call after a short exchange that is finished."""
    done = rng.random() < 0.6 and RECORDED_TOOLS & set(tools)
    first = finalization(rng, tools, heldout) if done else in_words(rng, heldout)
    second = tool_call(rng, tools, heldout)
    return {"kind": "tool_call", "messages": first["messages"] + second["messages"]}


def _carried_out(text: str, steps: list[dict]) -> list[dict]:
    """The request, each step's call and result, and the final answer."""
    messages = [user(text)]
    for step in steps:
        messages.append(assistant("", {"name": step["name"], "arguments": step["arguments"]}))
        messages.append({"role": "tool", "name": step["name"], "content": step["result"]})
    return [*messages, assistant(recorded.answer(steps[-1]))]
