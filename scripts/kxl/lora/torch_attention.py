"""Attention over a pack, with a backward pass of plain matrix products.

torch's own kernel walks its backward pass in small tiles, which a processor that multiplies BF16 in hardware (AMX)
does slowly: 56 ms a layer of SmolLM2-135M at 1,000 tokens, forward and backward, on two such cores; this takes 33. It
keeps the attention weights of each layer for the backward pass: heads × N² numbers. A pack has at most a few thousand
tokens, so that is 18 MB a layer at 1,000 tokens in BF16.
"""

import torch
from transformers import AttentionInterface

NAME = "pack"


class Attention(torch.autograd.Function):
    """softmax(scale Q Kᵀ + bias) V by head; q, k, v [H, N, d], bias [N, N]: 0 where seen, -inf elsewhere."""

    @staticmethod
    def forward(ctx, q, k, v, bias, scale):
        scores = torch.baddbmm(bias.expand(len(q), *bias.shape), q, k.transpose(1, 2), alpha=scale)
        weights = torch.softmax(scores, -1)
        ctx.save_for_backward(q, k, v, weights)
        ctx.scale = scale
        return weights @ v

    @staticmethod
    def backward(ctx, gradient):
        q, k, v, weights = ctx.saved_tensors
        to_weights = gradient @ v.transpose(1, 2)
        # softmax: ds = w (dw - Σ w dw), summed over a row; fused, so that no third [H, N, N] is made
        to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
        to_q = (to_scores @ k) * ctx.scale
        to_k = (to_scores.transpose(1, 2) @ q) * ctx.scale
        return to_q, to_k, weights.transpose(1, 2) @ gradient, None, None


def bias_of(visible: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The bias [1, 1, N, N] of visible bool [N, N]; each row must see at least itself."""
    bias = torch.zeros(visible.shape, dtype=dtype)
    return bias.masked_fill_(~visible, float("-inf"))[None, None]


def attend(module, query, key, value, attention_mask, scaling: float, dropout: float = 0.0, **_):
    """transformers' attention function: query [1, H, N, d], key and value [1, Hk, N, d] to [1, N, H, d].

    ValueError for more than one pack, for dropout, and without a bias.
    """
    if len(query) != 1 or dropout or attention_mask is None:
        raise ValueError("this attention takes one pack with its bias, without dropout")
    times = query.shape[1] // key.shape[1]
    key, value = (array[0].repeat_interleave(times, 0) for array in (key, value))
    mixed = Attention.apply(query[0], key, value, attention_mask[0, 0], scaling)
    return mixed.transpose(0, 1)[None].contiguous(), None


AttentionInterface.register(NAME, attend)
