"""What a script's code is: the syntax trees of the script and of all that it imports, without docstrings.

A comment, a docstring or a new layout changes no tree, so it makes nothing stale. Make asks for it before there is an
environment (the standard library alone), and every report names the code that wrote it.
"""

import ast
import hashlib
import json
import sys
from pathlib import Path

from kxl.base import cli
from kxl.base.files import ROOT, write_text

SCRIPTS = ROOT / "scripts"
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def tree_hash(tree: ast.Module) -> str:
    """Hex sha256 of a syntax tree without its docstrings, line numbers and comments. Changes `tree`.

    Empty fields are left out, so that Python versions which know more of them agree.
    """
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(repr(_plain(tree)).encode()).hexdigest()


def _plain(node):
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value not in (None, []))
        return (type(node).__name__, *((name, _plain(value)) for name, value in fields if name not in ("ctx", "kind")))
    return [_plain(item) for item in node] if isinstance(node, list) else node


def needs(tree: ast.Module, scripts: Path) -> list[str]:
    """Paths, relative to `scripts`, of our own files that a module imports, runs or reads as a program.

    A program that is run by name stands in the code as a string of its own: "moe_train.py", "scripts/moe_train.py".
    """
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.replace(".", "/") + ".py" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            module = node.module.replace(".", "/")
            names |= {f"{module}.py", *(f"{module}/{alias.name}.py" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.endswith(".py"):
            names.add(node.value.removeprefix("scripts/"))
    return sorted(name for name in names if (scripts / name).is_file())


class Code:
    """The modules under `scripts`: hash and needs of each, kept in `cache` while file time and size stay the same."""

    def __init__(self, scripts: Path = SCRIPTS, cache: Path | None = None):
        self.scripts, self.cache = scripts, cache
        try:
            self.known = json.loads(cache.read_text(encoding="utf-8")) if cache else {}
        except (OSError, ValueError):  # not made yet, or cut: it only saves time
            self.known = {}
        self.fresh, self.checked = False, {}

    def module(self, name: str) -> dict:
        """{"hash", "needs", "stamp"} of one file, looked at once; `name` is relative to `scripts`."""
        if name in self.checked:
            return self.checked[name]
        path = self.scripts / name
        status = path.stat()
        stamp = [status.st_mtime_ns, status.st_size]
        entry = self.known.get(name)
        if entry is None or entry["stamp"] != stamp or any(not (self.scripts / n).is_file() for n in entry["needs"]):
            tree = ast.parse(path.read_bytes(), filename=str(path))
            entry = {"stamp": stamp, "needs": needs(tree, self.scripts), "hash": tree_hash(tree)}
            self.known[name], self.fresh = entry, True
        self.checked[name] = entry
        return entry

    def closure(self, script: str) -> list[str]:
        """`script` and every file that it needs, directly or not, sorted."""
        found, todo = {script}, [script]
        while todo:
            new = set(self.module(todo.pop())["needs"]) - found
            found |= new
            todo += new
        return sorted(found)

    def hash(self, script: str) -> str:
        """One sha256 for a script's whole code."""
        whole = "".join(f"{name} {self.module(name)['hash']}\n" for name in self.closure(script))
        return hashlib.sha256(whole.encode()).hexdigest()

    def newest(self, script: str) -> int:
        """When the youngest file of a script's code was written, in nanoseconds."""
        return max(self.module(name)["stamp"][0] for name in self.closure(script))

    def save(self) -> None:
        """Keep what was read for the next time."""
        if self.cache and self.fresh:
            write_text(self.cache, json.dumps(self.known, sort_keys=True))


_read = {}  # what this process has read of each folder's code, good while file time and size stay the same


def running_script() -> str | None:
    """Name of the script in `scripts/` that called us, however deep; None where none did, as in a test of a room."""
    found, frame = None, sys._getframe()
    while frame:
        path = Path(frame.f_code.co_filename)
        if path.suffix == ".py" and path.resolve().parent == SCRIPTS:
            found = path.name  # the outermost: what the person called
        frame = frame.f_back
    return found


def describe(script: str | None, scripts: Path = SCRIPTS) -> dict | None:
    """{"script", "sha256"} for a report of `script`, None for none.

    The hash is None, too, where a file of the code was written after this command began: what ran is not what lies
    there now, and nobody can say what it was.
    """
    if script is None:
        return None
    code = Code(scripts)
    code.known = _read.setdefault(scripts, {})
    return {"script": script, "sha256": code.hash(script) if code.newest(script) < cli.STARTED else None}
