"""A float32 copy of a checkpoint, for serving it on a CPU: made once, used again, and never more than one too many.

    with float32.copy(Path("models/tiny")) as folder: ...      # runs/float32/tiny-KEY, nobody removes it meanwhile

A copy is as heavy as two of the checkpoint (33 GB at 8B parameters). It lies in runs/float32 under a name made of the
checkpoint's files (path, size, time), so that the next server finds it, also after a kill. Making another one removes
those that nobody uses, and what killed processes left half-written.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from kxl.base import files
from kxl.model import checkpoint

STORE = files.ROOT / "runs" / "float32"


@contextlib.contextmanager
def copy(model: Path, writer: Callable = checkpoint.float32_copy, store: Path | None = None) -> Iterator[Path]:
    """The float32 copy of `model`, made by `writer(model, folder)` unless it is there; it stays after the block."""
    model, store = Path(model).resolve(), store or STORE
    folder = store / f"{model.name}-{_key(model)}"
    with files.lock(store / ".lock", f"another process makes a float32 copy in {files.shown(store)}; waiting for it"):
        _remove(store.glob(".*.partial-*"))  # nobody writes now but us
        if not folder.is_dir():
            _remove(store.iterdir())
            with files.atomic_dir(folder) as partial:
                writer(model, partial / "model")
        used = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(used, fcntl.LOCK_SH)  # nobody removes it while we have it; gone with us
    try:
        yield folder / "model"
    finally:
        os.close(used)


def _key(model: Path) -> str:
    """Names the checkpoint's files as they are now."""
    stamps = []
    for path in sorted(path for path in model.rglob("*") if path.is_file()):
        status = path.stat()
        stamps.append([str(path), status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(stamps).encode()).hexdigest()[:16]


def _remove(folders: Iterable[Path]) -> None:
    """Remove each folder that no process uses."""
    for folder in [path for path in folders if path.is_dir()]:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)
        except BlockingIOError:
            continue
        finally:
            os.close(opened)
