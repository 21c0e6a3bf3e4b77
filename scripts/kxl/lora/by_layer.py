"""The gradient of an adapter one layer at a time: for rows whose autograd does not fit into memory.

    loss, gradients = loss_and_gradients(model, batch)         # what nn.value_and_grad(model, prefix.loss) gives
    trainer = Trainer(model, prefix.loss, rate, folder)        # loop.Trainer that computes so

Forward keeps the input of each layer and nothing else. Backward takes the layers from the top: one is computed again
from its input, and its vector-Jacobian product gives the gradients of its adapters and of its input. The shared
beginning of a batch and the rows' own parts go through a layer together, so what the rows take of the beginning's keys
and states is differentiated there. Logits exist for some tokens at a time, scores of attention for some queries
(attention.py). In memory are the weights, the inputs, and the work of one layer; the inputs may lie in a file.

For the LFM2 models of mlx-lm, dense or with experts, whatever computes the experts.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.base import create_attention_mask, create_ssm_mask

from kxl.lora import attention, loop, prefix
from kxl.lora.loss import head
from kxl.lora.prefix import SharedBatch

LOGITS = 128  # tokens of a block of the loss
MODELS = ("mlx_lm.models.lfm2", "mlx_lm.models.lfm2_moe")


def knows(model: nn.Module) -> bool:
    """Whether a model's layers can be taken one by one here."""
    return type(model).__module__ in MODELS


class Inputs:
    """The inputs of the layers, from the way forward to the way back: in memory, or in a nameless file in `folder`."""

    def __init__(self, folder: Path | None = None):
        self.kept: dict[int, list] = {}
        self.file = tempfile.TemporaryFile(dir=folder) if folder else None

    def put(self, layer: int, xs: list[mx.array]) -> None:
        """Keep float32 (or BF16) arrays under a layer's number."""
        if self.file is None:
            self.kept[layer] = xs
            return
        self.kept[layer] = []
        for x in xs:
            self.kept[layer].append((self.file.tell(), x.shape, x.dtype))
            np.array(x.astype(mx.float32)).tofile(self.file)

    def take(self, layer: int) -> list[mx.array]:
        """The arrays of a layer, which are kept no longer."""
        kept = self.kept.pop(layer)
        if self.file is None:
            return kept
        self.file.flush()
        xs = []
        for place, shape, dtype in kept:
            self.file.seek(place)
            values = np.fromfile(self.file, np.float32, int(np.prod(shape)))
            xs.append(mx.array(values).reshape(shape).astype(dtype))
        return xs

    def close(self) -> None:
        """Remove the file."""
        if self.file is not None:
            self.file.close()


class Trainer(loop.Trainer):
    """The loop of an adapter, its gradients computed layer by layer. `folder_of_inputs`: as of Inputs."""

    folder_of_inputs: Path | None = None

    def _begin(self, loss, rate) -> None:
        super()._begin(loss, rate)
        self.gradient = lambda model, *batch: loss_and_gradients(model, *batch, folder=self.folder_of_inputs)


def beginning(model: nn.Module, batch: SharedBatch) -> list | None:
    """prefix.beginning, without the scores of all heads."""
    with attention.in_blocks(model):
        return prefix.beginning(model, batch)


def loss(model: nn.Module, batch: SharedBatch, through: bool = True, given: list | None = None) -> mx.array:
    """prefix.loss for a validation: no gradient."""
    with attention.in_blocks(model):
        whole = _Pass(model, batch, through, given)
        xs = whole.embedded()
        for number in range(len(model.layers)):
            xs = whole.layer(number, xs)
            mx.eval(xs)
        return whole.score(xs, gradient=False)[0]


def loss_and_gradients(
    model: nn.Module,
    batch: SharedBatch,
    through: bool = True,
    given: list | None = None,
    folder: Path | None = None,
    done: Callable[[str], None] = lambda part: None,
) -> tuple[mx.array, dict]:
    """(loss, gradients of the trainable parameters as a tree), exactly those of prefix.loss with the same arguments.

    folder: where the inputs of the layers are kept, None for memory. done("forward"), done("backward"): a layer is
    through.
    """
    inputs, gradients = Inputs(folder), {}
    try:
        with attention.in_blocks(model):
            whole = _Pass(model, batch, through, given)
            xs = whole.embedded()
            for number in range(len(model.layers)):
                inputs.put(number, xs)
                xs = whole.layer(number, xs)
                mx.eval(xs)
                done("forward")
            value, ds, found = whole.score(xs)
            gradients.update(found)
            del xs
            for number in reversed(range(len(model.layers))):
                ds, found = whole.backward(number, inputs.take(number), ds)
                gradients.update(found)
                done("backward")
            if whole.outside:
                for name, gradient in whole.embedding_gradients(ds).items():
                    gradients[name] = gradients[name] + gradient
            mx.eval(gradients)
    finally:
        inputs.close()
    return value, tree_unflatten(list(gradients.items()))


class _Pass:
    """One batch on its way: the shared beginning, where it is computed here, and the rows' own parts, where they are
    scored. Each is a stream [B, L, D]; lists of arrays below have one for each stream.

    outside: the trainable parameters that belong to no layer, such as an adapter on the embedding, by name.
    """

    def __init__(self, model: nn.Module, batch: SharedBatch, through: bool, given: list | None):
        self.model, self.batch, self.through, self.given = model, batch, through, given
        own, self.starts = batch.own, bool(len(batch.shared)) and not given
        self.streams = []
        if self.starts:
            weights = batch.rows * batch.shared_weights
            self.streams.append((batch.shared[None], batch.shared_targets, weights))
        if own.weights.any():
            self.streams.append((own.tokens, own.targets, own.weights))
        trainable = tree_flatten(model.trainable_parameters())
        self.outside = {name: array for name, array in trainable if not name.startswith("model.layers.")}

    def embedded(self) -> list[mx.array]:
        xs = [self.model.model.embed_tokens(mx.array(tokens)) for tokens, _, _ in self.streams]
        mx.eval(xs)
        return xs

    def layer(self, number: int, xs: list[mx.array]) -> list[mx.array]:
        """What one layer makes of the streams."""
        layer, cache, ys = self.model.layers[number], None, []
        if self.starts:
            cache = self.model.make_cache()[number]
            ys.append(_through(layer, xs[0], cache))
        if len(ys) < len(xs):
            if self.starts or self.given:
                before = cache if self.starts else self.given[number]
                (cache,) = prefix.continued([before], self.batch.rows, self.through and self.starts)
            ys.append(_through(layer, xs[-1], cache))
        return ys

    def score(self, xs: list[mx.array], gradient: bool = True) -> tuple[mx.array, list[mx.array], dict]:
        """(loss, its gradients at the last layer's outputs and at the parameters outside of layers)."""
        total, ds, names = mx.array(0.0), [mx.zeros_like(x) for x in xs] if gradient else [], list(self.outside)
        found = {name: mx.zeros_like(array) for name, array in self.outside.items()}
        for stream, (x, (_, targets, weights)) in enumerate(zip(xs, self.streams)):
            flat, targets, weights = x.reshape(-1, x.shape[-1]), targets.reshape(-1), weights.reshape(-1)
            d_flat = ds[stream].reshape(flat.shape) if gradient else None
            scored = np.flatnonzero(weights).astype(np.int32)
            for start in range(0, len(scored), LOGITS):
                places = scored[start : start + LOGITS]
                weight = mx.array(weights[places] / self.batch.scored)

                def summed(hidden, *outside, places=places, weight=weight, targets=targets):
                    self._put(outside)
                    logits = head(self.model, self._norm(hidden)).astype(mx.float32)
                    return (weight * nn.losses.cross_entropy(logits, mx.array(targets[places]))).sum()

                arguments = [flat[mx.array(places)], *self.outside.values()]
                if not gradient:
                    total = total + summed(*arguments)
                    mx.eval(total)
                    continue
                (value,), (d, *d_outside) = mx.vjp(summed, arguments, [mx.array(1.0)])
                total, d_flat = total + value, d_flat.at[mx.array(places)].add(d)
                found.update((name, found[name] + d) for name, d in zip(names, d_outside))
                mx.eval(total, d_flat, found)
            if gradient:
                ds[stream] = d_flat.reshape(x.shape)
        self._put(self.outside.values())
        return total, ds, found

    def backward(self, number: int, xs: list[mx.array], ds: list[mx.array]) -> tuple[list[mx.array], dict]:
        """(gradients at a layer's inputs, {name: gradient} of its adapters) from those at its outputs, `ds`."""
        layer = self.model.layers[number]
        trainable = tree_flatten(layer.trainable_parameters())
        names, arrays = [name for name, _ in trainable], [array for _, array in trainable]
        # Below the lowest layer nothing is trained, unless the embedding is.
        moving = xs if number or self.outside else []

        def outputs(*given: mx.array) -> list[mx.array]:
            layer.update(tree_unflatten(list(zip(names, given))))
            return self.layer(number, list(given[len(names) :]) or xs)

        _, found = mx.vjp(outputs, [*arrays, *moving], ds)
        layer.update(tree_unflatten(list(zip(names, arrays))))
        mx.eval(found)
        return found[len(names) :], {f"model.layers.{number}.{name}": d for name, d in zip(names, found)}

    def embedding_gradients(self, ds: list[mx.array]) -> dict:
        """{name: gradient} that reaches the parameters outside of layers from the embedded tokens."""

        def embedded(*outside):
            self._put(outside)
            return [self.model.model.embed_tokens(mx.array(tokens)) for tokens, _, _ in self.streams]

        _, found = mx.vjp(embedded, list(self.outside.values()), ds)
        self._put(self.outside.values())
        mx.eval(found)
        return dict(zip(self.outside, found))

    def _norm(self, hidden: mx.array) -> mx.array:
        return self.model.model.embedding_norm(hidden)

    def _put(self, outside) -> None:
        if self.outside:
            self.model.update(tree_unflatten(list(zip(self.outside, outside))))


def _through(layer: nn.Module, x: mx.array, cache) -> mx.array:
    """What mlx-lm's model does with one layer: [B, L, D]; the cache, if there is one, gains the L tokens."""
    mask = (create_attention_mask if layer.is_attention_layer else create_ssm_mask)(x, cache)
    return layer(x, mask, cache=cache)
