"""Where traces come from: files, folders and hub datasets, read record by record with flat memory.

    for record in records(["traces/", "more.parquet", "owner/dataset"], limit=16 * 2**20):
        record.where      # "more.parquet row 7" or "traces/a.jsonl:12"
        record.data       # the JSON text as bytes, or a dict (parquet); None where there is a problem
        record.problem    # (reason, detail) of a record that cannot be read at all

JSON lines (.jsonl, .ndjson and whatever else has one object a line), JSON arrays (.json), objects that are written
over many lines (a session file of Hermes, or several such objects one after another), parquet. A folder
gives its files of those kinds in the order of their names; the others are listed in `ignored`. A dataset id of
the hub is fetched once into huggingface_hub's cache. A record longer than `limit` bytes is counted and skipped
unread. A file that is missing, empty or no parquet at all is a UserError: that is not one bad row.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kxl.base import jsonl
from kxl.base.cli import UserError
from kxl.base.files import shown

KINDS = (".jsonl", ".ndjson", ".json", ".parquet")
CHUNK = 1 << 18


@dataclass
class Record:
    """One input row, or why there is none."""

    where: str
    data: object = None
    problem: tuple[str, str] | None = None


def resolve(sources: list[str], ignored: list | None = None) -> list[tuple[str, Path]]:
    """(name, file) of every file in `sources`; names do not depend on the machine. Other files go into `ignored`."""
    found = []
    for place, source in enumerate(sources):
        path = Path(source)
        if not path.exists():
            if name := _cut_at_spaces(sources[place:]):
                raise UserError(
                    f"{source}: no such file or folder; {name!r} is one, so its name was cut at a space: quote it, and "
                    f"since make cannot quote, rename it or link to it from a name without spaces"
                )
            if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", source):
                raise UserError(f"{source}: no such file or folder, and not a dataset id like owner/name")
            path = from_hub(source)
        if path.is_dir():
            files = sorted(
                file
                for file in path.rglob("*")
                if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
            )
            taken = [file for file in files if file.suffix.lower() in KINDS]
            if not taken:
                raise UserError(f"{source}: no {', '.join(KINDS)} file in this folder")
            if ignored is not None:
                ignored += [f"{path.name}/{file.relative_to(path).as_posix()}" for file in files if file not in taken]
            prefix = source if not Path(source).exists() else path.name
            found += [(f"{prefix}/{file.relative_to(path).as_posix()}", file) for file in taken]
        else:
            found.append((path.name, path))
    return found


def _cut_at_spaces(words: list[str]) -> str | None:
    """The path whose name begins with these words, cut at its spaces; None where there is none."""
    joined = (" ".join(words[:count]) for count in range(2, min(len(words), 20) + 1))
    return next((name for name in joined if Path(name).exists()), None)


def from_hub(dataset: str) -> Path:
    """The folder with the data files of a hub dataset; downloaded unless the cache has it."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(
            huggingface_hub.snapshot_download(
                dataset, repo_type="dataset", allow_patterns=[f"*{kind}" for kind in KINDS]
            )
        )
    except RepositoryNotFoundError:
        raise UserError(
            f"{dataset}: neither a file here nor a dataset that the hub shows you; log in if it is private"
        ) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{dataset}: not on this disk and not to be had from the hub ({reason}); check the network, or give files"
        ) from None


def records(files: list[tuple[str, Path]], limit: int) -> Iterator[Record]:
    """Every record of `files` (see resolve), in order."""
    for name, path in files:
        if path.stat().st_size == 0:
            raise UserError(f"{shown(path)}: is empty; remove it or fetch it again")
        count = 0
        for record in _of_file(name, path, limit):
            count += 1
            yield record
        if not count:
            raise UserError(f"{shown(path)}: holds no rows; remove it or fetch it again")


def _of_file(name: str, path: Path, limit: int) -> Iterator[Record]:
    if path.suffix.lower() == ".parquet":
        yield from _of_parquet(name, path, limit)
        return
    with open(path, "rb") as file:
        if path.suffix.lower() == ".json" and _begins(file) == b"[":
            pieces = elements(file, limit)
        else:
            pieces = objects(file, limit) if _object_over_lines(file) else jsonl.lines(file, limit)
        for number, data, size in pieces:
            where = f"{name}:{number}"
            yield (
                Record(where, data)
                if data is not None
                else Record(where, problem=("row_too_large", f"{size:,} bytes, the limit is {limit:,}"))
            )


def _begins(file) -> bytes:
    start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    file.seek(0)
    return start[:1]


def _object_over_lines(file) -> bool:
    """Whether a file begins with an object that goes on in the next line: `{`, and behind it a key or another value.

    A line that was cut off is no such object: what follows it begins with `{` again, and at the margin.
    """
    found = []
    while len(found) < 2 and (line := file.readline(4096)):
        if not found and not line.endswith(b"\n"):
            break  # one long line
        if line.removeprefix(b"\xef\xbb\xbf").strip():
            found.append(line.removeprefix(b"\xef\xbb\xbf").rstrip())
    file.seek(0)
    if len(found) < 2 or not found[0].lstrip().startswith(b"{"):
        return False
    return found[0][-1:] in b"{[,:" and (found[1][:1] in b'"}' or found[1][:1].isspace())


STRUCTURE = re.compile(rb'["\\{}\[\],\n]')


def elements(file, limit: int) -> Iterator[tuple[int, bytes | None, int]]:
    """(line number, text or None, bytes) of every element of a JSON array, without parsing it.

    Elements are cut at the commas of the outermost level, so a malformed one is its own problem only.
    What is left at the end of a file without a closing bracket, or after one, is an element that is not JSON.
    """
    depth, in_string, escaped = 0, False, -1  # escaped: place of a character after a backslash
    line, first_line, element, size = 1, 1, bytearray(), 0
    while chunk := file.read(CHUNK):
        begin = 0  # of the current element in this chunk
        for match in STRUCTURE.finditer(chunk):
            place, what = match.start(), match.group()
            line += what == b"\n"
            if place == escaped:
                continue
            if in_string:
                if what == b"\\":
                    escaped = place + 1
                in_string = what != b'"'
                continue
            in_string = what == b'"'
            depth += (what in b"{[") - (what in b"}]")
            if what == b"[" and depth == 1:
                begin, first_line = place + 1, line
            elif what == b"," and depth == 1 or what == b"]" and depth == 0:
                size += place - begin
                element += chunk[begin:place] if size <= limit else b""
                if size > limit or element.strip():
                    yield first_line + _blank_lines(element), bytes(element) if size <= limit else None, size
                begin, first_line, size = place + 1, line, 0
                element.clear()
                if depth == 0:
                    rest = (chunk[begin:] + file.read(limit)).strip()
                    if rest:
                        yield line, rest, len(rest)
                    return
        escaped = 0 if escaped == len(chunk) else -1
        size += len(chunk) - begin
        element += chunk[begin:] if size <= limit else b""
    yield first_line + _blank_lines(element), bytes(element).strip() or b"[" if size <= limit else None, size


def objects(file, limit: int) -> Iterator[tuple[int, bytes | None, int]]:
    """(line number, text or None, bytes) of every JSON object in a file of them, each over as many lines as it likes.

    What stands between two objects, and an object that does not end, is text that is not JSON.
    """
    depth, in_string, escaped = 0, False, -1  # as in elements
    line, first_line, piece, size = 1, 1, bytearray(), 0

    def cut(rest: bytes):
        nonlocal size
        size += len(rest)
        piece.extend(rest if size <= limit else b"")
        text = bytes(piece).removeprefix(b"\xef\xbb\xbf").strip() if size <= limit else None
        made = [] if text == b"" else [(first_line, text, size)]
        piece.clear()
        size = 0
        return made

    while chunk := file.read(CHUNK):
        begin = 0  # of the current object, or of what stands between two, in this chunk
        for match in STRUCTURE.finditer(chunk):
            place, what = match.start(), match.group()
            if what == b"\n":
                line += 1
                in_string = False  # no string of JSON goes over a line: one that does ends its own object only
            if place == escaped or what in b"\n,":
                continue
            if in_string or what in b'"\\':
                if what == b"\\":
                    escaped = place + 1
                elif depth:
                    in_string = (what == b'"') != in_string
                continue
            if what in b"{[":
                if not depth:
                    yield from cut(chunk[begin:place])
                    begin, first_line = place, line
                depth += 1
            elif depth:
                depth -= 1
                if not depth:
                    yield from cut(chunk[begin : place + 1])
                    begin, first_line = place + 1, line
        escaped = 0 if escaped == len(chunk) else -1
        size += len(chunk) - begin
        piece += chunk[begin:] if size <= limit else b""
    yield from cut(b"")


def _blank_lines(element: bytearray) -> int:
    return element[: len(element) - len(element.lstrip())].count(b"\n")


def _of_parquet(name: str, path: Path, limit: int) -> Iterator[Record]:
    import pyarrow

    from kxl.traces import parquet

    try:
        for number, row, size in parquet.rows(path, limit):
            where = f"{name} row {number}"
            if row is not None:
                yield Record(where, row)
            elif size is None:
                yield Record(where, problem=("row_too_large", "it, or one before it, does not fit into memory"))
            else:
                yield Record(where, problem=("row_too_large", f"{size:,} bytes, the limit is {limit:,}"))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"{shown(path)}: cannot be read as parquet: {str(error).splitlines()[0][:200]}; fetch it again"
        ) from None
