"""Rows with results recorded from Hermes's own tools, and the row of one call told to its end."""

import json
from functools import cache

from kxl.base.files import ROOT
from kxl.dialogue.contexts import working_folder
from kxl.dialogue.messages import assistant, tool, user
from kxl.dialogue.results import Results

RECORDED = {"single": ROOT / "datasets/tiny/tool_results.jsonl", "row": ROOT / "datasets/tiny/sequences.jsonl"}


@cache
def recorded(source: str) -> tuple[list[dict], ...]:
    """Recorded real calls with results; of "row" those of which every step went well."""
    found = [json.loads(line)["calls"] for line in RECORDED[source].read_text(encoding="utf-8").splitlines()]
    return tuple(steps for steps in found if source == "single" or not any(failed(step["result"]) for step in steps))


def failed(result: str) -> bool:
    """Whether a recorded result tells of an error."""
    held = json.loads(result)
    return bool(held.get("error") or held.get("exit_code"))


class Recordings(Results):
    """Puts recorded calls into words; draws the row "final", which ends with an answer."""

    def told(self, call: dict, result: str) -> tuple[str, dict]:
        """(the kind of answer, slots) for a recorded result of a call by Hermes's own name."""
        name, args, held = call["name"], call["arguments"], json.loads(result)
        if name == "terminal":
            text = held["output"]
            values = {"text": text, "command": args["command"], "code": str(held["exit_code"])}
            if held["exit_code"]:
                return "exit_code", {**values, "text": text or "no output"}
            return "output_none" if not text else "output_lines" if "\n" in text else "output_line", values
        if name == "read_file":
            lines = [line.split("|", 1)[1] for line in held["content"].split("\n") if "|" in line]
            text = "\n".join(lines).rstrip("\n")
            return "read_empty" if not text else "read_lines" if "\n" in text else "read_line", {
                "text": text,
                "path": args["path"],
            }
        if name == "write_file":
            return "written", {"path": args["path"], "count": str(held["bytes_written"])}
        if name == "search_files":
            count, values = held["total_count"], {"pattern": args["pattern"], "count": str(held["total_count"])}
            if not count:
                return "found_none", values
            if files := held.get("files"):
                return "found_files" if len(files) > 1 else "found_file", {**values, "text": "\n".join(files)}
            text = "\n".join(f"{m['path']}:{m['line']}: {m['content'].strip()}" for m in held["matches"])
            return "found_lines" if len(held["matches"]) > 1 else "found_line", {**values, "text": text}
        return "patched", {"path": args["path"], "old": args["old_string"], "new": args["new_string"]}

    def worded(self, step: dict) -> tuple[str, dict, str]:
        """Words that ask for a recorded call."""
        kind, values = self.values_of(step)
        if kind == "search_content":
            form = self.form("search_content", "in_directory" if "path" in step["arguments"] else "plain")
        elif kind == "search_files":
            form = self.form("search_files", "plain")
        else:
            form = self.form({"terminal": "terminal_command", "read_file": "read_file_plain"}.get(kind, kind))
        return self.request(form.texts[0], values), self.shown(step), self.thought_before(step)

    def placed(self, steps: list[dict]) -> list[dict]:
        """Recorded steps in a drawn working folder, half of the time on a file of another name."""
        folder = working_folder(self.rng)
        steps = [{**s, "result": s["result"].replace("{CWD}", folder)} for s in steps]
        old = steps[0]["arguments"].get("path", "")
        if len(old) < 8 or self.rng.random() < 0.4:
            return steps
        new = self.slots.path().removeprefix("./")
        return json.loads(
            json.dumps(steps, ensure_ascii=False).replace(
                json.dumps(old, ensure_ascii=False)[1:-1], json.dumps(new, ensure_ascii=False)[1:-1]
            )
        )

    def row_final(self):
        """A request, its call with a result, and the answer; the result is a recorded one a third of the time."""
        if not self.able:
            return None
        if self.rng.random() < 0.35:
            steps = [
                s for s in self.rng.choice(recorded("single")) if s["name"] in self.able and not failed(s["result"])
            ]
            if not steps:
                return None
            step = self.placed(steps[:1])[0]
            kind, values = self.told(step, step["result"])
            text, _, thought = self.worded(step)
            turns = [assistant(thought, "", self.shown(step)), tool(step["result"])]
        else:
            text, call, thought = self.single(self.pick_tool())
            result, kind, values = self.result(call)
            turns = [assistant(thought, "", call), tool(result)]
        return [user(text), *turns, assistant(self.final_thought(kind, ""), self.answer(kind, values))]
