"""Rows of several calls: one after another, or side by side in one block."""

import json
import random
import re

from kxl.dialogue.messages import assistant, tool, user
from kxl.dialogue.recordings import Recordings, recorded
from kxl.tiny.words import pick_word

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
        path = f"{self.slots.folder_name()}/" * rng_bit(self.rng) + re.sub(
            r"[*?]", lambda _: pick_word(self.rng), first["arguments"]["pattern"]
        )
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
        """Two or three independent calls in one block, of one tool half of the time."""
        rng, tools = self.rng, [t for t in self.able if t != "process"]
        if not tools:
            return None
        count = rng.choice((2, 2, 2, 3))
        if rng.random() < 0.5:
            tools = [self.pick_tool(tools)]
        calls = [self.for_clauses(self.pick_tool(tools)) for _ in range(count)]
        text = self.request(
            self.form("joints", f"parallel{count}").texts[0], dict(zip("abc", (self.clause(c) for c in calls)))
        )
        return [
            user(text),
            assistant(self.form("around", f"parallel{count}").texts[0], "", *(self.shown(c) for c in calls)),
        ]


def rng_bit(rng: random.Random) -> int:
    return int(rng.random() < 0.7)
