"""Which reports still speak of what is in the tree: of its models, its data and its settings, by hash.

Weights under runs/ are in nobody's tree. They count while all reports name them by one hash, and while a report of the
same run ties it to weights that are in the tree or pinned by a lock.
"""

import functools
import re
from pathlib import Path

from kxl.base.code import Code
from kxl.base.files import ROOT, read_json, sha256

WEIGHTS = (".safetensors", ".gguf")


class Tree:
    """The files of a checkout, and which of its reports still speak of them."""

    def __init__(self, root: Path = ROOT):
        self.root = root
        self._code = Code(root / "scripts")

    @functools.cache  # noqa: B019  lives as long as a test or a command
    def json(self, path: str):
        return read_json(self.root / path)

    @functools.cache  # noqa: B019
    def text(self, path: str) -> str:
        return (self.root / path).read_text(encoding="utf-8")

    @functools.cache  # noqa: B019
    def hash(self, path: str) -> str:
        return sha256(self.root / path)

    @functools.cached_property
    def reports(self) -> dict[str, dict]:
        """{path: report} of everything that scripts have reported into the tree."""
        found = sorted([*self.root.glob("reports/**/*.json"), *self.root.glob("evals/*/*.json")])
        paths = [str(path.relative_to(self.root)) for path in found]
        reports = {path: self.json(path) for path in paths}
        return {path: one for path, one in reports.items() if isinstance(one, dict) and "results" in one}

    @functools.cached_property
    def heavy(self) -> dict[str, set[str]]:
        """{weights under runs/: their hashes, by all reports}; runs/ itself is in nobody's tree."""
        named = {}
        for path, report in self.reports.items():
            for entry in [*files_of(report), *files_made(path, report)]:
                if entry["path"].startswith("runs/") and entry["path"].endswith(WEIGHTS):
                    named.setdefault(entry["path"], set()).add(entry["sha256"])
        return named

    @functools.cached_property
    def pinned(self) -> set[str]:
        """Hashes of weights that are in the tree, or that a lock pins."""
        locked = "".join(path.read_text(encoding="utf-8") for path in self.root.glob("third_party/*.lock"))
        models = [str(path.relative_to(self.root)) for path in self.root.glob("models/*/*.safetensors")]
        return set(re.findall(r"\b[0-9a-f]{64}\b", locked)) | {self.hash(path) for path in models}

    @functools.cached_property
    def grounded(self) -> set[str]:
        """Runs of which a report names, by hash, weights that are in the tree or pinned."""
        runs = set()
        for path, report in self.reports.items():
            named = [*files_of(report), *files_made(path, report)]
            weights = [entry for entry in named if entry["path"].endswith(WEIGHTS)]
            if any(entry["sha256"] in self.pinned for entry in weights) and not self._changed(report):
                runs |= {run_of(path), *(run_of(entry["path"]) for entry in weights)}
        return runs - {None}

    def _changed(self, report: dict) -> list[str]:
        """Inputs in the tree that are not what they were; a config counts by the settings that the report repeats."""
        found = []
        for entry in files_of(report):
            path = entry["path"]
            if path.startswith(("runs/", "/")):
                continue
            if not (self.root / path).is_file():
                found.append(f"was made of {path}, which is not in the tree")
            elif self.hash(path) != entry["sha256"] and not self._says_the_same(path, report["settings"]):
                found.append(f"was made of another {path} than the tree's")
        return found

    def _says_the_same(self, path: str, settings: dict) -> bool:
        """Whether a config of the tree, or a section of it, has the report's settings, as far as both have them."""
        if not (path.startswith("configs/") and path.endswith(".json")):
            return False
        config = self.json(path)
        sections = [config, *(value for value in config.values() if isinstance(value, dict))]
        section = max(sections, key=lambda section: len(section.keys() & settings.keys()))
        common = section.keys() & settings.keys()
        return bool(common) and all(section[key] == settings[key] for key in common)

    def faults(self, path: str) -> list[str]:
        """Why a report's numbers are not of what is in the tree. A file that is no report is the tree's own."""
        if path not in self.reports:
            return [] if (self.root / path).is_file() else ["is gone"]
        report = self.reports[path]
        if "history" in report["results"]:  # of how a model was trained; what it started from is gone by nature
            configs = [entry for entry in files_of(report) if entry["path"].startswith("configs/")]
            return self._changed({**report, "inputs": configs})
        found, inputs = self._changed(report), files_of(report)
        folders = {str(Path(entry["path"]).parent) for entry in inputs if entry["path"].endswith(WEIGHTS)}
        for entry in inputs:
            name, run = entry["path"], run_of(entry["path"])
            if Path(name).name == "config.json" and name.startswith("runs/") and str(Path(name).parent) not in folders:
                found.append(f"names {name} without the weights beside it")
            if name in self.heavy and len(self.heavy[name]) > 1:
                found.append(f"is of one {name}, and another report of another one: make them again together")
            elif name in self.heavy and run not in self.grounded:
                found.append(f"is of {name}, and no report of run {run} ties it to weights in the tree")
        return found

    def older_code(self, path: str) -> str | None:
        """The script of a report whose code is another by now, or was never named; None for one of today's code.

        A file that is no report has no code.
        """
        if path not in self.reports:
            return None
        code = self.reports[path].get("code") or {}
        script = code.get("script")
        if script and (self.root / "scripts" / script).is_file() and self._code.hash(script) == code["sha256"]:
            return None
        return script or "no script named"


def files_of(report: dict) -> list[dict]:
    """A report's inputs, folders file by file."""

    def flat(entries):
        for entry in entries:
            yield from flat(entry["files"]) if "files" in entry else [entry]

    return list(flat(report.get("inputs", [])))


def files_made(path: str, report: dict) -> list[dict]:
    """Files that a report names among its results: by path, or by their name in the heavy folder of its run."""
    values = [value for value in report["results"].values() if isinstance(value, dict) and "sha256" in value]
    return [{"path": value.get("path") or f"runs/{run_of(path)}/{value['file']}", **value} for value in values]


def run_of(path: str) -> str | None:
    """The run that a path belongs to: runs/RUN/..., reports/RUN/..., evals/RUN/...; None for others."""
    first, _, rest = path.partition("/")
    return rest.split("/")[0] if first in ("runs", "reports", "evals") and "/" in rest else None
