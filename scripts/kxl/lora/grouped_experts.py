"""The experts of an LFM2-MoE in mlx-lm, computed with one matmul per expert, for training on a CPU.

mlx-lm multiplies experts with gather_mm, which runs at 2 GFLOP/s on a CPU; sorted by expert, each
expert's rows are one float32 matmul, which goes through the fast BLAS. Only for frozen experts: the
gradient at the input is exact; what it needs is computed again on the way back. There is none at the experts.
On a GPU gather_mm is the fast way, and nothing is replaced.
"""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.switch_layers import SwitchGLU

from kxl.lora import eager
from kxl.model import exponentials


class GroupedExperts(nn.Module):
    """In place of a SwitchGLU, around the same matrices."""

    def __init__(self, experts: SwitchGLU):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = experts.gate_proj, experts.up_proj, experts.down_proj

    def __call__(self, x: mx.array, chosen: mx.array) -> mx.array:
        """x [..., D], chosen [..., k] expert numbers; returns [..., k, D], not yet weighted."""
        chosen = eager.finished(chosen)
        top, width = chosen.shape[-1], x.shape[-1]
        flat = np.array(chosen).reshape(-1)
        order = np.argsort(flat, kind="stable").astype(np.int32)  # of (token, choice) pairs, by expert
        back = np.empty_like(order)
        back[order] = np.arange(len(order), dtype=np.int32)
        experts, starts = np.unique(flat[order], return_index=True)
        pieces = [(int(expert), slice(*ends)) for expert, *ends in zip(experts, starts, [*starts[1:], None])]
        tokens, back = mx.array(order // top), mx.array(back)
        mx.eval(self.gate_proj.weight, self.up_proj.weight, self.down_proj.weight)

        # Outside of MLX's graph, which would keep every array of every expert until the end: 40 for each token.
        def forward(x: mx.array) -> mx.array:
            rows, outputs = x.reshape(-1, width)[tokens], []
            for expert, piece in pieces:
                gate, up, down = self._matrices(expert)
                g, u = rows[piece] @ gate.T, rows[piece] @ up.T
                outputs.append((g * _sigmoid(g) * u) @ down.T)
                mx.eval(outputs[-1])
            return mx.concatenate(outputs)[back].reshape(*chosen.shape, width)

        def backward(d: mx.array, x: mx.array) -> list[mx.array]:
            rows, d_rows, d_pieces = x.reshape(-1, width)[tokens], d.reshape(-1, width)[mx.array(order)], []
            for expert, piece in pieces:
                gate, up, down = self._matrices(expert)
                g, u, d_h = rows[piece] @ gate.T, rows[piece] @ up.T, d_rows[piece] @ down
                s = _sigmoid(g)
                a = g * s
                d_pieces.append((d_h * u * (s + a * (1 - s))) @ gate + (d_h * a) @ up)
                mx.eval(d_pieces[-1])
            return [mx.concatenate(d_pieces)[back].reshape(-1, top, width).sum(1).reshape(x.shape)]

        return eager.function(forward, backward)(x)

    def _matrices(self, expert: int) -> list[mx.array]:
        return [part.weight[expert] for part in (self.gate_proj, self.up_proj, self.down_proj)]


def _sigmoid(x: mx.array) -> mx.array:
    return 1 / (1 + exponentials.exp(-x))


class ShiftedConv(nn.Module):
    """In place of a short convolution's depthwise Conv1d: one product per tap, which autograd takes apart cheaply."""

    def __init__(self, conv: nn.Conv1d):
        super().__init__()
        self.weight = conv.weight  # [D, taps, 1]
        if "bias" in conv:
            self.bias = conv.bias

    def __call__(self, x: mx.array) -> mx.array:
        """x [B, L + taps - 1, D], padded or continued on the left; returns [B, L, D]."""
        taps = self.weight.shape[1]
        length = x.shape[1] - taps + 1
        y = sum(x[:, tap : tap + length] * self.weight[:, tap, 0] for tap in range(taps))
        return y + self.bias if "bias" in self else y


def use(model) -> int:
    """Replace experts and short convolutions of an mlx-lm model that computes on a CPU; returns how many."""
    if mx.default_device() != mx.cpu:
        return 0
    replaced = 0
    for layer in model.layers:
        feed_forward, conv = getattr(layer, "feed_forward", None), getattr(layer, "conv", None)
        if isinstance(getattr(feed_forward, "switch_mlp", None), SwitchGLU):
            experts = feed_forward.switch_mlp
            parts = (experts.gate_proj, experts.up_proj, experts.down_proj)
            if not all(hasattr(part, "weight") and part.weight.dtype == mx.float32 for part in parts):
                raise ValueError("the experts must be float32 here: load the checkpoint with kxl.model.generate.load")
            feed_forward.switch_mlp = GroupedExperts(feed_forward.switch_mlp)
            replaced += 1
        if isinstance(getattr(conv, "conv", None), nn.Conv1d):
            conv.conv = ShiftedConv(conv.conv)
            replaced += 1
    return replaced
