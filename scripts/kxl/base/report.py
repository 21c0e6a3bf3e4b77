"""The report every stage leaves: inputs, settings, code, environment, results.

Inputs and code are named by hash: a number counts only while the model, the settings and the code that it came from
can be told. `results` holds no timestamps, keys are sorted and the file is written atomically, so that a rerun that
changes nothing changes no file.
"""

import importlib.metadata
import os
import platform
from pathlib import Path

from kxl.base import code, forms
from kxl.base.files import read_json, sha256, shown, write_json

# The form of an entry of a report's inputs, of a file or of a folder.
INPUT = {"path?": str, "bytes?": int, "sha256?": str, "files?": [{"path": str, "bytes?": int, "sha256": str}]}
PACKAGES = ("mlx", "mlx-lm", "torch", "transformers", "gguf", "numpy")


def environment() -> dict:
    """Versions, CPU name and memory (GiB) of this machine."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": versions,
    }


def cpu_name() -> str:
    """The CPU's marketing name; the architecture where the system does not tell."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def describe_input(path: Path) -> dict:
    """Path, bytes and sha256 of one input file; a folder is described file by file, hashed as a list."""
    path = Path(path)
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file())
        return {"path": shown(path), "files": [describe_input(p) for p in files]}
    return {"path": shown(path), "bytes": path.stat().st_size, "sha256": sha256(path)}


def write(path: Path, inputs: list, settings: dict, results: dict) -> None:
    """Write one report. `inputs` are paths, or what describe_input said of them.

    `settings` and `results` are plain JSON values. Added is `code`: the script that runs and the hash of all its code.
    """
    write_json(
        path,
        {
            "inputs": [i if isinstance(i, dict) else describe_input(i) for i in inputs],
            "settings": settings,
            "code": code.describe(code.running_script()),
            "environment": environment(),
            "results": results,
        },
    )


def failed_path(path: Path) -> Path:
    """Where a report is kept that is below its gate: NAME.failed.json."""
    return path.with_suffix(".failed.json")


def write_gated(path: Path, passed: bool, inputs: list, settings: dict, results: dict) -> None:
    """Write a report as `path` or, when it did not pass its gate, as failed_path(path).

    Exactly one of the two names exists then, so that make never takes a failed run for a passed one.
    """
    path, other = (path, failed_path(path)) if passed else (failed_path(path), path)
    write(path, inputs, settings, results)
    other.unlink(missing_ok=True)


def results(path: Path, form: dict | None = None) -> dict:
    """The `results` of a report. UserError where it has none, or none of that form (kxl/base/forms.py)."""
    return load(path, {"results": form or {}})["results"]


def load(path: Path, form: dict) -> dict:
    """A report. UserError names file and place where it has another form."""
    found = read_json(path)
    forms.check(found, form, shown(path), "name a report of this project, or make it again")
    return found
