"""Our plugins in a HERMES_HOME, their files and Hermes's own switch for them: the safety net, and kept thoughts."""

import os
import shutil
import subprocess
from pathlib import Path

from kxl.base.cli import UserError
from kxl.base.files import ROOT, atomic_dir
from kxl.setup import llama_cpp

NAME, THOUGHTS = "toolcall-net", "thoughts"
BESIDE = {NAME: [ROOT / "scripts/kxl/chat/tool_syntax.py"], THOUGHTS: []}  # files that are not in the plugin's folder


def sources(name: str = NAME) -> list[Path]:
    """The files of a plugin; the safety net has the evaluator's own parser among them."""
    folder = ROOT / f"patches/hermes-agent-{name}"
    return [*sorted(path for path in folder.iterdir() if path.suffix in (".py", ".yaml")), *BESIDE[name]]


def files(*names: str) -> dict[str, bytes]:
    """{path below a HERMES_HOME: content} of some plugins."""
    return {f"plugins/{name}/{path.name}": path.read_bytes() for name in names for path in sources(name)}


def copy(home: Path, name: str = NAME) -> Path:
    """Put a plugin's files into `home`; return their folder."""
    folder = home / "plugins" / name
    with atomic_dir(folder) as partial:
        for source in sources(name):
            shutil.copy(source, partial / source.name)
    return folder


def switch(hermes: Path, home: Path, verb: str, name: str = NAME) -> None:
    """`hermes plugins enable` (or disable) for a plugin in `home`; UserError when Hermes refuses."""
    ended = subprocess.run(
        [str(hermes), "plugins", verb, name],
        env={**os.environ, "HERMES_HOME": str(home), "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if ended.returncode != 0:
        raise UserError(f"`{hermes} plugins {verb} {name}` failed, its output ends:\n{llama_cpp.tail(ended.stdout)}")


def install(home: Path, hermes: Path, name: str = NAME) -> None:
    """Copy a plugin into `home` and enable it there."""
    config, backup = home / "config.yaml", home / f"config.yaml.before-{name}"
    if config.exists() and not backup.exists():
        shutil.copy2(config, backup)
    copy(home, name)
    switch(hermes, home, "enable", name)


def remove(home: Path, hermes: Path, name: str = NAME) -> None:
    """Disable a plugin and delete its files."""
    folder = home / "plugins" / name
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, so there is nothing to remove")
    switch(hermes, home, "disable", name)
    shutil.rmtree(folder)
