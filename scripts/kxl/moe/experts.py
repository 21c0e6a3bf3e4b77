"""The sparse feed-forward of LFM2-MoE, expert by expert: forward, and backward with each expert's gradients handed out.

Tokens are sorted by expert and each expert multiplies its own rows once, so the work is that of the
active parameters and one expert at a time is dequantized, differentiated, updated and dropped.
T = tokens of a share, D = hidden size, F = expert width, k = experts per token; all float32.
A batch comes in shares (batches.py): each is computed by itself, but for the weights, which are made once for all.
Router as in transformers 5.23 Lfm2MoeSparseMoeBlock: sigmoid scores, the bias chooses and does not weigh.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import numpy as np

from kxl.model.batches import add_in_pairs
from kxl.moe.core import MixedCore, router_name


def routing_weights(normed: mx.array, gate: mx.array, chosen: mx.array, config: dict) -> mx.array:
    """Weight of each chosen expert, [T, k]. normed [T, D], gate [experts, D], chosen [T, k]."""
    weights = mx.take_along_axis(mx.sigmoid(normed @ gate.T), chosen, axis=-1)
    if config.get("norm_topk_prob", True):
        weights = weights / (weights.sum(-1, keepdims=True) + 1e-6)
    return weights * config.get("routed_scaling_factor", 1.0)


def router_losses(
    normed: mx.array, gate: mx.array, real: mx.array, seen: np.ndarray, config: dict, balance: float, z: float
) -> mx.array:
    """balance * E * sum_e f_e P_e + z * mean(logsumexp(logits)^2), over real tokens.

    f_e: share of the choices that fell on expert e (`seen`, over all ranks); P_e: mean of its score among the scores'
    sum. Balancing: Fedus et al. 2021 (arXiv 2101.03961), with sigmoid scores normalized as in DeepSeek-V3
    (arXiv 2412.19437); usual weight 0.01. z-loss: Zoph et al. 2022 (arXiv 2202.08906); usual weight 0.001.
    normed [T, D], gate [experts, D], real [T] 1 or 0.
    """
    logits, tokens = normed @ gate.T, float(seen.sum()) / config["num_experts_per_tok"]
    scores = mx.sigmoid(logits)
    shares = scores / (scores.sum(-1, keepdims=True) + 1e-6)
    chosen = mx.array((seen / max(seen.sum(), 1)).astype(np.float32))
    balancing = len(seen) * (chosen * (shares * real[:, None]).sum(0)).sum() / tokens
    return balance * balancing + z * (mx.square(mx.logsumexp(logits, axis=-1)) * real).sum() / tokens


def choose(core: MixedCore, layer: int, normed: mx.array) -> tuple[mx.array, mx.array]:
    """(gate [experts, D], chosen [T, k])."""
    gate, bias = core.weight(router_name(layer)), f"model.layers.{layer}.feed_forward.expert_bias"
    bias = core.weight(bias) if bias in core.plain else None
    return gate, most_wanted(normed, gate, bias, core.config["num_experts_per_tok"])


def most_wanted(normed: mx.array, gate: mx.array, bias: mx.array | None, top: int) -> mx.array:
    """The `top` experts of each token, [T, top]. normed [T, D], gate [experts, D], bias [experts]."""
    scores = mx.sigmoid(normed @ gate.T)
    scores = scores if bias is None else scores + bias
    return mx.argpartition(-scores, kth=top - 1, axis=-1)[:, :top]


def by_expert(chosen: mx.array, real: np.ndarray, experts: int) -> list[np.ndarray]:
    """Per expert the (token, slot) pairs that chose it, as places in the flat [T * k] list. `real` [T]: not padding."""
    flat = np.where(real[:, None], np.array(chosen), experts).ravel()
    order = np.argsort(flat, kind="stable").astype(np.int32)
    ends = np.cumsum(np.bincount(flat, minlength=experts + 1))[:experts]
    return np.split(order, ends)[:experts]


def pieces(pairs: np.ndarray, block: int):
    """At most `block` pairs at a time, which bounds the work of an expert that everybody chose."""
    return (pairs[start : start + block] for start in range(0, len(pairs), block))


@dataclass
class Routed:
    """A share of the batch before a layer's experts, and what its tokens chose.

    normed [T, D], real [T] (not padding), gate [experts, D] (its router, None where nothing differentiates that here),
    chosen and weights [T, k]; per_expert as by_expert gives it. Of the way back: d_output [T, D], d_weights float32
    [T * k], filled expert by expert, and d_normed [T, D], None if it is not asked for.
    """

    normed: mx.array
    real: np.ndarray
    gate: mx.array | None
    chosen: mx.array
    weights: mx.array
    per_expert: list[np.ndarray]
    d_output: mx.array | None = None
    d_weights: np.ndarray | None = None
    d_normed: mx.array | None = None

    @property
    def flat(self) -> mx.array:
        return self.weights.reshape(-1, 1)

    @property
    def top(self) -> int:
        return self.chosen.shape[1]


def route(core: MixedCore, layer: int, normed: mx.array, real: np.ndarray) -> Routed:
    """What the tokens of a share choose."""
    gate, chosen = choose(core, layer, normed)
    weights = routing_weights(normed, gate, chosen, core.config)
    mx.eval(gate, chosen, weights)
    return Routed(normed, real, gate, chosen, weights, by_expert(chosen, real, core.config["num_experts"]))


def forward(core: MixedCore, layer: int, normed: list[mx.array], real: list[np.ndarray], block: int) -> list[mx.array]:
    """Output [T, D] of each share; zero where the token is padding."""
    shares = [route(core, layer, *share) for share in zip(normed, real)]
    return outputs(partial(core.expert_weights, layer), shares, block)


def outputs(weights_of: Callable[[int], list[mx.array]], shares: list[Routed], block: int) -> list[mx.array]:
    """Output [T, D] of each share; weights_of(expert) makes its gate, up and down matrix, float32, when it is due."""
    made = [mx.zeros_like(share.normed) for share in shares]
    for expert in range(len(shares[0].per_expert)):
        if not any(len(share.per_expert[expert]) for share in shares):
            continue
        w1, w3, w2 = weights = weights_of(expert)
        mx.eval(weights)
        for place, share in enumerate(shares):
            for piece in pieces(share.per_expert[expert], block):
                tokens = mx.array(piece // share.top)
                x = share.normed[tokens]
                g = x @ w1.T
                out = (g * mx.sigmoid(g) * (x @ w3.T)) @ w2.T * share.flat[mx.array(piece)]
                made[place] = made[place].at[tokens].add(out)  # donated: no copy of the whole output
                mx.eval(made[place])
    return made


def backward(
    core: MixedCore,
    layer: int,
    normed: list[mx.array],
    d_output: list[mx.array],
    real: list[np.ndarray],
    block: int,
    update=None,
    counts=None,
    input_gradient: bool = True,
    router: tuple[float, float] = (0.0, 0.0),
) -> list[mx.array] | None:
    """Gradient at the `normed` [T, D] of each share, or None if it is not asked for.

    update    update(expert, [dw1, dw3, dw2]) is called once for each expert that saw a token, after its
              weights have served, and update(None, [d_gate]) at the end, with the sums over the shares; None when this
              layer is not trained
    counts    counts(tokens per expert) returns them summed over all ranks, so that all update the same experts
    router    weights of the balancing loss and the z-loss (router_losses), whose gradients join the router's
    """
    shares = [route(core, layer, *share) for share in zip(normed, real)]
    for share, d in zip(shares, d_output):
        share.d_output, share.d_weights = d, np.zeros(share.chosen.size, np.float32)
        share.d_normed = mx.zeros_like(share.normed) if input_gradient else None
    seen = sum(np.array([len(pairs) for pairs in share.per_expert]) for share in shares)
    if counts is not None:
        seen = counts(seen)
    for expert in np.nonzero(seen)[0].tolist():
        part = partial(expert_backward, expert, core.expert_weights(layer, expert), block, update is not None)
        gradients = add_in_pairs(part, shares)
        del part  # and the weights with it
        if update is not None:
            update(expert, gradients)
        del gradients
    d_gate = add_in_pairs(partial(_router_backward, seen, core.config, router), shares)
    if update is not None:
        update(None, d_gate)
    return [share.d_normed for share in shares] if input_gradient else None


def expert_backward(expert: int, weights: list, block: int, trained: bool, share: Routed) -> list[mx.array]:
    """An expert's part in the gradients of a share, which are added there; those of its weights, lazy, if `trained`."""
    (w1, w3, w2), gradients = weights, []
    for piece in pieces(share.per_expert[expert], block):
        mx.eval(gradients)  # of the piece before
        tokens, weight = mx.array(piece // share.top), share.flat[mx.array(piece)]
        x, d = share.normed[tokens], share.d_output[tokens]
        g, u = x @ w1.T, x @ w3.T
        s = mx.sigmoid(g)
        a = g * s
        h = a * u
        d_h = d @ w2
        d_weight = (h * d_h).sum(-1)
        d_h = d_h * weight
        d_u, d_g = d_h * a, d_h * u * (s + a * (1 - s))  # the derivative of x * sigmoid(x)
        if share.d_normed is not None:
            share.d_normed = share.d_normed.at[tokens].add(d_g @ w1 + d_u @ w3)
        if trained:
            new = [d_g.T @ x, d_u.T @ x, (d * weight).T @ h]
            gradients = [old + more for old, more in zip(gradients, new)] if gradients else new
        mx.eval(d_weight, share.d_normed)
        share.d_weights[piece] = np.array(d_weight, copy=False)
    if trained and not gradients:  # tokens of another share reached this expert, none of this one
        gradients = [mx.zeros_like(w) for w in weights]
    return gradients


def _router_backward(seen: np.ndarray, config: dict, router: tuple[float, float], share: Routed) -> list[mx.array]:
    """The router's part in the gradient at a share's `normed`, which is added there; [d_gate], lazy."""
    _, (d_router, d_gate) = mx.vjp(
        lambda n, g: routing_weights(n, g, share.chosen, config),
        [share.normed, share.gate],
        [mx.array(share.d_weights).reshape(share.weights.shape)],
    )
    if any(router):
        kept = mx.array(share.real.astype(np.float32))
        extra = mx.grad(lambda n, g: router_losses(n, g, kept, seen, config, *router), argnums=(0, 1))(
            share.normed, share.gate
        )
        d_router, d_gate = d_router + extra[0], d_gate + extra[1]
    if share.d_normed is not None:
        share.d_normed = share.d_normed + d_router
        mx.eval(share.d_normed)
    return [d_gate]
