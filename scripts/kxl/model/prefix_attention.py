"""Attention of a batch to one shared prefix and, causally, to its own tokens, in torch: exactly the function and the
gradient of giving each row its own copy of the prefix.

    PrefixAttention.apply(q, prefix_k, prefix_v, k, v)           # on a CPU: two flash kernels, joined
    plain_prefix_attention(q, prefix_k, prefix_v, k, v)          # anywhere
"""

import torch


class PrefixAttention(torch.autograd.Function):
    """Attention of a batch to one shared prefix and, causally, to its own tokens.

    The prefix is attended to by all queries of the batch as one long sequence, so its keys and values are never copied
    per row; the two parts are then weighted by their log-sum-exp. The flash kernel's backward needs only the output and
    log-sum-exp of the whole softmax to give either part's exact gradient (Dao et al. 2022, arXiv 2205.14135,
    appendix B).
    """

    @staticmethod
    def forward(ctx, q, prefix_k, prefix_v, k, v):
        """Output, shaped as q: q [B, kv, G·L, hd] (G query heads per kv head, each L tokens), prefix_k and prefix_v
        [1, kv, P, hd], k and v [B, kv, L, hd].
        """
        groups, length = q.shape[2] // k.shape[2], k.shape[2]
        mask = torch.full((length, length), -torch.inf).triu(1).repeat(groups, 1)[None, None]
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        far, far_sum = (PrefixAttention.by_row(t, len(q)) for t in flash(PrefixAttention.as_one(q), prefix_k, prefix_v))
        near, near_sum = flash(q, k, v, attn_mask=mask)
        total = torch.logaddexp(far_sum, near_sum)
        out = far * (far_sum - total).exp()[..., None] + near * (near_sum - total).exp()[..., None]
        ctx.save_for_backward(q, prefix_k, prefix_v, k, v, mask, out, total)
        return out

    @staticmethod
    def backward(ctx, grad):
        q, prefix_k, prefix_v, k, v, mask, out, total = ctx.saved_tensors
        grad, as_one = grad.contiguous(), PrefixAttention.as_one
        backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        far, far_k, far_v = backward(
            as_one(grad), as_one(q), prefix_k, prefix_v, as_one(out), as_one(total), 0.0, False
        )
        near, near_k, near_v = backward(grad, q, k, v, out, total, 0.0, False, attn_mask=mask)
        return PrefixAttention.by_row(far, len(q)) + near, far_k, far_v, near_k, near_v

    @staticmethod
    def as_one(x: torch.Tensor) -> torch.Tensor:
        """[B, kv, M, ...] → [1, kv, B·M, ...]"""
        return x.transpose(0, 1).flatten(1, 2)[None]

    @staticmethod
    def by_row(x: torch.Tensor, rows: int) -> torch.Tensor:
        """[1, kv, B·M, ...] → [B, kv, M, ...]"""
        return x[0].unflatten(1, (rows, -1)).transpose(0, 1)


def plain_prefix_attention(q, prefix_k, prefix_v, k, v, last: bool = False):
    """What PrefixAttention computes, shapes as there, in plain operations for any device: a GPU has the memory for the
    scores. last: the queries are of the last token alone, which sees all of k."""
    rows, length = len(q), k.shape[2]
    far = PrefixAttention.by_row(PrefixAttention.as_one(q) @ prefix_k.mT, rows)
    near = q @ k.mT
    if not last:
        later = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
        near = near.masked_fill(later.repeat(q.shape[2] // length, 1), -torch.inf)
    weights = torch.softmax(torch.cat([far, near], -1) * q.shape[-1] ** -0.5, -1)
    far, near = weights[..., : far.shape[-1]], weights[..., far.shape[-1] :]
    return PrefixAttention.by_row(PrefixAttention.as_one(far) @ prefix_v, rows) + near @ v
