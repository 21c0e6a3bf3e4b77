"""The Berkeley Function Calling leaderboard's own code in a small environment, in the cache: its data, APIs, checkers.

third_party/bfcl-eval.lock pins the wheel; it is unpacked, not installed, since its dependencies are the clients of
thirty vendors. What its checkers and APIs need stands in third_party/bfcl-eval.requirements.txt.
"""

import os
import zipfile
from pathlib import Path

from kxl.base.cli import UserError
from kxl.base.files import ROOT, atomic_dir, lock, read_json, shown
from kxl.setup import archive, llama_cpp, venvs

LOCK = ROOT / "third_party" / "bfcl-eval.lock"
REQUIREMENTS = ROOT / "third_party" / "bfcl-eval.requirements.txt"


def python() -> Path:
    """The environment's interpreter; made first when it is missing (pip, needs the network once)."""
    return venvs.make(llama_cpp.cache_dir() / f"bfcl-eval-{read_json(LOCK)['version']}", [REQUIREMENTS], ("--no-deps",))


def package() -> Path:
    """The folder that holds the package `bfcl_eval`; unpacked from the pinned wheel when it is missing."""
    pin = read_json(LOCK)
    folder = llama_cpp.cache_dir() / f"bfcl-eval-{pin['version']}-{pin['sha256'][:12]}"
    with lock(folder.with_name(folder.name + ".lock"), f"another process is unpacking {folder.name}; waiting for it"):
        if not folder.is_dir():
            wheel = archive.fetch(LOCK, "its data and checkers, 2 MB")
            with zipfile.ZipFile(wheel) as packed, atomic_dir(folder) as made:
                names = [name for name in packed.namelist() if name.startswith("bfcl_eval/")]
                if any(".." in Path(name).parts for name in names):
                    raise UserError(f"{shown(wheel)}: holds a path that leads out of it")
                packed.extractall(made, names)
    return folder


def environment(work: Path) -> dict[str, str]:
    """Variables for a program of this environment; `work` is a folder that the wheel may write into."""
    return {
        "PYTHONPATH": str(package()),
        "PYTHONDONTWRITEBYTECODE": "1",
        "BFCL_PROJECT_ROOT": str(work),
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "OPENBLAS_NUM_THREADS": "1",
        "HOME": str(work),
    }
