"""LFM2-MoE layer by layer, as functions: forward, and backward from the layer's input alone.

Each function takes the layer's input again and recomputes what it needs, in blocks of tokens or queries,
so that nothing between the layers is kept and no score matrix exists as a whole. Only the experts and
routers have weight gradients (experts.py); all else passes the gradient to its input.
x is [B, L, D] float32: B sequences, padded on the right to L tokens, D = hidden size. A batch comes in shares
(batches.py), each with a B and an L of its own; one after the other goes through a layer's operator.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from kxl.model.exponentials import softmax, softmax_backward
from kxl.moe import experts
from kxl.moe.core import MixedCore


@dataclass(frozen=True)
class Blocks:
    """How much is in work at once. More is hardly faster on a CPU; the memory model knows these numbers."""

    tokens: int = 2048  # rows of a projection, a convolution, or one expert
    queries: int = 256  # rows of a score matrix, for the heads of one key
    logits: int = 256  # positions of the loss
    vocabulary: int = 8192  # rows of the embedding in float32


def layer_forward(
    core: MixedCore, layer: int, xs: list[mx.array], real: list[np.ndarray], blocks: Blocks
) -> list[mx.array]:
    """Output of a layer, by share. `real` bool [B * L] each: False for padding."""
    h = _residual(core, layer, xs, blocks)
    norm = f"model.layers.{layer}.ffn_norm.weight"
    if layer in core.moe_layers:
        normed = [_flat(_norm(core, norm, x)) for x in h]
        outputs = experts.forward(core, layer, normed, real, blocks.tokens)
        del normed
    else:
        outputs = [dense(core, layer, _norm(core, norm, x), blocks) for x in h]
    for place, x in enumerate(h):
        outputs[place] = x + outputs[place].reshape(x.shape)
        mx.eval(outputs[place])
    return outputs


def layer_backward(
    core: MixedCore,
    layer: int,
    xs: list[mx.array],
    d_outputs: list[mx.array],
    real: list[np.ndarray],
    blocks: Blocks,
    update=None,
    counts=None,
    input_gradient: bool = True,
    router: tuple[float, float] = (0.0, 0.0),
) -> list[mx.array] | None:
    """Gradient at the input of an MoE layer, by share; its weights' gradients go to `update` (experts.backward)."""
    h = _residual(core, layer, xs, blocks)
    norm = core.weight(f"model.layers.{layer}.ffn_norm.weight")
    eps = core.config["norm_eps"]
    normed = [mx.fast.rms_norm(x, norm, eps) for x in h]
    mx.eval(h, normed)
    d_normed = experts.backward(
        core,
        layer,
        [_flat(x) for x in normed],
        [_flat(d) for d in d_outputs],
        real,
        blocks.tokens,
        update,
        counts,
        input_gradient,
        router,
    )
    if not input_gradient:
        return None
    del normed
    d_h = []
    for x, d in zip(h, d_outputs):
        _, (d_x,) = mx.vjp(lambda h: mx.fast.rms_norm(h, norm, eps), [x], [d_normed.pop(0).reshape(x.shape)])
        d_h.append(d + d_x)
        mx.eval(d_h[-1])
    del h, x, d_x
    return operator_backward(core, layer, xs, d_h, blocks)


def _residual(core: MixedCore, layer: int, xs: list[mx.array], blocks: Blocks) -> list[mx.array]:
    """Each share's input plus the operator's output."""
    operator, sums = _operator(core, layer), []
    for x in xs:
        sums.append(x + operator.forward(x, blocks))
        mx.eval(sums[-1])
    return sums


def _flat(x: mx.array) -> mx.array:
    """[B, L, D] to [B * L, D]."""
    return x.reshape(-1, x.shape[-1])


def _norm(core: MixedCore, name: str, x: mx.array) -> mx.array:
    return mx.fast.rms_norm(x, core.weight(name), core.config["norm_eps"])


def dense(core: MixedCore, layer: int, normed: mx.array, blocks: Blocks) -> mx.array:
    """SwiGLU of the first layers."""
    w1, w3, w2 = (core.weight(f"model.layers.{layer}.feed_forward.{name}.weight") for name in ("w1", "w3", "w2"))
    outputs = []
    for start in range(0, normed.shape[1], blocks.tokens):
        x = normed[:, start : start + blocks.tokens]
        g = x @ w1.T
        outputs.append((g * mx.sigmoid(g) * (x @ w3.T)) @ w2.T)
        mx.eval(outputs[-1])
    return mx.concatenate(outputs, axis=1)


def _operator(core: MixedCore, layer: int):
    """Attention or short convolution of the normed input."""
    kind = _Attention if core.config["layer_types"][layer] == "full_attention" else _ShortConv
    return kind(core, layer)


def operator_backward(
    core: MixedCore, layer: int, xs: list[mx.array], ds: list[mx.array], blocks: Blocks
) -> list[mx.array]:
    """Gradient at the operator's input plus that at the residual beside it, `ds`, which are taken out of their list."""
    operator, d_xs = _operator(core, layer), []
    for x in xs:
        d = ds.pop(0)
        d_xs.append(d + operator.backward(x, d, blocks))
        mx.eval(d_xs[-1])
    return d_xs


def rope_theta(config: dict) -> float:
    """transformers 5 keeps it in rope_parameters, LFM2's own config at the top."""
    return (config.get("rope_parameters") or {}).get("rope_theta") or config.get("rope_theta", 1000000.0)


class _Attention:
    """Causal attention with rotary positions; queries share the keys of their group."""

    def __init__(self, core: MixedCore, layer: int):
        config, prefix = core.config, f"model.layers.{layer}"
        self.heads, self.keys = config["num_attention_heads"], config["num_key_value_heads"]
        self.size = config["hidden_size"] // self.heads
        self.eps, self.theta = config["norm_eps"], rope_theta(config)
        self.norm = core.weight(f"{prefix}.operator_norm.weight")
        self.q, self.k, self.v, self.out = (
            core.weight(f"{prefix}.self_attn.{n}_proj.weight") for n in ("q", "k", "v", "out")
        )
        self.q_norm, self.k_norm = (core.weight(f"{prefix}.self_attn.{n}_layernorm.weight") for n in ("q", "k"))

    def forward(self, x: mx.array, blocks: Blocks) -> mx.array:
        q, k, v = self.project_all(x, blocks)
        outputs = []
        for start in range(0, x.shape[1], blocks.queries):
            end = min(start + blocks.queries, x.shape[1])
            heads = []
            for key in range(self.keys):
                heads.append(attend(q[:, key, :, start:end], k[:, key, :end], v[:, key, :end]))
                mx.eval(heads[-1])
            outputs.append(self.merge(mx.stack(heads, 1)) @ self.out.T)
            mx.eval(outputs[-1])
        return mx.concatenate(outputs, axis=1)

    def backward(self, x: mx.array, d: mx.array, blocks: Blocks) -> mx.array:
        q, k, v = self.project_all(x, blocks)
        d_q, d_k, d_v = (
            [],
            [mx.zeros_like(k[:, 0]) for _ in range(self.keys)],
            [mx.zeros_like(k[:, 0]) for _ in range(self.keys)],
        )
        for start in range(0, x.shape[1], blocks.queries):
            end = min(start + blocks.queries, x.shape[1])
            d_merged = d[:, start:end] @ self.out
            d_heads = d_merged.reshape(*d_merged.shape[:2], self.keys, -1, self.size).transpose(0, 2, 3, 1, 4)
            d_block = []
            for key in range(self.keys):
                to_q, to_k, to_v = attend_backward(
                    q[:, key, :, start:end], k[:, key, :end], v[:, key, :end], d_heads[:, key]
                )
                d_k[key] = d_k[key].at[:, :end].add(to_k)
                d_v[key] = d_v[key].at[:, :end].add(to_v)
                d_block.append(to_q)
                mx.eval(to_q, d_k[key], d_v[key])
            d_q.append(mx.stack(d_block, 1))
        d_q, d_k, d_v = mx.concatenate(d_q, axis=3), mx.stack(d_k, 1), mx.stack(d_v, 1)
        mx.eval(d_q, d_k, d_v)
        del q, k, v
        d_x = []
        for start in range(0, x.shape[1], blocks.tokens):
            part = slice(start, start + blocks.tokens)
            d_projected = [d_q[:, :, :, part], d_k[:, :, part], d_v[:, :, part]]
            _, (d_part,) = mx.vjp(lambda x: self.project(x, start), [x[:, part]], d_projected)
            d_x.append(d_part)
            mx.eval(d_part)
        return mx.concatenate(d_x, axis=1)

    def project_all(self, x: mx.array, blocks: Blocks) -> list[mx.array]:
        """q [B, keys, heads per key, L, size], k and v [B, keys, L, size]."""
        parts = []
        for start in range(0, x.shape[1], blocks.tokens):
            parts.append(self.project(x[:, start : start + blocks.tokens], start))
            mx.eval(parts[-1])
        arrays = [mx.concatenate([part[i] for part in parts], axis=-2) for i in range(3)]
        mx.eval(arrays)
        return arrays

    def project(self, x: mx.array, start: int) -> list[mx.array]:
        """Queries, keys and values of tokens that stand at `start` and after."""
        batch, length, _ = x.shape
        x = mx.fast.rms_norm(x, self.norm, self.eps)
        q = mx.fast.rms_norm(
            (x @ self.q.T).reshape(batch, length, self.heads, self.size), self.q_norm, self.eps
        ).swapaxes(1, 2)
        k = mx.fast.rms_norm(
            (x @ self.k.T).reshape(batch, length, self.keys, self.size), self.k_norm, self.eps
        ).swapaxes(1, 2)
        v = (x @ self.v.T).reshape(batch, length, self.keys, self.size).swapaxes(1, 2)
        q, k = (mx.fast.rope(a, self.size, traditional=False, base=self.theta, scale=1.0, offset=start) for a in (q, k))
        return [q.reshape(batch, self.keys, -1, length, self.size), k, v]

    def merge(self, heads: mx.array) -> mx.array:
        """[B, keys, h, n, size] to [B, n, D]."""
        return heads.transpose(0, 3, 1, 2, 4).reshape(heads.shape[0], heads.shape[3], -1)


def attend(q: mx.array, k: mx.array, v: mx.array) -> mx.array:
    """q [B, h, n, size] are the last n positions of k and v [B, m, size]; returns [B, h, n, size]."""
    return (_shares(q, k) @ v).reshape(q.shape)


def attend_backward(q: mx.array, k: mx.array, v: mx.array, d: mx.array) -> list[mx.array]:
    """Gradients at q, k and v, where d [B, h, n, size] is the one at attend's result."""
    shares, rows = _shares(q, k), (q.shape[0], -1, q.shape[-1])
    d = d.reshape(rows)
    d_v = shares.swapaxes(1, 2) @ d
    d_scores, scale = softmax_backward(shares, d @ v.swapaxes(1, 2)), q.shape[-1] ** -0.5
    return [(d_scores @ k * scale).reshape(q.shape), d_scores.swapaxes(1, 2) @ (q.reshape(rows) * scale), d_v]


def _shares(q: mx.array, k: mx.array) -> mx.array:
    """Softmax of the scores, [B, h * n, m]: what each query takes of each position."""
    batch, heads, n, size = q.shape
    scores = (q.reshape(batch, heads * n, size) * size**-0.5) @ k.swapaxes(1, 2)
    return softmax(scores, hidden=~np.tri(n, dtype=bool))  # only the last n positions can lie behind a query


class _ShortConv:
    """Gated causal depthwise convolution over the last `kernel` positions."""

    def __init__(self, core: MixedCore, layer: int):
        prefix = f"model.layers.{layer}"
        self.kernel, self.eps = core.config["conv_L_cache"], core.config["norm_eps"]
        self.norm = core.weight(f"{prefix}.operator_norm.weight")
        self.into, self.out = (core.weight(f"{prefix}.conv.{n}_proj.weight") for n in ("in", "out"))
        self.taps = core.weight(f"{prefix}.conv.conv.weight")[:, 0]  # [D, kernel]
        names = [f"{prefix}.conv.{n}.bias" for n in ("in_proj", "conv", "out_proj")]
        self.biases = [core.weight(name) for name in names] if names[0] in core.plain else [0.0] * 3

    def forward(self, x: mx.array, blocks: Blocks) -> mx.array:
        outputs = []
        for start in range(0, x.shape[1], blocks.tokens):
            before = min(start, self.kernel - 1)
            outputs.append(self.piece(x[:, start - before : start + blocks.tokens], before))
            mx.eval(outputs[-1])
        return mx.concatenate(outputs, axis=1)

    def backward(self, x: mx.array, d: mx.array, blocks: Blocks) -> mx.array:
        parts, carried = [], None  # what a block owes to the end of the block before it
        for start in reversed(range(0, x.shape[1], blocks.tokens)):
            before = min(start, self.kernel - 1)
            _, (d_block,) = mx.vjp(
                lambda x: self.piece(x, before),
                [x[:, start - before : start + blocks.tokens]],
                [d[:, start : start + blocks.tokens]],
            )
            own = d_block[:, before:]
            if carried is not None:
                own = own.at[:, -carried.shape[1] :].add(carried)
            carried = d_block[:, :before] if before else None
            parts.append(own)
            mx.eval(own, [] if carried is None else carried)
        return mx.concatenate(parts[::-1], axis=1)

    def piece(self, x: mx.array, before: int) -> mx.array:
        """Output of all positions of x but the first `before`, which are there to be looked back at."""
        gate_in, gate_out, value = mx.split(
            mx.fast.rms_norm(x, self.norm, self.eps) @ self.into.T + self.biases[0], 3, axis=-1
        )
        gated = mx.pad(gate_in * value, [(0, 0), (self.kernel - 1 - before, 0), (0, 0)])
        length = x.shape[1] - before
        mixed = sum(gated[:, j : j + length] * self.taps[:, j] for j in range(self.kernel)) + self.biases[1]
        return (gate_out[:, before:] * mixed) @ self.out.T + self.biases[2]
