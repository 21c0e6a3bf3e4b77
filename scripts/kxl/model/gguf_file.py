"""A GGUF file's header, checked before anything believes it.

    reader = open_reader(path)        # gguf.GGUFReader, or a UserError that says where the file is broken

GGUFReader trusts every length in a file: a damaged one makes it loop for years or fail with numpy's words. So the
header is walked first, with each length held against the file's size. Layout: ggml/docs/gguf.md of llama.cpp.
"""

import mmap
import struct
from pathlib import Path

import gguf
from gguf import GGMLQuantizationType
from gguf.constants import GGML_QUANT_SIZES

from kxl.base.cli import UserError
from kxl.base.files import require_regular, shown

AGAIN = "copy, download or make it again"
MAX_DIMENSIONS = 4  # GGML_MAX_DIMS
# Of all lists in the metadata together. GGUFReader makes objects of a kilobyte and more of each entry, so a file of 100
# MB could fill a machine's memory. Vocabularies of 260,000 tokens with scores, types and merges have 1.3 million.
MOST_ENTRIES = 2_000_000
STRING, ARRAY = 8, 9
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # by value type


class _Broken(Exception):
    """What is wrong with a header."""


def open_reader(path: Path) -> gguf.GGUFReader:
    """The file's metadata and tensors. UserError where it is missing, cut off, damaged or no GGUF file."""
    path = Path(path)
    require_regular(path)
    try:
        with open(path, "rb") as file:
            if path.stat().st_size < 24:
                raise _Broken(f"{path.stat().st_size} bytes hold no header")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _check(_Cursor(data))
        return gguf.GGUFReader(path)
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be read: {error.strerror}") from None
    except _Broken as error:
        raise UserError(f"{shown(path)}: not a whole GGUF file ({error}); {AGAIN}") from None
    except Exception as error:  # what else GGUFReader makes of a header whose lengths are right
        raise UserError(f"{shown(path)}: not a GGUF file that can be read ({error}); {AGAIN}") from None


class _Cursor:
    """A place in the header, which never goes beyond the file."""

    def __init__(self, data):
        self.data, self.place, self.size, self.entries = data, 0, len(data), 0

    def skip(self, count: int, what: str) -> int:
        """Pass `count` bytes; where they begin."""
        begin = self.place
        if count > self.size - begin:
            raise _Broken(f"it ends inside {what}, at byte {self.size}")
        self.place = begin + count
        return begin

    def number(self, form: str, what: str) -> int:
        size = struct.calcsize(form)
        return struct.unpack_from(form, self.data, self.skip(size, what))[0]

    def text(self, what: str) -> str:
        length = self.number("<Q", what)
        begin = self.skip(length, what)
        try:
            return self.data[begin : begin + length].decode("utf-8")
        except UnicodeDecodeError:
            raise _Broken(f"{what} is not UTF-8 at byte {begin}") from None


def _check(cursor: _Cursor) -> None:
    if cursor.number("<I", "the header") != gguf.GGUF_MAGIC:
        raise _Broken("it does not begin with GGUF")
    if (version := cursor.number("<I", "the header")) not in (2, 3):
        raise _Broken(f"its version is {version}, 2 and 3 are known")
    tensors, keys = cursor.number("<Q", "the header"), cursor.number("<Q", "the header")
    # A key takes at least 13 bytes, a tensor's entry 24: a count beyond that is no count.
    if keys > cursor.size // 13 or tensors > cursor.size // 24:
        raise _Broken(f"{keys} keys and {tensors} tensors do not fit into {cursor.size} bytes")
    alignment, seen = gguf.GGUF_DEFAULT_ALIGNMENT, set()
    for number in range(keys):
        key = cursor.text(f"the name of key {number}")
        kind = cursor.number("<I", key)
        if key in seen:
            raise _Broken(f"{key} is there twice")
        seen.add(key)
        begin = cursor.place
        _skip_value(cursor, kind, key)
        if key == "general.alignment":
            alignment = struct.unpack_from("<I", cursor.data, begin)[0] if kind == 4 else 0
            if not alignment or alignment & (alignment - 1):
                raise _Broken("general.alignment is no power of two")
    entries = [_tensor(cursor, number) for number in range(tensors)]
    start = cursor.place + -cursor.place % alignment
    for name, offset, nbytes in entries:
        if start + offset + nbytes > cursor.size:
            raise _Broken(
                f"it ends inside {name}: {start + offset + nbytes} bytes are announced, {cursor.size} are there"
            )


def _skip_value(cursor: _Cursor, kind: int, key: str) -> None:
    if kind == STRING:
        cursor.text(key)
    elif kind == ARRAY:
        inner, count = cursor.number("<I", key), cursor.number("<Q", key)
        cursor.entries += count
        if cursor.entries > MOST_ENTRIES:
            raise _Broken(f"{key} brings its lists to {cursor.entries:,} entries, over {MOST_ENTRIES:,}")
        if inner == STRING:
            if count > cursor.size // 8:
                raise _Broken(f"{key} cannot have {count} entries")
            for _ in range(count):
                cursor.text(key)
        elif inner in SCALAR_BYTES:
            cursor.skip(count * SCALAR_BYTES[inner], key)
        else:
            raise _Broken(f"{key} is a list of the unknown type {inner}")
    elif kind in SCALAR_BYTES:
        cursor.skip(SCALAR_BYTES[kind], key)
    else:
        raise _Broken(f"{key} has the unknown type {kind}")


def _tensor(cursor: _Cursor, number: int) -> tuple[str, int, int]:
    """(name, offset into the data, bytes) of one tensor's entry."""
    name = cursor.text(f"the name of tensor {number}")
    dimensions = cursor.number("<I", name)
    if not 0 < dimensions <= MAX_DIMENSIONS:
        raise _Broken(f"{name} has {dimensions} dimensions, 1 to {MAX_DIMENSIONS} are known")
    shape = [cursor.number("<Q", name) for _ in range(dimensions)]
    kind, offset = cursor.number("<I", name), cursor.number("<Q", name)
    try:
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError):
        raise _Broken(f"{name} has the unknown type {kind}") from None
    elements = 1
    for size in shape:
        elements *= size
    if not elements or shape[0] % block:
        raise _Broken(f"{name} has the shape {shape}, whose rows are no multiple of {block}")
    return name, offset, elements // block * block_bytes
