"""Bytes of a quant before it is made: header, kept tensors, quantized ones; and what of it a token reads."""

from pathlib import Path

from kxl.model import gguf_file
from kxl.quant import policy
from kxl.quant.policy import ALIGNMENT, Tensor, Type

# What llama-quantize adds to the metadata: quantization version, and of the imatrix its path, data and counts.
ADDED = 512


def header_bytes(path: Path) -> int:
    """Bytes before the tensors' data in a quant of this BF16 GGUF, at most."""
    return int(gguf_file.open_reader(path).data_offset) + ADDED


def kept_bytes(tensors: list[Tensor]) -> int:
    """Bytes of the tensors that are never quantized."""
    return sum(
        -(-policy.nbytes(t.shape, t.type) // ALIGNMENT) * ALIGNMENT for t in tensors if not policy.quantizable(t)
    )


def bits_per_token(types: dict[str, Type], tensors: list[Tensor], used: int | None = None) -> str:
    """How much of the weights one token reads: what speed is limited by where memory is the limit.

    used: experts per token; None where it is not known, then all are told beside.
    """
    shapes = {t.name: t.shape for t in tensors}
    dense = sum(
        policy.nbytes(shapes[n], k) for n, k in types.items() if len(shapes[n]) < 3 and n != "token_embd.weight"
    )
    head = sum(policy.nbytes(shapes[n], k) for n, k in types.items() if n in ("token_embd.weight", "output.weight"))
    experts = {n: policy.nbytes(shapes[n], k) / shapes[n][2] for n, k in types.items() if len(shapes[n]) > 2}
    each = sum(experts.values())
    total = dense + head + each * (used or 1)
    of = f" with {used or 1} expert{'s' if (used or 1) > 1 else ''} a layer" if experts else ""
    return f"{total / 2**20:,.1f} MiB{of}"
