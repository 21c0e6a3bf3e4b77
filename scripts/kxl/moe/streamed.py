"""The streamed step: gradients of all experts and routers at once, in one forward and one backward.

The forward keeps each layer's input and nothing else. The backward takes the layers from the top: compute
the layer again from its input, differentiate, hand each expert's gradients to `update`, which changes the
int8 codes in place and drops them, and pass the gradient on. A layer's weights change only after they have
served, so these are the gradients of ordinary autograd through the whole model.

`backward_pass` is also what a group of the grouped step runs; only the layers that are trained differ.

A batch may come in shares (batches.py). They go through each layer one after the other, its weights are made once for
all, and their gradients, losses and counts are added in one order, over this process's shares and then over the ranks.
"""

import time
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from kxl.base.cli import UserError
from kxl.model.batches import Batch, Shares, add_in_pairs, add_over_ranks, as_shares
from kxl.moe.core import MixedCore
from kxl.moe.layers import Blocks, layer_backward, layer_forward
from kxl.moe.loss import EMBEDDING, NORM, embed, loss_and_gradient

KEEP = {"bfloat16": mx.bfloat16, "float32": mx.float32}


class NotFinite(Exception):
    """A loss or gradient that is NaN or infinite; says where."""


@dataclass(frozen=True)
class StepOptions:
    """How to compute: block sizes, the type in which layer inputs are kept, the ranks to add gradients over, a guard.

    The residual stream is rounded to `keep` where it is kept, in the forward too, so that the backward
    differentiates what the forward computed. `guard(where)` is called between layers while no weight has
    changed yet, and may raise to give the step up. `done(part)` is told of each layer that is through, by the
    parts of Outcome. `counted(layer, tokens)` is told how many tokens of all ranks reached each expert, before the
    layer's updates. `balance` and `z` weigh the router's losses (experts.router_losses); 0 leaves them out.
    `in_pairs`: the ranks' sums are added in the order of the shares (batches.add_over_ranks).
    """

    blocks: Blocks = Blocks()
    keep: str = "bfloat16"
    world: mx.distributed.Group | None = None
    guard: Callable[[str], None] = lambda where: None
    done: Callable[[str], None] = lambda part: None
    counted: Callable[[int, np.ndarray], None] = lambda layer, tokens: None
    balance: float = 0.0
    z: float = 0.0
    in_pairs: bool = False

    def sum(self, array: mx.array) -> mx.array:
        """The sum over all ranks, the same bits on each."""
        return add_over_ranks(array, self.world, self.in_pairs)

    def sum_of(self, numbers: list[float]) -> float:
        """The sum over the shares of all ranks, in float32."""
        (own,) = add_in_pairs(lambda number: [mx.array(number, mx.float32)], numbers)
        return self.sum(own).item()


@dataclass
class Outcome:
    """loss: mean cross-entropy per scored target, nats, over all ranks. seconds and layers by part of the work:

    forward, loss, trained (backward of layers that learn; `update` is a part of it), passed (backward of layers
    that only hand the gradient down), and boundaries (the grouped step's forward to its groups' bottoms).
    """

    loss: float = 0.0
    seconds: Counter = field(default_factory=Counter)
    layers: Counter = field(default_factory=Counter)

    def clock(self, part: str, since: float) -> float:
        now = time.monotonic()
        self.seconds[part] += now - since
        return now


def forward_pass(
    core: MixedCore,
    xs: list[mx.array],
    layers: range,
    kept: Container[int],
    shares: Sequence[Batch],
    options: StepOptions,
) -> tuple[list[mx.array], dict]:
    """(outputs of the last of `layers`, {layer: its inputs} for those in `kept`), each a list by share like `xs`."""
    inputs, real = {}, [share.real.ravel() for share in shares]
    for layer in layers:
        if layer in kept:
            inputs[layer] = [x.astype(KEEP[options.keep]) for x in xs]
            xs = [x.astype(mx.float32) for x in inputs[layer]]
            mx.eval(inputs[layer], xs)
        core.ahead(layer + 1)
        xs = layer_forward(core, layer, xs, real, options.blocks)
        core.release(layer)
        options.guard(f"layer {layer}")
        options.done("forward")
    return xs, inputs


def score(
    core: MixedCore,
    hidden: list[mx.array],
    shares: Sequence[Batch],
    options: StepOptions,
    gradient: bool = True,
) -> tuple[float, list[mx.array | None]]:
    """(loss over all ranks, gradient at each share's `hidden`). UserError if nothing is scored."""
    total = options.sum_of([share.weights.sum() for share in shares])
    if total == 0:
        raise UserError("no target of this batch is scored, so there is nothing to learn from it")
    losses, d_hidden = [], []
    for x, share in zip(hidden, shares):
        loss, d = loss_and_gradient(
            core,
            x.reshape(-1, x.shape[-1]),
            share.targets.ravel(),
            share.weights.ravel(),
            total,
            options.blocks,
            gradient,
        )
        losses.append(loss)
        d_hidden.append(d if d is None else d.reshape(x.shape))
    return options.sum_of(losses), d_hidden


def backward_pass(
    core: MixedCore,
    start: int,
    xs: list[mx.array],
    trained: Container[int],
    shares: Sequence[Batch],
    update,
    options: StepOptions,
    outcome: Outcome,
) -> None:
    """From `xs`, the inputs of layer `start` by share, forward to the loss and back to `start`.

    The gradients of the `trained` layers go to update(layer, expert or None, gradients), as experts.backward hands them
    out, summed over the ranks. NotFinite for a loss that is not, with the layer where that began.
    """
    clock = time.monotonic()
    layers = range(start, core.config["num_hidden_layers"])
    hidden, inputs = forward_pass(core, xs, layers, layers, shares, options)
    del xs
    real = [share.real.ravel() for share in shares]
    clock = outcome.clock("forward", clock)
    outcome.layers["forward"] += len(layers)
    outcome.layers["loss"] += 1
    outcome.loss, ds = score(core, hidden, shares, options)
    if not np.isfinite(outcome.loss):
        broken = [layer for layer in layers[1:] if not all(mx.isfinite(x).all().item() for x in inputs[layer])]
        raise NotFinite(
            f"the loss is {outcome.loss}; "
            + (
                f"layer {broken[0] - 1} is the first whose output is not finite"
                if broken
                else f"the output of layer {layers[-1]} or the head is not finite"
            )
        )
    del hidden
    clock = outcome.clock("loss", clock)

    for layer in reversed(layers):

        def counts(seen: np.ndarray, layer=layer) -> np.ndarray:
            seen = np.array(options.sum(mx.array(seen)))
            options.counted(layer, seen)
            return seen

        def hand_out(expert, gradients, layer=layer):
            gradients = [options.sum(gradient) for gradient in gradients]
            mx.eval(gradients)
            began = time.monotonic()
            update(layer, expert, gradients)
            outcome.clock("update", began)

        part = "trained" if layer in trained else "passed"
        core.ahead(layer - 1)
        xs = [x.astype(mx.float32) for x in inputs.pop(layer)]
        ds = layer_backward(
            core,
            layer,
            xs,
            ds,
            real,
            options.blocks,
            hand_out if layer in trained else None,
            counts,
            input_gradient=layer > start,
            router=(options.balance, options.z) if layer in trained else (0.0, 0.0),
        )
        core.release(layer, changed=layer in trained)
        clock = outcome.clock(part, clock)
        outcome.layers[part] += 1
        options.done(part)


def streamed_step(core: MixedCore, batch: Shares, update, options: StepOptions) -> Outcome:
    """One step that trains every MoE layer. update(0, layer, expert, gradients); 0 is the pass."""
    outcome, shares = Outcome(), as_shares(batch)
    began = time.monotonic()
    first = core.moe_layers[0]
    xs, _ = forward_pass(core, [embed(core, share.tokens) for share in shares], range(first), (), shares, options)
    outcome.clock("forward", began)
    backward_pass(core, first, xs, core.moe_layers, shares, lambda *gradients: update(0, *gradients), options, outcome)
    return outcome


def loss_of(core: MixedCore, batch: Batch, options: StepOptions) -> float:
    """Loss of a batch without training, with the same arithmetic as a step."""
    layers = range(core.config["num_hidden_layers"])
    xs, _ = forward_pass(core, [embed(core, batch.tokens)], layers, core.moe_layers, [batch], options)
    return score(core, xs, [batch], options, gradient=False)[0]


def log_probabilities(core: MixedCore, batch: Batch, options: StepOptions) -> mx.array:
    """Of every next token, [tokens, vocabulary], for a batch of one row: for small models, since it holds them all."""
    layers = range(core.config["num_hidden_layers"])
    (x,), _ = forward_pass(core, [embed(core, batch.tokens)], layers, core.moe_layers, [batch], options)
    hidden = mx.fast.rms_norm(x[0], core.weight(NORM), core.config["norm_eps"])
    logits = hidden @ core.weight(EMBEDDING if core.config["tie_word_embeddings"] else "lm_head.weight").T
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)
