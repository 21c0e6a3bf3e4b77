"""What tools answer: made-up results in the shape of Hermes's own, and the sentence that tells of one."""

import json
import random
import re

from kxl.dialogue.calls import Calls
from kxl.dialogue.contexts import working_folder
from kxl.dialogue.slots import EXTENSIONS
from kxl.tiny.words import number, pick_word


class Results(Calls):
    """Draws results of calls, and answers that tell of them."""

    def lines(self, low: int = 1, high: int = 5) -> list[str]:
        """Lines of a file or a command's output."""
        rng, slots = self.rng, self.slots
        count, style = rng.randint(low, high), rng.randrange(7)

        def w() -> str:
            return pick_word(rng, self.heldout, 0.15)

        made = {
            0: lambda: f"{w()} = {rng.choice((w(), str(number(rng)), 'true', 'on'))}",
            1: lambda: f'  "{w()}": "{w()} {number(rng)}",',
            2: lambda: slots.words(2, 6).capitalize() + ".",
            3: lambda: f"{rng.choice('-*#')} {slots.words(1, 4)}",
            4: lambda: f"{w()}: {rng.choice((w(), str(number(rng)), f'{w()}.{w()}.com'))}",
            5: lambda: f"{w()},{number(rng)},{w()}",
            6: lambda: slots.content().split("\n")[0],
        }[style]
        return [made() for _ in range(count)]

    def output(self) -> str:
        """What a command printed: a number, a word, a sentence, some lines, or nothing."""
        rng, slots, kind = self.rng, self.slots, self.rng.random()
        if kind < 0.12:
            return ""
        if kind < 0.6:
            form = rng.choice(("{n}", "{w}", "{w}-{n}", "{n} passed in {n}.{n}s", "{n} failed, {n} passed",
            "{w} {n}.{n}.{n}", "v{n}.{n}.{n}", "{h} {W}", "{n} {p}", "{p}", "/{d}/{w}", "{W}", "{n}.{n}G",
            "2026-{m}-{m} {n}:{m}:{m}",
                               "{w}: {W}", "up {n} days", "{W} ({n})", "{w}@{D}", "{i}", "{n}%", "OK ({n})", "{u}",
                               "{U}", "On branch {b}", "{n} files changed, {n} insertions(+)"))  # fmt: skip
            return slots.fill(form)
        return "\n".join(self.lines(2, 5))

    def result(self, call: dict) -> tuple[str, str, dict]:
        """A made-up result in the shape of Hermes's: (JSON, the kind of answer, slots of it)."""
        rng, slots = self.rng, self.slots
        args, name = call["arguments"], next(k for k, v in self.context.names.items() if v == call["name"])

        def dump(held: dict) -> str:
            return json.dumps(held, ensure_ascii=False)

        if name == "terminal":
            if args.get("background"):
                session = slots.session()
                return (
                    dump(
                        {"output": "Background process started", "session_id": session, "exit_code": 0, "error": None}
                    ),
                    "output_line",
                    {"text": f"Background process started, {session}", "command": args["command"]},
                )
            text = self.output()
            return (
                dump({"output": text, "exit_code": 0, "error": None}),
                "output_none" if not text else "output_lines" if "\n" in text else "output_line",
                {"text": text, "command": args["command"]},
            )
        if name == "read_file":
            lines = self.lines(1, min(5, args.get("limit", 5))) if rng.random() < 0.95 else []
            first = args.get("offset", 1)
            text = "\n".join(lines)
            numbered = "\n".join(f"{first + i}|{line}" for i, line in enumerate(lines))
            held = {
                "content": numbered,
                "total_lines": len(lines),
                "file_size": len(text.encode()) + 1,
                "truncated": False,
                "is_binary": False,
                "is_image": False,
            }
            return (
                dump(held),
                "read_empty" if not lines else "read_lines" if len(lines) > 1 else "read_line",
                {"text": text, "path": args["path"]},
            )
        if name == "search_files":
            return self.found(args)
        if name == "write_file":
            size = len(args["content"].encode())
            held = {
                "bytes_written": size,
                "dirs_created": rng.random() < 0.7,
                "lint": {"status": "skipped", "message": "No linter for this file"},
                "resolved_path": resolved(working_folder(rng), args["path"]),
            }
            return dump(held), "written", {"path": args["path"], "count": str(size)}
        if name == "patch":
            old, new = args["old_string"], args["new_string"]
            held = {
                "success": True,
                "diff": f"--- a/{args['path']}\n+++ b/{args['path']}\n@@ -1 +1 @@\n-{old}\n+{new}",
                "files_modified": [args["path"]],
            }
            return dump(held), "patched", {"path": args["path"], "old": old, "new": new}
        if name == "process":
            return self.process_result(args)
        title = slots.words(1, 4).title() if rng.random() < 0.6 else slots.words(1, 5)
        held = {
            "success": True,
            "url": args["url"],
            "title": title,
            "snapshot": f'- heading "{slots.words(1, 3)}" [level=1, ref=e1]\n- link "{pick_word(rng)}" [ref=e2]',
            "element_count": rng.randint(1, 9),
        }
        return dump(held), "page", {"url": args["url"], "title": title}

    def found_path(self, folder: str, glob: str | None) -> str:
        """A path below a folder, or anywhere, that a glob such as "*.rs" or "*_test.rs" fits."""
        name = f"*.{self.rng.choice(EXTENSIONS)}" if glob is None else glob.rpartition("/")[2]
        name = fitting(self.rng, name)
        if folder:
            return f"{folder}/{name}"
        return name if self.rng.random() < 0.4 else f"{self.slots.folder_name()}/{name}"

    def found(self, args: dict) -> tuple[str, str, dict]:
        rng, slots = self.rng, self.slots
        count = rng.choice((0, 1, 1, 2, 2, 3, 4))
        values = {"pattern": args["pattern"], "count": str(count)}
        folder = (args.get("path") or "").rstrip("/")
        in_file = "." in folder.rpartition("/")[2].lstrip(".") and args.get("target") != "files"
        paths = [folder if in_file else self.found_path(folder, args.get("file_glob")) for _ in range(count)]
        if not count:
            return (
                json.dumps({"total_count": 0, "matches": []} if rng.random() < 0.5 else {"total_count": 0}),
                "found_none",
                values,
            )
        if args.get("target") == "files":
            name = args["pattern"].replace("**/", "")
            paths = [path.rpartition("/")[0] + "/" * ("/" in path) + fitting(rng, name) for path in paths]
            return (
                json.dumps({"total_count": count, "files": paths}, ensure_ascii=False),
                "found_files" if count > 1 else "found_file",
                {**values, "text": "\n".join(paths)},
            )
        if args.get("output_mode") == "count":
            counts = {path: rng.randint(1, 30) for path in paths}
            values["count"] = str(sum(counts.values()))
            return (
                json.dumps({"total_count": sum(counts.values()), "counts": counts}, ensure_ascii=False),
                "counted",
                {**values, "text": "\n".join(f"{path}: {n}" for path, n in counts.items())},
            )
        matches = [
            {
                "path": path,
                "line": number(rng),
                "content": slots.fill(
                    rng.choice(("{w} = %s", "# %s", "%s {w}", "{w} %s {w}", "    %s", "{w}: %s"))
                ).replace("%s", args["pattern"]),
            }
            for path in paths
        ]
        text = "\n".join(f"{m['path']}:{m['line']}: {m['content'].strip()}" for m in matches)
        return (
            json.dumps({"total_count": count, "matches": matches}, ensure_ascii=False),
            "found_lines" if count > 1 else "found_line",
            {**values, "text": text},
        )

    def process_result(self, args: dict) -> tuple[str, str, dict]:
        rng, slots = self.rng, self.slots
        session, text = (
            args.get("session_id", ""),
            slots.fill(rng.choice(("{W} {n}", "{n} of {n}", "{w}: {n}%", "Listening on {n}", "{W}", "{n} passed"))),
        )
        if args["action"] == "list":
            jobs = [
                {
                    "session_id": slots.session(),
                    "command": slots.background(),
                    "status": "running",
                    "uptime_seconds": number(rng),
                }
                for _ in range(rng.choice((0, 1, 2)))
            ]
            told = "\n".join(f"{job['session_id']}: {job['command']} ({job['status']})" for job in jobs)
            return (
                json.dumps({"processes": jobs}, ensure_ascii=False),
                "process_list" if jobs else "process_none",
                {"text": told, "count": str(len(jobs))},
            )
        if args["action"] == "kill":
            return json.dumps({"status": "killed", "session_id": session}), "process_killed", {"session": session}
        if args["action"] in ("submit", "write"):
            return (
                json.dumps({"status": "ok", "bytes_written": len(args["data"])}),
                "process_input",
                {"session": session},
            )
        if args["action"] == "close":
            return json.dumps({"status": "ok", "message": "stdin closed"}), "process_closed", {"session": session}
        if args["action"] == "log":
            text = "\n".join(self.lines(1, 4))
            return (
                json.dumps(
                    {"session_id": session, "status": "running", "output": text, "total_lines": text.count("\n") + 1},
                    ensure_ascii=False,
                ),
                "process_log",
                {"session": session, "text": text},
            )
        state = "exited" if args["action"] == "wait" else rng.choice(("running", "running", "exited"))
        key = rng.choice(("output_preview", "output"))
        held = {"session_id": session, "status": state, key: text, **({"exit_code": 0} if state == "exited" else {})}
        return json.dumps(held, ensure_ascii=False), "process_state", {"session": session, "state": state, "text": text}

    def answer(self, kind: str, values: dict) -> str:
        return self.fill(self.form("results", kind).texts[0], values)


def resolved(folder: str, path: str) -> str:
    """The absolute path of a file named in a working folder."""
    return path if path.startswith(("/", "~")) else f"{folder}/{path.removeprefix('./')}"


def fitting(rng: random.Random, glob: str) -> str:
    """A file name that a glob fits: a word for each star, a digit for each question mark."""
    return re.sub(r"[*?]", lambda sign: pick_word(rng) if sign[0] == "*" else str(rng.randrange(10)), glob)
