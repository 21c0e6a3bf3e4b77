"""Check a downloaded release: every file as SHA256SUMS says, every GGUF as release_summary.json says.

In:  the folder that `make release` filled, or a copy of it. Out: "intact", or exit code 2 with each
     file that is missing, differs, or was added.

  .venv/bin/python scripts/release_verify.py --dir runs/tiny/release
"""

from pathlib import Path

from kxl.base import cli
from kxl.base.cli import UserError
from kxl.base.files import shown
from kxl.release.folder import SUMS, read_summary, read_sums, wrong_artifacts, wrong_files


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="folder of the release")
    args = parser.parse_args()

    wanted = read_sums(args.dir / SUMS)
    summary = read_summary(args.dir)
    problems = wrong_files(args.dir, wanted) + wrong_artifacts(args.dir, wanted, summary)
    if problems:
        raise UserError(
            f"{shown(args.dir)} is not what was released:\n"
            + "\n".join(f"  {problem}" for problem in problems)
            + "\nfetch the named files again"
        )
    print(f"{shown(args.dir)}: intact, {len(wanted)} files of {summary.get('name')} (run {summary.get('run')})")


if __name__ == "__main__":
    cli.run(main)
