"""Rows without a call: chat, words about a named thing, questions back, refusals of what no tool on offer can do.

No wording decides alone. A question back is half of the time a request for a call in which one thing that is needed was
left vague; a refusal for a tool that is not on offer is a request that is a call where it is (calls.py).
"""

import re

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
# The tool that a refused request would take, by the kind of the refusal.
WITHOUT = {"no_browser": "browser_navigate", "no_terminal": "terminal", "no_files_read": "read_file"}
# Files of requests for a tool, and the slots that can be left vague in them.
VAGUE = {
    "read_file": (("read_file_plain", "path"), ("read_file_part", "path")),
    "write_file": (("write_file", "path"), ("write_file", "content")),
    "search_files": (("search_content", "pattern"),),
    "terminal": (("terminal_command", "command"),),
    "browser_navigate": (("browser_navigate", "url"),),
    "patch": (("patch", "path"), ("patch", "old"), ("patch", "new")),
    "process": (("process_one", "session"),),
}
# A slot that stands in quotes, behind a colon or a word for the thing, or alone takes no vague words.
UNFIT = (
    r"[\"'`:=(\n]\s*{{{slot}}}|{{{slot}}}[\"'`:]|^{{{slot}}}$|"
    r"\b(?:file|files|page|site|website|address|url|link|command|named|called|path|text|word|string|phrase|pattern|"
    r"process|session|job|id|for|name|content)\s+{{{slot}}}"
)
# Programs whose work another tool on offer could do, so that their lack is no reason to refuse.
OTHERWISE = {
    "file": "touch ls tail sort wc head cat grep find diff stat file echo sed awk tee rg tree".split(),
    "browser": "curl wget".split(),
}
FILE_TOOLS = ("read_file", "write_file", "search_files", "patch")


class Chats(Calls):
    """Draws the rows "chat", "asking", "refusing" and "missing"."""

    def row_chat(self):
        kind = self.rng.random()
        if kind < 0.12:
            return self.repeat()
        if kind < 0.4:
            return self.about()
        text, thought, answer = self.form("chat").texts
        return [user(self.request(text, {})), assistant(thought, answer)]

    def about(self):
        """A request that names a command, file, address or word and wants words alone."""
        text, thought, answer = self.form(
            "about", self.rng.choice(("command", "command", "path", "url", "pattern"))
        ).texts
        values = {name: self.slots.draw(name) for name in ("command", "path", "url", "pattern")}
        values |= {"program": values["command"].split()[0], "file": values["path"].rpartition("/")[2]}
        return [user(self.request(text, values)), assistant(self.fill(thought, values), self.fill(answer, values))]

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
        tool = self.rng.choice(self.able)
        if self.rng.random() < 0.5:
            return self.vague(tool)
        text, thought, answer = self.form("asking", tool).texts
        values = {name: self.slots.draw(name) for name in sorted(set(SLOT.findall(text + thought + answer)))}
        return [user(self.request(text, values)), assistant(self.fill(thought, values), self.fill(answer, values))]

    def vague(self, tool: str):
        """A request for a call with vague words where one of its slots would be, and the question for that."""
        file, slot = self.rng.choice(VAGUE[tool])
        for _ in range(8):
            form = self.form(file).texts[0]
            if form.count(f"{{{slot}}}") == 1 and not re.search(UNFIT.format(slot=slot), form, re.IGNORECASE):
                break
        else:
            return None
        draws = {"old": "word", "new": "word", "last": "limit"}
        values = {name: self.slots.draw(draws.get(name, name)) for name in sorted(set(SLOT.findall(form)) - {slot})}
        if "last" in values:
            values["last"] = str(int(values["offset"]) + int(values["last"]))
        values[slot] = self.form("vague", slot).texts[0]
        thought, answer = self.form("vague_answers", slot).texts
        return [user(self.request(form, values)), assistant(thought, answer)]

    def row_refusing(self):
        kinds = ["outside"] * 3
        if self.context.tools:
            kinds += ["no_browser"] * ("browser_navigate" not in self.able)
            kinds += ["no_terminal"] * ("terminal" not in self.able)
            kinds += ["no_files", "no_files_read"] * (not self.able or {"terminal", *FILE_TOOLS}.isdisjoint(self.able))
        form = self.form("refusing", self.rng.choice(kinds))
        text, thought, answer = form.texts
        values = {name: self.slots.draw(name) for name in sorted(set(SLOT.findall(text + thought + answer)))}
        thought = self.fill(thought, values)
        if tool := WITHOUT.get(form.kind):
            thought = self.look(thought, tool)
        return (
            [user(self.request(text, values)), assistant(thought, self.fill(answer, values))]
            if short(thought, self.context.offered())
            else None
        )

    def row_missing(self):
        """A request for a tool that is not on offer, and that no other tool could serve; drawn as for a call."""
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
        text, call, _ = Calls(self.rng, Context("bare"), self.heldout, self.pieces, self.rough).single(tool)
        if tool == "terminal" and self.otherwise(call["arguments"]["command"]):
            return None
        kind = (
            "files"
            if tool in FILE_TOOLS and {*FILE_TOOLS}.isdisjoint(self.able) and self.rng.random() < 0.5
            else MISSING[tool]
        )
        thought, answer = self.form("missing_tool", kind).texts
        return [user(text), assistant(self.look(thought, tool), answer)]

    def otherwise(self, command: str) -> bool:
        """Whether a tool on offer could do what a shell command would."""
        program = command.split()[0]
        return (program in OTHERWISE["file"] and not set(FILE_TOOLS).isdisjoint(self.able)) or (
            program in OTHERWISE["browser"] and "browser_navigate" in self.able
        )
