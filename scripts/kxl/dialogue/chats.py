"""Rows without a call: chat, questions back, and refusals of what no tool on offer can do."""

from kxl.dialogue.calls import THROUGH_TERMINAL, Calls
from kxl.dialogue.contexts import TOOLS, Context
from kxl.dialogue.messages import assistant, user
from kxl.dialogue.thoughts import short
from kxl.dialogue.wordings import SLOT

MISSING = {
    "browser_navigate": "browser",
    "read_file": "read",
    "write_file": "write",
    "patch": "write",
    "search_files": "search",
    "terminal": "terminal",
    "process": "process",
}
FILE_TOOLS = ("read_file", "write_file", "search_files", "patch")


class Chats(Calls):
    """Draws the rows "chat", "asking", "refusing" and "missing"."""

    def row_chat(self):
        if self.rng.random() < 0.12:
            return self.repeat()
        text, thought, answer = self.form("chat").texts
        return [user(self.request(text, {})), assistant(thought, answer)]

    def repeat(self):
        """Words to say back exactly, with no tool: practice in copying."""
        text = self.rng.choice((self.slots.words(1, 8), self.slots.path(), self.slots.command(), self.slots.content()))
        ask = self.rng.choice(
            (
                "Repeat: {t}",
                "say exactly: {t}",
                "Copy this to the chat: {t}",
                "Write here, in the chat: {t}",
                "repeat after me: {t}",
                "Say back to me: {t}",
            )
        )
        return [user(ask.replace("{t}", text)), assistant(self.form("around", "repeat_thought").texts[0], text)]

    def row_asking(self):
        if not self.able:
            return None
        text, thought, answer = self.form("asking", self.rng.choice(self.able)).texts
        values = {name: self.slots.draw(name) for name in sorted(set(SLOT.findall(text + thought + answer)))}
        return [user(self.request(text, values)), assistant(self.fill(thought, values), self.fill(answer, values))]

    def row_refusing(self):
        kinds = ["outside"] * 3
        if self.context.tools:
            kinds += ["no_browser"] * ("browser_navigate" not in self.able)
            kinds += ["no_terminal"] * ("terminal" not in self.able)
            kinds += ["no_files"] * (not self.able or {"terminal", *FILE_TOOLS}.isdisjoint(self.able))
        text, thought, answer = self.form("refusing", self.rng.choice(kinds)).texts
        values = {name: self.slots.draw(name) for name in sorted(set(SLOT.findall(text + thought + answer)))}
        thought = self.fill(thought, values)
        return (
            [user(self.request(text, values)), assistant(thought, self.fill(answer, values))]
            if short(thought)
            else None
        )

    def row_missing(self):
        """A request for a tool that is not on offer, and that no other tool could serve."""
        gone = [
            t
            for t in TOOLS
            if t not in self.able
            and not ("terminal" in self.able and t in THROUGH_TERMINAL)
            and not (t == "patch" and "write_file" in self.able)
        ]
        if not self.context.tools or not gone:
            return None
        tool = self.rng.choice(gone)
        whole = Calls(self.rng, Context("bare"), self.heldout, self.pieces)
        if tool == "terminal":
            text = whole.request(whole.form("terminal_command").texts[0], {"command": whole.slots.command()})
        else:
            text = whole.single(tool)[0]
        kind = (
            "files"
            if tool in FILE_TOOLS and {*FILE_TOOLS}.isdisjoint(self.able) and self.rng.random() < 0.5
            else MISSING[tool]
        )
        thought, answer = self.form("missing_tool", kind).texts
        return [user(text), assistant(thought, answer)]
