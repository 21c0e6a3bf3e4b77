"""Adapters: attach, train, resume, save, fuse; each checked against plain arithmetic."""

import math
import sys
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

import repair_fuse
from helpers import random_smol
from kxl.base.cli import UserError
from kxl.lora import adapter, epochs, loop
from kxl.lora.schedule import warmup_then_linear
from kxl.model import generate

pytestmark = pytest.mark.minutes

ADAPTER = {
    "rank": 4,
    "alpha": 8,
    "modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "embedding": "low_rank",
}
IDS = (8, 10, 14, 16)
SETTINGS = {
    "learning_rate": 5e-3,
    "warmup_steps": 2,
    "final_rate": 1.0,
    "epochs": 2,
    "max_epochs": 2,
    "batch_tokens": 60,
    "max_tokens": 64,
    "seed": 3,
}
PROMPT = mx.array([[1, 20, 8, 33, 10, 2]])


@dataclass
class Example:
    tokens: np.ndarray
    mask: np.ndarray


def examples(count: int, seed: int = 0) -> list[Example]:
    """Rows that always answer 20 with 8, 33, 10, 2: something to learn."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        prompt = np.concatenate([[1], rng.integers(40, 200, rng.integers(2, 12)), [20]])
        made.append(
            Example(
                np.concatenate([prompt, [8, 33, 10, 2]]).astype(np.int32), np.arange(len(prompt) + 4) >= len(prompt)
            )
        )
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_smol.smollm2(tmp_path_factory.mktemp("smol"))


def attached(folder, **changes):
    mx.random.seed(1)
    model = generate.load(folder)
    adapter.attach(model, {**ADAPTER, **changes}, IDS)
    return model


def shake(model):
    """Give B and the rows values, as training would."""
    rng = np.random.default_rng(2)
    model.load_weights(
        [
            (name, mx.array(rng.normal(0, 0.1, array.shape).astype(np.float32)))
            for name, array in adapter.trainable(model).items()
        ],
        strict=False,
    )


@pytest.mark.parametrize("embedding", adapter.EMBEDDINGS)
def test_a_fresh_adapter_changes_nothing_and_only_it_can_be_trained(folder, embedding):
    plain, model = generate.load(folder), attached(folder, embedding=embedding)
    assert mx.allclose(plain(PROMPT), model(PROMPT), atol=1e-5)
    names = adapter.trainable(model)
    assert len(names) == 2 * 2 * 7 + {"none": 0, "low_rank": 2, "token_rows": 1}[embedding]
    assert all(name.rsplit(".", 1)[1] in ("lora_a", "lora_b", "rows") for name in names)


def test_token_rows_move_four_rows_in_and_out_and_no_other(folder):
    model = attached(folder, embedding="token_rows", modules=["q_proj"])
    before = generate.load(folder).model.embed_tokens
    shake(model)
    embedding = model.model.embed_tokens
    everything = mx.arange(before.weight.shape[0])
    moved = mx.any(embedding(everything) != before(everything), axis=-1)
    hidden = mx.random.normal((3, before.weight.shape[1]))
    changed = mx.any(mx.abs(embedding.as_linear(hidden) - before.as_linear(hidden)) > 1e-6, axis=0)
    assert tuple(np.flatnonzero(np.array(moved))) == IDS == tuple(np.flatnonzero(np.array(changed)))
    assert embedding.rows.size == 4 * 64


@pytest.mark.parametrize("embedding", adapter.EMBEDDINGS)
def test_the_fused_checkpoint_computes_what_model_and_adapter_computed(folder, tmp_path, monkeypatch, embedding):
    model = attached(folder, embedding=embedding)
    shake(model)
    settings = {"lora": {**ADAPTER, "embedding": embedding}, "token_ids": list(IDS), "base_model": "x"}
    adapter.save(tmp_path / "adapter", adapter.trainable(model), settings)
    loaded = generate.load(folder)
    adapter.load(loaded, tmp_path / "adapter")
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "repair_fuse.py",
            "--model",
            str(folder),
            "--adapter",
            str(tmp_path / "adapter"),
            "--out",
            str(tmp_path / "fused"),
        ],
    )
    repair_fuse.main()
    fused = generate.load(tmp_path / "fused")
    weights = dict(tree_flatten(fused.parameters()))
    for name, change in adapter.changes(tmp_path / "adapter").items():
        base = np.array(dict(tree_flatten(generate.load(folder).parameters()))[name])
        wanted = change.add_to(base)
        assert np.allclose(np.array(weights[name]), wanted, rtol=2**-8, atol=1e-6), name  # stored as BF16
    assert mx.allclose(fused(PROMPT), loaded(PROMPT), atol=0.05) and not mx.allclose(
        fused(PROMPT), generate.load(folder)(PROMPT), atol=0.05
    )
    assert (tmp_path / "fused" / "chat_template.jinja").is_file()


def test_fusing_another_models_adapter_is_refused(folder, tmp_path, monkeypatch):
    other = random_smol.smollm2(tmp_path / "other", layers=3)
    adapter.save(tmp_path / "adapter", adapter.trainable(attached(other)), {"lora": ADAPTER, "token_ids": list(IDS)})
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "repair_fuse.py",
            "--model",
            str(folder),
            "--adapter",
            str(tmp_path / "adapter"),
            "--out",
            str(tmp_path / "fused"),
        ],
    )
    with pytest.raises(UserError, match=r"has no model\.layers\.2\..* belongs to another model"):
        repair_fuse.main()
    assert not (tmp_path / "fused").exists()
    with pytest.raises(UserError, match="not those of an adapter for this model"):
        adapter.load(generate.load(folder), tmp_path / "adapter")


def test_a_module_that_no_layer_has_is_refused(folder):
    with pytest.raises(UserError, match="no layer of this model is called w1"):
        attached(folder, modules=["q_proj", "w1"])


def test_the_loss_is_the_cross_entropy_of_the_masked_tokens_alone(folder):
    model, rows = generate.load(folder), examples(3)
    losses = epochs.losses_of(model, epochs.collate(rows))
    wanted = []
    for row in rows:  # one by one, without padding, over the whole vocabulary
        scores = np.array(model(mx.array(row.tokens[None, :-1])))[0]
        chances = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
        wanted += [-chances[i - 1, row.tokens[i]] for i in range(1, len(row.tokens)) if row.mask[i]]
    assert np.allclose(np.array(losses), wanted, atol=1e-4) and len(wanted) == 3 * 4


def test_batches_hold_each_row_once_within_the_budget_and_differ_between_epochs():
    lengths = [7, 90, 12, 55, 31, 8, 14, 60, 33, 9]
    one, again, other = (epochs.batches(lengths, 100, 5, epoch) for epoch in (1, 1, 2))
    assert one == again != other
    for plan in (one, other):
        assert sorted(i for batch in plan for i in batch) == list(range(len(lengths)))
        assert all(len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= 100 for batch in plan)


@pytest.mark.parametrize(
    "losses, move",
    [
        ([2.0], "train"),
        ([2.0, 1.0], "train"),
        ([2.0, 1.0, 0.9], "train"),
        ([2.0, 1.0, 0.9, 0.895], "done"),
        ([2.0, 1.0, 0.9, 0.85], "train"),
        ([2.0, 1.0, 0.9, 0.85, 0.8], "train"),
        ([2.0, 1.0, 0.9, 0.85, 0.8, 0.7], "done"),
        ([2.0, 1.0, 1.2], "spike"),
        ([2.0, 1.0, 0.9, 1.0], "spike"),
        ([2.0, 1.0, 0.9, 0.95], "done"),
    ],
)
def test_three_epochs_five_while_the_loss_falls_and_a_stop_at_a_spike(losses, move):
    assert epochs.next_move(losses, 3, 5) == move


def test_training_learns_and_a_resumed_run_ends_where_an_uninterrupted_one_does(folder, tmp_path, monkeypatch):
    rows, valid = examples(24), examples(6, seed=9)
    whole = attached(folder)
    outcome = epochs.train(whole, rows, valid, SETTINGS, tmp_path / "whole", "key")
    assert outcome.move == "done" and outcome.valid_losses[-1] < 0.5 * outcome.valid_losses[0]
    assert outcome.tokens == 2 * sum(len(row.tokens) for row in rows) and len(outcome.train_losses) == outcome.steps

    monkeypatch.setattr(loop, "SAVE_SECONDS", -1)  # a state after every step
    collate, calls = epochs.collate, []

    def interrupted(chosen):
        calls.append(chosen)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return collate(chosen)

    monkeypatch.setattr(epochs, "collate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        epochs.train(attached(folder), rows, valid, SETTINGS, tmp_path / "cut", "key")
    monkeypatch.setattr(epochs, "collate", collate)
    resumed = attached(folder)
    again = epochs.train(resumed, rows, valid, SETTINGS, tmp_path / "cut", "key")
    assert again.train_losses == pytest.approx(outcome.train_losses, abs=2e-4) and again.steps == outcome.steps
    one, two = adapter.trainable(whole), adapter.trainable(resumed)
    assert all(np.allclose(np.array(one[name]), np.array(two[name]), atol=1e-5) for name in one)
    with pytest.raises(UserError, match="other data, model or settings"):
        epochs.train(attached(folder), rows, valid, SETTINGS, tmp_path / "cut", "another key")


def test_the_rate_warms_up_falls_to_its_final_share_and_stays_there():
    rate = warmup_then_linear(2e-4, warmup=4, final=0.1, planned=100)
    rates = [rate(mx.array(step)).item() for step in (0, 3, 50, 100, 500)]
    assert rates == pytest.approx([2e-4 / 4, 2e-4 * (1 - 0.9 * 0.03), 2e-4 * 0.55, 2e-5, 2e-5], rel=1e-5)


def test_the_epoch_with_the_lowest_validation_loss_is_kept(folder, tmp_path, monkeypatch):
    losses = iter([2.0, 1.0, 1.5])
    monkeypatch.setattr(epochs, "validation_loss", lambda *_: next(losses))
    kept, keep_best = {}, loop.Trainer.keep_best

    def noted(trainer, epoch):
        keep_best(trainer, epoch)
        kept[epoch] = trainer.best

    monkeypatch.setattr(loop.Trainer, "keep_best", noted)
    model = attached(folder)
    outcome = epochs.train(model, examples(8), examples(2), {**SETTINGS, "epochs": 3, "max_epochs": 3}, tmp_path, "key")
    assert (outcome.move, outcome.best_epoch) == ("spike", 1)
    assert all(mx.array_equal(array, kept[1][name]) for name, array in adapter.trainable(model).items())


def test_a_row_that_is_too_long_is_refused_before_anything_is_trained(folder, tmp_path):
    with pytest.raises(UserError, match="a row has .* tokens, training takes 10"):
        epochs.train(attached(folder), examples(4), examples(2), {**SETTINGS, "max_tokens": 10}, tmp_path, "key")


def test_fewer_epochs_at_most_than_epochs_is_refused(folder, tmp_path):
    with pytest.raises(UserError, match="max_epochs is 1, below epochs, 2"):
        epochs.train(attached(folder), examples(4), examples(2), {**SETTINGS, "max_epochs": 1}, tmp_path, "key")


def test_generation_is_what_stepping_through_the_model_by_hand_gives(folder):
    model = generate.load(folder)
    prompts = [[1, 50, 60], [1, 70, 71, 72, 73, 74], [1, 99]]
    for prompt, made in zip(prompts, generate.generate(model, prompts, 6, stop=2, watch=8, top=3)):
        tokens = list(prompt)
        for place, step in enumerate(made.steps):
            scores = mx.softmax(model(mx.array([tokens]))[0, -1])
            if place == 0:
                assert made.watched == pytest.approx(scores[8].item(), rel=1e-3)
            assert step["id"] == mx.argmax(scores).item() == step["top"][0][0]
            assert step["probability"] == pytest.approx(scores[step["id"]].item(), rel=1e-3) and len(step["top"]) == 3
            tokens.append(step["id"])
        assert made.ended == (made.steps[-1]["id"] == 2) and (made.ended or len(made.ids) == 6)


def test_a_quantized_linear_layer_takes_an_adapter(folder):
    layer = nn.QuantizedLinear.from_linear(nn.Linear(64, 32), group_size=32, bits=8)
    adapted = adapter.LoRALinear(layer, 4, 2.0)
    adapted.lora_b = mx.ones((4, 32))
    x = mx.random.normal((5, 64))
    assert mx.allclose(adapted(x), layer(x) + 2.0 * (x @ adapted.lora_a).sum(-1, keepdims=True), atol=1e-4)
    assert math.isclose(adapted.lora_a.shape[0], 64)
