"""A virtual environment that is either complete, with exactly the packages asked for, or not used.

Environments cannot be moved, so one is built in its place, and a stamp written after the last
package says that it is whole. The stamp holds a key over the requirements and the interpreter:
without the right stamp the environment is made anew.
"""

import hashlib
import shutil
import sys
from pathlib import Path

from kxl.base import processes
from kxl.base.cli import UserError, say
from kxl.base.files import lock, write_text

STAMP = "complete"


def _key(requirements: list[Path], pip_args: tuple) -> str:
    lines = [
        line
        for path in requirements
        for line in path.read_text().splitlines()
        if line.strip() and not line.startswith("#")
    ]
    return hashlib.sha256(repr([lines, pip_args, sys.version_info[:2]]).encode()).hexdigest()


def make(venv: Path, requirements: list[Path], pip_args: tuple = ()) -> Path:
    """Make `venv` unless it is complete; return its interpreter.

    The first of `requirements` is what pip installs from; the others (constraints) only count for the key.
    """
    stamp, key = venv / STAMP, _key(requirements, pip_args)
    python = venv / "bin" / "python"
    with lock(venv.with_name(venv.name + ".lock"), f"another process is making {venv}; waiting for it"):
        if stamp.is_file() and stamp.read_text().strip() == key:
            return python
        if venv.exists():
            if any(venv.iterdir()) and not (venv / "pyvenv.cfg").is_file():
                raise UserError(f"{venv} is not a virtual environment; move it away and run this again")
            shutil.rmtree(venv)
        say(f"making {venv} with the packages of {requirements[0].name}")
        _run([sys.executable, "-m", "venv", str(venv)], f"could not make {venv}; run `make system-packages`")
        _run(
            [
                str(python),
                "-m",
                "pip",
                "install",
                "--disable-pip-version-check",
                "--no-input",
                *pip_args,
                "-r",
                str(requirements[0]),
            ],
            f"pip could not install {requirements[0].name}; check the network and the disk and run this again",
        )
        write_text(stamp, key + "\n")
    return python


def _run(command: list[str], what_failed: str) -> None:
    if processes.run(command, stdout=sys.stderr).returncode != 0:
        raise UserError(f"{what_failed} (its message is above)")
