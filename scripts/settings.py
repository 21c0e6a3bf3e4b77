"""Turn a config and what a run remembers into variables that make includes.

In:  each variable of make that the person named, as --set NAME=VALUE.
Out: runs/RUN/settings.mk, whose path is the one line on stdout; runs/RUN/settings/PART.json, what each stage takes
     from the config, written only where it changed, so that a stage is stale when its own part is another; and with
     --remember runs/RUN/run.json. A value that the run was not begun with is refused.

  python3 scripts/settings.py --set RUN=mine --set MODEL=models/mine --set CONFIG=configs/lfm2.5-8b-a1b.json
  python3 scripts/settings.py --switch --set RUN=mine --set MODEL=models/other
"""

import os
import sys

from kxl.base import cli
from kxl.base.files import ROOT, shown
from kxl.house import dates
from kxl.house import run as runs


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a variable, as it was given")
    parser.add_argument("--goals", default="", help="what make was asked for; asking where a run stands begins none")
    parser.add_argument("--dry-run", action="store_true", help="remember nothing")
    parser.add_argument("--switch", action="store_true", help="let the given values take the place of the stored ones")
    args = parser.parse_args()
    given = {name: value for name, _, value in (pair.partition("=") for pair in args.set)}
    goals = set(args.goals.split())
    try:
        run = runs.resolve(ROOT, given, args.switch or "switch" in goals, nameless=goals == {"check-parser"})
        runs.check_names(ROOT, run)
        if goals - LOOKING:
            runs.check_there(ROOT, run, goals - LOOKING)
        if goals - LOOKING and not args.dry_run:
            for late in dates.mend(ROOT, run.name):
                cli.say(f"{shown(late)}: dated in the future, so it counts as old and is made again")
        path = runs.write(ROOT, run, looking=goals <= LOOKING and not args.dry_run)
        if args.switch:
            switch(run, given)
        elif goals - LOOKING and not args.dry_run:
            runs.remember(ROOT, run, given)
    except OSError as error:
        raise cli.UserError(
            f"{error.filename or ROOT}: {error.strerror}; make needs to write its settings there"
        ) from None
    if not args.switch:
        print(shown(path))


# Targets that make nothing of a run.
LOOKING = frozenset(
    """help status switch clean distclean setup system-packages venv llama tools test test-fast test-slow lint-code
    modules check-parser verify compare plan serve""".split()
)


def switch(run: runs.Run, given: dict[str, str]) -> None:
    changed = runs.remember(ROOT, run, given)
    if not changed:
        raise cli.UserError(f"run {run.name} has these values already, so nothing changes")
    for variable, (old, new) in changed.items():
        print(f"run {run.name}: {variable}={new} (was {old}); made again: {runs.STALE[variable]}")


if __name__ == "__main__":
    os.environ.pop("HERMES_KXL_HISTORY", None)
    sys.dont_write_bytecode = True
    cli.run(main)
