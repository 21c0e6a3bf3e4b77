"""Install a plugin of ours into a Hermes Agent home: the safety net, or kept thoughts.

In:   patches/hermes-agent-PLUGIN/, the HERMES_HOME of a Hermes (its own is ~/.hermes)
Out:  HERMES_HOME/plugins/PLUGIN/, enabled in HERMES_HOME/config.yaml by Hermes's own `hermes plugins enable`

  toolcall-net  a tool call that arrives as text becomes a real one
  thoughts      a model that thinks gets the thoughts back that it had on the request that it is working on

  .venv/bin/python scripts/live_install_net.py --home ~/.hermes              and undo it with
  .venv/bin/python scripts/live_install_net.py --home ~/.hermes --remove

Nothing of Hermes is patched. The old config.yaml is kept as config.yaml.before-PLUGIN.
"""

import shutil
from pathlib import Path

from kxl.base import cli
from kxl.base.cli import UserError
from kxl.live import agent
from kxl.live.net import BESIDE, NAME, install, remove


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--home", type=Path, required=True, help="the HERMES_HOME to install into")
    parser.add_argument(
        "--hermes",
        type=Path,
        help="the hermes program of that home (default: the one on PATH, else the pinned one in the cache)",
    )
    parser.add_argument("--plugin", choices=BESIDE, default=NAME, help="which one")
    parser.add_argument("--remove", action="store_true", help="undo the installation")
    args = parser.parse_args()
    home = args.home.expanduser().resolve()
    if not home.is_dir():
        raise UserError(f"{home}: no such folder; Hermes makes it when it is first started")
    found = shutil.which("hermes")
    hermes = args.hermes or (Path(found) if found else agent.python().parent / "hermes")
    if args.remove:
        remove(home, hermes, args.plugin)
        print(f"removed {args.plugin} from {home}")
    else:
        install(home, hermes, args.plugin)
        print(f"installed {args.plugin} in {home}/plugins and enabled it; it works from Hermes's next start")
        undo = "uninstall-net" if args.plugin == NAME else f"remove-{args.plugin}"
        print(f"undo: make {undo} HERMES_HOME={home}")


if __name__ == "__main__":
    cli.run(main)
