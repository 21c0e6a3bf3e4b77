"""Progress of the llama.cpp programs that walk through a text in chunks: llama-imatrix and llama-perplexity."""

import contextlib
import re

from tqdm import tqdm

TOTAL = re.compile(r"over (\d+) chunks")
# "[12]5.2103," while a perplexity is computed, "  12     5.2103 ±  0.04  ..." while two models are compared.
DONE = re.compile(r"\[(\d+)\]-?[\dn]|\s*(\d+)\s+\S+ ±")


@contextlib.contextmanager
def progress(description: str):
    """Yield a function for llama_cpp.run's `progress`: it reads each line and moves a bar with the time left."""
    with tqdm(desc=description, unit="chunk") as bar:
        def read(line: str) -> None:
            if total := TOTAL.search(line):
                bar.reset(total=int(total[1]))
            elif done := DONE.match(line):
                bar.update(int(done[1] or done[2]) - bar.n)

        yield read
