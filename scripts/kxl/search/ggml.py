"""Rounding as the pinned llama.cpp rounds: its libggml-base through ctypes, without writing a file.

    weights = ggml.rounded(rows, Type.Q4_K, importance)     # float32 [rows, columns], as the quant holds them

What comes back is what llama-quantize would write for the same rows and importance, read back as float32.
"""

import ctypes
import functools
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES

from kxl.base.cli import UserError
from kxl.base.files import shown
from kxl.setup import llama_cpp

THREADS = 2
FLOATS = ctypes.POINTER(ctypes.c_float)


@functools.cache
def library() -> ctypes.CDLL:
    """The built libggml-base, with the functions that are called here declared."""
    folder = llama_cpp.binary("llama-quantize").parent
    path = folder / ("libggml-base.dylib" if sys.platform == "darwin" else "libggml-base.so")
    if not path.is_file():
        raise UserError(f"{shown(path)}: the build has no such library; run `make llama`")
    found = ctypes.CDLL(str(path))
    found.ggml_quantize_chunk.restype = ctypes.c_size_t
    found.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        FLOATS,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        FLOATS,
    ]
    found.ggml_quantize_init.argtypes = [ctypes.c_int]
    return found


@functools.cache
def _reader(kind: Type):
    """ggml's own function that turns a row of `kind` into float32."""
    name = kind.name.replace("_K", "_k").lower().replace("_k", "_K")
    function = getattr(library(), f"dequantize_row_{name}")
    function.argtypes = [ctypes.c_void_p, FLOATS, ctypes.c_int64]
    function.restype = None
    library().ggml_quantize_init(int(kind))
    return function


def quantized(rows: np.ndarray, kind: Type, importance: np.ndarray | None = None) -> np.ndarray:
    """The bytes of `rows` float32 [rows, columns] in type `kind`: uint8 [rows, bytes per row].

    `importance` float32 [columns]: how much an error in a column counts, as the imatrix has it; None for all alike.
    """
    count, columns = rows.shape
    block, size = GGML_QUANT_SIZES[kind]
    if columns % block:
        raise UserError(f"rows of {columns} do not fit {kind.name}, which needs multiples of {block}")
    _reader(kind)
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    out = np.empty((count, columns // block * size), dtype=np.uint8)
    weights = None
    if importance is not None:
        importance = np.ascontiguousarray(importance, dtype=np.float32)
        if importance.shape != (columns,):
            raise ValueError(f"importance of {importance.shape} for rows of {columns}")
        weights = importance.ctypes.data_as(FLOATS)

    def part(bounds: tuple[int, int]) -> None:
        first, last = bounds
        if first < last:
            library().ggml_quantize_chunk(
                int(kind),
                rows[first:last].ctypes.data_as(FLOATS),
                out[first:last].ctypes.data,
                0,
                last - first,
                columns,
                weights,
            )

    cuts = [count * place // THREADS for place in range(THREADS + 1)]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(part, zip(cuts, cuts[1:])))
    return out


def rounded(rows: np.ndarray, kind: Type, importance: np.ndarray | None = None) -> np.ndarray:
    """`rows` float32 [rows, columns] as type `kind` gives them back, float32."""
    if kind == Type.F32:
        return np.asarray(rows, dtype=np.float32)
    if kind == Type.F16:
        return rows.astype(np.float16).astype(np.float32)
    if kind == Type.BF16:
        bits = np.ascontiguousarray(rows, dtype=np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    packed = quantized(rows, kind, importance)
    out = np.empty(rows.shape, dtype=np.float32)
    _reader(kind)(packed.ctypes.data, out.ctypes.data_as(FLOATS), rows.size)
    return out
