"""The gradient of an adapter layer by layer is that of ordinary autograd: every array, to 1e-5."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models import lfm2, lfm2_moe

from helpers import random_adapters
from helpers.random_checkpoints import save_hf
from kxl.lora import adapter, attention, by_layer, grouped_experts, int8_experts, loop, memory, prefix
from kxl.lora.prefix import Example
from kxl.lora.schedule import warmup_then_linear
from kxl.model import checkpoint
from kxl.moe import core as moe_core
from kxl.repair.settings import MODULES, Settings

pytestmark = [pytest.mark.minutes, pytest.mark.usefixtures("on_the_cpu")]

DENSE = dict(
    model_type="lfm2",
    block_dim=32,
    block_ff_dim=48,
    block_multiple_of=8,
    block_ffn_dim_multiplier=1.0,
    block_auto_adjust_ff_dim=False,
    rope_theta=1e6,
)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Several blocks of queries, of a beginning, of a feed-forward and of the loss, and a rest of each."""
    monkeypatch.setattr(memory, "QUERIES", 16)
    monkeypatch.setattr(memory, "LOGITS", 8)
    monkeypatch.setattr(memory, "DENSE", 32)
    monkeypatch.setattr(prefix, "BLOCK", 16)


def adapted(kind="sparse", embedding="none"):
    """A small random model with a random adapter."""
    if kind == "sparse":
        model = random_adapters.sparse_model()
        grouped_experts.use(model)
    else:
        mx.random.seed(0)
        model = lfm2.Model(lfm2.ModelArgs(**random_adapters.COMMON, **DENSE))
    return with_adapter(model, embedding)


def with_adapter(model, embedding="none"):
    linear = {name.rsplit(".", 1)[-1] for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    settings = {**Settings(rank=4).adapter, "modules": sorted(linear - {"gate"}), "embedding": embedding}
    return random_adapters.attach(model, settings, ids=(3, 7))


def rows(count=3, beginning=37, vocabulary=61, scored=9):
    """Rows that begin alike, of different lengths, with loss on their last `scored` tokens."""
    rng = np.random.default_rng(1)
    start, made = rng.integers(0, vocabulary, beginning), []
    for number in range(count):
        tokens = np.concatenate([start, rng.integers(0, vocabulary, 10 + 7 * number)]).astype(np.int32)
        made.append(Example(tokens, np.arange(len(tokens)) >= len(tokens) - scored))
    return made


def ordinary(model, *batch):
    """Loss and gradients by autograd through the whole model."""
    value, gradients = nn.value_and_grad(model, prefix.loss)(model, *batch)
    mx.eval(value, gradients)
    return value, gradients


def assert_same(found, expected):
    assert found[0].item() == pytest.approx(expected[0].item(), rel=1e-5)
    found, expected = dict(tree_flatten(found[1])), dict(tree_flatten(expected[1]))
    assert found.keys() == expected.keys() and len(found) > 5
    for name, right in expected.items():
        right, error = np.array(right), np.array(found[name]) - np.array(right)
        assert np.linalg.norm(right) > 0, name
        assert np.linalg.norm(error) < 1e-5 * np.linalg.norm(right), name


@pytest.mark.parametrize("embedding", ["none", "low_rank", "token_rows"])
@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_rows_that_share_a_beginning(kind, embedding):
    model, batch = adapted(kind, embedding), prefix.collate(rows())
    assert len(batch.shared) and batch.rows == 3
    assert_same(by_layer.loss_and_gradients(model, batch), ordinary(model, batch))


def test_one_row_and_rows_that_share_nothing():
    model = adapted()
    for examples in (rows(1), [*rows(1), *rows(2, beginning=0)]):
        batch = prefix.collate(examples)
        assert not len(batch.shared)
        assert_same(by_layer.loss_and_gradients(model, batch), ordinary(model, batch))


def test_loss_on_every_token():
    model = adapted()
    batch = prefix.collate([Example(row.tokens, np.ones(len(row.tokens), bool)) for row in rows()])
    assert batch.shared_weights.any()
    assert_same(by_layer.loss_and_gradients(model, batch), ordinary(model, batch))
    assert_same(by_layer.loss_and_gradients(model, batch, False), ordinary(model, batch, False))


def test_a_beginning_that_is_given():
    model, batch = adapted(), prefix.collate(rows())
    found = by_layer.loss_and_gradients(model, batch, False, by_layer.beginning(model, batch))
    assert_same(found, ordinary(model, batch, False, prefix.beginning(model, batch)))


def test_inputs_in_a_file_give_the_same_bits_and_leave_no_file(tmp_path):
    model, batch = adapted(), prefix.collate(rows())
    (one, in_memory), (other, in_file) = (
        by_layer.loss_and_gradients(model, batch, folder=folder) for folder in (None, tmp_path)
    )
    assert one.item() == other.item()
    in_memory, in_file = (dict(tree_flatten(gradients)) for gradients in (in_memory, in_file))
    assert all(np.array_equal(np.array(in_memory[name]), np.array(in_file[name])) for name in in_memory)
    assert not list(tmp_path.iterdir())


def test_a_core_gives_the_gradients_of_its_weights_in_float32(tmp_path):
    """The reference is mlx-lm's own model of what the codes say."""
    save_hf(tmp_path / "model", "six")
    moe_core.build(tmp_path / "core", checkpoint.read(tmp_path / "model"), 64)
    checkpoint.float32_copy(tmp_path / "core", tmp_path / "float32")
    read = checkpoint.read(tmp_path / "core")
    whole = lfm2_moe.Model(lfm2_moe.ModelArgs.from_dict(read.config))
    whole.load_weights(list(mx.load(str(tmp_path / "float32" / "model.safetensors")).items()))
    grouped_experts.use(whole)
    mapped = int8_experts.load(tmp_path / "core")
    for model in (whole, mapped):
        mx.random.seed(1)
        adapter.attach(model, {**Settings(rank=4).adapter, "modules": list(MODULES)})
        model.update(tree_map(lambda a: 0.1 * mx.random.normal(a.shape), model.trainable_parameters()))
    assert {layer.is_attention_layer for layer in mapped.layers} == {True, False}
    batch = prefix.collate(rows(vocabulary=read.config["vocab_size"]))
    assert_same(by_layer.loss_and_gradients(mapped, batch), ordinary(whole, batch))


def test_the_validation_loss_is_the_same():
    model, examples = adapted(), rows(4)
    found = prefix.mean_loss(model, examples, 2, by_layer.loss, by_layer.beginning)
    assert found == pytest.approx(prefix.mean_loss(model, examples, 2), rel=1e-5)


def test_a_training_layer_by_layer_takes_the_steps_of_an_ordinary_one(tmp_path):
    ends, rate = [], warmup_then_linear(1e-2, 1, 1, 4)
    for kind in (loop.Trainer, by_layer.Trainer):
        model, examples = adapted(), rows(4)
        trainer = kind(model, prefix.loss, rate, tmp_path / kind.__module__)
        plan = prefix.plan(examples, 2, 4, seed=1)
        list(trainer.run(plan, lambda number, places, of=examples: (prefix.collate([of[i] for i in places]),), len))
        ends.append((trainer.progress.losses, adapter.trainable(model)))
    assert ends[1][0] == pytest.approx(ends[0][0], rel=1e-4) and ends[0][0][-1] < ends[0][0][0]
    for name, array in ends[0][1].items():
        assert np.allclose(np.array(ends[1][1][name]), np.array(array), atol=1e-3), name


def test_mlx_lms_own_attention_is_back_afterwards():
    model, before = adapted(), lfm2_moe.scaled_dot_product_attention
    with attention.in_blocks(model):
        assert lfm2_moe.scaled_dot_product_attention is not before
    assert lfm2_moe.scaled_dot_product_attention is before


@pytest.mark.parametrize("queries, keys", [(40, 40), (21, 57), (1, 30), (1, 1)])
def test_attention_in_blocks_is_mlx_own_with_its_gradient(queries, keys):
    mx.random.seed(2)
    q, k, v = (mx.random.normal((2, heads, n, 8)) for heads, n in ((4, queries), (2, keys), (2, keys)))
    weight = mx.random.normal(q.shape)
    stock = lambda q, k, v: mx.fast.scaled_dot_product_attention(q, k, v, scale=8**-0.5, mask="causal")  # noqa: E731
    results = []
    for function in (stock, attention.causal):
        value, gradients = mx.value_and_grad(lambda *a, f=function: (f(*a) * weight).sum(), (0, 1, 2))(q, k, v)
        results.append([np.array(part) for part in (value, function(q, k, v), *gradients)])
    for expected, found in zip(*results):
        assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected) + 1e-6
