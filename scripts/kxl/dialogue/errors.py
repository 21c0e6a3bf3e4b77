"""Rows where a call fails: it is reported, mended once, or the user's second way is taken."""

import json

from kxl.dialogue.messages import assistant, tool, user
from kxl.dialogue.results import Results
from kxl.dialogue.slots import EXTENSIONS
from kxl.dialogue.thoughts import short

ERROR_SHAPES = ("not_found", "permission", "no_match", "timeout", "command_failed", "page_error")


class Errors(Results):
    """Draws the rows "error", "retry" and "fallback"."""

    def failing(self) -> tuple[str, dict, str, str, str, dict] | None:
        """A request whose call fails: (words, call, thought, result, shape of the error, slots)."""
        rng, shape = self.rng, self.rng.choice(ERROR_SHAPES)
        tool = {
            "not_found": "read_file",
            "permission": rng.choice(("read_file", "write_file")),
            "no_match": "search_files",
            "timeout": "terminal",
            "command_failed": "terminal",
            "page_error": "browser_navigate",
        }[shape]
        if shape == "no_match" and rng.random() < 0.4:
            tool = "patch"
        if tool not in self.able:
            return None
        text, call, thought = self.single(tool)
        args = call["arguments"]
        values = {k: args[k] for k in ("path", "pattern", "command", "url") if k in args}
        if tool == "read_file":
            error = (
                f"File not found: {args['path']}"
                if shape == "not_found"
                else rng.choice(
                    (
                        f"Failed to read file: [Errno 13] Permission denied: '{args['path']}'",
                        f"Permission denied: {args['path']}",
                        "Access denied",
                    )
                )
            )
            held = {
                "content": "",
                "total_lines": 0,
                "file_size": 0,
                "truncated": False,
                "is_binary": False,
                "is_image": False,
                "error": error,
            }
        elif tool == "write_file":
            reasons = (
                "[Errno 13] Permission denied",
                "[Errno 30] Read-only file system",
                "[Errno 28] No space left on device",
            )
            error = f"Failed to write file: {rng.choice(reasons)}: '{args['path']}'"
            held = (
                {"error": error} if rng.random() < 0.5 else {"bytes_written": 0, "dirs_created": False, "error": error}
            )
            shape = "permission" if "denied" in error else "no_write"
        elif tool == "patch":
            error = "Could not find a match for old_string in the file"
            held, shape = {"success": False, "error": error}, "no_patch"
        elif tool == "search_files":
            if args.get("output_mode"):
                return None
            error, held = "", {"total_count": 0, "matches": []} if rng.random() < 0.5 else {"total_count": 0}
        elif tool == "terminal":
            code, error = self.failure(args["command"], shape)
            values["code"] = str(code)
            held = {"output": error, "exit_code": code, "error": None}
        else:
            error = rng.choice(
                (
                    f"Navigation timeout of {rng.choice((15, 30, 60))}000 ms exceeded",
                    "net::ERR_NAME_NOT_RESOLVED",
                    "net::ERR_CONNECTION_REFUSED",
                    "net::ERR_CONNECTION_TIMED_OUT",
                    f"HTTP {rng.choice((403, 404, 500, 502, 503))}",
                    "net::ERR_CERT_DATE_INVALID",
                )
            )
            held = {"success": False, "error": error}
        values["text"] = error
        return text, call, thought, json.dumps(held, ensure_ascii=False), shape, values

    def failure(self, command: str, shape: str) -> tuple[int, str]:
        """(exit code, message) of a command that fails."""
        rng, slots, first = self.rng, self.slots, command.split()[0]
        if shape == "timeout":
            return 124, rng.choice(
                (
                    f"Command timed out after {rng.choice((10, 30, 60, 180))} seconds",
                    f"[Command timed out after {rng.choice((30, 60, 120))}s]",
                )
            )
        return rng.choice((
            (127, f"bash: {first}: command not found"), (1, f"{first}: {slots.path()}: No such file or directory"),
            (126, f"bash: {first}: Permission denied"), (1, slots.fill("error: {W}")),
            (2, f"make: *** [{slots.some_word()}] Error 2"), (1, slots.fill("fatal: {W} {n}")),
            (1, slots.fill("{n} failed, {n} passed")), (1, slots.fill("ModuleNotFoundError: No module named '{w}'")),
            (rng.randint(1, 120), slots.fill("{w}: {W}")),
            (1, slots.fill("remote: error: {W}\n ! [remote rejected] {b}")),
        ))  # fmt: skip

    def report(self, shape: str, values: dict) -> dict:
        """What is said after an error: what went wrong, and mostly the tool's own words."""
        if shape in ("no_patch", "no_write"):
            thought, answer = (
                self.form("around", f"{shape}_thought").texts[0],
                self.fill(self.form("around", shape).texts[0], values),
            )
        else:
            form = self.form("after_error", shape)
            thought, answer = self.fill(form.texts[0], values), self.fill(form.texts[1], values)
        if values["text"] and self.rng.random() < 0.75:
            answer += " " + self.answer("quote", values)
        return assistant(thought if short(thought) else self.form("around", "error_thought").texts[0], answer)

    def row_error(self):
        made = self.failing()
        if made is None:
            return None
        text, call, thought, result, shape, values = made
        if self.rng.random() < 0.4 or shape == "no_patch":
            text += ("" if text[-1] in ".!?\n" else ".") + " " + self.form("around", "condition").texts[0]
        return [user(text), assistant(thought, "", call), tool(result), self.report(shape, values)]

    def row_retry(self):
        """One error that can be mended, the mended call, and mostly the end of it."""
        rng, kind = self.rng, self.rng.random()
        if kind < 0.4 and "read_file" in self.able:
            text, call, thought = self.single("read_file")
            path = call["arguments"]["path"]
            stem, dot, ending = path.rpartition(".")
            near = rng.choice(
                (
                    path + ".md",
                    (stem if dot else path) + "." + rng.choice(EXTENSIONS),
                    path.replace("_", "-"),
                    path.upper(),
                    "docs/" + path.lstrip("/~."),
                )
            )
            if near == path:
                return None
            held = {
                "content": "",
                "total_lines": 0,
                "file_size": 0,
                "truncated": False,
                "is_binary": False,
                "is_image": False,
                "error": f"File not found: {path}",
                "similar_files": [near],
            }
            second, why = (
                self.call("read_file", **{**call["arguments"], "path": near}),
                self.form("around", "retry_name").texts[0],
            )
        elif kind < 0.7 and "terminal" in self.able:
            old, new = rng.choice(
                (("python ", "python3 "), ("pip ", "pip3 "), ("node ", "nodejs "), ("python ", "python3 "))
            )
            command = old + self.slots.fill(
                rng.choice(("{p}", "-m {i}", "{p} --{w}", "install {w}" if "pip" in old else "{p} {n}"))
            )
            text = self.request(self.form("terminal_command").texts[0], {"command": command})
            call, thought = self._terminal({"command": command})
            held = {"output": f"bash: {old.strip()}: command not found", "exit_code": 127, "error": None}
            second, why = (
                self.call("terminal", command=new + command.removeprefix(old)),
                self.form("around", "retry_program").texts[0],
            )
        elif kind < 0.85 and {"patch", "read_file"} <= set(self.able):
            text, call, thought = self.single("patch")
            held = {
                "success": False,
                "error": "Could not find a match for old_string in the file",
                "_hint": "old_string not found. Use read_file to verify the current content, "
                "or search_files to locate the text.",
            }
            second, why = (
                self.call("read_file", path=call["arguments"]["path"]),
                self.form("around", "retry_read").texts[0],
            )
        elif "search_files" in self.able and "read_file" in self.able:
            text, call, thought = self.single("read_file")
            path = call["arguments"]["path"]
            held = {
                "content": "",
                "total_lines": 0,
                "error": f"File not found: {path}",
                "_hint": "Use search_files to find it.",
            }
            second, why = (
                self.call("search_files", pattern=path.rpartition("/")[2], target="files"),
                self.form("around", "retry_search").texts[0],
            )
        else:
            return None
        messages = [
            user(text),
            assistant(thought, "", call),
            tool(json.dumps(held, ensure_ascii=False)),
            assistant(why, "", second),
        ]
        if rng.random() < 0.5:
            result, kind, values = self.result(second)
            messages += [tool(result), assistant(self.final_thought(kind, ""), self.answer(kind, values))]
        return messages

    def row_fallback(self):
        """A; if that fails, B: the user names the second way, and it is taken after an error only."""
        able = [t for t in self.able if t in ("read_file", "terminal", "browser_navigate", "search_files")]
        if not able:
            return None
        first = self.for_clauses(self.pick_tool(able))
        second = self.for_clauses(self.pick_tool([t for t in self.able if t != "process"]))
        text = self.request(
            self.form("around", "fallback").texts[0], {"a": self.clause(first), "b": self.clause(second)}
        )
        call, then = self.shown(first), self.shown(second)
        messages = [user(text), assistant(self.thought_before(first), "", call)]
        if self.rng.random() < 0.35:
            result, kind, values = self.result(call)
            if kind in ("found_none", "read_empty"):
                return None
            return [
                *messages,
                tool(result),
                assistant(self.form("around", "no_plan_b").texts[0], self.answer(kind, values)),
            ]
        args = first["arguments"]
        if first["name"] == "read_file":
            held = {
                "content": "",
                "total_lines": 0,
                "file_size": 0,
                "truncated": False,
                "is_binary": False,
                "is_image": False,
                "error": f"File not found: {args['path']}",
            }
        elif first["name"] == "terminal":
            code, error = self.failure(args["command"], self.rng.choice(ERROR_SHAPES))
            held = {"output": error, "exit_code": code, "error": None}
        elif first["name"] == "search_files":
            held = {"total_count": 0, "matches": []}
        else:
            held = {
                "success": False,
                "error": self.rng.choice(
                    (
                        "net::ERR_NAME_NOT_RESOLVED",
                        "net::ERR_CONNECTION_REFUSED",
                        "Navigation timeout of 60000 ms exceeded",
                    )
                ),
            }
        messages += [
            tool(json.dumps(held, ensure_ascii=False)),
            assistant(self.form("around", "plan_b").texts[0], "", then),
        ]
        if self.rng.random() < 0.4:
            result, kind, values = self.result(then)
            messages += [tool(result), assistant(self.final_thought(kind, ""), self.answer(kind, values))]
        return messages
