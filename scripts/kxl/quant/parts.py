"""An importance matrix in parts of a text: each part is a file, whole or not there, until all are added up.

So a run that was killed goes on behind its last whole part, and may end before the text does.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from kxl.base.files import read_json, write_json
from kxl.quant import imatrix
from kxl.quant.imatrix import Entry


class Parts:
    """The parts in a folder. `key` says what they are of; those of anything else are removed.

    files: the parts that were taken, in the text's order. perplexities: of each.
    """

    def __init__(self, folder: Path, key: dict):
        self.folder, self.key, self.state = folder, key, folder / "parts.json"
        self.files: list[Path] = []
        self.perplexities: list[float] = []
        known = read_json(self.state) if self.state.is_file() else {}
        if known.get("key") != key:
            self.remove()
        self.known = known.get("perplexities", []) if known.get("key") == key else []
        folder.mkdir(parents=True, exist_ok=True)

    def collect(
        self, compute: Callable[[int, Path], float | None], enough: Callable[[list[dict[str, Entry]]], bool]
    ) -> None:
        """Take parts until the text ends or two or more are enough.

        compute(number, path) writes one part, whole or not at all, and returns the perplexity of its text; None where
        the text ends before.
        enough(matrices) is asked about all parts so far.
        """
        read: list[dict[str, Entry]] = []
        while len(read) < 2 or not enough(read):
            number = len(self.files)
            path = self.folder / f"part-{number}.gguf"
            if number < len(self.known) and path.is_file():
                perplexity = self.known[number]
            else:
                perplexity = compute(number, path)
                if perplexity is None:
                    return
                self.known = [*self.known[:number], perplexity]
                write_json(self.state, {"key": self.key, "perplexities": self.known})
            self.files.append(path)
            self.perplexities.append(perplexity)
            read.append(imatrix.read(path)[0])

    def remove(self) -> None:
        """The parts have served, or are of something else."""
        if self.folder.is_dir():
            shutil.rmtree(self.folder)
