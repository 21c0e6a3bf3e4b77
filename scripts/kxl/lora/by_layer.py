"""The gradient of an adapter one layer at a time: for rows whose autograd does not fit into memory.

    loss, gradients = loss_and_gradients(model, batch)         # what nn.value_and_grad(model, prefix.loss) gives
    trainer = Trainer(model, prefix.loss, rate, folder)        # loop.Trainer that computes so

Each layer is two stages, its operator (attention or convolution) and its feed-forward, both with their residual.
Forward keeps the input of each stage and nothing else. Backward takes the stages from the top: one is computed again
from its input, and its vector-Jacobian product gives the gradients of its adapters and of its input. The shared
beginning of a batch and the rows' own parts go through a stage together, so what the rows take of the beginning's keys
and states is differentiated there. Logits exist for some tokens at a time, scores of attention for some queries
(attention.py). In memory are the weights, the inputs, and the work of one stage; the inputs may lie in a file.

For the LFM2 models of mlx-lm, dense or with experts, whatever computes the experts.
"""

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.base import create_attention_mask, create_ssm_mask

from kxl.lora import attention, loop, memory, prefix
from kxl.lora.loss import head
from kxl.lora.prefix import SharedBatch


@contextlib.contextmanager
def _frugal(model: nn.Module) -> Iterator[None]:
    """Attention in blocks; and on a CPU each array made when its turn comes.

    MLX hands work to a CPU ahead of time and makes the results' arrays then, for many steps of a graph at once, unless
    it is over its limit.
    """
    before = mx.set_memory_limit(1) if mx.default_device() == mx.Device(mx.cpu) else None
    try:
        with attention.in_blocks(model):
            yield
    finally:
        if before is not None:
            mx.set_memory_limit(before)


class Inputs:
    """The inputs of the stages, from the way forward to the way back: in memory, or in a nameless file in `folder`."""

    def __init__(self, folder: Path | None = None):
        self.kept: list[list] = []
        self.file = tempfile.TemporaryFile(dir=folder) if folder else None

    def put(self, xs: list[mx.array]) -> None:
        """Keep the float32 or BF16 arrays of the next stage."""
        if self.file is None:
            self.kept.append(xs)
            return
        self.kept.append([(x.shape, x.dtype) for x in xs])
        for x in xs:
            np.array(x.astype(mx.float32)).tofile(self.file)

    def take(self) -> list[mx.array]:
        """The arrays of the last stage that are left, which are kept no longer."""
        kept = self.kept.pop()
        if self.file is None:
            return kept
        sizes = [int(np.prod(shape)) for shape, _ in kept]
        self.file.seek(-4 * sum(sizes), 1)
        arrays = [np.fromfile(self.file, np.float32, size) for size in sizes]
        self.file.seek(-4 * sum(sizes), 1)
        return [mx.array(array).reshape(shape).astype(dtype) for array, (shape, dtype) in zip(arrays, kept)]

    def close(self) -> None:
        """Remove the file."""
        if self.file is not None:
            self.file.close()


class Trainer(loop.Trainer):
    """The loop of an adapter, its gradients computed layer by layer.

    inputs_in: folder of the inputs' file, None for memory. done: told of each stage, as by loss_and_gradients.
    """

    def __init__(self, *args, inputs_in: Path | None = None, done: Callable[[str], None] = lambda part: None, **others):
        self.inputs_in, self.done = inputs_in, done
        super().__init__(*args, **others)

    def _begin(self, loss, rate) -> None:
        super()._begin(loss, rate)
        self.gradient = functools.partial(loss_and_gradients, folder=self.inputs_in, done=self.done)


def beginning(model: nn.Module, batch: SharedBatch) -> list | None:
    """prefix.beginning, without the scores of all heads."""
    with _frugal(model):
        return prefix.beginning(model, batch)


def loss(model: nn.Module, batch: SharedBatch, through: bool = True, given: list | None = None) -> mx.array:
    """prefix.loss for a validation: no gradient."""
    with _frugal(model):
        whole = _Pass(model, batch, through, given)
        xs = whole.embedded()
        for stage in whole.stages:
            xs = whole.forward(stage, xs)
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

    folder: where the inputs of the stages are kept, None for memory. done("forward"), done("loss"), done("backward"): a
    stage is through, of which a layer has two, or the loss.
    """
    inputs = Inputs(folder)
    with _frugal(model), contextlib.closing(inputs):
        whole = _Pass(model, batch, through, given)
        xs = whole.embedded()
        for stage in whole.stages:
            inputs.put(xs)
            xs = whole.forward(stage, xs)
            done("forward")
        value, ds, gradients = whole.score(xs)
        del xs
        done("loss")
        for stage in reversed(whole.stages):
            ds, found = whole.backward(stage, inputs.take(), ds)
            gradients.update(found)
            done("backward")
        if whole.outside:
            for name, gradient in whole.embedding_gradients(ds).items():
                gradients[name] = gradients[name] + gradient
            mx.eval(gradients)
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

    @property
    def stages(self) -> list[tuple[int, bool]]:
        """(layer, whether it is its feed-forward), from the bottom."""
        return [(number, second) for number in range(len(self.model.layers)) for second in (False, True)]

    def forward(self, stage: tuple[int, bool], xs: list[mx.array]) -> list[mx.array]:
        """What a stage makes of the streams, computed."""
        number, second = stage
        if second:
            made = []
            for part in self._parts(number, xs):
                made.append(self._feed_forward(number, part))
                mx.eval(made[-1])
            ys = self._apart(xs, mx.concatenate(made))
        else:
            ys = self._operator(number, xs)
        mx.eval(ys)
        return ys

    def _operator(self, number: int, xs: list[mx.array]) -> list[mx.array]:
        """The streams plus what attention or convolution makes of them."""
        layer, cache, ys = self.model.layers[number], None, []
        if self.starts:
            cache = self.model.make_cache()[number]
            ys.append(_operated(layer, xs[0], cache))
        if len(ys) < len(xs):
            if self.starts or self.given:
                before = cache if self.starts else self.given[number]
                (cache,) = prefix.continued([before], self.batch.rows, self.through and self.starts)
            ys.append(_operated(layer, xs[-1], cache))
        return ys

    def _feed_forward(self, number: int, tokens: mx.array) -> mx.array:
        """Tokens [N, D], of whatever stream, plus what the feed-forward makes of each."""
        layer = self.model.layers[number]
        return tokens + layer.feed_forward(layer.ffn_norm(tokens[None]))[0]

    def _parts(self, number: int, xs: list[mx.array]) -> list[mx.array]:
        """The tokens of all streams in blocks [N, D]: a dense layer's. Experts are made once for all of them."""
        tokens = mx.concatenate([x.reshape(-1, x.shape[-1]) for x in xs])
        size = len(tokens) if hasattr(self.model.layers[number].feed_forward, "gate") else memory.DENSE
        return [tokens[start : start + size] for start in range(0, len(tokens), size)]

    def _apart(self, xs: list[mx.array], tokens: mx.array) -> list[mx.array]:
        """Tokens of all streams [N, D] as the streams `xs` have them."""
        ends = np.cumsum([x.shape[0] * x.shape[1] for x in xs]).tolist()
        return [part.reshape(x.shape) for part, x in zip(mx.split(tokens, ends[:-1]), xs)]

    def score(self, xs: list[mx.array], gradient: bool = True) -> tuple[mx.array, list[mx.array], dict]:
        """(loss, its gradients at the last layer's outputs and at the parameters outside of layers)."""
        total, ds, names = mx.array(0.0), [mx.zeros_like(x) for x in xs] if gradient else [], list(self.outside)
        found = {name: mx.zeros_like(array) for name, array in self.outside.items()}
        for stream, (x, (_, targets, weights)) in enumerate(zip(xs, self.streams)):
            flat, targets, weights = x.reshape(-1, x.shape[-1]), targets.reshape(-1), weights.reshape(-1)
            d_flat = ds[stream].reshape(flat.shape) if gradient else None
            scored = np.flatnonzero(weights).astype(np.int32)
            for start in range(0, len(scored), memory.LOGITS):
                places = scored[start : start + memory.LOGITS]
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

    def backward(self, stage: tuple[int, bool], xs: list[mx.array], ds: list[mx.array]) -> tuple[list[mx.array], dict]:
        """(gradients at a stage's inputs, {name: gradient} of its adapters) from those at its outputs, `ds`."""
        number, second = stage
        if not second:
            return self._differentiated(stage, lambda *xs: self._operator(number, xs), xs, ds)
        found, d_tokens = {}, []
        for part, d in zip(self._parts(number, xs), self._parts(number, ds)):
            (d_part,), of_part = self._differentiated(
                stage, lambda part: [self._feed_forward(number, part)], [part], [d]
            )
            d_tokens.append(d_part)
            found = {name: found[name] + gradient for name, gradient in of_part.items()} if found else of_part
            mx.eval(found)
        ds = self._apart(xs, mx.concatenate(d_tokens))
        mx.eval(ds)
        return ds, found

    def _differentiated(self, stage: tuple[int, bool], function: Callable, xs: list, ds: list) -> tuple[list, dict]:
        """(gradients at `xs`, {name: gradient} of the stage's adapters) of function(*xs), `ds` those at its results."""
        (number, second), layer = stage, self.model.layers[stage[0]]
        trained = tree_flatten(layer.trainable_parameters())
        own = {name: array for name, array in trained if name.startswith(("feed_forward.", "ffn_norm.")) == second}
        # Below the lowest layer's operator nothing is trained, unless the embedding is.
        moving = xs if number or second or self.outside else []

        def results(*given: mx.array) -> list[mx.array]:
            layer.update(tree_unflatten(list(zip(own, given))))
            return function(*(given[len(own) :] or xs))

        _, found = mx.vjp(results, [*own.values(), *moving], ds) if own or moving else ([], [])
        layer.update(tree_unflatten(list(own.items())))
        mx.eval(found)
        return found[len(own) :], {f"model.layers.{number}.{name}": d for name, d in zip(own, found)}

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


def _operated(layer: nn.Module, x: mx.array, cache) -> mx.array:
    """A stream [B, L, D] plus what a layer's operator makes of it; the cache, if there is one, gains the L tokens."""
    normed = layer.operator_norm(x)
    if layer.is_attention_layer:
        return x + layer.self_attn(normed, mask=create_attention_mask(x, cache), cache=cache)
    return x + layer.conv(normed, mask=create_ssm_mask(x, cache), cache=cache)
