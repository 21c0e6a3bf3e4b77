"""Copy what a run found out into the tree, where it is committed: evals/RUN, reports/RUN, logs/RUN, datasets/RUN.

In:  runs/RUN/results. Out: a copy of each of its files; one that says the same is left alone, and each one that takes
     the place of another is named. Failed reports are not published.

  .venv/bin/python scripts/release_publish.py --run tiny
"""

import shutil
from pathlib import Path

from kxl.base import cli
from kxl.base.cli import UserError
from kxl.base.files import ROOT, atomic_path, shown
from kxl.release import published


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--run", required=True, help="name of the run")
    args = parser.parse_args()
    if Path(args.run).name != args.run or args.run.startswith("."):
        raise UserError(f"--run {args.run}: write the name of a run, not a path")
    new = replaced = same = 0
    for path in published.publishable(ROOT / "runs" / args.run):
        copy = ROOT / published.name(path)
        if copy.is_file() and copy.read_bytes() == path.read_bytes():
            same += 1
            continue
        if copy.exists():
            replaced += 1
            print(f"{shown(copy)}: replaced by this run's")
        else:
            new += 1
        with atomic_path(copy) as partial:
            shutil.copyfile(path, partial)
    if not new + replaced + same:
        raise UserError(f"runs/{args.run}/results holds nothing; the targets of the line fill it, as `make kxl` does")
    print(f"run {args.run} published: {new} new files, {replaced} replaced, {same} were the same; nothing is committed")


if __name__ == "__main__":
    cli.run(main)
