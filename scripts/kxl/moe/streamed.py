"""The streamed step: gradients of all experts and routers at once, in one forward and one backward.

The forward keeps each layer's input and nothing else. The backward takes the layers from the top: compute
the layer again from its input, differentiate, hand each expert's gradients to `update`, which changes the
int8 codes in place and drops them, and pass the gradient on. A layer's weights change only after they have
served, so these are the gradients of ordinary autograd through the whole model.

`backward_pass` is also what a group of the grouped step runs; only the layers that are trained differ.
"""

import time
from collections import Counter
from collections.abc import Callable, Container
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from kxl.base.cli import UserError
from kxl.model.batches import Batch
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
    """

    blocks: Blocks = Blocks()
    keep: str = "bfloat16"
    world: mx.distributed.Group | None = None
    guard: Callable[[str], None] = lambda where: None
    done: Callable[[str], None] = lambda part: None
    counted: Callable[[int, np.ndarray], None] = lambda layer, tokens: None
    balance: float = 0.0
    z: float = 0.0

    def sum(self, array: mx.array) -> mx.array:
        """The sum over all ranks, the same bits on each."""
        if self.world is not None and self.world.size() > 1:
            array = mx.distributed.all_sum(array, group=self.world, stream=mx.cpu)
            mx.eval(array)  # the ranks must come to each sum in the same order
        return array


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
    core: MixedCore, x: mx.array, layers: range, kept: Container[int], real: np.ndarray, options: StepOptions
) -> tuple[mx.array, dict]:
    """(output of the last of `layers`, {layer: its input} for those in `kept`)."""
    inputs = {}
    for layer in layers:
        if layer in kept:
            inputs[layer] = x.astype(KEEP[options.keep])
            x = inputs[layer].astype(mx.float32)
            mx.eval(inputs[layer], x)
        core.ahead(layer + 1)
        x = layer_forward(core, layer, x, real, options.blocks)
        core.release(layer)
        options.guard(f"layer {layer}")
        options.done("forward")
    return x, inputs


def score(
    core: MixedCore, hidden: mx.array, batch: Batch, options: StepOptions, gradient: bool = True
) -> tuple[float, mx.array | None]:
    """(loss over all ranks, gradient at `hidden`). UserError if nothing is scored."""
    total = options.sum(mx.array(batch.weights.sum())).item()
    if total == 0:
        raise UserError("no target of this batch is scored, so there is nothing to learn from it")
    loss, d_hidden = loss_and_gradient(
        core,
        hidden.reshape(-1, hidden.shape[-1]),
        batch.targets.ravel(),
        batch.weights.ravel(),
        total,
        options.blocks,
        gradient,
    )
    return options.sum(mx.array(loss)).item(), d_hidden if d_hidden is None else d_hidden.reshape(hidden.shape)


def backward_pass(
    core: MixedCore,
    start: int,
    x: mx.array,
    trained: Container[int],
    batch: Batch,
    update,
    options: StepOptions,
    outcome: Outcome,
) -> None:
    """From `x`, the input of layer `start`, forward to the loss and back to `start`.

    The gradients of the `trained` layers go to update(layer, expert or None, gradients), as experts.backward hands them
    out, summed over the ranks. NotFinite for a loss that is not, with the layer where that began.
    """
    clock = time.monotonic()
    real = batch.real.ravel()
    layers = range(start, core.config["num_hidden_layers"])
    hidden, inputs = forward_pass(core, x, layers, layers, real, options)
    del x
    clock = outcome.clock("forward", clock)
    outcome.layers["forward"] += len(layers)
    outcome.layers["loss"] += 1
    outcome.loss, d = score(core, hidden, batch, options)
    if not np.isfinite(outcome.loss):
        broken = [layer for layer in layers[1:] if not mx.isfinite(inputs[layer]).all().item()]
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
        x = inputs.pop(layer).astype(mx.float32)
        d = layer_backward(
            core,
            layer,
            x,
            d,
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


def streamed_step(core: MixedCore, batch: Batch, update, options: StepOptions) -> Outcome:
    """One step that trains every MoE layer. update(0, layer, expert, gradients); 0 is the pass."""
    outcome = Outcome()
    began = time.monotonic()
    first = core.moe_layers[0]
    x, _ = forward_pass(core, embed(core, batch.tokens), range(first), (), batch.real.ravel(), options)
    outcome.clock("forward", began)
    backward_pass(core, first, x, core.moe_layers, batch, lambda *gradients: update(0, *gradients), options, outcome)
    return outcome


def loss_of(core: MixedCore, batch: Batch, options: StepOptions) -> float:
    """Loss of a batch without training, with the same arithmetic as a step."""
    x, _ = forward_pass(
        core,
        embed(core, batch.tokens),
        range(core.config["num_hidden_layers"]),
        core.moe_layers,
        batch.real.ravel(),
        options,
    )
    return score(core, x, batch, options, gradient=False)[0]


def log_probabilities(core: MixedCore, batch: Batch, options: StepOptions) -> mx.array:
    """Of every next token, [tokens, vocabulary], for a batch of one row: for small models, since it holds them all."""
    layers = range(core.config["num_hidden_layers"])
    x, _ = forward_pass(core, embed(core, batch.tokens), layers, core.moe_layers, batch.real.ravel(), options)
    hidden = mx.fast.rms_norm(x[0], core.weight(NORM), core.config["norm_eps"])
    logits = hidden @ core.weight(EMBEDDING if core.config["tie_word_embeddings"] else "lm_head.weight").T
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)
