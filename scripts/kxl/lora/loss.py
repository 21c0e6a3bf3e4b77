"""The masked loss of an adapter's training, with logits only where a token has loss.

The output head is a quarter of the work of a 135M model, and most tokens of a row are not the model's to emit.
"""

import mlx.core as mx
import mlx.nn as nn
import numpy as np


def head(model: nn.Module, hidden: mx.array) -> mx.array:
    """Logits [N, vocabulary] of hidden states [N, width]; of an mlx-lm model with its own or tied output head."""
    return model.lm_head(hidden) if hasattr(model, "lm_head") else model.model.embed_tokens.as_linear(hidden)


def token_losses(model: nn.Module, hidden: mx.array, targets: np.ndarray, weights: np.ndarray) -> mx.array:
    """Cross-entropy in nats of each target that has weight, [N]. hidden [B, L, D]; targets, weights [B, L] or [L]."""
    places = np.flatnonzero(weights).astype(np.int32)
    logits = head(model, hidden.reshape(-1, hidden.shape[-1])[mx.array(places)]).astype(mx.float32)
    return nn.losses.cross_entropy(logits, mx.array(targets.reshape(-1)[places]))
