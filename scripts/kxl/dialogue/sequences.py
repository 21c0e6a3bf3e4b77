"""Rows of several calls: one after another, or side by side in one block."""

import json
import random
import re

from kxl.dialogue.messages import assistant, tool, user
from kxl.dialogue.recordings import Recordings, recorded
from kxl.dialogue.results import fitting
from kxl.dialogue.wordings import SLOT

COUNTS_TWO = re.compile(r"\b(two|both|second half|first half|pair)\b", re.IGNORECASE)


class Sequences(Recordings):
    """Draws the rows "sequence" and "parallel"."""

    def row_sequence(self):
        """Two or three calls in a row: recorded ones, made-up ones, or a search whose find is read."""
        rng, kind = self.rng, self.rng.random()
        if kind < 0.55:
            steps = rng.choice(recorded("row"))
            if not {s["name"] for s in steps} <= set(self.able):
                return None
            steps = self.placed(steps)
        elif kind < 0.8 or not {"search_files", "read_file"} <= set(self.able):
            tools = [t for t in self.able if t != "process"]
            if not tools:
                return None
            steps = [self.for_clauses(self.pick_tool(tools)) for _ in range(rng.choice((2, 2, 3)))]
            steps = [{**s, "told": (made := self.result(self.shown(s)))[1:], "result": made[0]} for s in steps]
        else:
            return self.search_then_read()
        clauses = dict(zip("abc", (self.clause(s) for s in steps)))
        text = self.request(self.form("joints", f"sequence{len(steps)}").texts[0], clauses)
        messages = [user(text)]
        for i, step in enumerate(steps):
            if i == 0:
                while (
                    (why := self.thought("sequence", {}, *["three steps"] * (len(steps) > 2)))
                    and len(steps) > 2
                    and COUNTS_TWO.search(why)
                ):
                    pass
            else:
                while (
                    (
                        why := self.thought(
                            "next_step",
                            {},
                            *["two commands"] * ({s["name"] for s in steps} == {"terminal"} and len(steps) == 2),
                        )
                    )
                    and len(steps) > 2
                    and COUNTS_TWO.search(why)
                ):
                    pass
            why = why if rng.random() < 0.5 else self.thought_before(step)
            messages += [assistant(why, "", self.shown(step)), tool(step["result"])]
        kind, values = steps[-1].get("told") or self.told(steps[-1], steps[-1]["result"])
        thought = self.thought("final", {}, "several calls done")
        return [*messages, assistant(thought, self.answer(kind, values))]

    def search_then_read(self):
        first = {"name": "search_files", "arguments": {"pattern": self.slots.glob(), "target": "files"}}
        path = f"{self.slots.folder_name()}/" * rng_bit(self.rng) + fitting(self.rng, first["arguments"]["pattern"])
        found = json.dumps({"total_count": 1, "files": [path]}, ensure_ascii=False)
        text = self.request(
            self.form("joints", "sequence2").texts[0],
            {"a": self.clause(first), "b": self.form("around", "then_read").texts[0]},
        )
        second = self.call("read_file", path=path)
        result, kind, values = self.result(second)
        return [user(text), assistant(self.thought("sequence", {}, "search then read"), "", self.shown(first)),
        tool(found), assistant(self.thought("next_step", {}, "search then read"), "", second),
                tool(result),
                assistant(self.thought("final", {}, "several calls done"), self.answer(kind, values))]  # fmt: skip

    def row_parallel(self):
        """Two or three independent calls in one block: joined clauses, things or questions, or said in one breath."""
        rng, count = self.rng, self.rng.choice((2, 2, 2, 3))
        shape = rng.choices(("", "noun_", "ask_", "pair"), (0.36, 0.18, 0.1, 0.36))[0]
        made = self.pair(count) if shape == "pair" else self.joined(count, shape)
        if made is None:
            return None
        text, calls = made
        thought = self.form("around", f"parallel{count}").texts[0]
        return [user(text), assistant(thought, "", *(self.shown(call) for call in calls))]

    def joined(self, count: int, shape: str) -> tuple[str, list[dict]] | None:
        """(a request of several clauses of one shape, their calls), of one tool a third of the time."""
        kinds = {"": "parallel", "noun_": "noun", "ask_": "ask"}
        tools = [t for t in self.able if t != "process" or shape]
        tools = [t for t in tools if shape != "ask_" or t not in ("write_file", "patch")]
        tools = [t for t in tools if shape != "noun_" or t != "patch"]
        if not tools:
            return None
        if self.rng.random() < 0.33:
            tools = [self.pick_tool(tools)]
        picked = [self.pick_tool(tools) for _ in range(count)]
        if picked.count("process") > 1:  # the list of processes is asked for once
            return None
        calls = [self.for_clauses(tool) for tool in picked]
        clauses = dict(zip("abc", (self.clause(call, shape) for call in calls)))
        return self.request(self.form("joints", f"{kinds[shape]}{count}").texts[0], clauses), calls

    def pair(self, count: int) -> tuple[str, list[dict]] | None:
        """(a request for several calls of one tool in one breath, the calls)."""
        tool = self.rng.choice([t for t in self.able if t != "patch"] or [""])
        if not tool or (tool == "process" and count == 3):
            return None
        kind = tool if tool != "search_files" else self.rng.choice(("search_content", "search_files"))
        form = self.form("pairs", f"{kind}{count}").texts[0]
        mains, seconds = PAIRED[kind]
        values = {name: self.slots.draw(mains) for name in "abc"} | {name: self.slots.draw(seconds) for name in "xyz"}
        used = set(SLOT.findall(form))
        calls = []
        for main, second in zip("abc"[:count], "xyz"):
            first = values[main] if main in used else values["a"]
            where = values[second] if second in used else values["x"] if "x" in used else None
            calls.append({"name": tool, "arguments": dict(sorted(_arguments(kind, first, where).items()))})
        if len({str(call) for call in calls}) < count:
            return None
        return self.request(form, values), calls


# What stands in the slots a b c, and in x y z, of pairs.txt.
PAIRED = {
    "read_file": ("path", "path"), "search_content": ("pattern", "directory"), "search_files": ("glob", "directory"),
    "terminal": ("command", "command"), "browser_navigate": ("url", "url"), "write_file": ("path", "content"),
    "process": ("session", "session"),
}  # fmt: skip


def _arguments(kind: str, first: str, where: str | None) -> dict:
    """The arguments of a call of pairs.txt."""
    if kind == "write_file":
        return {"path": first, "content": where}
    if kind == "process":
        return {"action": "poll", "session_id": first}
    name = {"read_file": "path", "terminal": "command", "browser_navigate": "url"}.get(kind, "pattern")
    made = {name: first, **({"path": where} if where else {})}
    return made | ({"target": "files"} if kind == "search_files" else {})


def rng_bit(rng: random.Random) -> int:
    return int(rng.random() < 0.7)
