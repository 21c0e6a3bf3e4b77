"""Small files and calls that act on them, for Hermes's own tools to carry out (recorded.py).

`apart(rng)` draws calls that have nothing to do with each other. `in_a_row(rng)` draws two or three that act on each
other's files, often alike: two calls of one kind with different words ("echo a > x.txt, then echo b > y.txt") are as
frequent as they are hard, since what has to be copied stands beside what has been copied already, in the request and
in the history.

An episode is {"files": {path: text}, "calls": [call]}.
"""

import random

from kxl.tiny import arguments
from kxl.tiny.arguments import usual
from kxl.tiny.requests import call
from kxl.tiny.words import identifier, pick_word

SHORT = "txt txt txt md csv log py json".split()


def small_text(rng: random.Random) -> str:
    """One to four short lines."""
    return "".join(arguments.sentence(rng) + "\n" for _ in range(rng.choice((1, 1, 2, 3, 4))))


def relative_path(rng: random.Random) -> str:
    """A path inside the scratch folder."""
    while (path := arguments.path(rng)).startswith(("/", "~")):
        pass
    return path.removeprefix("./")


def apart(rng: random.Random) -> dict:
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
        form = usual(rng, "commands_on_files")
        slots = {"p": path, "d": pick_word(rng), "n": rng.randrange(100), "m": rng.randrange(100)}
        return call("terminal", command=form.format(**slots))
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
            return call("search_files", pattern="*." + arguments.extension(rng), target="files")
        folder = known.split("/")[0]
        return call("search_files", pattern=pattern, path=folder)
    return call("patch", mode="replace", path=known, old_string=word or "x", new_string=pick_word(rng))


def name(rng: random.Random) -> str:
    """A word or some: what is written into files, what folders are called."""
    kind = rng.random()
    if kind < 0.5:
        return f"{pick_word(rng, invented=0.2)}-{pick_word(rng, invented=0.2)}" + rng.choice(
            ("", f"-{rng.randrange(10, 100)}", f"-{rng.randrange(10, 100)}")
        )
    return pick_word(rng) if kind < 0.75 else identifier(rng)


def file_name(rng: random.Random) -> str:
    """A file's name, one with several dots now and then."""
    kind = rng.random()
    if kind < 0.12:
        return rng.choice((".{a}.{b}", "{a}.{b}.{e}", ".env.{a}", "{a}.test.{e}")).format(
            a=pick_word(rng), b=pick_word(rng), e=rng.choice(SHORT)
        )
    return f"{pick_word(rng, invented=0.2) if kind < 0.8 else identifier(rng)}.{rng.choice(SHORT)}"


class Folder:
    """What an episode's folder holds while its calls are drawn."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.files = {file_name(rng): name(rng) + "\n" for _ in range(rng.choice((1, 2, 2)))}
        self.known, self.folders, self.seen = list(self.files), [], set()

    def old(self) -> str:
        return self.rng.choice(self.known)

    def new(self) -> str:
        path = file_name(self.rng)
        if self.folders and self.rng.random() < 0.5:
            path = f"{self.folders[-1]}/{path}"
        self.known.append(path)
        return path

    def target(self) -> str:
        """Where a copy goes: a folder of before, or a new name."""
        return self.rng.choice(self.folders) if self.folders and self.rng.random() < 0.6 else self.new()

    def leave(self) -> str:
        """A file that goes away."""
        return self.known.pop(self.rng.randrange(len(self.known)))


def _new_folder(folder: Folder) -> str:
    folder.folders.append(name(folder.rng))
    return folder.folders[-1]


def _both(folder: Folder, form: str) -> str | None:
    if len(folder.known) < 2:
        return None
    first, second = folder.rng.sample(folder.known, 2) if folder.rng.random() < 0.3 else folder.known[-2:]
    return form.format(first, second, folder.new())


# Commands by kind, with weights; each draws one for the folder as it is then, or None where it does not fit.
COMMANDS = {
    "write": (6, lambda f: f"echo {name(f.rng)} > {f.new()}"),
    "append": (1, lambda f: f"echo {name(f.rng)} >> {f.old()}" if f.known else None),
    "folder": (3, lambda f: f"{f.rng.choice(('mkdir', 'mkdir', 'mkdir -p'))} {_new_folder(f)}"),
    "empty": (2, lambda f: f"touch {f.new()}"),
    "copy": (4, lambda f: f"cp {f.old()} {f.target()}" if f.known else None),
    "move": (2, lambda f: f"mv {f.leave()} {f.target()}" if f.known else None),
    "delete": (3, lambda f: f"rm {f.leave()}" if f.known else None),
    "print": (3, lambda f: f"{f.rng.choice(('cat', 'cat', 'wc -l', 'head -n 1'))} {f.old()}" if f.known else None),
    "join": (3, lambda f: _both(f, f.rng.choice(("cat {} {} > {}", "paste {} {} > {}")))),
    "say": (1, lambda f: f"echo {name(f.rng)}"),
    "list": (1, lambda f: f"ls {f.rng.choice(f.folders)}" if f.folders else "ls"),
}
TOOLS = {"terminal": 5, "write_file": 5, "read_file": 3, "search_files": 1, "patch": 1}


def _draw(folder: Folder, kind: tuple[str, str]) -> dict | None:
    """A call of this kind, or None where the folder has nothing for it."""
    tool, command = kind
    rng = folder.rng
    if tool == "terminal":
        text = COMMANDS[command][1](folder)
        return call("terminal", command=text) if text else None
    if tool == "write_file":
        return call(
            "write_file", content=name(rng) if rng.random() < 0.7 else arguments.words(rng, 1, 4), path=folder.new()
        )
    unread = [path for path in folder.known if path not in folder.seen]
    if tool == "read_file":
        if not unread:
            return None
        folder.seen.add(path := rng.choice(unread))  # Hermes answers a second read with a note
        return call("read_file", path=path)
    if tool == "search_files":
        return (
            call("search_files", pattern="*." + rng.choice(SHORT), target="files")
            if rng.random() < 0.5
            else call("search_files", pattern=pick_word(rng))
        )
    path = rng.choice(list(folder.files))
    if path not in folder.known:
        return None
    return call("patch", mode="replace", path=path, old_string=folder.files[path].strip(), new_string=name(rng))


def _kind(rng: random.Random, tools: dict[str, int]) -> tuple[str, str]:
    tool = rng.choices(list(tools), list(tools.values()))[0]
    return tool, rng.choices(list(COMMANDS), [weight for weight, _ in COMMANDS.values()])[0]


def in_a_row(rng: random.Random) -> dict:
    """Files to lay out, and two or three calls in a row that use them; half of them in the terminal alone."""
    folder, tools = Folder(rng), {"terminal": 1} if rng.random() < 0.5 else TOOLS
    length, calls, kind = rng.choice((2, 2, 3, 3, 3)), [], _kind(rng, tools)
    while len(calls) < length:
        drawn = _draw(folder, kind)
        if drawn:
            calls.append(drawn)
        if not drawn or rng.random() > 0.4:
            kind = _kind(rng, tools)
    return {"files": folder.files, "calls": calls}
