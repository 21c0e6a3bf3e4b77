"""Streamed and grouped gradients are those of mx.grad through mlx_lm's own model."""

import mlx.core as mx
import numpy as np
import pytest

import moe_check_gradients
from helpers import random_cores
from kxl.base.cli import UserError
from kxl.model.batches import make_batch
from kxl.moe.core import router_name
from kxl.moe.experts import router_losses
from kxl.moe.grouped import grouped_step, groups_of
from kxl.moe.layers import Blocks
from kxl.moe.streamed import NotFinite, StepOptions, loss_of, streamed_step
from moe_check_gradients import keep_gradients, mlx_lm_model, whole_gradients

# Smaller than the sequences, so that every blocked loop takes several turns.
SMALL = Blocks(tokens=7, queries=5, logits=4, vocabulary=100)
# A sum in another order may round a kept BF16 value the other way, which is no longer a float32 error.
TOLERANCE = {"float32": 1e-5, "bfloat16": 5e-3}


def relative_error(found, exact):
    return float(np.abs(found - exact).max() / max(np.abs(exact).max(), 1e-12))


@pytest.mark.parametrize("keep", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", random_cores.SHAPES)
def test_every_gradient_equals_autograd_through_the_whole_model(shape, keep, tmp_path):
    core = random_cores.random_core(shape)
    batch = make_batch(random_cores.examples(core, (24, 17)))
    loss, exact = whole_gradients(*mlx_lm_model(core, tmp_path / "core"), batch, keep)

    streamed = {}
    outcome = streamed_step(core, batch, keep_gradients(streamed), StepOptions(SMALL, keep))
    assert abs(outcome.loss - loss) < TOLERANCE[keep] * loss
    assert loss_of(core, batch, StepOptions(SMALL, keep)) == outcome.loss
    for key, gradient in exact.items():
        if key in streamed:
            assert relative_error(streamed[key], gradient) < TOLERANCE[keep], key
        else:
            assert not gradient.any(), f"{key} has a gradient and was not handed out"
    assert set(streamed) <= set(exact)

    # Without updates every group sees the same weights: its gradients are the same, restricted to it.
    layers = core.moe_layers
    size, stride = min(2, len(layers)), 1
    groups = groups_of(layers, size, stride)[::-1]
    for number, group in enumerate(groups):
        grouped = {}

        def update(which, *found):
            if which == number:
                keep_gradients(grouped)(which, *found)

        assert grouped_step(core, batch, update, StepOptions(SMALL, keep), size, stride).loss == outcome.loss
        assert {key for key in grouped} == {key for key in streamed if key[0] in group}
        for key, gradient in grouped.items():
            assert relative_error(gradient, exact[key]) < TOLERANCE[keep], key


@pytest.mark.parametrize("shape", random_cores.SHAPES)
def test_shares_of_a_batch_add_up_to_its_gradient(shape, tmp_path):
    """Rows in shares of their own padding, by autograd through the whole model with all of them together."""
    core = random_cores.random_core(shape)
    rows = random_cores.examples(core, (24, 17, 9, 21))
    model = mlx_lm_model(core, tmp_path / "core")
    loss, exact = whole_gradients(*model, make_batch(rows), "float32")
    _, short = whole_gradients(*model, make_batch([*rows[:-1], (rows[-1][0][:-1], rows[-1][1][:-1])]), "float32")
    # Which kernels a BLAS picks decides how exact float32 is: autograd with its rows in another order moves by up to
    # 5e-6, shares by 1.5e-5. One token less of 67 moves some matrix by a hundred times this bound.
    bound = 1e-4
    assert max(relative_error(short[key], gradient) for key, gradient in exact.items() if gradient.any()) > 100 * bound
    for count in (2, 4):
        shares, found, counted = [make_batch(rows[share::count]) for share in range(count)], {}, {}
        options = StepOptions(SMALL, "float32", counted=lambda layer, tokens: counted.update({layer: tokens.sum()}))
        outcome = streamed_step(core, shares, keep_gradients(found), options)
        assert abs(outcome.loss - loss) < 1e-5 * loss
        assert set(counted.values()) == {(23 + 16 + 8 + 20) * core.config["num_experts_per_tok"]}
        for key, gradient in exact.items():
            assert key in found or not gradient.any(), f"{key} has a gradient and was not handed out"
            assert key not in found or relative_error(found[key], gradient) < bound, key


@pytest.mark.parametrize("shape", random_cores.SHAPES)
def test_as_shipped_the_gradient_is_some_per_cent_from_autograds_and_in_float32_it_is_the_same(shape):
    core = random_cores.random_core(shape)
    rows = [
        {"row": number, "tokens": tokens, "mask": mask}
        for number, (tokens, mask) in enumerate(random_cores.examples(core, (24, 17)))
    ]
    blocks = vars(SMALL)
    exact = moe_check_gradients.compare(core, rows, blocks, "float32")
    shipped = moe_check_gradients.compare(core, rows, blocks, StepOptions().keep)
    assert StepOptions().keep == "bfloat16" and exact["matrices"] == shipped["matrices"]
    assert exact["largest"] < 1e-5
    assert 1e-3 < shipped["together"] < 0.2 and shipped["largest"] > 1e-3


def test_router_losses_have_the_gradients_that_torch_takes():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    normed, gate = rng.standard_normal((9, 5)).astype("f4"), rng.standard_normal((4, 5)).astype("f4")
    real, seen = np.array([1] * 7 + [0, 0], np.float32), np.array([9, 1, 3, 1])
    config = {"num_experts_per_tok": 2}
    found = mx.grad(
        lambda n, g: router_losses(n, g, mx.array(real), seen, config, balance=0.01, z=0.001), argnums=(0, 1)
    )(mx.array(normed), mx.array(gate))
    n, g = (torch.tensor(array, requires_grad=True) for array in (normed, gate))
    logits = (n @ g.T)[:7]
    shares = torch.sigmoid(logits) / torch.sigmoid(logits).sum(1, keepdim=True)
    balance = 4 * (torch.tensor(seen / 14.0) * shares.mean(0)).sum()
    (0.01 * balance + 0.001 * (torch.logsumexp(logits, 1) ** 2).mean()).backward()
    for ours, theirs in zip(found, (n.grad, g.grad)):
        assert relative_error(np.array(ours), theirs.numpy()) < 1e-5


def test_router_losses_reach_routers_and_change_no_experts_of_the_last_layer():
    core = random_cores.random_core("six")
    batch = make_batch(random_cores.examples(core, (24, 17)))
    plain, more, counted = {}, {}, {}
    streamed_step(core, batch, keep_gradients(plain), StepOptions(SMALL, "float32"))
    options = StepOptions(
        SMALL, "float32", balance=10.0, z=1.0, counted=lambda layer, tokens: counted.update({layer: tokens})
    )
    streamed_step(core, batch, keep_gradients(more), options)
    last = core.moe_layers[-1]
    for key in plain:
        changed = relative_error(more[key], plain[key]) > 1e-4
        assert changed or key[0] == last, key
        assert key[0] != last or changed == ("gate" in str(key) or None in key), key
    assert all(tokens.sum() == 2 * (23 + 16) for tokens in counted.values()) and set(counted) == set(core.moe_layers)


def test_a_layer_is_updated_only_after_its_gradients_went_on(tmp_path):
    """Weights that change during the step must not change the gradients of the layers below."""
    core, batch = random_cores.random_core("six"), None
    batch = make_batch(random_cores.examples(core, (20,)))
    still, moving = {}, {}
    streamed_step(core, batch, keep_gradients(still), StepOptions(SMALL))

    def destroy(number, layer, expert, gradients):
        keep_gradients(moving)(number, layer, expert, gradients)
        if expert is None:
            core.plain[router_name(layer)][...] = 0
        else:
            for matrix in core.expert(layer, expert):
                matrix.codes[...] = 0

    streamed_step(core, batch, destroy, StepOptions(SMALL))
    assert still.keys() == moving.keys()
    assert all(np.array_equal(still[key], moving[key]) for key in still)


def test_the_second_group_sees_what_the_first_has_changed():
    core = random_cores.random_core("six")
    batch = make_batch(random_cores.examples(core, (20,)))

    def gradients_of_last_group(change):
        found = {}

        def update(number, layer, expert, gradients):
            if number == 1:
                keep_gradients(found)(number, layer, expert, gradients)
            elif change and expert is None:
                core.plain[router_name(layer)][...] = 0

        grouped_step(core, batch, update, StepOptions(SMALL), 2, 2)
        return found

    before, after = gradients_of_last_group(False), gradients_of_last_group(True)
    assert before.keys() == after.keys() and len(before)
    assert not np.array_equal(before[1, None, 0], after[1, None, 0])


def test_padding_is_nobodys_token():
    core = random_cores.random_core("five")
    short, long = random_cores.examples(core, (9, 25))
    padded, alone = {}, {}
    batch = make_batch([short, long])
    batch.weights[1] = 0  # only the short one is scored
    streamed_step(core, batch, keep_gradients(padded), StepOptions(SMALL, "float32"))
    streamed_step(core, make_batch([short]), keep_gradients(alone), StepOptions(SMALL, "float32"))
    for key, gradient in alone.items():
        assert relative_error(padded[key], gradient) < 1e-5, key


def test_the_reference_groups_are_seven_over_22_layers():
    assert [list(group) for group in groups_of(range(2, 24), 4, 3)] == [
        list(range(start, start + 4)) for start in range(2, 21, 3)
    ]


@pytest.mark.parametrize("size, stride", [(1, 1), (2, 1), (3, 2), (4, 4), (5, 3), (22, 22)])
def test_groups_cover_every_layer(size, stride):
    groups = groups_of(range(2, 24), size, stride)
    assert set().union(*groups) == set(range(2, 24)) and all(len(group) == size for group in groups)


@pytest.mark.parametrize(
    "size, stride, message",
    [(23, 3, "set group_layers to 1..22"), (0, 1, "set group_layers"), (3, 4, "set group_stride to 1..3")],
)
def test_groups_that_do_not_fit_are_refused(size, stride, message):
    with pytest.raises(UserError, match=message):
        groups_of(range(2, 24), size, stride)


def test_a_loss_that_is_not_finite_names_the_layer():
    core = random_cores.random_core("six")
    core.plain["model.layers.2.operator_norm.weight"][:] = 0x7FC0  # NaN in BF16
    with pytest.raises(NotFinite, match="layer 2 is the first"):
        streamed_step(core, make_batch(random_cores.examples(core, (12,))), lambda *found: None, StepOptions(SMALL))


def test_a_batch_without_scored_targets_is_refused():
    core = random_cores.random_core("six")
    tokens, mask = random_cores.examples(core, (12,))[0]
    with pytest.raises(UserError, match="no target of this batch is scored"):
        streamed_step(core, make_batch([(tokens, mask * False)]), lambda *found: None, StepOptions(SMALL))
