"""Requests for one call: the user's words, the call with its arguments, the thought before it; rows that end there.

A request is a sentence of its own (`single`) or a clause that is joined with others (`for_clauses`, `clause`).
"""

from functools import cache

from kxl.dialogue import wordings
from kxl.dialogue.messages import assistant, user
from kxl.dialogue.slots import Slots
from kxl.dialogue.thoughts import Thoughts
from kxl.dialogue.wordings import SLOT, Form
from kxl.tiny.words import pick_word

SHARES = {
    "terminal": 0.27,
    "read_file": 0.16,
    "search_files": 0.18,
    "write_file": 0.15,
    "browser_navigate": 0.12,
    "patch": 0.07,
    "process": 0.05,
}
AS_REFUSED = 0.14  # share of requests that are worded as refused ones are
# Kinds of search_files.txt and search_content.txt, those that people use most several times.
NAME_KINDS = "plain plain in_directory in_directory ending ending ending_in name name name_in folder".split()
TEXT_KINDS = "plain in_directory folder in_file count count_in context glob glob_in ending".split()
TEXT_KINDS += "plain plain in_directory in_directory folder in_file".split()
THROUGH_TERMINAL = ("read_file", "write_file", "search_files", "patch")
INSTEAD = THROUGH_TERMINAL[:3]  # what a plain shell command does as well


class Calls(Thoughts):
    """Draws requests with their calls, and the rows "call" and "drill"."""

    def call(self, tool: str, **arguments) -> dict:
        return {"name": self.context.names[tool], "arguments": dict(sorted(arguments.items()))}

    def pick_tool(self, tools=None) -> str:
        tools = [t for t in tools or self.able if t in self.able]
        return self.rng.choices(tools, [SHARES[t] for t in tools])[0]

    def single(self, tool: str) -> tuple[str, dict, str]:
        """One request for `tool`: (the user's words, the call, the thought before it)."""
        rng, slots = self.rng, self.slots
        if tool == "terminal":
            return self.terminal()
        if tool == "read_file":
            return self.read()
        if tool == "search_files":
            return self.search()
        if tool == "write_file":
            values = self.written(slots.path(), slots.content())
            return (
                self.request(self.form(tool).texts[0], values),
                self.call(tool, path=values["path"], content=values["content"]),
                self.thought(tool, values),
            )
        if tool == "patch":
            old, new = slots.pair()
            values = {"path": slots.path(), "old": old, "new": new}
            text = self.request(self.form(tool).texts[0], values)
            if rng.random() < 0.1:
                text += rng.choice((", ", " ", ". ", "\n")) + self.form("around", "everywhere").texts[0]
                return text, self.patch(values, replace_all=True), self.thought(tool, values)
            return text, self.patch(values), self.thought(tool, values)
        if tool == "process":
            return self.process()
        values = {"url": slots.url()}
        shown = dict(values)
        if (
            values["url"].startswith("https://") and rng.random() < 0.3
        ):  # people leave the scheme away; the tool wants it
            shown["url"] = values["url"][8:]
        form = self.as_refused("no_browser") if rng.random() < AS_REFUSED else self.form(tool)
        return (
            self.request(form.texts[0], shown),
            self.call(tool, url=values["url"]),
            self.thought(tool, values),
        )

    def as_refused(self, kind: str) -> Form:
        """A request of refusing.txt, for a tool that is on offer here: the same words are refused where it is not."""
        return self.form("refusing", kind)

    def read(self) -> tuple[str, dict, str]:
        rng, slots = self.rng, self.slots
        values, args, kind = {"path": slots.path()}, {}, rng.random()
        if kind < 0.62:
            form = self.as_refused("no_files_read") if rng.random() < AS_REFUSED else self.form("read_file_plain")
        else:
            form = self.form("read_file_part", "limit", "offset", "both", "range", "range", "line")
            values.update(limit=slots.limit(), offset=slots.offset())
            if form.kind == "range":
                values["limit"] = str(rng.choice((rng.randint(2, 12), rng.randint(2, 60), 11, 21, 51, 101)))
                values["last"] = str(int(values["offset"]) + int(values["limit"]) - 1)
            names = {"both": ("limit", "offset"), "range": ("limit", "offset"), "line": ("limit", "offset")}
            args = {name: int(values[name]) for name in names.get(form.kind, (form.kind,))}
            if form.kind == "line":
                args["limit"] = 1
        thought = self.thought("read_file", values)
        if "last" in values and rng.random() < 0.7:
            told = {"a": values["offset"], "b": values["last"], "c": values["limit"]}
            thought = self.fill(self.form("around", "range_thought").texts[0], told)
        return self.request(form.texts[0], values), self.call("read_file", path=values["path"], **args), thought

    def terminal(self) -> tuple[str, dict, str]:
        kind, slots = self.rng.random(), self.slots
        if kind < 0.5:
            form = self.as_refused("no_terminal") if self.rng.random() < AS_REFUSED else self.form("terminal_command")
            values, args = {"command": slots.command()}, {}
        elif kind < 0.9:
            form, values, args = self.purpose(), {}, {}
            drawn = {name: slots.draw(name) for name in sorted(set(SLOT.findall(form.kind + form.texts[0])))}
            return self.request(form.texts[0], drawn), *self._terminal({"command": self.fill(form.kind, drawn)})
        else:
            form, values, args = (
                self.form("terminal_process_start"),
                {"command": slots.background()},
                {"background": True},
            )
        return self.request(form.texts[0], values), *self._terminal(values, **args)

    def _terminal(self, values: dict, **args) -> tuple[dict, str]:
        return self.call("terminal", command=values["command"], **args), self.thought("terminal", values)

    def purpose(self) -> Form:
        """A request that names a command's purpose; each command as often as another."""
        by_command: dict[str, list[Form]] = _by_kind("terminal_purpose", self.heldout)
        return self.rng.choice(by_command[self.rng.choice(list(by_command))])

    def written(self, path: str, content: str) -> dict:
        return {
            "path": path,
            "content": content,
            "content_start": " ".join(content.split()[:3]) if "\n" not in content else content.split("\n")[0],
        }

    def patch(self, values: dict, **args) -> dict:
        return self.call(
            "patch", mode="replace", path=values["path"], old_string=values["old"], new_string=values["new"], **args
        )

    def search(self) -> tuple[str, dict, str]:
        """A search in files' text or for files' names: in all, a folder, a file; by glob or ending; counted."""
        by_name = self.rng.random() < 0.4
        form = self.form(*(("search_files", *NAME_KINDS) if by_name else ("search_content", *TEXT_KINDS)))
        values = {name: self.slots.draw(name) for name in sorted(set(SLOT.findall(form.texts[0])))}
        if by_name:
            values["glob"] = values.get("glob") or values.get("file") or "*" + values["ending"]
            args = {"pattern": values["glob"], "target": "files"}
        else:
            args = {"pattern": values["pattern"]}
            if "context" in values:
                args["context"] = int(values["context"])
            if form.kind.startswith("count"):
                args["output_mode"] = "count"
            if "file_glob" in values or "ending" in values:
                args["file_glob"] = values.get("file_glob") or "*" + values["ending"]
        if where := next((values[name] for name in ("directory", "folder", "path") if name in values), None):
            args["path"] = where
        known = {name: values[name] for name in ("pattern", "glob", "directory") if name in values}
        if "folder" in values:
            known["directory"] = values["folder"]
        thought = self.thought("search_files" if by_name else "search_content", known)
        return self.request(form.texts[0], values), self.call("search_files", **args), thought

    def process(self) -> tuple[str, dict, str]:
        kind = self.rng.random()
        if kind < 0.25:
            return (
                self.request(self.form("process_list").texts[0], {}),
                self.call("process", action="list"),
                self.thought_of_list(),
            )
        values = {"session": self.slots.session(), "data": self.slots.data()}
        form = (
            self.form("process_one", "poll", "log", "wait", "kill")
            if kind < 0.78
            else self.form("process_input", "submit", "write", "close")
        )
        args = {"data": values["data"]} if form.kind in ("submit", "write") else {}
        fits = "input (write, submit)" if args else form.kind
        return (
            self.request(form.texts[0], values),
            self.call("process", action=form.kind, session_id=values["session"], **args),
            self.thought("process", values, fits),
        )

    def values_of(self, call: dict) -> tuple[str, dict]:
        """(the kind of clause, slots) of a call whose name is Hermes's own."""
        args = call["arguments"]
        if call["name"] == "search_files":
            if args.get("target") == "files":
                return "search_files", {"glob": args["pattern"]}
            return "search_content", {
                "pattern": args["pattern"],
                "directory": args.get("path")
                or self.rng.choice(("this folder", "the current folder", "the project", "all files")),
            }
        if call["name"] == "write_file":
            return "write_file", self.written(args["path"], args["content"])
        if call["name"] == "patch":
            return "patch", {"path": args["path"], "old": args["old_string"], "new": args["new_string"]}
        return call["name"], {k: args[k] for k in ("command", "path", "url") if k in args}

    def clause(self, call: dict, shape: str = "") -> str:
        """A bare imperative for a call whose name is Hermes's own; shape "noun_" or "ask_": a thing, a question."""
        kind, values = self.values_of(call)
        return self.fill(self.form("clauses", shape + kind).texts[0], values, rough=True)

    def for_clauses(self, tool: str) -> dict:
        """A drawn call (Hermes's own name) that a clause can ask for in full."""
        slots = self.slots
        if tool == "process":
            return {"name": tool, "arguments": {"action": "list"}}
        if tool == "terminal":
            args = {"command": slots.command()}
        elif tool == "read_file":
            args = {"path": slots.path()}
        elif tool == "search_files":
            args = (
                {"pattern": slots.glob(), "target": "files"}
                if self.rng.random() < 0.4
                else {"pattern": slots.pattern(), "path": slots.directory()}
            )
        elif tool == "write_file":
            args = {"path": slots.path(), "content": slots.content()}
        elif tool == "patch":
            old, new = slots.pair()
            args = {"mode": "replace", "path": slots.path(), "old_string": old, "new_string": new}
        else:
            args = {"url": slots.url()}
        return {"name": tool, "arguments": dict(sorted(args.items()))}

    def shown(self, call: dict) -> dict:
        return {"name": self.context.names[call["name"]], "arguments": call["arguments"]}

    def thought_before(self, call: dict) -> str:
        kind, values = self.values_of(call)
        if "path" not in call["arguments"]:
            values.pop("directory", None)
        return self.thought(kind, values)

    def row_call(self):
        if not self.able:
            return None
        if "terminal" in self.able and not set(INSTEAD) <= set(self.able) and self.rng.random() < 0.12:
            return self.row_through_terminal()
        tool = self.pick_tool()
        text, call, thought = self.single(tool)
        return [user(text), assistant(self.look(thought, call["name"]), "", call)]

    def row_through_terminal(self):
        """A file task worded as for a file tool that is not on offer, where a shell is."""
        slots, tool = self.slots, self.rng.choice([tool for tool in INSTEAD if tool not in self.able])
        if tool == "read_file":
            values = {"path": slots.path()}
            text, command = self.request(self.form("read_file_plain").texts[0], values), f"cat {values['path']}"
        elif tool == "write_file":
            values = self.written(slots.path(), slots.words(1, 5).replace("'", ""))
            text, command = (
                self.request(self.form("write_file").texts[0], values),
                f"echo '{values['content']}' > {values['path']}",
            )
        else:
            values = {"pattern": pick_word(self.rng, self.heldout), "directory": slots.folder()}
            text, command = (
                self.request(self.form("search_content", "in_directory").texts[0], values),
                f"grep -rn {values['pattern']} {values['directory']}",
            )
        call, thought = self._terminal({"command": command})
        if self.rng.random() < 0.5:
            thought = self.fill(self.form("around", "through").texts[0], {"tool": call["name"]})
        return [user(text), assistant(self.look(thought, call["name"]), "", call)]

    def row_drill(self):
        """A call whose arguments are made of the vocabulary's pieces."""
        if not self.able:
            return None
        before, self.slots = self.slots, Slots(self.rng, self.heldout, self.pieces, 0.85)
        tool = self.pick_tool([t for t in self.able if t != "process"] or self.able)
        text, call, thought = self.single(tool)
        self.slots = before
        return [user(text), assistant(thought, "", call)]


@cache
def _by_kind(name: str, heldout: bool) -> dict[str, list[Form]]:
    found: dict[str, list[Form]] = {}
    for form in wordings.forms(name, heldout):
        found.setdefault(form.kind, []).append(form)
    return found
