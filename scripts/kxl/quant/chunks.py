"""What llama-imatrix and llama-perplexity have in common: they walk through a rendered text in chunks."""

import contextlib
import re

from tqdm import tqdm

# Read the text as a chat prompt is read: markers as the special tokens they are, and no beginning-of-sequence
# token beside the one that the template writes (the programs would also put one over each chunk's first token).
AS_RENDERED = ("--parse-special", "--override-kv", "tokenizer.ggml.add_bos_token=bool:false")

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
