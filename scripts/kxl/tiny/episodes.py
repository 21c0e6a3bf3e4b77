"""Small files and calls that use them, for Hermes's own tools to carry out; and running them there."""

import json
import random
import shutil
import subprocess
from pathlib import Path

from kxl.base import cli
from kxl.base.files import scratch_dir
from kxl.tiny import arguments
from kxl.tiny.requests import call
from kxl.tiny.words import pick_word

# Runs inside Hermes's environment: reads one episode a line, writes it back with the results.
WORKER = """
import json, os, sys
import tools.registry
tools.registry._check_fn_cached = lambda fn: True
import model_tools
model_tools.get_tool_definitions(enabled_toolsets=["terminal", "file"], quiet_mode=True)
out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    episode = json.loads(line)
    os.chdir(episode["folder"])
    os.environ["TERMINAL_CWD"] = episode["folder"]
    # A first shell command opens the task's environment there; before it the file tools look elsewhere.
    model_tools.handle_function_call("terminal", {"command": "cd " + episode["folder"]}, task_id=episode["folder"])
    for call in episode["calls"]:
        call["result"] = model_tools.handle_function_call(call["name"], dict(call["arguments"]), task_id=episode["folder"])
    out.write(json.dumps(episode) + "\\n")
    out.flush()
"""


def small_text(rng: random.Random) -> str:
    """One to four short lines."""
    return "".join(arguments.sentence(rng) + "\n" for _ in range(rng.choice((1, 1, 2, 3, 4))))


def relative_path(rng: random.Random) -> str:
    """A path inside the scratch folder."""
    while (path := arguments.path(rng)).startswith(("/", "~")):
        pass
    return path.removeprefix("./")


def episode(rng: random.Random) -> dict:
    """Files to lay out, and one to three calls that use them."""
    files = {relative_path(rng): small_text(rng) for _ in range(rng.randint(1, 4))}
    return {"files": files, "calls": [_call(rng, files) for _ in range(rng.choice((1, 1, 1, 2, 2, 3)))]}


def _call(rng: random.Random, files: dict) -> dict:
    known = rng.choice(list(files))
    path = known if rng.random() < 0.85 else relative_path(rng)
    kind = rng.random()
    if kind < 0.28:
        return call("terminal", command=arguments.echo(rng).split(" > ")[0])
    if kind < 0.5:
        forms = ["ls", "pwd", "wc -l {p}", "cat {p}", "mkdir {d}", "mkdir -p {d}/{d}", "touch {p}", "rm {p}", "head -n 1 {p}", "tail -n 1 {p}", "ls {p}", "ls {d}", "python3 -c 'print({n} + {m})'",
                 "python3 -c 'print({n} * {m})'", "sort {p}", "cp {p} {d}.txt", "test -f {p} && echo yes", "echo {d} > {d}.txt", "echo {d} >> {p}", "whoami", "expr {n} + {m}", "basename {p}", "grep -c {d} {p}", "false", "{d}"]  # fmt: skip
        form = rng.choice(forms)
        return call(
            "terminal", command=form.format(p=path, d=pick_word(rng), n=rng.randrange(100), m=rng.randrange(100))
        )
    if kind < 0.68:
        return call("read_file", path=path)
    if kind < 0.84:
        content = small_text(rng) if rng.random() < 0.3 else arguments.sentence(rng)
        target = (
            path if not path.endswith((".json", ".py", ".yaml", ".yml", ".toml")) else path.rsplit(".", 1)[0] + ".txt"
        )
        files[target] = content
        return call("write_file", path=target, content=content)
    line = rng.choice(files[known].splitlines() or [""])
    word = rng.choice(line.split() or ["x"]).strip("\"'#,.!:=")
    if kind < 0.95:
        pattern = word if word.isalnum() and rng.random() < 0.8 else pick_word(rng)
        if rng.random() < 0.25:
            return call("search_files", pattern="*." + rng.choice(arguments.EXTENSIONS), target="files")
        folder = known.split("/")[0]
        return call("search_files", pattern=pattern, path=folder)
    return call("patch", mode="replace", path=known, old_string=word or "x", new_string=pick_word(rng))


def run(episodes: list[dict], python: Path) -> list[dict]:
    """Execute all episodes in one Hermes process."""
    with scratch_dir() as name:
        root = Path(name).resolve()
        lines = []
        for i, item in enumerate(episodes):
            folder = root / f"e{i}" / "work"
            for path, text in item["files"].items():
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.is_dir():
                    target.write_text(text)
            folder.mkdir(parents=True, exist_ok=True)
            lines.append(json.dumps({"folder": str(folder), "calls": item["calls"]}))
        home = root / "home"
        (home / ".hermes").mkdir(parents=True)
        env = {
            "HOME": str(home),
            "HERMES_HOME": str(home / ".hermes"),
            "HERMES_DISABLE_LAZY_INSTALLS": "1",
            "PATH": "/usr/bin:/bin",
            "USER": "user",
            "LANG": "C.UTF-8",
        }
        done = subprocess.run(
            [python, "-c", WORKER], input="\n".join(lines) + "\n", capture_output=True, text=True, env=env, cwd=root
        )
        if done.returncode != 0:
            raise cli.UserError(f"Hermes's tools failed in {python}: {done.stderr[-800:]}")
        recorded = []
        for line in done.stdout.split("\n")[:-1]:
            item = json.loads(line)
            text = json.dumps(item["calls"], ensure_ascii=False).replace(item["folder"], "{CWD}")
            if str(root) not in text:  # nothing that names this machine's folders
                recorded.append({"calls": json.loads(text)})
        shutil.rmtree(home)
    return recorded
