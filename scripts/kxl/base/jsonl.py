"""JSON lines: the one reader and the one writer.

    for where, row in jsonl.read(path):      # where: "data/train.jsonl:12", for the error that a row deserves
        ...
    jsonl.write(path, rows)                  # atomically

A line ends at a newline and nowhere else: U+2028, U+0085 and form feeds are text that JSON leaves as it is, so
str.splitlines would cut rows in two. A byte order mark at the head and a carriage return before the newline are
no part of a row, blank lines are none. A line has a limit, so that a file without newlines does not fill memory.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from kxl.base.errors import UserError
from kxl.base.files import require_regular, shown, write_text

LIMIT = 1 << 26  # bytes of a line; the longest row here, with 24 tool schemas, has under 1 MiB
PIECE = 1 << 18  # bytes read at a time of a line that is too long
BOM = b"\xef\xbb\xbf"


class NotJson(ValueError):
    """Text that is no JSON value; the message says why, without naming a file."""


def lines(file, limit: int = LIMIT) -> Iterator[tuple[int, bytes | None, int]]:
    """(line number, bytes or None, size in bytes) of every line of a binary file that is not blank.

    None stands for a line of more than `limit` bytes, which is skipped in pieces.
    """
    number = 0
    while line := file.readline(limit + 1):
        number += 1
        if number == 1:
            line = line.removeprefix(BOM)
        size = len(line)
        if size > limit and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = file.readline(PIECE)
                size += len(line)
            yield number, None, size
        elif line.strip():
            yield number, line, size


def count(path: Path) -> int:
    """How many lines a file has that are not blank. UserError for a pipe or device, which may never end."""
    require_regular(path)
    with open(path, "rb") as file:
        return sum(1 for _ in lines(file))


def parse(line: bytes | str, constants: bool = False):
    """The value of one line. NotJson where there is none.

    constants: also take NaN and Infinity, which Python writes and JSON does not know.
    """
    try:
        text = line.decode("utf-8") if isinstance(line, bytes) else line
        return json.loads(text) if constants else json.loads(text, parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise NotJson(f"not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise NotJson(f"not JSON: {error.msg} (column {error.colno})") from None
    except RecursionError:
        raise NotJson("nested too deeply") from None
    except ValueError as error:  # a refused constant, or a number of more than 4,300 digits
        raise NotJson(f"not JSON: {str(error).split(';')[0]}") from None


def _refuse(constant: str):
    raise ValueError(f"{constant} is no JSON value")


def read(path: Path, made_by: str = "", limit: int = LIMIT) -> Iterator[tuple[str, object]]:
    """("FILE:LINE", value) of every line. UserError where the file is missing or a line is no JSON.

    made_by: what writes such a file, for the error about a missing one.
    """
    path = Path(path)
    _refuse_endless(path)
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        raise UserError(f"{shown(path)}: no such file" + (f"; {made_by} writes it" if made_by else "")) from None
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be read: {error.strerror}") from None
    with file:
        for number, line, size in lines(file, limit):
            where = f"{shown(path)}:{number}"
            if line is None:
                raise UserError(
                    f"{where}: a line of {size:,} bytes, the limit is {limit:,}; JSON lines hold one object a line"
                )
            try:
                value = parse(line)
            except NotJson as error:
                raise UserError(f"{where}: {error}") from None
            yield where, value


def objects(path: Path, made_by: str = "", limit: int = LIMIT) -> Iterator[tuple[str, dict]]:
    """As read, where every line must be an object."""
    for where, value in read(path, made_by, limit):
        if not isinstance(value, dict):
            raise UserError(f"{where}: not an object but {type(value).__name__}; each line holds one JSON object")
        yield where, value


def number_of(where: str) -> int:
    """The line's number in what `read` yields beside its value."""
    return int(where.rsplit(":", 1)[1])


def _refuse_endless(path: Path) -> None:
    """UserError for a pipe or a device: one may never begin, the other may never end."""
    if Path(path).exists() and not Path(path).is_dir():
        require_regular(path)


def survivors(path: Path, limit: int = LIMIT) -> Iterator[dict]:
    """The objects of a file that processes append to and may be killed at: what is no whole object is skipped.

    A file that does not exist has none.
    """
    _refuse_endless(path)
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        return
    with file:
        for _, line, _ in lines(file, limit):
            try:
                value = parse(line, constants=True) if line is not None else None
            except NotJson:
                continue
            if isinstance(value, dict):
                yield value


def line_of(value, sort_keys: bool = False, constants: bool = False) -> str:
    """One value as a line, its newline included. ValueError for NaN and Infinity unless `constants`."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=sort_keys, allow_nan=constants)
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:  # half a character, as models write; it is kept as an escape
            text = json.dumps(value, sort_keys=sort_keys, allow_nan=constants)
    return text + "\n"


def write(path: Path, rows: Iterable, sort_keys: bool = False) -> None:
    """Rows as JSON lines, atomically."""
    write_text(path, "".join(line_of(row, sort_keys) for row in rows))
