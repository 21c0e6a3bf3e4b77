"""Calls with the results that Hermes's own tools gave: recording them, drawing from them, answering after them.

A step is {"name", "arguments", "result"}; the folder that it ran in stands in its result as {CWD}. The committed files
(tiny_record_results.py) let every other stage work without Hermes.
"""

import json
import random
import subprocess
from functools import cache
from pathlib import Path

from kxl.base import jsonl
from kxl.base.cli import UserError
from kxl.base.files import ROOT, scratch_dir
from kxl.tiny import arguments, requests
from kxl.tiny.contexts import working_folder
from kxl.tiny.words import cased_word

RESULTS = ROOT / "datasets/tiny/tool_results.jsonl"
SEQUENCES = ROOT / "datasets/tiny/sequences.jsonl"
WORKER = ROOT / "scripts" / "kxl/tiny/hermes_worker.py"


def record(episodes: list[dict], python: Path) -> list[list[dict]]:
    """The steps of each of `episodes` (episodes.py), carried out in one Hermes process, each in a folder of its own.

    `python` is that of an environment with the pinned Hermes. Episodes whose results name this machine's folders are
    left out. UserError where Hermes cannot be started or dies.
    """
    with scratch_dir() as root:
        folders = [_laid_out(root / f"e{number}" / "work", episode["files"]) for number, episode in enumerate(episodes)]
        orders = [
            json.dumps({"folder": str(folder), "calls": episode["calls"]})
            for folder, episode in zip(folders, episodes, strict=True)
        ]
        home = root / "home"
        (home / ".hermes").mkdir(parents=True)
        environment = {
            "HOME": str(home),
            "HERMES_HOME": str(home / ".hermes"),
            "HERMES_DISABLE_LAZY_INSTALLS": "1",
            "PATH": "/usr/bin:/bin",
            "USER": "user",
            "LANG": "C.UTF-8",
        }
        command, given = [str(python), "-P", str(WORKER)], "\n".join(orders) + "\n"
        ended = subprocess.run(command, input=given, capture_output=True, text=True, env=environment, cwd=root)
        if ended.returncode != 0:
            raise UserError(
                f"Hermes's tools failed in {python}: {ended.stderr[-800:]}\nname another environment with --python"
            )
        steps = [_without_folder(json.loads(line)) for line in ended.stdout.split("\n")[:-1]]
        return [calls for calls in steps if str(root) not in json.dumps(calls, ensure_ascii=False)]


def _laid_out(folder: Path, files: dict[str, str]) -> Path:
    """A new folder with the files; returns it."""
    for path, text in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.is_dir():
            target.write_text(text)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _without_folder(episode: dict) -> list[dict]:
    return json.loads(json.dumps(episode["calls"], ensure_ascii=False).replace(episode["folder"], "{CWD}"))


@cache
def read(path: Path = RESULTS) -> list[list[dict]]:
    """The steps of each recorded episode."""
    return [row["calls"] for _, row in jsonl.objects(path, "scripts/tiny_record_results.py")]


@cache
def sequences(tools: frozenset[str], heldout: bool) -> list[list[dict]]:
    """The recorded sequences that need no other tools; one in eight is held out."""
    return [
        steps
        for i, steps in enumerate(read(SEQUENCES))
        if (i % 8 == 0) == heldout and tools.issuperset(step["name"] for step in steps)
    ]


def steps_of_episode(rng: random.Random, tools: list[str], heldout: bool) -> list[dict]:
    """The steps of one episode that `tools` can take, in a drawn folder, half of the time on another file."""
    steps = []
    while not steps:
        browse = "browser_navigate" in tools and rng.random() < 0.08
        steps = [_page_visit(rng, heldout)] if browse else rng.choice(read())
        steps = [step for step in steps if step["name"] in tools]
    steps = _placed(rng, steps)
    if len(steps) > 1 and rng.random() < 0.25:
        steps = steps[:1]
    return _renamed(rng, steps) if rng.random() < 0.5 else steps


def steps_of_sequence(rng: random.Random, tools: list[str], heldout: bool) -> list[dict]:
    """The two or three steps of a recorded sequence, in a drawn folder."""
    return _placed(rng, rng.choice(sequences(frozenset(tools), heldout)))


def _page_visit(rng: random.Random, heldout: bool) -> dict:
    """A step in the shape of Hermes's browser tool; the page itself is made up (no network)."""
    visit = requests.call("browser_navigate", url=arguments.url(rng, heldout))
    title = arguments.words(rng, 1, 4, heldout).title()
    result = {
        "success": True,
        "url": visit["arguments"]["url"],
        "title": title,
        "snapshot": f'- heading "{title}" [level=1, ref=e1]',
        "element_count": 1,
    }
    return {**visit, "result": json.dumps(result)}


def _placed(rng: random.Random, steps: list[dict]) -> list[dict]:
    """The steps in a drawn working folder."""
    folder = working_folder(rng)
    return [{**step, "result": step["result"].replace("{CWD}", folder)} for step in steps]


def _renamed(rng: random.Random, steps: list[dict]) -> list[dict]:
    """The same steps on a file of another name, one without extension half of the time: VERSION, Makefile."""
    old = steps[0]["arguments"].get("path", "")
    if len(old) < 8:  # a short name could stand in other text by chance
        return steps
    new = cased_word(rng) if rng.random() < 0.5 else arguments.path(rng).removeprefix("./")
    return json.loads(json.dumps(steps, ensure_ascii=False).replace(json.dumps(old, ensure_ascii=False)[1:-1], new))


def answer(step: dict) -> str:
    """The final answer after one real call: what a person wants to know of its result."""
    name, args, result = step["name"], step["arguments"], json.loads(step["result"])
    if name == "terminal":
        output = result["output"]
        if result["exit_code"]:
            return f"The command ended with exit code {result['exit_code']}" + (f": {output}" if output else ".")
        return f"The output is: {output}" if output else "Done, there was no output."
    if result.get("error"):
        return f"That did not work: {result['error']}"
    if name == "read_file":
        lines = [line.split("|", 1)[1] for line in result["content"].split("\n") if "|" in line]
        return f"{args['path']} contains:\n" + "\n".join(lines).rstrip("\n")
    if name == "write_file":
        return f"Saved {args['path']} ({result['bytes_written']} bytes)."
    if name == "search_files":
        if not result["total_count"]:
            return f"There is no match for {args['pattern']}."
        found = result.get("files") or [f"{m['path']}:{m['line']}: {m['content']}" for m in result["matches"]]
        return f"Found {result['total_count']}:\n" + "\n".join(found)
    if name == "patch":
        return f"Changed {args['path']}." if result.get("success") else "The patch did not apply."
    return f"The page is open. Its title is {result['title']}."
