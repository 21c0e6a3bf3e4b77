"""Conversations that the tiny model learns from: rows that fit a context (contexts.py).

    context = draw_context(rng, "fixed")
    row = Dialogue(rng, context).row({"call": 1.0})      # {"kind": "call", "messages": [...]}

A row's messages come after its context; an assistant's message has `reasoning_content`, content and tool_calls. A row
of kind K is drawn by `row_K`: calls.py, recordings.py, chats.py, errors.py, sequences.py have them, a followup is here.
Requests are the hand-written forms of wordings.py with slots of slots.py; what a tool returns is recorded from Hermes's
own tools (recordings.py) or has their shape (results.py). No user message repeats an eval prompt.
"""

import re

from kxl.dialogue import wordings
from kxl.dialogue.chats import UNFIT, Chats
from kxl.dialogue.errors import Errors
from kxl.dialogue.messages import assistant, user
from kxl.dialogue.sequences import Sequences
from kxl.dialogue.thoughts import short

KINDS = (
    "call",
    "drill",
    "chat",
    "asking",
    "refusing",
    "missing",
    "final",
    "error",
    "retry",
    "fallback",
    "sequence",
    "parallel",
    "followup",
)


class Dialogue(Chats, Errors, Sequences):
    """Draws the rows of one context. heldout: forms and words that training never sees. pieces: words of the vocabulary
    that slots may hold. rough: how often a request has slips of the pen."""

    def row(self, shares: dict[str, float]) -> dict:
        """One row of a kind drawn by `shares`, none of whose user messages repeats an eval prompt."""
        while True:
            kind = self.rng.choices(list(shares), list(shares.values()))[0]
            messages = getattr(self, f"row_{kind}")()
            if messages and wordings.prompts().of_row(messages) is None:
                return {"kind": kind, "messages": messages}

    def row_followup(self):
        """A finished exchange, whose thoughts are gone, and a second request."""
        earlier = self.rng.choice((self.row_final, self.row_final, self.row_chat, self.row_error, self.row_asking))()
        if earlier is None:
            return None
        kind = self.rng.random()
        if kind < 0.12 and (later := self.again(earlier)):
            return earlier + later
        if kind < 0.65:
            tools = [t for t in self.able if t != "process"]
            if not tools:
                return None
            call = self.for_clauses(self.pick_tool(tools))
            name, values = self.values_of(call)
            later = [
                user(self.fill(self.form("followups", name).texts[0], values, rough=True)),
                assistant(self.thought_before(call), "", self.shown(call)),
            ]
        else:
            later = self.rng.choice((self.row_call, self.row_call, self.row_chat, self.row_asking, self.row_final))()
        return earlier + later if later else None

    def again(self, earlier: list[dict]):
        """A second request about what the first was about, without its name; None where there was no such thing."""
        calls = [call["function"] for message in earlier for call in message.get("tool_calls", ())]
        known = {shown: name for name, shown in self.context.names.items()}
        found = [
            (slot, call["arguments"][slot])
            for call in calls
            for slot in ("path", "url")
            if slot in call["arguments"] and known.get(call["name"]) != "search_files"
        ]
        able = {"path": [t for t in ("read_file", "write_file") if t in self.able], "url": ["browser_navigate"]}
        if len(found) != 1 or not able[found[0][0]] or (found[0][0] == "url" and "browser_navigate" not in self.able):
            return None
        slot, value = found[0]
        tool = self.rng.choice(able[slot])
        content = self.slots.content()
        words = {slot: self.form("around", f"again_{slot}").texts[0], "content": content}
        form = self.form("clauses", tool).texts[0]
        if re.search(UNFIT.format(slot=slot), form, re.IGNORECASE):
            return None
        text = self.fill(form, words, rough=True)
        thought = self.fill(self.form("around", "again_thought").texts[0], {"a": value})
        call = self.call(tool, **{slot: value}, **({"content": content} if tool == "write_file" else {}))
        thought = thought if short(thought) else self.form("around", "plain_thought").texts[0]
        return [user(text), assistant(thought, "", call)]
