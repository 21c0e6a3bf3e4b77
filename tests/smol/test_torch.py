"""Training and judging in torch: exactly what each row computes by itself, and what MLX computes."""

import mlx.core as mx
import numpy as np
import pytest
import torch

from helpers import random_smol
from kxl.base.cli import UserError
from kxl.lora import adapter as mlx_adapter
from kxl.lora import epochs, torch_attention
from kxl.model import generate
from kxl.smol import backend, packing, torch_engine, torch_model
from kxl.smol.rows import Example

LORA = {"rank": 4, "alpha": 8, "modules": ["q_proj", "v_proj", "down_proj"], "embedding": "low_rank"}
SETTINGS = {
    "learning_rate": 1e-2,
    "warmup_steps": 1,
    "final_rate": 0.5,
    "epochs": 2,
    "max_epochs": 2,
    "max_tokens": 200,
    "batch_tokens": 60,
    "seed": 3,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_smol.smollm2(tmp_path_factory.mktemp("torch") / "model")


def model(folder, moved=True, attention=torch_attention.NAME, **changes):
    torch.manual_seed(1)
    made = torch_model.load(folder, torch.float32, attention)
    torch_model.attach(made, {**LORA, **changes}, (8, 10, 14, 16))
    if moved:
        for name, array in torch_model.trainable(made).items():
            if not name.endswith("lora_a"):
                torch.nn.init.normal_(array, std=0.05)
    return made


def rows(count=5, seed=0):
    """Rows of which most begin alike: (tokens, mask)."""
    rng, made = np.random.default_rng(seed), []
    beginning = rng.integers(20, 250, 20)
    for place in range(count):
        own = rng.integers(20, 250, 4 + 3 * place)
        tokens = np.concatenate([beginning, own] if place % 4 else [own]).astype(np.int32)
        mask = np.zeros(len(tokens), bool)
        mask[-3:] = True
        made.append((tokens, mask))
    return made


@pytest.mark.parametrize("embedding", ["low_rank", "token_rows", "none"])
def test_a_pack_gives_each_row_its_own_losses_and_gradients(folder, embedding):
    made, given = model(folder, embedding=embedding), rows()
    together = torch_engine.losses_of(made, packing.pack(given, multiple=16))
    together.sum().backward()
    plain, alone = model(folder, embedding=embedding, attention="sdpa"), []
    for tokens, mask in given:
        ids = torch.from_numpy(tokens.astype(np.int64))
        logits = plain(ids[None, :-1]).logits[0]
        alone.append(torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")[mask[1:]])
    torch.cat(alone).sum().backward()
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)
    expected = torch_model.trainable(plain)
    for name, array in torch_model.trainable(made).items():
        assert torch.allclose(array.grad, expected[name].grad, rtol=1e-3, atol=1e-4), name


def test_attention_of_a_pack_is_that_of_float64_and_so_is_its_gradient():
    torch.manual_seed(2)
    heads, shared, tokens, width = 6, 2, 11, 8
    query = torch.randn(1, heads, tokens, width, dtype=torch.float64, requires_grad=True)
    key, value = (torch.randn(1, shared, tokens, width, dtype=torch.float64, requires_grad=True) for _ in range(2))
    visible = torch.rand(tokens, tokens) < 0.4
    visible.fill_diagonal_(True)
    bias = torch_attention.bias_of(visible, torch.float64)

    def attend(*arrays):
        return torch_attention.attend(None, *arrays, bias, scaling=0.3)[0]

    mixed = attend(query, key, value)
    for head in range(heads):
        for place in range(tokens):
            seen = visible[place].nonzero()[:, 0]
            scores = 0.3 * key[0, head // 3, seen] @ query[0, head, place]
            assert torch.allclose(mixed[0, place, head], scores.softmax(0) @ value[0, head // 3, seen])
    assert torch.autograd.gradcheck(attend, (query, key, value))


def test_what_rows_share_stands_once_and_no_token_is_padding():
    given = rows()
    pack = packing.pack(given)
    prefixes = {tuple(tokens[: length + 1].tolist()) for tokens, _ in given for length in range(len(tokens) - 1)}
    assert len(pack.tokens) == len(prefixes) < sum(len(tokens) - 1 for tokens, _ in given)
    assert len(pack.places) == sum(int(mask[1:].sum()) for _, mask in given)
    filled = packing.pack(given, multiple=16)
    size = len(pack.tokens)
    assert len(filled.tokens) == len(filled.positions) == -(-size // 16) * 16 and size % 16
    assert (filled.visible[:size, :size] == pack.visible).all() and not filled.visible[:size, size:].any()
    assert filled.visible[size:].sum() == len(filled.tokens) - size


def test_a_plan_takes_each_row_once_and_keeps_alike_rows_together():
    given = [tokens for tokens, _ in rows(12)] + [tokens for tokens, _ in rows(12, seed=1)]
    plan = packing.plan(given, 150, "1 1")
    assert sorted(place for group in plan for place in group) == list(range(24))
    assert plan == packing.plan(given, 150, "1 1") != packing.plan(given, 150, "1 2")
    sizes = [
        len(packing.pack([(given[place], np.ones(len(given[place]), bool)) for place in group]).tokens)
        for group in plan
    ]
    assert max(sizes) <= 150 and sum(sizes) < 0.8 * sum(map(len, given))


def test_torch_and_mlx_read_each_others_adapters_and_agree(folder, tmp_path):
    made = model(folder)
    torch_model.save(tmp_path / "adapter", torch_model.trainable(made), {"lora": LORA, "token_ids": [8, 10, 14, 16]})
    again = torch_model.load(folder, torch.float32)
    torch_model.load_adapter(again, tmp_path / "adapter")
    theirs = generate.load(folder)
    mlx_adapter.load(theirs, tmp_path / "adapter")
    ids = rows()[3][0].tolist()
    with torch.no_grad():
        ours = again(torch.tensor([ids])).logits[0].numpy()
    assert np.abs(ours - np.array(theirs(mx.array([ids]))[0].astype(mx.float32))).max() < 1e-2
    mlx_adapter.save(tmp_path / "back", mlx_adapter.trainable(theirs), {"lora": LORA, "token_ids": [8, 10, 14, 16]})
    back = torch_model.load(folder, torch.float32)
    torch_model.load_adapter(back, tmp_path / "back")
    with torch.no_grad():
        assert np.abs(back(torch.tensor([ids])).logits[0].numpy() - ours).max() < 1e-4


def test_batched_greedy_continuations_are_those_of_one_prompt(folder, monkeypatch):
    monkeypatch.setattr(torch_model, "fast_type", lambda: torch.float32)
    ours, theirs = (backend.load(name, folder) for name in ("torch", "mlx"))
    prompts = [tokens.tolist() for tokens, _ in rows()]
    made, other = (one.generate(prompts, 6, stop=2, watch=8) for one in (ours, theirs))
    for prompt, generation, expected in zip(prompts, made, other):
        ids = []
        while len(ids) < 6:
            with torch.no_grad():
                logits = ours.model(torch.tensor([prompt + ids])).logits[0, -1]
            if not ids:
                assert generation.watched == pytest.approx(logits.softmax(-1)[8].item(), rel=1e-4)
            if (token := int(logits.argmax())) == 2:
                break
            ids.append(token)
        assert generation.ids == ids == expected.ids
        assert expected.watched == pytest.approx(generation.watched, rel=1e-3)
    p, q = (one.log_probabilities(prompts[2]) for one in (ours, theirs))
    assert np.abs(p - q).max() < 1e-3 and np.exp(p).sum(-1) == pytest.approx(1, abs=1e-4)


def test_a_training_that_was_cut_ends_where_a_whole_one_does(folder, tmp_path):
    examples = [Example({}, *one) for one in rows(9)]
    valid = [Example({}, *one) for one in rows(3, seed=4)]

    def train(work, **more):
        made = model(folder, moved=False)
        outcome = epochs.train(made, examples, valid, SETTINGS, work, "key", engine=torch_engine, **more)
        return outcome, torch_model.trainable(made)

    whole, expected = train(tmp_path / "whole")
    assert whole.move == "done" and whole.valid_losses[-1] < whole.valid_losses[0]
    pieces = 0
    while (cut := train(tmp_path / "cut", minutes=1e-9)[0]).move == "later":
        pieces += 1
    assert pieces > 2 and cut.train_losses == whole.train_losses and cut.valid_losses == whole.valid_losses
    _, arrays = train(tmp_path / "cut")
    assert all(torch.equal(arrays[name], array) for name, array in expected.items())
    with pytest.raises(UserError, match="other data, model or settings"):
        made = model(folder, moved=False)
        epochs.train(made, examples, valid, SETTINGS, tmp_path / "cut", "another", engine=torch_engine)


def test_a_module_that_no_layer_has_is_named(folder):
    with pytest.raises(UserError, match="no layer of this model is called w_proj"):
        model(folder, modules=["q_proj", "w_proj"])
