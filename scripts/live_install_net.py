"""Install the safety net into a Hermes Agent home: a tool call that arrives as text becomes a real one.

In:   patches/hermes-agent-toolcall-net/, scripts/tool_syntax.py, the HERMES_HOME of a Hermes (its own is ~/.hermes)
Out:  HERMES_HOME/plugins/toolcall-net/, enabled in HERMES_HOME/config.yaml by Hermes's own `hermes plugins enable`

  .venv/bin/python scripts/install_net.py --home ~/.hermes              and undo it with
  .venv/bin/python scripts/install_net.py --home ~/.hermes --remove

Nothing of Hermes is patched. The old config.yaml is kept as config.yaml.before-toolcall-net.
"""

import os
import shutil
import subprocess
from pathlib import Path

import cli
import hermes_agent
import llama_cpp
from cli import UserError
from files import ROOT, atomic_dir

NAME = "toolcall-net"
SOURCES = (*(ROOT / "patches" / "hermes-agent-toolcall-net" / name for name in ("plugin.yaml", "__init__.py", "recover.py")),
           ROOT / "scripts" / "tool_syntax.py")


def copy(home: Path) -> Path:
    """Put the plugin's files, with the evaluator's own parser among them, into `home`; return their folder."""
    folder = home / "plugins" / NAME
    with atomic_dir(folder) as partial:
        for source in SOURCES:
            shutil.copy(source, partial / source.name)
    return folder


def switch(hermes: Path, home: Path, verb: str) -> None:
    """`hermes plugins enable` (or disable) for this plugin in `home`; UserError when Hermes refuses."""
    ended = subprocess.run([str(hermes), "plugins", verb, NAME], env={**os.environ, "HERMES_HOME": str(home), "NO_COLOR": "1"},
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
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


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--home", type=Path, required=True, help="the HERMES_HOME to install into")
    parser.add_argument("--hermes", type=Path, help="the hermes program of that home (default: the one on PATH, else the pinned one in the cache)")
    parser.add_argument("--remove", action="store_true", help="undo the installation")
    args = parser.parse_args()
    home = args.home.expanduser().resolve()
    if not home.is_dir():
        raise UserError(f"{home}: no such folder; Hermes makes it when it is first started")
    found = shutil.which("hermes")
    hermes = args.hermes or (Path(found) if found else hermes_agent.python().parent / "hermes")
    if args.remove:
        remove(home, hermes)
        print(f"removed {NAME} from {home}")
    else:
        install(home, hermes)
        print(f"installed {NAME} in {home}/plugins and enabled it; it works from Hermes's next start")
        print(f"undo: make uninstall-net HERMES_HOME={home}")


if __name__ == "__main__":
    cli.run(main)
