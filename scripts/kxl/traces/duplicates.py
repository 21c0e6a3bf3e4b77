"""Whether a row says what another row, or an evaluation suite, already says.

Exact duplicates have the same messages and tools. Near duplicates share most of their runs of SHINGLE words,
estimated by MinHash (datasketch: permutations 64, so an estimate of 0.9 is off by 0.04 on average). A row overlaps
an eval suite when it holds NGRAM words in a row of one of the suite's requests, or, for a request shorter than
that, when one of its own requests has the same words. Words are compared as eval/requests.py has it.

A row's words are hashed once, vectorised; `fingerprint` is what a worker sends home: 64 numbers, not the row.
"""

import json
import zlib

import numpy as np
from datasketch import MinHash, MinHashLSH

from kxl.eval import contamination
from kxl.eval.requests import same_words

SHINGLE, PERMUTATIONS = 5, 64
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, from the golden ratio: spreads the bits of a 64-bit product


def words(row: dict) -> list[str]:
    """All words of the turns: requests, answers, calls, results; not the system message and the tools, which rows
    share.
    """
    texts = []
    for message in row["messages"]:
        if message["role"] != "system":
            texts.append(message["content"])
            texts += [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", [])]
    return same_words("\n".join(texts)).split()


class _Hashes(dict):
    """CRC-32 of words, remembered: most words of a trace have been seen before."""

    def __missing__(self, word: str) -> int:
        if len(self) > 1_000_000:
            self.clear()
        self[word] = zlib.crc32(word.encode("utf-8", "replace"))
        return self[word]


_hashes = _Hashes()


def hashed(found: list[str]) -> np.ndarray:
    """uint64 [len]: a hash of each word."""
    return np.fromiter(map(_hashes.__getitem__, found), np.uint64, len(found))


def ngrams(hashes: np.ndarray, n: int) -> np.ndarray:
    """uint64 [len - n + 1]: a hash of each run of n words, from the hashes of the words."""
    made = np.zeros(max(0, len(hashes) - n + 1), np.uint64)
    for place in range(n if len(made) else 0):
        made = made * _MIX + hashes[place : place + len(made)]
    return made * _MIX


def fingerprint(hashes: np.ndarray) -> np.ndarray:
    """uint32 [PERMUTATIONS]: the MinHash of a row, from the hashes of its words."""
    shingles = np.unique(ngrams(hashes, min(SHINGLE, max(1, len(hashes)))))
    made = MinHash(PERMUTATIONS, seed=1, hashfunc=int, scheme="affine32")
    if len(shingles):
        made.update_batch((shingles >> np.uint64(32)).tolist())
    return made.hashvalues


class Rows:
    """The rows seen so far."""

    def __init__(self, threshold: float):
        self.threshold, self.by_hash, self.minhashes = threshold, {}, []
        self.index = MinHashLSH(threshold, PERMUTATIONS)

    def duplicate_of(self, content: str, print_: np.ndarray, name: str) -> tuple[str, str] | None:
        """("exact_duplicate" | "near_duplicate", detail); None for a new row, which is remembered as `name`."""
        if content in self.by_hash:
            return "exact_duplicate", f"of {self.by_hash[content]}"
        own = MinHash(seed=1, hashvalues=print_, scheme="affine32")
        for place in sorted(self.index.query(own)):
            other, shown = self.minhashes[place]
            if (alike := own.jaccard(other)) >= self.threshold:
                return "near_duplicate", f"of {shown} (about {alike:.0%} of the {SHINGLE}-word runs of both)"
        self.by_hash[content] = name
        self.index.insert(len(self.minhashes), own)
        self.minhashes.append((own, name))
        return None


class Suites:
    """The prompts of evaluations. A request that repeats one, or `n` words in a row of one anywhere, are an overlap."""

    def __init__(self, paths: list, n: int):
        self.n, self.prompts, self.runs = n, contamination.Prompts(paths), {}
        for request in sorted({same_words(text) for path in paths for text, _ in contamination.prompts_of(path)}):
            split = request.split()
            for place, run in enumerate(ngrams(hashed(split), n).tolist()):
                self.runs[run] = " ".join(split[place : place + n])
        self.hashes = np.array(sorted(self.runs), dtype=np.uint64)

    def overlap(self, row: dict, found: list[str], hashes: np.ndarray) -> str | None:
        """What a row shares with a suite, in words; `found` are the row's words and `hashes` theirs."""
        if repeated := self.prompts.of_row(row["messages"]):
            return f"asks the same as {repeated[1]}: {repeated[0]}"
        own = ngrams(hashes, self.n)
        for place in np.flatnonzero(np.isin(own, self.hashes)).tolist():
            if (run := self.runs[int(own[place])]) == " ".join(found[place : place + self.n]):
                return f"{self.n} words in a row: {run}"
        return None
