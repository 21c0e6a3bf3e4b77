"""Conversations that the tiny model learns from: rows that fit a context (contexts.py).

    context = draw_context(rng, "fixed")
    row = Dialogue(rng, context).row({"call": 1.0})      # {"kind": "call", "messages": [...]}

A row's messages come after its context; an assistant's message has `reasoning_content`, content and tool_calls. A row
of kind K is drawn by `row_K`: calls.py, recordings.py, chats.py, errors.py, sequences.py have them, a followup is here.
Requests are the hand-written forms of wordings.py with slots of slots.py; what a tool returns is recorded from Hermes's
own tools (recordings.py) or has their shape (results.py). No user message repeats an eval prompt.
"""

from kxl.dialogue import wordings
from kxl.dialogue.chats import Chats
from kxl.dialogue.errors import Errors
from kxl.dialogue.messages import assistant, user
from kxl.dialogue.sequences import Sequences

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
