"""A shared beginning trains exactly what rows would by themselves, and the CPU's experts what mlx-lm's do."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import llama

from helpers import random_adapters
from kxl.lora import grouped_experts
from kxl.lora import prefix as lora_prefix
from kxl.lora.loss import head
from kxl.lora.prefix import Example
from kxl.repair.settings import Settings

pytestmark = pytest.mark.minutes

LLAMA = dict(
    model_type="llama",
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    rms_norm_eps=1e-5,
    head_dim=8,
    max_position_embeddings=512,
    tie_word_embeddings=True,
)


def adapted(kind="lfm2", grouped=True):
    """A small random model with a random adapter."""
    settings = Settings(rank=4).adapter
    if kind == "llama":
        mx.random.seed(0)
        model = llama.Model(llama.ModelArgs(**LLAMA))
        return random_adapters.attach(model, {**settings, "modules": ["q_proj", "v_proj", "down_proj"]})
    model = random_adapters.sparse_model()
    if grouped:
        assert grouped_experts.use(model) == 5  # three sparse layers, two convolutions
    return random_adapters.attach(model, settings)


def rows(count=4, prefix=37, seed=1):
    """Rows that begin alike, of different lengths, with loss at their ends."""
    rng = np.random.default_rng(seed)
    beginning, made = rng.integers(0, 61, prefix), []
    for number in range(count):
        end = rng.integers(0, 61, 6 + 5 * number)
        mask = np.zeros(prefix + len(end), bool)
        mask[-4 - number :] = True
        made.append(Example(np.concatenate([beginning, end]).astype(np.int32), mask))
    return made


def value_and_gradients(model, batch, through=True):
    value, gradients = nn.value_and_grad(model, lora_prefix.loss)(model, batch, through)
    mx.eval(value, gradients)
    return value.item(), dict(tree_flatten(gradients))


def one_by_one(model, examples):
    """The same loss computed without anything of ours: each row whole, all logits, loss by the mask."""

    def mean_of(model):
        total, count = 0.0, 0
        for example in examples:
            tokens = mx.array(example.tokens[None])
            losses = nn.losses.cross_entropy(model(tokens[:, :-1]), tokens[:, 1:])[0]
            total, count = total + (losses * mx.array(example.mask[1:])).sum(), count + int(example.mask[1:].sum())
        return total / count

    value, gradients = nn.value_and_grad(model, mean_of)(model)
    mx.eval(value, gradients)
    return value.item(), dict(tree_flatten(gradients))


def assert_same(one, other):
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[1].keys() == other[1].keys() and len(one[1]) > 5
    for name, gradient in one[1].items():
        expected = np.array(other[1][name])
        assert np.abs(expected).max() > 0, name
        np.testing.assert_allclose(
            np.array(gradient), expected, rtol=1e-3, atol=2e-5 * np.abs(expected).max() + 1e-7, err_msg=name
        )


@pytest.mark.parametrize("kind", ["lfm2", "llama"])
def test_a_shared_beginning_changes_neither_loss_nor_gradient(kind):
    model, examples = adapted(kind), rows()
    batch = lora_prefix.collate(examples)
    assert len(batch.shared) == 36 and batch.own.tokens.shape == (
        4,
        21,
    )  # 37 tokens alike: the last one has different targets
    assert_same(value_and_gradients(model, batch), one_by_one(model, examples))


def test_loss_inside_the_shared_beginning_counts_in_each_row():
    model = adapted()
    examples = [Example(e.tokens, np.ones(len(e.tokens), bool)) for e in rows(3)]
    batch = lora_prefix.collate(examples)
    assert len(batch.shared) >= 36 and batch.scored == sum(len(e.tokens) - 1 for e in examples)
    assert_same(value_and_gradients(model, batch), one_by_one(model, examples))


def test_rows_that_begin_differently_share_nothing_and_still_train():
    model = adapted()
    examples = [rows(1, seed=seed)[0] for seed in (1, 2)]
    batch = lora_prefix.collate(examples)
    assert len(batch.shared) == 0
    assert_same(value_and_gradients(model, batch), one_by_one(model, examples))


def test_grouped_experts_compute_what_mlx_lm_computes():
    examples = rows()
    assert_same(one_by_one(adapted(grouped=True), examples), one_by_one(adapted(grouped=False), examples))


def test_without_the_gradient_through_the_beginning_the_loss_is_the_same():
    model, batch = adapted(), lora_prefix.collate(rows())
    (one, exact), (other, cheap) = value_and_gradients(model, batch), value_and_gradients(model, batch, through=False)
    assert one == pytest.approx(other, rel=1e-6)
    assert any(np.abs(np.array(exact[name] - cheap[name])).max() > 1e-4 for name in exact)


def test_a_beginning_computed_apart_in_blocks_gives_the_same_loss_and_gradient(monkeypatch):
    monkeypatch.setattr(lora_prefix, "BLOCK", 16)  # 36 tokens: two blocks and a rest
    model, batch = adapted(), lora_prefix.collate(rows())
    value, gradients = nn.value_and_grad(model, lora_prefix.loss)(
        model, batch, False, lora_prefix.beginning(model, batch)
    )
    assert_same((value.item(), dict(tree_flatten(gradients))), value_and_gradients(model, batch, through=False))


def test_mean_loss_is_that_of_all_rows():
    model, examples = adapted(), rows(5)
    assert lora_prefix.mean_loss(model, examples, 2) == pytest.approx(one_by_one(model, examples)[0], rel=1e-5)


def test_a_plan_takes_each_row_once_per_epoch_and_never_mixes_beginnings(monkeypatch):
    monkeypatch.setattr(lora_prefix, "OWN_TOKENS", 10)  # less than these beginnings have
    examples = rows(6, seed=1) + rows(5, seed=2)
    plan = lora_prefix.plan(examples, 4, 8, seed=3)
    assert plan == lora_prefix.plan(examples, 4, 8, seed=3) != lora_prefix.plan(examples, 4, 8, seed=4)
    for epoch in (plan[:4], plan[4:]):
        assert sorted(place for batch in epoch for place in batch) == list(range(11))
    assert all(len({place < 6 for place in batch}) == 1 for batch in plan)


def test_a_batch_has_rows_of_similar_length_and_little_padding():
    rng = np.random.default_rng(5)
    lengths = np.rint(np.exp(rng.normal(4.3, 0.8, 300))).astype(int) + 2  # a median of 75, some of several hundred
    examples = [Example(np.arange(length, dtype=np.int32), np.ones(length, bool)) for length in lengths]
    plan = lora_prefix.plan(examples, 16, 19, seed=1)
    assert sorted(place for batch in plan for place in batch) == list(range(300))
    padded = sum(len(batch) * max(lengths[place] for place in batch) for batch in plan)
    unsorted = sum(16 * lengths[start : start + 16].max() for start in range(0, 300, 16))
    assert padded - lengths.sum() < 0.5 * (unsorted - lengths.sum())
    assert plan[0] != sorted(plan, key=lambda batch: lengths[batch[0]])[0]  # not the short ones first


def test_short_rows_fill_a_batch_whatever_they_begin_with_and_long_ones_do_not_join_them():
    short, long = [rows(1, prefix=30, seed=seed)[0] for seed in range(8)], rows(2, prefix=600, seed=9)
    plan = lora_prefix.plan(short + long, 8, 2, seed=1)
    assert sorted(map(sorted, plan)) == [list(range(8)), [8, 9]]


def test_the_head_of_an_untied_model_is_found():
    model = llama.Model(llama.ModelArgs(**{**LLAMA, "tie_word_embeddings": False}))
    hidden = mx.random.normal((3, 32))
    assert mx.array_equal(head(model, hidden), model.lm_head(hidden))
