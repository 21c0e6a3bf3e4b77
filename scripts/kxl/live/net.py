"""The safety net in a HERMES_HOME: the plugin's files, and Hermes's own switch for them."""

import os
import shutil
import subprocess
from pathlib import Path

from kxl.base.cli import UserError
from kxl.base.files import ROOT, atomic_dir
from kxl.setup import llama_cpp

NAME = "toolcall-net"
PLUGIN = ROOT / "patches" / "hermes-agent-toolcall-net"

SOURCES = (
    *sorted(path for path in PLUGIN.iterdir() if path.suffix in (".py", ".yaml")),
    ROOT / "scripts" / "kxl" / "chat" / "tool_syntax.py",
)


def files() -> dict[str, bytes]:
    """{path below a HERMES_HOME: content} of the plugin, with the evaluator's own parser among its files."""
    return {f"plugins/{NAME}/{source.name}": source.read_bytes() for source in SOURCES}


def copy(home: Path) -> Path:
    """Put the plugin's files, with the evaluator's own parser among them, into `home`; return their folder."""
    folder = home / "plugins" / NAME
    with atomic_dir(folder) as partial:
        for source in SOURCES:
            shutil.copy(source, partial / source.name)
    return folder


def switch(hermes: Path, home: Path, verb: str) -> None:
    """`hermes plugins enable` (or disable) for this plugin in `home`; UserError when Hermes refuses."""
    ended = subprocess.run(
        [str(hermes), "plugins", verb, NAME],
        env={**os.environ, "HERMES_HOME": str(home), "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if ended.returncode != 0:
        raise UserError(f"`{hermes} plugins {verb} {NAME}` failed, its output ends:\n{llama_cpp.tail(ended.stdout)}")


def install(home: Path, hermes: Path) -> None:
    """Copy the plugin into `home` and enable it there."""
    config, backup = home / "config.yaml", home / f"config.yaml.before-{NAME}"
    if config.exists() and not backup.exists():
        shutil.copy2(config, backup)
    copy(home)
    switch(hermes, home, "enable")


def remove(home: Path, hermes: Path) -> None:
    """Disable the plugin and delete its files."""
    folder = home / "plugins" / NAME
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, so there is nothing to remove")
    switch(hermes, home, "disable")
    shutil.rmtree(folder)
