"""What a release folder holds: SHA256SUMS beside every file, release_summary.json beside every GGUF.

A folder is intact when it holds plain files alone, each of them named once in SHA256SUMS, with that sha256, and part
of a release: the GGUFs of the summary and EXTRAS. Whatever else stands there, or is named there, is a problem.
"""

import os
import re
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from kxl.base.cli import UserError
from kxl.base.files import require_regular, sha256, shown
from kxl.model import gguf_file
from kxl.release import summary as summaries

SUMS, SUMMARY = "SHA256SUMS", "release_summary.json"
IMATRIX, CARD, LICENSE = "imatrix.gguf", "README.md", "LICENSE"
EXTRAS = (SUMMARY, IMATRIX, CARD, LICENSE)  # what a release may have beside its quants
LONGEST_SUMS = 1 << 20


def read_sums(path: Path) -> dict[str, str]:
    """{file name: sha256}, as `sha256sum` writes it; UserError for a name that stands twice or leads elsewhere."""
    if not os.path.lexists(path):
        raise UserError(
            f"{shown(path)}: no such file; --dir names a folder that `make release` filled, or a copy of it"
        )
    _require_plain(path)
    if path.stat().st_size > LONGEST_SUMS:
        raise UserError(f"{shown(path)}: {path.stat().st_size:,} bytes are no list of sums; fetch it again")
    sums = {}
    for number, line in enumerate(path.read_bytes().decode("utf-8", "replace").removesuffix("\n").split("\n"), 1):
        if not (match := re.fullmatch(r"([0-9a-f]{64})  (\S.*)", line)):
            raise UserError(f"{shown(path)}:{number}: not a line of sha256sum; fetch it again")
        name = match[2]
        if not name.isprintable() or "\\" in name or str(PurePosixPath(name)) != name or name.startswith(("/", "..")):
            raise UserError(f"{shown(path)}:{number}: {name!r} is no plain name in this folder; fetch it again")
        if ".." in PurePosixPath(name).parts:
            raise UserError(f"{shown(path)}:{number}: {name!r} leads out of this folder; fetch it again")
        if name in sums:
            raise UserError(f"{shown(path)}:{number}: {name} stands twice; fetch it again")
        sums[name] = match[1]
    return sums


def read_summary(folder: Path) -> dict:
    """The release's summary; UserError where it is none, or a link."""
    _require_plain(folder / SUMMARY)
    return summaries.load(folder / SUMMARY, again="fetch it again")


def _require_plain(path: Path) -> None:
    if path.is_symlink():
        raise UserError(f"{shown(path.parent)}/{path.name}: is a link; a release holds plain files; fetch it again")
    require_regular(path)


def wrong_files(folder: Path, wanted: dict[str, str]) -> list[str]:
    """Files that are missing, differ, are in no list, or are no plain files."""
    here, problems = _entries(folder)
    for name in tqdm(sorted(wanted), desc="hashing", unit="file", leave=False):
        if name not in here:
            if not any(problem.startswith(f"{_printable(name)}: ") for problem in problems):
                problems.append(f"{_printable(name)}: missing")
            continue
        try:
            found = sha256(folder / name)
        except OSError as error:
            problems.append(f"{_printable(name)}: cannot be read: {error.strerror}")
            continue
        if found != wanted[name]:
            problems.append(f"{_printable(name)}: sha256 {found}, released as {wanted[name]}")
    return problems + [f"{_printable(name)}: not part of the release" for name in sorted(here - wanted.keys() - {SUMS})]


def _entries(folder: Path) -> tuple[set[str], list[str]]:
    """(names of the plain files below a folder, what else is there). No link is followed."""
    files, problems = set(), []
    for place, folders, names in os.walk(folder, onerror=lambda error: problems.append(str(error))):
        for name in [*folders, *names]:
            path = Path(place) / name
            shown_name = _printable(path.relative_to(folder).as_posix())
            if path.is_symlink():
                problems.append(f"{shown_name}: is a link; a release holds plain files")
            elif path.is_file():
                files.add(path.relative_to(folder).as_posix())
            elif not path.is_dir():
                problems.append(f"{shown_name}: is a pipe or device; a release holds plain files")
            elif not any(path.iterdir()):
                problems.append(f"{shown_name}: an empty folder, not part of the release")
    return files, problems


def _printable(name: str) -> str:
    """A name as it may be printed: without signs that a terminal obeys."""
    return name if name.isprintable() else ascii(name)


def wrong_artifacts(folder: Path, wanted: dict[str, str], summary: dict) -> list[str]:
    """Files that the summary does not know, or GGUFs whose own metadata names another model or run."""
    known = {one["file"]: one for one in summary["artifacts"].values()}
    released = {name for name, one in known.items() if one["policy"] != "stock"}
    problems = [f"{name}: {SUMMARY} names it, {SUMS} does not" for name in sorted(released - wanted.keys())]
    for name in sorted(wanted.keys() - known.keys() - set(EXTRAS)):
        problems.append(f"{_printable(name)}: {SUMS} names it, {SUMMARY} does not; it is no part of this release")
    for name in sorted(wanted.keys() & known.keys()):
        path = folder / name
        if path.is_symlink() or not path.is_file():
            continue  # wrong_files says so
        if known[name]["sha256"] != wanted[name]:
            problems.append(f"{name}: {SUMS} and {SUMMARY} speak of different files")
        try:
            fields = gguf_file.open_reader(path).fields
        except UserError as error:
            problems.append(f"{name}: not a readable GGUF ({error})")
            continue
        for key, value in (("general.name", summary.get("name")), ("general.version", summary.get("run"))):
            found = fields[key].contents() if key in fields else None
            if found != value:
                problems.append(f"{name}: {key} is {found!r}, the summary says {value!r}")
    return problems
