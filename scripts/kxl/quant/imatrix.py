"""An importance matrix as llama-imatrix writes it in GGUF: sums of squared inputs, and how many tokens went into them.

For each matrix NAME of the model: NAME.in_sum2 float32 [experts, columns] and NAME.counts float32 [experts, 1], with
one expert for an ordinary matrix. An expert that no token reached has a sum of 0, for which llama-quantize would
silently weigh all columns alike; sums of a model that computes NaN are NaN.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kxl.base.cli import UserError
from kxl.base.files import shown
from kxl.model import gguf_file

SUMS, COUNTS, CHUNKS = ".in_sum2", ".counts", "imatrix.chunk_count"


@dataclass(frozen=True)
class Entry:
    """`sums` float32 [experts, columns], `counts` int64 [experts] of one matrix."""

    sums: np.ndarray
    counts: np.ndarray

    def problem(self) -> str | None:
        """Why llama-quantize must not use it, with the expert's number; None where it may."""
        for expert, (sums, count) in enumerate(zip(self.sums, self.counts)):
            of_expert = f"expert {expert}: " if len(self.sums) > 1 else ""
            if not np.isfinite(sums).all() or (sums < 0).any():
                return f"{of_expert}its sums are no finite numbers; the model computes NaN or infinity"
            if count <= 0 or not sums.any():
                return f"{of_expert}no token reached it"
        return None


def read(path: Path) -> tuple[dict[str, Entry], int]:
    """({matrix name: Entry}, chunks of text that went in). UserError where the file is no whole imatrix."""
    reader = gguf_file.open_reader(path)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    names = [name.removesuffix(SUMS) for name in tensors if name.endswith(SUMS)]
    if not names:
        raise UserError(f"{shown(path)}: no imatrix in GGUF format; make it with scripts/quant_compute_imatrix.py")
    entries = {}
    for name in names:
        if f"{name}{COUNTS}" not in tensors:
            raise UserError(f"{shown(path)}: {name} has sums and no counts; make the imatrix again")
        sums, counts = (np.array(tensors[name + part].data) for part in (SUMS, COUNTS))
        if sums.dtype != np.float32 or counts.dtype != np.float32:
            raise UserError(f"{shown(path)}: {name} is of another type than float32; make the imatrix again")
        sums, counts = sums.reshape(-1, sums.shape[-1]), counts.reshape(-1)
        if len(sums) != len(counts):
            raise UserError(
                f"{shown(path)}: {name} has sums of {len(sums)} experts and counts of {len(counts)}; make it again"
            )
        counts = np.nan_to_num(np.clip(counts, -1, 2**62)).astype(np.int64)
        entries[name] = Entry(sums, counts)
    chunks = reader.get_field(CHUNKS)
    value = chunks.contents() if chunks else None
    return entries, value if isinstance(value, int) else 0
