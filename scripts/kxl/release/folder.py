"""What a release folder holds: SHA256SUMS beside every file, release_summary.json beside every GGUF."""

import re
from pathlib import Path

import gguf
from tqdm import tqdm

from kxl.base.cli import UserError
from kxl.base.files import sha256, shown

SUMS, SUMMARY = "SHA256SUMS", "release_summary.json"


def read_sums(path: Path) -> dict[str, str]:
    """{file name: sha256}, as `sha256sum` writes it."""
    if not path.is_file():
        raise UserError(
            f"{shown(path)}: no such file; --dir names a folder that `make release` filled, or a copy of it"
        )
    sums = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not (match := re.fullmatch(r"([0-9a-f]{64})  (\S.*)", line)):
            raise UserError(f"{shown(path)}:{number}: not a line of sha256sum; fetch it again")
        sums[match[2]] = match[1]
    return sums


def wrong_files(folder: Path, wanted: dict[str, str]) -> list[str]:
    """Files that are missing, differ, or are in no list."""
    problems = []
    for name in tqdm(sorted(wanted), desc="hashing", unit="file", leave=False):
        if not (folder / name).is_file():
            problems.append(f"{name}: missing")
        elif (found := sha256(folder / name)) != wanted[name]:
            problems.append(f"{name}: sha256 {found}, released as {wanted[name]}")
    here = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    return problems + [f"{name}: not part of the release" for name in sorted(here - wanted.keys() - {SUMS})]


def wrong_artifacts(folder: Path, wanted: dict[str, str], summary: dict) -> list[str]:
    """GGUF files that the summary does not know, or whose own metadata names another model or run."""
    released = {one["file"]: one for one in summary["artifacts"].values() if one["policy"] != "stock"}
    problems = [f"{name}: {SUMMARY} names it, {SUMS} does not" for name in sorted(released.keys() - wanted.keys())]
    for name in sorted(name for name in wanted if name.endswith(".gguf") and (folder / name).is_file()):
        if name not in released:
            continue  # the importance matrix is a GGUF as well; its hash is in the sums
        if released[name]["sha256"] != wanted[name]:
            problems.append(f"{name}: {SUMS} and {SUMMARY} speak of different files")
        try:
            fields = gguf.GGUFReader(folder / name).fields
        except (ValueError, IndexError) as error:
            problems.append(f"{name}: not a readable GGUF ({error})")
            continue
        for key, value in (("general.name", summary["name"]), ("general.version", summary["run"])):
            found = fields[key].contents() if key in fields else None
            if found != value:
                problems.append(f"{name}: {key} is {found!r}, the summary says {value!r}")
    return problems
