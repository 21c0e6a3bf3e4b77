"""KL divergence token by token, from the log-probabilities that llama-perplexity writes of two models.

    parent, quant = divergence.read(base_file), divergence.read(quant_file)
    values, same_top = divergence.per_token(parent, quant)      # nats float64 [scored], bool [scored]
    divergence.figures(values, same_top)                        # {"tokens", "kld": {...}, "same_top_p", ...}
    kinds = token_kinds.of(parent.tokens, pieces)[parent.targets()]     # what each scored token is

The file (--kl-divergence-base): "_logits_", then int32 context, vocabulary, chunks and all tokens, then per scored
token a scale and minimum (2 float32) and one uint16 per vocabulary entry, padded to an even number. A log-probability
is minimum + scale * uint16; what lies more than 16 nats below the likeliest token is cut there. In each chunk the
places from context // 2 to context - 2 are scored, each by what comes next.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kxl.base.cli import UserError
from kxl.base.files import shown

HEADER = np.dtype([("magic", "S8"), ("context", "<i4"), ("vocabulary", "<i4"), ("chunks", "<i4")])
IMPROBABLE = -16.0  # nats; a parent's probability below adds nothing, as in llama-perplexity
BLOCK = 1 << 22  # log-probabilities worked on at once, 32 MB in float64
FEWEST_FOR_P999 = 1000  # below this the 99.9 % quantile would rest on no value at all


@dataclass(frozen=True)
class LogProbabilities:
    """What one file holds. tokens: int32 [chunks * context]. rows: a memory map [scored] of scale, minimum, steps."""

    path: Path
    context: int
    vocabulary: int
    chunks: int
    tokens: np.ndarray = field(repr=False)
    rows: np.ndarray = field(repr=False)

    def targets(self) -> np.ndarray:
        """The place in `tokens` of each scored token, int64 [scored]: the one that was to be predicted."""
        first = self.context // 2
        return (np.arange(self.chunks)[:, None] * self.context + np.arange(first + 1, self.context)).reshape(-1)

    def log_probabilities(self, start: int, stop: int) -> np.ndarray:
        """float64 [stop - start, vocabulary] of the scored tokens from `start` to `stop`."""
        rows = self.rows[start:stop]
        values = rows["steps"][:, : self.vocabulary].astype(np.float64)
        values *= rows["scale"][:, None]
        values += rows["minimum"][:, None]
        return values


def scored_tokens(context: int, chunks: int) -> int:
    """How many tokens llama-perplexity scores: what follows the first half of each chunk."""
    return chunks * (context - 1 - context // 2)


def expected_bytes(context: int, vocabulary: int, chunks: int) -> int:
    """The size of a whole file."""
    rows = scored_tokens(context, chunks) * _row(vocabulary).itemsize
    return HEADER.itemsize + 4 * context * chunks + rows


def head(path: Path) -> tuple[int, int, int]:
    """(context, vocabulary, chunks) of a file; chunks 0 for one that is cut within its head."""
    with open(path, "rb") as file:
        raw = file.read(HEADER.itemsize)
    if len(raw) < HEADER.itemsize:
        return 0, 0, 0
    found = np.frombuffer(raw, HEADER)[0]
    return int(found["context"]), int(found["vocabulary"]), int(found["chunks"])


def read(path: Path) -> LogProbabilities:
    """A file, mapped into memory. UserError for one that is cut short."""
    context, vocabulary, chunks = head(path)
    if not chunks or path.stat().st_size != (wanted := expected_bytes(context, vocabulary, chunks)):
        raise UserError(
            f"{shown(path)}: has {path.stat().st_size:,} bytes where its log-probabilities need "
            f"{wanted if chunks else HEADER.itemsize:,}; remove it and measure again, with room on the disk"
        )
    tokens = np.fromfile(path, "<i4", context * chunks, offset=HEADER.itemsize)
    shape = (scored_tokens(context, chunks),)
    rows = np.memmap(path, _row(vocabulary), "r", HEADER.itemsize + tokens.nbytes, shape)
    return LogProbabilities(path, context, vocabulary, chunks, tokens, rows)


def _row(vocabulary: int) -> np.dtype:
    return np.dtype([("scale", "<f4"), ("minimum", "<f4"), ("steps", "<u2", (2 * ((vocabulary + 1) // 2),))])


def per_token(parent: LogProbabilities, quant: LogProbabilities) -> tuple[np.ndarray, np.ndarray]:
    """(KL divergence in nats float64 [scored], whether both find the same token likeliest, bool [scored]).

    KL(P || Q) = sum over the vocabulary of p (log p - log q). UserError where the files are of different tokens.
    """
    if parent.context != quant.context or not np.array_equal(parent.tokens, quant.tokens):
        raise UserError(
            f"{shown(quant.path)} is of other tokens than {shown(parent.path)}: both models need one tokenizer, "
            "text and context"
        )
    scored = len(parent.rows)
    values, same = np.empty(scored), np.empty(scored, bool)
    step = max(1, BLOCK // max(1, parent.vocabulary))
    for start in range(0, scored, step):
        stop = min(scored, start + step)
        p, q = parent.log_probabilities(start, stop), quant.log_probabilities(start, stop)
        same[start:stop] = p.argmax(1) == q.argmax(1)
        weights = np.where(p > IMPROBABLE, np.exp(p), 0.0)
        values[start:stop] = np.einsum("tv,tv->t", weights, p - q)
    return values, same


def figures(values: np.ndarray, same_top: np.ndarray) -> dict:
    """{"tokens", "kld": {"mean", "mean_error", "median", "p99", "p999", "max"}, "same_top_p", "same_top_p_error"}.

    Errors are standard errors. p999 is None below 1,000 tokens; all is None without any.
    """
    count = len(values)
    if not count:
        nothing = dict.fromkeys(("mean", "mean_error", "median", "p99", "p999", "max"))
        return {"tokens": 0, "kld": nothing, "same_top_p": None, "same_top_p_error": None}
    quantiles = dict(zip(("median", "p99", "p999", "max"), np.quantile(values, (0.5, 0.99, 0.999, 1)), strict=True))
    if count < FEWEST_FOR_P999:
        quantiles["p999"] = None
    share = float(same_top.mean())
    kld = {"mean": values.mean(), "mean_error": _error(values), **quantiles}
    return {
        "tokens": count,
        "kld": {name: None if value is None else round(float(value), 6) + 0.0 for name, value in kld.items()},
        "same_top_p": round(share, 6),
        "same_top_p_error": round(_error(same_top), 6),
    }


def _error(values: np.ndarray) -> float:
    """The standard error of a mean, 0 for a single value."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
