"""Divergences token by token, from the files that llama-perplexity writes, against direct computation."""

import struct

import numpy as np
import pytest

from kxl.base.cli import UserError
from kxl.search import judged

VOCABULARY, CONTEXT, CHUNKS = 11, 8, 3
SCORED = CHUNKS * (CONTEXT - 1 - CONTEXT // 2)


def write_logits(path, log_p: np.ndarray, tokens: np.ndarray) -> None:
    """A file as llama-perplexity lays it out: header, tokens, per scored token a scale, a minimum, 16-bit codes."""
    with open(path, "wb") as file:
        file.write(struct.pack("<8siii", b"_logits_", CONTEXT, VOCABULARY, CHUNKS))
        file.write(tokens.astype("<i4").tobytes())
        for row in log_p:
            low = row.min()
            scale = (row.max() - low) / 65535
            codes = np.round((row - low) / scale).astype("<u2")
            padding = np.zeros(2 * ((VOCABULARY + 1) // 2) - VOCABULARY, dtype="<u2")
            file.write(struct.pack("<ff", scale, low) + codes.tobytes() + padding.tobytes())


def random_log_p(seed: int) -> np.ndarray:
    z = np.random.default_rng(seed).normal(0, 2, (SCORED, VOCABULARY))
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


@pytest.fixture
def files(tmp_path):
    tokens = np.arange(CHUNKS * CONTEXT).reshape(CHUNKS, CONTEXT) % VOCABULARY
    p, q = random_log_p(0), random_log_p(1)
    write_logits(tmp_path / "p", p, tokens)
    write_logits(tmp_path / "q", q, tokens)
    return tmp_path, p, q, tokens


def test_each_tokens_divergence_is_that_of_its_probabilities(files):
    folder, p, q, _ = files
    scores = judged.compare(folder / "p", folder / "q")
    assert scores.kld == pytest.approx((np.exp(p) * (p - q)).sum(-1), abs=1e-3)
    assert (scores.same_top == (p.argmax(-1) == q.argmax(-1))).all()
    assert list(scores.chunk) == [0] * 3 + [1] * 3 + [2] * 3


def test_a_model_has_no_divergence_from_itself(files):
    folder, *_ = files
    scores = judged.compare(folder / "p", folder / "p")
    assert scores.kld.max() == 0 and scores.same_top.all()


def test_files_of_other_tokens_or_cut_short_are_refused(files):
    folder, p, _, tokens = files
    write_logits(folder / "other", p, tokens + 1)
    with pytest.raises(UserError, match="other tokens"):
        judged.compare(folder / "p", folder / "other")
    (folder / "short").write_bytes((folder / "p").read_bytes()[:-4])
    with pytest.raises(UserError, match="cut short"):
        judged.compare(folder / "p", folder / "short")


def test_a_calls_tokens_are_those_between_its_marks_and_the_last_mark():
    words = ["a", "<|tool_call_start|>", "<|tool_call_end|>", "<think>", "</think>", "b"]
    #                     scored: positions 4 to 7 are predicted behind 3 to 6 (context 8)
    tokens = np.array([[0, 0, 3, 5, 4, 1, 5, 2], [0, 0, 0, 0, 1, 5, 5, 2]])
    kinds = judged.kinds_of(tokens, words)
    # Predicted are positions 5, 6 and 7: the token that opens a call is prose, the one that closes it is of the call.
    assert kinds["call"].tolist() == [False, True, True, True, True, True]
    assert kinds["prose"].tolist() == [True, False, False, False, False, False]
    assert "thought" not in kinds  # it ended before the first scored token


def test_a_gain_and_its_interval_are_those_of_the_same_tokens():
    draw = np.random.default_rng(0)
    other = draw.exponential(1.0, 20_000)
    ours = judged.Scores(other * 0.6, np.ones(20_000, bool), np.zeros(20_000, int))
    found = judged.gain(ours, judged.Scores(other, ours.same_top, ours.chunk))
    assert found["gain"] == pytest.approx(0.4) and found["interval"] == pytest.approx([0.4, 0.4], abs=1e-3)
    blocks = np.repeat(draw.exponential(1.0, 80), 250)
    uneven = judged.Scores(other * blocks, ours.same_top, ours.chunk)
    one, several = (judged.gain(uneven, judged.Scores(other, ours.same_top, ours.chunk), tries=n) for n in (1, 4))
    assert several["interval"][0] < one["interval"][0] < one["gain"] < one["interval"][1] < several["interval"][1]
    noise = judged.Scores(draw.exponential(1.0, 20_000), ours.same_top, ours.chunk)
    low, high = judged.gain(noise, judged.Scores(other, ours.same_top, ours.chunk))["interval"]
    assert low < 0 < high and high - low < 0.1
