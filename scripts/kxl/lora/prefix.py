"""A batch of rows that begin alike: the loss, and with it the gradient, for about the cost of one row.

    batch = prefix.collate([Example(*loss_mask.tokens_and_mask(chat, row)) for row in rows])
    value = prefix.loss(model, batch)    # mean cross-entropy in nats; differentiable

Rows of tool calling begin with the same thousands of tokens of system prompt and tool list, before a request of
twenty. What is equal in all of them, tokens and loss alike, goes through the model once; its keys, values and conv
states are then shared by the rows, with gradient. That is exactly the function, and the gradient, of running each row
by itself (tests/lora/test_prefix.py). Logits are computed only where there is loss.
"""

import random
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import ArraysCache, KVCache, make_prompt_cache

from kxl.base.cli import UserError
from kxl.lora.loss import token_losses
from kxl.model.batches import Batch, make_batch

# Neighbours in sorted order may share a batch when they share this much of the shorter one, or when neither has more
# than OWN_TOKENS of its own: rows without a tool list are that short, and alone each would be a step.
SAME_BEGINNING = 0.5
OWN_TOKENS = 256
WINDOW = 8  # batches whose rows are sorted by length, so that little of a batch is padding
BLOCK = 512  # tokens of a beginning that go through the model at a time where no gradient does


@dataclass(frozen=True)
class Example:
    """One row: tokens int32 [N]; mask bool [N], True where the token has loss (both from loss_mask)."""

    tokens: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class SharedBatch:
    """B rows cut into P inputs that all of them share and, in `own`, at most L of each row's own, padded on the right.

    shared and shared_targets int [P], shared_weights float [P], as for one row.
    """

    shared: np.ndarray
    shared_targets: np.ndarray
    shared_weights: np.ndarray
    own: Batch

    @property
    def rows(self) -> int:
        return len(self.own.tokens)

    @property
    def scored(self) -> int:
        """Tokens with loss, those of the shared beginning counted in each row."""
        return int(self.own.weights.sum() + self.rows * self.shared_weights.sum())


def same_beginning(a: np.ndarray, b: np.ndarray) -> int:
    """How many leading entries are equal."""
    length = min(len(a), len(b))
    different = np.nonzero(a[:length] != b[:length])[0]
    return int(different[0]) if len(different) else length


def collate(examples: list) -> SharedBatch:
    """A batch with the longest shared beginning that leaves each row one input of its own. One row shares nothing."""
    first, shared = examples[0], 0
    if len(examples) > 1:
        shared = min(len(example.tokens) for example in examples) - 2
        for other in examples[1:]:
            # Inputs and targets alike: a target is the next token, so one more of those must be equal.
            shared = min(shared, same_beginning(first.tokens, other.tokens) - 1)
            shared = min(shared, same_beginning(first.mask[1:], other.mask[1:]))
        shared = max(shared, 0)
    own = make_batch([(example.tokens[shared:], example.mask[shared:]) for example in examples])
    targets, weights = first.tokens[1:], first.mask[1:].astype(np.float32)
    return SharedBatch(first.tokens[:shared], targets[:shared], weights[:shared], own)


def groups(examples: list) -> list[list[int]]:
    """Places of the examples, in groups whose members begin alike or have little of their own."""
    order = sorted(range(len(examples)), key=lambda i: examples[i].tokens.tolist())
    alike = [[order[0]]]
    for before, place in zip(order, order[1:]):
        a, b = examples[before].tokens, examples[place].tokens
        same = same_beginning(a, b)
        if same >= SAME_BEGINNING * min(len(a), len(b)) or max(len(a), len(b)) - same <= OWN_TOKENS:
            alike[-1].append(place)
        else:
            alike.append([place])
    return alike


def plan(examples: list, batch_size: int, steps: int, seed: int) -> list[list[int]]:
    """Which examples make up the batch of each step; an epoch takes each example once, each epoch in another order.

    A batch has rows of similar length: of WINDOW batches, drawn at random, the rows are sorted before they are cut.
    """
    rng, batches, alike = random.Random(seed), [], groups(examples)
    while len(batches) < steps:
        epoch = []
        for group in alike:
            group = rng.sample(group, len(group))
            for start in range(0, len(group), WINDOW * batch_size):
                window = sorted(group[start : start + WINDOW * batch_size], key=lambda i: len(examples[i].tokens))
                epoch += [window[i : i + batch_size] for i in range(0, len(window), batch_size)]
        rng.shuffle(epoch)
        batches += epoch
    return batches[:steps]


def continued(cache: list, rows: int, through: bool) -> list:
    """The cache of one beginning as that of `rows` rows which go on from it; without gradient unless `through`."""

    def shared(a: mx.array) -> mx.array:
        return mx.broadcast_to(a if through else mx.stop_gradient(a), (rows, *a.shape[1:]))

    continued = []
    for layer in cache:
        if isinstance(layer, KVCache):
            copy = KVCache()
            copy.keys, copy.values = map(shared, layer.keys_and_values())
            copy.offset = layer.offset
        elif isinstance(layer, ArraysCache):
            copy = ArraysCache(len(layer.cache))
            copy.cache = [None if a is None else shared(a) for a in layer.cache]
        else:
            raise UserError(
                f"rows of this architecture cannot share a beginning: its cache is a {type(layer).__name__}"
            )
        continued.append(copy)
    return continued


def beginning(model, batch: SharedBatch) -> list | None:
    """The cache of the shared beginning, to be given to `loss` where no gradient flows through it.

    None where the beginning has loss, or is empty. Called outside of what is differentiated, it leaves nothing behind
    for a backward; and in blocks no query meets a later block, which halves attention, whose scores over 4,000 tokens
    are most of the work.
    """
    if not len(batch.shared) or batch.shared_weights.any():
        return None
    cache = make_prompt_cache(model)
    for start in range(0, len(batch.shared), BLOCK):
        model.model(mx.array(batch.shared[None, start : start + BLOCK]), cache=cache)
        mx.eval([layer.state for layer in cache])
    return cache


def loss(model, batch: SharedBatch, through: bool = True, given: list | None = None) -> mx.array:
    """Mean cross-entropy in nats over all tokens of the batch that have loss.

    Without `through`, what the shared beginning hands on to the rows counts as given (`beginning` computes it apart):
    the loss is the same, its gradient lacks what would flow back through the beginning, and most of the time is saved.
    """
    own, total, cache = batch.own, mx.array(0.0), None
    if given:
        cache = continued(given, batch.rows, False)
    elif len(batch.shared):
        cache = make_prompt_cache(model)
        hidden = model.model(mx.array(batch.shared[None]), cache=cache)
        if batch.shared_weights.any():
            total = total + batch.rows * token_losses(model, hidden, batch.shared_targets, batch.shared_weights).sum()
        cache = continued(cache, batch.rows, through)
    if own.weights.any():
        hidden = model.model(mx.array(own.tokens), cache=cache)
        total = total + token_losses(model, hidden, own.targets, own.weights).sum()
    return total / batch.scored


def mean_loss(model, examples: list, batch_size: int, loss=loss, beginning=beginning) -> float:
    """Mean cross-entropy in nats over all tokens of the examples that have loss; no gradient.

    loss and beginning: other ways to compute the same (by_layer.py).
    """
    total = scored = 0.0
    for group in groups(examples):
        for start in range(0, len(group), batch_size):
            batch = collate([examples[i] for i in group[start : start + batch_size]])
            total += loss(model, batch, given=beginning(model, batch)).item() * batch.scored
            scored += batch.scored
    return total / scored
