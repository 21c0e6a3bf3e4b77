"""Quants against their parent, token by token: KL divergences by kind of token, and what chance leaves of a difference.

llama-perplexity writes the log-probabilities of a model's scored tokens (quant_measure.py says how a file is laid out).
With one such file of the parent and one of the quant, each token's divergence is known, not only their mean: so it can
be told apart for tokens inside of calls, and two quants can be compared on the same tokens.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kxl.base.cli import UserError
from kxl.base.files import shown

HEADER = struct.Struct("<8siii")
PART = 256  # tokens whose probabilities are held at once
RESAMPLES = 2000
# Marks around a call and around a thought, in the tokens of the models that are shipped here.
CALL_MARKS = (("<|tool_call_start|>", "<|tool_call_end|>"), ("<tool_call>", "</tool_call>"))
THOUGHT_MARKS = (("<think>", "</think>"),)


@dataclass(frozen=True)
class Scores:
    """One quant's `kld` float64 and `same_top` bool of each scored token, and the `chunk` it is in."""

    kld: np.ndarray
    same_top: np.ndarray
    chunk: np.ndarray


def read_header(path: Path) -> tuple[int, int, np.ndarray]:
    """(context, vocabulary, tokens int32 [chunks, context]) of a file of log-probabilities."""
    with open(path, "rb") as file:
        magic, context, vocabulary, chunks = HEADER.unpack(file.read(HEADER.size))
        tokens = np.frombuffer(file.read(4 * context * chunks), dtype="<i4")
    if magic != b"_logits_" or len(tokens) != context * chunks:
        raise UserError(f"{shown(path)}: no whole file of log-probabilities; remove it and run again")
    return context, vocabulary, tokens.reshape(chunks, context)


def rows(path: Path) -> np.ndarray:
    """The file's rows, uint16 [scored tokens, values]: a scale and a minimum (2 float32), then a code per entry."""
    context, vocabulary, tokens = read_header(path)
    scored = len(tokens) * (context - 1 - context // 2)
    width = 2 * ((vocabulary + 1) // 2) + 4
    offset = HEADER.size + 4 * tokens.size
    if path.stat().st_size != offset + 2 * scored * width:
        raise UserError(f"{shown(path)}: cut short; remove it and run again")
    return np.memmap(path, dtype="<u2", mode="r", offset=offset, shape=(scored, width))


def log_probabilities(part: np.ndarray, vocabulary: int) -> np.ndarray:
    """float32 [tokens, vocabulary] out of rows."""
    part = np.ascontiguousarray(part)
    scale, low = part[:, :4].copy().view("<f4").T
    return part[:, 4 : 4 + vocabulary] * scale[:, None] + low[:, None]


def compare(base: Path, other: Path) -> Scores:
    """Each scored token's KL divergence of `other` from `base` in nats, and whether both prefer the same token."""
    context, vocabulary, tokens = read_header(base)
    if read_header(other)[1:2] != (vocabulary,) or (read_header(other)[2] != tokens).any():
        raise UserError(f"{shown(other)}: is of other tokens than {shown(base)}; remove it and run again")
    first, second = rows(base), rows(other)
    kld, same = np.empty(len(first)), np.empty(len(first), dtype=bool)
    for start in range(0, len(first), PART):
        p, q = (log_probabilities(file[start : start + PART], vocabulary) for file in (first, second))
        kld[start : start + PART] = (np.exp(p) * (p - q)).sum(-1)
        same[start : start + PART] = p.argmax(-1) == q.argmax(-1)
    return Scores(np.maximum(kld, 0), same, np.repeat(np.arange(len(tokens)), context - 1 - context // 2))


def kinds_of(tokens: np.ndarray, words: list[str]) -> dict[str, np.ndarray]:
    """{"call": bool [scored], "thought": ..., "prose": ...}: in what each predicted token stands.

    A call's tokens are those behind its first mark, its last mark with them. Kinds that no token is of are left out.
    """
    context = tokens.shape[1]
    place = {word: number for number, word in enumerate(words)}
    found = {}
    for kind, pairs in (("call", CALL_MARKS), ("thought", THOUGHT_MARKS)):
        mask = np.zeros(tokens.shape, dtype=bool)
        for begin, end in pairs:
            if begin in place and end in place:
                opened = np.cumsum(tokens == place[begin], axis=1)
                closed = np.cumsum(tokens == place[end], axis=1)
                inside = np.zeros_like(mask)
                inside[:, 1:] = (opened > closed)[:, :-1]  # the token before it was inside or opened
                mask |= inside
        found[kind] = mask
    found["prose"] = ~(found["call"] | found["thought"])
    scored = slice(context // 2 + 1, context)
    return {kind: mask[:, scored].reshape(-1) for kind, mask in found.items() if mask[:, scored].any()}


def figures(scores: Scores, kinds: dict[str, np.ndarray]) -> dict:
    """{"mean", "p999", "same_top_p", and the mean of each kind} of one quant."""
    made = {"mean": float(scores.kld.mean()), "p999": float(np.quantile(scores.kld, 0.999))}
    made |= {kind: float(scores.kld[mask].mean()) for kind, mask in kinds.items()}
    return {
        **{key: float(f"{value:.6g}") for key, value in made.items()},
        "same_top_p": round(scores.same_top.mean(), 6),
    }


def gain(ours: Scores, other: Scores, block: int = 256, seed: int = 0, tries: int = 1) -> dict:
    """{"gain", "interval"}: by what share our mean KL divergence is less than the other's; 95 % of a paired bootstrap.

    What is drawn are runs of `block` scored tokens, the same of both: neighbours are alike, and chunks are few.
    tries: of how many comparisons this is one; with several the interval is wider, so that all hold with 95 %.
    """
    edges = np.arange(0, len(ours.kld), block)
    sums = np.stack([np.add.reduceat(scores.kld, edges) for scores in (ours, other)])
    draws = np.random.default_rng(seed).integers(0, len(edges), (RESAMPLES, len(edges)))
    totals = sums[:, draws].sum(-1)
    shares = 1 - totals[0] / np.maximum(totals[1], 1e-300)
    low, high = np.quantile(shares, [0.025 / tries, 1 - 0.025 / tries])
    return {
        "gain": round(float(1 - sums[0].sum() / sums[1].sum()), 4),
        "interval": [round(float(low), 4), round(float(high), 4)],
    }
