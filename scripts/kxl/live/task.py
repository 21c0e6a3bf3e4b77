"""A task for a live agent: its format, its scratch folder, and the verdict by what is there afterwards.

A task file (evals/live/*.json) has name, description and tasks, each with

  id, prompt   unique name; what the user says
  toolsets     Hermes toolsets on offer, as in "terminal,file"
  calls        how many tool calls in a row it takes at least
  files        {path: text} that stand in the scratch folder before (default none)
  checks       what must hold afterwards, each one of
    {"file": path, "equals": text}   the file has this text, but for a last newline
    {"folder": path}                 the folder is there
    {"absent": path}                 nothing of that name is there
    {"result": text}                 a tool, really executed, returned this text

Any text may hold {a}, {b} and {secret}: words drawn for each run, so that nothing right can be there by chance.
A file that no check names must be as it was, and no other may have appeared.
"""

import random
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kxl.base.cli import UserError, printable
from kxl.base.files import read_json, shown
from kxl.live.leftovers import Entry

# What words are drawn from: short, in no shell's way. Two of them and a number are one of 170,280.
WORDS = (
    "amber",
    "anchor",
    "apple",
    "arrow",
    "autumn",
    "basket",
    "beacon",
    "bridge",
    "butter",
    "candle",
    "camera",
    "castle",
    "cabin",
    "cloud",
    "copper",
    "carrot",
    "circle",
    "desert",
    "dragon",
    "eagle",
    "engine",
    "falcon",
    "feather",
    "forest",
    "garden",
    "doctor",
    "guitar",
    "harbor",
    "flower",
    "honey",
    "island",
    "ladder",
    "jungle",
    "lamp",
    "lemon",
    "river",
    "marble",
    "meadow",
    "mirror",
    "rocket",
    "ocean",
    "olive",
    "orange",
    "saddle",
)
CHECKS = {"file": {"file", "equals"}, "folder": {"folder"}, "absent": {"absent"}, "result": {"result"}}
MOST_REASONS = 20  # a task that made two thousand files fails as well with these
NEEDED, ALLOWED = (
    {"id", "prompt", "toolsets", "calls", "checks"},
    {"id", "prompt", "toolsets", "calls", "checks", "files"},
)


@dataclass
class Task:
    """One task with its drawn words filled in."""

    id: str
    prompt: str
    toolsets: str
    calls: int
    files: dict
    checks: list

    def laid(self) -> dict[str, bytes]:
        """{path: content} of the files that stand in the folder before."""
        return {path: text.encode() for path, text in self.files.items()}


def load(path: Path, seed: int) -> tuple[str, list[Task]]:
    """(name, tasks) of a task file, words drawn by `seed`; UserError names file, task and what is wrong."""
    data = read_json(path)
    tasks = []
    for place, task in enumerate(data["tasks"]):
        where = f"{shown(path)}: task {task.get('id', place)}"
        if NEEDED - set(task) or set(task) - ALLOWED:
            raise UserError(
                f"{where}: has {', '.join(sorted(task))}; needs {', '.join(sorted(NEEDED))} and may have files"
            )
        if any(task["id"] == other.id for other in tasks):
            raise UserError(f"{where}: two tasks have this id")
        for check in task["checks"]:
            if set(check) not in CHECKS.values():
                raise UserError(
                    f"{where}: a check is one of {', '.join(CHECKS)} (file with equals), not {', '.join(check)}"
                )
        if not task["checks"] or "{secret}" in task["prompt"]:
            raise UserError(f"{where}: needs checks, and no {{secret}} in its prompt")
        named = [check[kind] for check in task["checks"] for kind in ("file", "folder", "absent") if kind in check]
        for path in [*named, *task.get("files", {})]:
            if not path or PurePosixPath(path).is_absolute() or {"", ".", ".."} & set(path.split("/")):
                raise UserError(f"{where}: {path!r} must be a path inside the folder, such as notes/a.txt")
        tasks.append(Task(**{"files": {}, **_fill(task, words(task["id"], seed))}))
    return data["name"], tasks


def words(name: str, seed: int) -> dict[str, str]:
    """The words of one task in the run with `seed`."""
    rng = random.Random(f"{seed} {name}")
    chosen = rng.sample(WORDS, 6)
    return {
        key: f"{chosen[2 * i]}-{chosen[2 * i + 1]}-{rng.randrange(10, 100)}"
        for i, key in enumerate(("a", "b", "secret"))
    }


def _fill(value, drawn: dict):
    if isinstance(value, str):
        return re.sub(r"\{(a|b|secret)\}", lambda match: drawn[match[1]], value)
    if isinstance(value, list):
        return [_fill(item, drawn) for item in value]
    if isinstance(value, dict):
        return {_fill(key, drawn): _fill(item, drawn) for key, item in value.items()}
    return value


def judge(task: Task, found: dict[str, Entry], results: list[str]) -> list[str]:
    """Why the task is not done, one sentence each.

    `found` is what lies in its folder (leftovers.read), `results` what its tools returned.
    """
    why = []
    for check in task.checks:
        kind = next(iter(check))
        entry = found.get(check[kind])
        if kind == "file":
            if entry is None or entry.kind != "file":
                why.append(f"there is no file {check['file']}" + (f", but a {entry.kind}" if entry else ""))
            elif (text := entry.text.decode("utf-8", "replace")).removesuffix("\n") != check["equals"]:
                why.append(f"{check['file']} holds {text[:200]!r}, expected {check['equals']!r}")
        elif kind == "folder" and (entry is None or entry.kind != "folder"):
            why.append(f"there is no folder {check['folder']}")
        elif kind == "absent" and entry is not None:
            why.append(f"{check['absent']} is still there")
        elif kind == "result" and not any(check["result"] in result for result in results):
            why.append(f"no tool returned {check['result']!r}")
    named = {check[kind] for check in task.checks for kind in ("file", "absent") if kind in check}
    before = task.laid()
    there = {path for path, entry in found.items() if entry.kind != "folder"}
    for path in sorted(there | set(before)):
        name = printable(path)[:200]
        if path in named:
            continue
        if path not in there:
            why.append(f"{name} is gone")
        elif path not in before:
            why.append(f"{name} was not asked for")
        elif found[path].text != before[path]:
            why.append(f"{name} was changed")
    return why[:MOST_REASONS]


def checked(task: Task) -> list[str]:
    """What `judge` looks at, in words, for the report."""
    described = {
        "file": "{file} holds {equals!r}",
        "folder": "folder {folder} is there",
        "absent": "{absent} is gone",
        "result": "a tool returned {result!r}",
    }
    return [described[next(iter(check))].format(**check) for check in task.checks] + ["every other file is as it was"]
