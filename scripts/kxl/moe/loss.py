"""Cross-entropy over the vocabulary without its logits: some positions and some rows of the embedding at a time.

    loss, d_hidden = loss_and_gradient(core, hidden, targets, weights, total, blocks)

For LFM2-8B-A1B at 10,240 tokens the logits would take 2.5 GiB in float32, their gradient as much again,
and the embedding 0.5 GiB. Positions without weight cost nothing.
"""

import mlx.core as mx
import numpy as np

from kxl.model.exponentials import exp
from kxl.moe.core import MixedCore
from kxl.moe.layers import Blocks

EMBEDDING, NORM = "model.embed_tokens.weight", "model.embedding_norm.weight"


def loss_and_gradient(
    core: MixedCore,
    hidden: mx.array,
    targets: np.ndarray,
    weights: np.ndarray,
    total: float,
    blocks: Blocks,
    gradient: bool = True,
) -> tuple[float, mx.array | None]:
    """(sum of weight * cross-entropy in nats, over `total`; its gradient at `hidden`).

    hidden float32 [T, D] before the last norm; targets int [T]; weights float [T], 0 = not scored.
    """
    head = EMBEDDING if core.config["tie_word_embeddings"] else "lm_head.weight"
    norm, eps = core.weight(NORM), core.config["norm_eps"]

    def normed(x):
        return mx.fast.rms_norm(x, norm, eps)

    loss, d_hidden = 0.0, mx.zeros_like(hidden) if gradient else None
    scored = np.nonzero(weights)[0]
    for start in range(0, len(scored), blocks.logits):
        places = scored[start : start + blocks.logits]
        x, weight = hidden[mx.array(places)], mx.array((weights[places] / total).astype(np.float32))
        n, right = normed(x), core.weight(head, targets[places])
        logits = []
        for rows in _rows(core, blocks):
            logits.append(n @ core.weight(head, rows).T)
            mx.eval(logits[-1])
        top = mx.stack([part.max(-1) for part in logits]).max(0)
        powers = mx.zeros_like(top)
        for part in logits:
            powers = powers + exp(part - top[:, None]).sum(-1)
            mx.eval(powers)
        log_sum = top + mx.log(powers)
        loss += (weight * (log_sum - (n * right).sum(-1))).sum().item()
        if not gradient:
            continue
        d_n = -weight[:, None] * right
        for part, rows in enumerate(_rows(core, blocks)):
            d_n = d_n + (exp(logits[part] - log_sum[:, None]) * weight[:, None]) @ core.weight(head, rows)
            logits[part] = None
            mx.eval(d_n)
        _, (d_x,) = mx.vjp(normed, [x], [d_n])
        d_hidden = d_hidden.at[mx.array(places)].add(d_x)
        mx.eval(d_hidden)
    return loss, d_hidden


def _rows(core: MixedCore, blocks: Blocks):
    return (slice(start, start + blocks.vocabulary) for start in range(0, core.config["vocab_size"], blocks.vocabulary))


def embed(core: MixedCore, tokens: np.ndarray) -> mx.array:
    """int [B, L] to float32 [B, L, D]."""
    return core.weight(EMBEDDING, tokens)
