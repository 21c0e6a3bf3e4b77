"""Lay out a release folder: quants, importance matrix, card, summary and checksums, ready to upload.

In:  release_summary.json (whose gates have passed), the GGUF files it names, the model card.
Out: a folder with every file under its published name and SHA256SUMS. GGUFs are hard links where the
     disk allows it. A file that is not the one in the summary is refused. Nothing is uploaded: the
     commands that would are printed.

  .venv/bin/python scripts/release_build.py --summary release_summary.json \\
      --artifact q4kxl=runs/tiny/hermes-kxl-tiny-q4kxl.gguf \\
      --imatrix runs/tiny/imatrix.gguf --card reports/tiny/MODEL_CARD.md --out runs/tiny/release
"""

import os
import shutil
from pathlib import Path

from kxl.base import cli
from kxl.base.cli import UserError
from kxl.base.files import atomic_dir, require_regular, require_space, sha256, shown, size, write_text
from kxl.release import summary as summaries
from kxl.release.folder import CARD, IMATRIX, LICENSE, SUMMARY, SUMS


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--summary", type=Path, required=True, help="release_summary.json of the run")
    parser.add_argument(
        "--artifact",
        type=cli.pair("--artifact", "NAME=FILE", Path),
        action="append",
        required=True,
        metavar="NAME=FILE",
        help="a GGUF and its name in the summary",
    )
    parser.add_argument("--imatrix", type=Path, required=True, help="importance matrix (GGUF)")
    parser.add_argument("--card", type=Path, required=True, help="model card (Markdown)")
    parser.add_argument("--license-file", type=Path, help="text of the weights' licence, to go along")
    parser.add_argument("--repo", default="ORG/NAME", help="hub repository that the printed commands name")
    parser.add_argument("--out", type=Path, required=True, help="release folder to make")
    args = parser.parse_args()

    summary = summaries.load(args.summary)
    files = released_files(summary, dict(args.artifact))
    require_space(
        args.out.parent,
        sum(p.stat().st_size for p in files.values() if p.stat().st_dev != args.out.parent.stat().st_dev),
    )
    for path in filter(None, (args.imatrix, args.card, args.license_file)):
        require_regular(path)
    with atomic_dir(args.out) as partial:
        for name, path in files.items():
            link_or_copy(path, partial / name)
        link_or_copy(args.imatrix, partial / IMATRIX)
        shutil.copyfile(args.card, partial / CARD)
        shutil.copyfile(args.summary, partial / SUMMARY)
        if args.license_file:
            shutil.copyfile(args.license_file, partial / LICENSE)
        names = sorted(p.name for p in partial.iterdir())
        measured = {one["file"]: one["sha256"] for one in summary["artifacts"].values()}  # compared above, and many GiB
        write_text(
            partial / SUMS, "".join(f"{measured.get(name) or sha256(partial / name)}  {name}\n" for name in names)
        )
    for name in names:
        print(f"{size((args.out / name).stat().st_size):>10}  {name}")
    print("not uploaded; to publish:")
    print(f"  hf repos create {args.repo} --type model")
    print(f"  hf upload {args.repo} {shown(args.out)} . --type model")
    print(f"{shown(args.out)}: {len(names) + 1} files of run {summary['run']}; check a copy with `make verify DIR=…`")


def released_files(summary: dict, artifacts: dict[str, Path]) -> dict[str, Path]:
    """{published name: file}; refused when a file is absent, unknown or not the one whose sha256 the summary has."""
    files = {}
    for name, path in artifacts.items():
        if name not in summary["artifacts"]:
            raise UserError(
                f"--artifact {name}: the summary has no such artifact; it has {', '.join(summary['artifacts'])}"
            )
        if not path.is_file():
            raise UserError(f"{shown(path)}: no such file; `make {name}` makes it")
        one = summary["artifacts"][name]
        if (found := sha256(path)) != one["sha256"]:
            raise UserError(
                f"{shown(path)} changed after it was measured: its sha256 is {found}, the summary has {one['sha256']}; "
                "run `make release` again, which measures what is new. If it was measured on another machine: an "
                "imatrix computed on another processor gives other bytes, and TAKE_IMATRIX=that release's imatrix.gguf "
                "gives the same ones here"
            )
        files[one["file"]] = path
    return files


def link_or_copy(source: Path, target: Path) -> None:
    """Hard link, or a copy where the file system has none or is another one."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


if __name__ == "__main__":
    cli.run(main)
