"""Safetensors files on disk: headers checked before use, a few rows read at a time, streamed writing.

In: a folder with model.safetensors, or shards with or without model.safetensors.index.json.
Out: `index_folder` lists what is stored without reading it; `write_file` streams tensors to one file.
The format: 8 bytes little-endian header length, a JSON header, then the tensors end to end.
"""

import json
import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kxl.base.cli import UserError
from kxl.base.files import atomic_path, read_json, require_regular, shown

BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}
# numpy has no bfloat16: its bits travel as uint16
NUMPY = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "U32": "<u4"}
FLOATS = ("BF16", "F16", "F32")
INDEX = "model.safetensors.index.json"
LONGEST_HEADER = 100_000_000  # bytes, the limit of the safetensors library
MOST_DIMENSIONS = 8  # no tensor here has more than 4


def bf16_to_float32(bits: np.ndarray) -> np.ndarray:
    """bfloat16 bits (uint16) to the float32 of the same value; exact."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def float32_to_bf16(values: np.ndarray) -> np.ndarray:
    """float32 to bfloat16 bits (uint16), rounded to nearest, ties to even. Finite input only."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    # The carry into the exponent is what rounding up to the next power of two means.
    return ((bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)) >> 16).astype(np.uint16)


@dataclass(frozen=True)
class Stored:
    """One tensor as a file stores it. `shape` is the file's own; the data is row-major."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file

    @property
    def columns(self) -> int:
        return self.shape[-1] if self.shape else 1

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) of the tensor seen as [all leading dimensions, last dimension].

        float32 for the float types, uint32 for packed codes. Raises UserError when the file is
        shorter than its header says or the type is none of these.
        """
        if self.dtype not in NUMPY:
            raise UserError(
                f"{shown(self.file)}: {self.name} has type {self.dtype}, which is not supported; "
                f"save the checkpoint as BF16, F16 or F32"
            )
        count = (stop - start) * self.columns
        with open(self.file, "rb") as file:
            file.seek(self.offset + start * self.columns * BYTES[self.dtype])
            data = np.fromfile(file, dtype=NUMPY[self.dtype], count=count)
        if data.size != count:
            raise UserError(f"{shown(self.file)}: ends inside {self.name}; copy or download the file again")
        data = data.reshape(stop - start, self.columns)
        if self.dtype == "BF16":
            return bf16_to_float32(data)
        return data.astype(np.float32) if self.dtype == "F16" else data


def read_header(path: Path) -> dict[str, Stored]:
    """The tensors of one safetensors file, by name. UserError if it is truncated or malformed."""
    again = "copy or download the file again"
    require_regular(path)
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if 8 + length > size:
            raise UserError(f"{shown(path)}: truncated, {size} bytes do not hold its header; {again}")
        if length > LONGEST_HEADER:
            raise UserError(
                f"{shown(path)}: a header of {length:,} bytes, the format allows {LONGEST_HEADER:,}; {again}"
            )
        text = file.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_no_name_twice)
    except _NameTwice as error:
        raise UserError(f"{shown(path)}: the header has {error} twice; {again}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{shown(path)}: the safetensors header is not JSON; {again}") from None

    if not isinstance(header, dict):
        raise UserError(f"{shown(path)}: the header is not a safetensors header; {again}")
    header.pop("__metadata__", None)
    for name, entry in header.items():
        if not _is_entry(entry):
            raise UserError(f"{shown(path)}: the header's entry for {name} is not a safetensors entry; {again}")
    entries = sorted(
        (*entry["data_offsets"], name, entry["dtype"], tuple(entry["shape"])) for name, entry in header.items()
    )
    stored, end = {}, 8 + length
    for begin, stop, name, dtype, shape in entries:
        begin, stop = begin + 8 + length, stop + 8 + length
        if dtype not in BYTES:
            raise UserError(f"{shown(path)}: {name} has the unknown type {dtype}")
        if begin != end or stop - begin != math.prod(shape) * BYTES[dtype]:
            raise UserError(
                f"{shown(path)}: the header gives {name} {stop - begin} bytes at {begin}, "
                f"but {dtype} {list(shape)} should stand at {end}; {again}"
            )
        stored[name] = Stored(path, name, dtype, shape, begin)
        end = stop
    if end != size:
        raise UserError(f"{shown(path)}: {size} bytes where the header announces {end}; {again}")
    return stored


class _NameTwice(Exception):
    """The name that a header has twice."""


def _no_name_twice(pairs: list) -> dict:
    found = {}
    for name, value in pairs:
        if name in found:
            raise _NameTwice(repr(name))
        found[name] = value
    return found


def _is_entry(entry) -> bool:
    """Whether a value of the header says a tensor's type, shape and place."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        return False
    if len(shape) > MOST_DIMENSIONS:
        return False
    return all(type(number) is int and number >= 0 for number in (*shape, *offsets))


def index_folder(folder: Path) -> dict[str, Stored]:
    """All tensors of a checkpoint folder by name. UserError names the missing shard or tensor."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"{shown(folder)}: no such folder; MODEL must name a checkpoint folder with config.json and *.safetensors"
        )
    weight_map, files = _read_index(folder), sorted(path.name for path in folder.glob("model*.safetensors"))
    if weight_map is None:
        files = _complete(folder, files)
    else:
        files = _indexed(folder, files, weight_map)

    stored = {}
    for name in files:
        if not (folder / name).is_file():
            if weight_map is None:  # listed in the folder: itself a folder, a pipe, or a link to nothing
                require_regular(folder / name)
            lost = [tensor for tensor, shard in weight_map.items() if shard == name]
            raise UserError(
                f"{shown(folder / name)}: missing shard ({len(lost)} tensors, {lost[0]} among them); "
                f"copy or download it into the folder"
            )
        for tensor, entry in read_header(folder / name).items():
            if tensor in stored:
                raise UserError(
                    f"{shown(folder)}: {tensor} is in {stored[tensor].file.name} and in {name}; "
                    f"remove the file that does not belong to this checkpoint"
                )
            stored[tensor] = entry
    for tensor, shard in (weight_map or {}).items():
        if tensor not in stored or stored[tensor].file.name != shard:
            raise UserError(
                f"{shown(folder / INDEX)}: {tensor} should be in {shard} and is not; "
                f"index and shards are of different checkpoints"
            )
    return stored


def _read_index(folder: Path) -> dict[str, str] | None:
    """The index's weight_map, tensor to file; None without an index."""
    path = folder / INDEX
    if not path.exists():
        return None
    index = read_json(path)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{shown(path)}: has no weight_map")
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or not file or not file.isprintable() or file == ".." or Path(file).name != file:
            raise UserError(f"{shown(path)}: {tensor} should be in {file!r}, which is no file name of this folder")
    return weight_map


def _indexed(folder: Path, here: list[str], weight_map: dict[str, str]) -> list[str]:
    """The files that an index names. UserError where it does not go with the files that are there."""
    files = sorted(set(weight_map.values()))
    strangers = [name for name in here if name not in files]
    if strangers and not any((folder / name).is_file() for name in files):
        raise UserError(
            f"{shown(folder / INDEX)}: is left over from another checkpoint: it names {files[0]}, which is not there, "
            f"and not {strangers[0]}, which is; remove the index, or bring its {len(files)} files"
        )
    if "model.safetensors" in strangers:
        raise UserError(
            f"{shown(folder)}: has model.safetensors beside an index that does not name it, two checkpoints in one "
            f"folder; remove that file, or {INDEX} and the files it names"
        )
    return files


def _complete(folder: Path, files: list[str]) -> list[str]:
    """Without an index: one model.safetensors, or all N of model-XXXXX-of-N."""
    if not files:
        other = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".safetensors", ".npz"))
        adapter = "; an adapter alone is no checkpoint, fuse it into its base" if "adapter" in " ".join(other) else ""
        raise UserError(
            f"{shown(folder)}: no model*.safetensors" + (f" (only {', '.join(other)})" if other else "") + adapter
        )
    numbered = [match for name in files if (match := re.fullmatch(r"model-(\d+)-of-(\d+)\.safetensors", name))]
    if numbered:
        total, width = int(numbered[0][2]), len(numbered[0][2])
        wanted = [f"model-{i + 1:0{width}d}-of-{total:0{width}d}.safetensors" for i in range(total)]
        lost = [name for name in wanted if name not in files]
        if lost:
            raise UserError(
                f"{shown(folder)}: {lost[0]} is missing ({len(lost)} of {total} shards); "
                f"copy or download it into the folder"
            )
    return files


def write_file(path: Path, tensors: list, metadata: dict[str, str]) -> None:
    """Stream tensors to one safetensors file, atomically, holding one part in memory.

    Each of `tensors` has `name`, `dtype` ("BF16", "F16", "F32" or "U32"), `shape` and `parts`, a
    sequence of functions that return consecutive pieces: float32, or already as NUMPY stores the type.
    """
    header, offset = {"__metadata__": metadata}, 0
    for tensor in tensors:
        size = math.prod(tensor.shape) * BYTES[tensor.dtype]
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data starts on an 8-byte boundary
    with atomic_path(path) as partial, open(partial, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            begin = file.tell()
            for part in tensor.parts:
                values = np.ascontiguousarray(part())
                if values.dtype != NUMPY[tensor.dtype]:
                    values = np.asarray(values, dtype=np.float32)
                    values = float32_to_bf16(values) if tensor.dtype == "BF16" else values.astype(NUMPY[tensor.dtype])
                file.write(values.data)
            written, wanted = file.tell() - begin, math.prod(tensor.shape) * BYTES[tensor.dtype]
            assert written == wanted, f"{tensor.name}: wrote {written} bytes, not {wanted}"
