"""The grouped step: groups of MoE layers in turn, each with its own forward and backward and its own update.

The reference's way (groups of 4, stride 3: seven groups over 22 layers), without its waste. The groups are
taken from the top down: then nothing below a group has changed, so one forward gives the hidden states at
the bottom of every group, and each pass starts there. Above its group a pass only hands the gradient
through; below it nothing is computed and nothing kept.
"""

import time
from dataclasses import replace

import mlx.core as mx

from kxl.base.cli import UserError
from kxl.model.batches import Shares, as_shares
from kxl.moe.core import MixedCore
from kxl.moe.loss import embed
from kxl.moe.streamed import KEEP, Outcome, StepOptions, backward_pass, forward_pass


def groups_of(layers: range, size: int, stride: int) -> list[range]:
    """Groups of `size` layers every `stride`, from the bottom; the last one ends at the last layer.

    UserError when the groups would leave layers out or do not fit.
    """
    if not 1 <= size <= len(layers):
        raise UserError(
            f"a group of {size} layers does not fit: the model has {len(layers)} MoE layers; "
            f"set group_layers to 1..{len(layers)}"
        )
    if not 1 <= stride <= size:
        raise UserError(
            f"a stride of {stride} with groups of {size} would leave layers out; set group_stride to 1..{size}"
        )
    starts = list(range(layers.start, layers.stop - size, stride)) + [layers.stop - size]
    return [range(start, start + size) for start in starts]


def grouped_step(
    core: MixedCore, batch: Shares, update, options: StepOptions, size: int, stride: int, only: int | None = None
) -> Outcome:
    """One batch through all groups. update(pass, layer, expert, gradients). The loss is that of the first pass.

    `only` stops after that many groups, from the top: for measuring.
    """
    groups = groups_of(core.moe_layers, size, stride)[::-1]
    outcome, loss, shares = Outcome(), None, as_shares(batch)
    began = time.monotonic()
    starts = {group.start for group in groups}
    xs = [embed(core, share.tokens) for share in shares]
    xs, bottoms = forward_pass(core, xs, range(groups[0].start), starts, shares, options)
    bottoms[groups[0].start] = [x.astype(KEEP[options.keep]) for x in xs]
    mx.eval(bottoms)
    del xs
    outcome.clock("boundaries", began)
    for number, group in enumerate(groups[:only]):
        xs = [x.astype(mx.float32) for x in bottoms.pop(group.start)]
        backward_pass(
            core, group.start, xs, group, shares, lambda *gradients: update(number, *gradients), options, outcome
        )
        loss = outcome.loss if loss is None else loss
        options = replace(options, guard=lambda where: None)  # weights have changed: the step must be finished
    outcome.loss = loss
    return outcome
