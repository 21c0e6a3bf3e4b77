"""The sparse feed-forward of LFM2-MoE, expert by expert: forward, and backward with each expert's gradients handed out.

Tokens are sorted by expert and each expert multiplies its own rows once, so the work is that of the
active parameters and one expert at a time is dequantized, differentiated, updated and dropped.
T = tokens of the batch, D = hidden size, F = expert width, k = experts per token; all float32.
Router as in transformers 5.23 Lfm2MoeSparseMoeBlock: sigmoid scores, the bias chooses and does not weigh.
"""

import mlx.core as mx
import numpy as np

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
    gate, top = core.weight(router_name(layer)), core.config["num_experts_per_tok"]
    scores = mx.sigmoid(normed @ gate.T)
    bias = f"model.layers.{layer}.feed_forward.expert_bias"
    if bias in core.plain:
        scores = scores + core.weight(bias)
    return gate, mx.argpartition(-scores, kth=top - 1, axis=-1)[:, :top]


def by_expert(chosen: mx.array, real: np.ndarray, experts: int) -> list[np.ndarray]:
    """Per expert the (token, slot) pairs that chose it, as places in the flat [T * k] list. `real` [T]: not padding."""
    flat = np.where(real[:, None], np.array(chosen), experts).ravel()
    order = np.argsort(flat, kind="stable").astype(np.int32)
    ends = np.cumsum(np.bincount(flat, minlength=experts + 1))[:experts]
    return np.split(order, ends)[:experts]


def pieces(pairs: np.ndarray, block: int):
    """At most `block` pairs at a time, which bounds the work of an expert that everybody chose."""
    return (pairs[start : start + block] for start in range(0, len(pairs), block))


def forward(core: MixedCore, layer: int, normed: mx.array, real: np.ndarray, block: int) -> mx.array:
    """Output [T, D]; zero where the token is padding."""
    gate, chosen = choose(core, layer, normed)
    weights = routing_weights(normed, gate, chosen, core.config)
    flat, top = weights.reshape(-1, 1), weights.shape[1]
    output = mx.zeros_like(normed)
    for expert, pairs in enumerate(by_expert(chosen, real, core.config["num_experts"])):
        if not len(pairs):
            continue
        gate_up_down = core.expert_weights(layer, expert)
        mx.eval(gate_up_down)
        w1, w3, w2 = gate_up_down
        for piece in pieces(pairs, block):
            tokens = mx.array(piece // top)
            x = normed[tokens]
            g = x @ w1.T
            out = (g * mx.sigmoid(g) * (x @ w3.T)) @ w2.T * flat[mx.array(piece)]
            output = output.at[tokens].add(out)  # donated: no copy of the whole output
            mx.eval(output)
    return output


def backward(
    core: MixedCore,
    layer: int,
    normed: mx.array,
    d_output: mx.array,
    real: np.ndarray,
    block: int,
    update=None,
    counts=None,
    input_gradient: bool = True,
    router: tuple[float, float] = (0.0, 0.0),
) -> mx.array | None:
    """Gradient at `normed` [T, D], or None if it is not asked for.

    update    update(expert, [dw1, dw3, dw2]) is called once for each expert that saw a token, after its
              weights have served, and update(None, [d_gate]) at the end; None when this layer is not trained
    counts    counts(tokens per expert) returns them summed over all ranks, so that all update the same experts
    router    weights of the balancing loss and the z-loss (router_losses), whose gradients join the router's
    """
    gate, chosen = choose(core, layer, normed)
    weights = routing_weights(normed, gate, chosen, core.config)
    mx.eval(gate, chosen, weights)
    flat, top = weights.reshape(-1, 1), weights.shape[1]
    per_expert = by_expert(chosen, real, core.config["num_experts"])
    seen = np.array([len(pairs) for pairs in per_expert])
    if counts is not None:
        seen = counts(seen)
    d_flat = np.zeros(flat.size, np.float32)
    d_normed = mx.zeros_like(normed) if input_gradient else None
    for expert, pairs in enumerate(per_expert):
        if not seen[expert]:
            continue
        w1, w3, w2 = core.expert_weights(layer, expert)
        gradients = None
        for piece in pieces(pairs, block):
            tokens, weight = mx.array(piece // top), flat[mx.array(piece)]
            x, d = normed[tokens], d_output[tokens]
            g, u = x @ w1.T, x @ w3.T
            s = mx.sigmoid(g)
            a = g * s
            h = a * u
            d_h = d @ w2
            d_weight = (h * d_h).sum(-1)
            d_h = d_h * weight
            d_u, d_g = d_h * a, d_h * u * (s + a * (1 - s))  # the derivative of x * sigmoid(x)
            if input_gradient:
                d_normed = d_normed.at[tokens].add(d_g @ w1 + d_u @ w3)
            if update is not None:
                new = [d_g.T @ x, d_u.T @ x, (d * weight).T @ h]
                gradients = new if gradients is None else [old + more for old, more in zip(gradients, new)]
            mx.eval(d_weight, d_normed, gradients)
            d_flat[piece] = np.array(d_weight, copy=False)
        if update is not None:
            if gradients is None:  # another rank's tokens reached this expert, ours did not
                gradients = [mx.zeros_like(w) for w in (w1, w3, w2)]
            del w1, w3, w2
            update(expert, gradients)
    d_weights = mx.array(d_flat).reshape(weights.shape)
    _, (d_router, d_gate) = mx.vjp(lambda n, g: routing_weights(n, g, chosen, core.config), [normed, gate], [d_weights])
    if any(router):
        kept = mx.array(real.astype(np.float32))
        extra = mx.grad(lambda n, g: router_losses(n, g, kept, seen, core.config, *router), argnums=(0, 1))(
            normed, gate
        )
        d_router, d_gate = d_router + extra[0], d_gate + extra[1]
    if update is not None:
        update(None, [d_gate])
    if not input_gradient:
        return None
    d_normed = d_normed + d_router
    mx.eval(d_normed)
    return d_normed
