"""A core in memory-mapped files: a training holds the layer at work, the disk holds the rest.

    with live(work, source, complete) as folder:         # a copy of the core or checkpoint, to be changed in place
        core = core.load(folder, mapped=True)            # every array is a view into a file

The step says which layer is next (`ahead`: the system reads it in) and which is through (`release`: written back where
it was changed, then given back). Writing back goes on beside the next layer's work; one layer waits for it at most.

The copy alone is written in place. Checkpoints are whole folders of their own, so a run that is killed in the middle of
a write throws the copy away and makes a new one of its last checkpoint.
"""

import contextlib
import mmap
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from kxl.base.files import remove_tree, sole_writer
from kxl.model.safetensors_io import NUMPY, Stored

HAS_FADVISE = hasattr(os, "posix_fadvise")  # not on macOS


@contextlib.contextmanager
def live(work: Path, source: Path, complete: Callable[[Path], None], rank: int = 0) -> Iterator[Path]:
    """A copy of the core folder `source` in `work`, for one process to change in place; removed at the end.

    `complete(folder)` writes into the copy what the source does not have.

    UserError when another process trains there.
    """
    folder = Path(work) / f"live-{rank}"
    with sole_writer([folder]):
        _clear(folder)
        folder.mkdir(parents=True)
        try:
            for path in sorted(source.iterdir()):
                if path.name.startswith(("model", "carry")) or path.name == "config.json":
                    shutil.copyfile(path, folder / path.name)
            complete(folder)
            yield folder
        finally:
            remove_tree(folder)


def clear(work: Path, rank: int = 0, ranks: int = 1) -> None:
    """Remove the copy that a killed run left in `work`; rank 0 also those of a run with more processes.

    UserError when another process trains there.
    """
    folders = [Path(work) / f"live-{rank}"]
    if rank == 0:
        copies = [path for path in Path(work).glob("live-*") if path.name.removeprefix("live-").isdigit()]
        folders += [path for path in copies if int(path.name.removeprefix("live-")) >= ranks]
    for folder in folders:
        with sole_writer([folder]):
            _clear(folder)


def _clear(folder: Path) -> None:
    if folder.exists():
        remove_tree(folder)


class Maps:
    """The mapped files of one core folder. Files are those of core.layer_files."""

    def __init__(self, folder: Path, files: dict[int, list[str]]):
        self.files = {
            layer: [_Mapped(Path(folder) / name) for name in names if (Path(folder) / name).is_file()]
            for layer, names in files.items()
        }
        self.by_path = {file.path: file for files in self.files.values() for file in files}
        # One thread, so that a layer is read in before the one after it, and is not given back while it is written.
        self.thread = ThreadPoolExecutor(1, "write back")
        self.writing: Future | None = None

    def array(self, entry: Stored) -> np.ndarray:
        """A tensor's bytes as they lie in its file, changed there when they are changed here."""
        return self.by_path[entry.file].array(entry)

    def ahead(self, layer: int) -> None:
        """Have the system read a layer in; a layer that is none is nothing to do."""
        for file in self.files.get(layer, ()):
            self.thread.submit(file.read_ahead)

    def release(self, layer: int, changed: bool) -> None:
        """Give a layer's pages back, after they are written if they were changed."""
        files = self.files.get(layer, ())
        if not changed:
            for file in files:
                file.give_back()
            return
        self.settle()
        self.writing = self.thread.submit(lambda: [file.write_back() for file in files])

    def settle(self, everything: bool = False) -> None:
        """Wait until all that was changed is on the disk, or the whole files are. OSError where that failed."""
        if self.writing is not None:
            self.writing.result()
            self.writing = None
        if everything:
            for file in self.by_path.values():
                file.write_back()


class _Mapped:
    """A file, mapped whole, readable and writable."""

    def __init__(self, path: Path):
        self.path = path
        with open(path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), 0)
        self.descriptor = os.open(path, os.O_RDWR)

    def array(self, entry: Stored) -> np.ndarray:
        count = int(np.prod(entry.shape, dtype=np.int64))
        return np.frombuffer(self.map, NUMPY[entry.dtype], count, entry.offset)

    def read_ahead(self) -> None:
        if HAS_FADVISE:
            os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        else:
            self.map.madvise(mmap.MADV_WILLNEED)

    def write_back(self) -> None:
        if sys.platform == "linux":
            os.fdatasync(self.descriptor)  # writes mapped pages, too, and lets other threads run, unlike mmap.flush
        else:
            self.map.flush()
        self.give_back()

    def give_back(self) -> None:
        self.map.madvise(mmap.MADV_DONTNEED)  # of a shared map: the pages stay in the file and its cache

    def __del__(self):
        with contextlib.suppress(OSError, AttributeError):
            os.close(self.descriptor)
