"""A named tensor that is read when asked for, a few rows at a time, and a checkpoint of such tensors."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kxl.base.cli import UserError
from kxl.model.safetensors_io import FLOATS

PART_ELEMENTS = 1 << 22  # 16 MiB of float32 is what one step of reading or writing holds


@dataclass(frozen=True)
class Tensor:
    """A tensor by its name.

    `dtype` is what it is stored as, or to be stored as ("BF16", "F16" or "F32"; "U32" for packed codes). `parts` return
    consecutive pieces of it, cut along the leading dimensions: float32, or already as safetensors_io.NUMPY has the
    type.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    parts: tuple[Callable[[], np.ndarray], ...]

    def read(self) -> np.ndarray:
        """The whole tensor as float32 of `shape`."""
        return np.concatenate([part().reshape(-1) for part in self.parts]).reshape(self.shape)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder: normalized `config` and its tensors by canonical (transformers) name."""

    folder: Path
    config: dict
    tensors: dict[str, Tensor]


def from_array(name: str, array: np.ndarray, dtype: str = "BF16") -> Tensor:
    """A Tensor out of memory, to be saved as `dtype`. UserError for values that are not finite."""
    if dtype not in FLOATS:
        raise ValueError(f"{name}: {dtype} is none of {', '.join(FLOATS)}")
    values = np.asarray(array, dtype=np.float32)
    refuse_not_finite(values, name, "memory")
    return Tensor(name, values.shape, dtype, (lambda: values,))


def refuse_not_finite(values: np.ndarray, name: str, where: str) -> None:
    """UserError for the tensor `name`, read at `where`, that holds an infinite value or NaN."""
    if not np.isfinite(values).all():
        bad = values[~np.isfinite(values)]
        raise UserError(
            f"{where}: {name} holds {bad.size} values that are not finite ({bad.flat[0]} first); "
            "the checkpoint is broken, take an earlier one"
        )
