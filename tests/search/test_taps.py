"""The damage measured at a matrix is the KL divergence that the changed matrix really causes."""

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

from kxl.search import taps

TOKENS, FIRST, PROBES = 48, 16, 60
KIND = Type.F16  # of its products no input is rounded, so that only the weights differ


@pytest.fixture(scope="module")
def model():
    from transformers import Lfm2MoeConfig, Lfm2MoeForCausalLM

    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = Lfm2MoeConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=96,
        moe_intermediate_size=32,
        num_hidden_layers=3,
        num_dense_layers=1,
        num_experts=3,
        num_experts_per_tok=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=["conv", "full_attention", "conv"],
        use_expert_bias=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    made = Lfm2MoeForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15, generator=torch.Generator().manual_seed(len(name)))
    return taps.Tapped(made, lambda parameter: parameter)


def changes(model, name: str, size: float) -> torch.Tensor:
    draw = torch.Generator().manual_seed(7)
    return torch.stack([torch.randn(w.shape, generator=draw) * size for w in model.matrices[name]])


def measured(model, name: str, error: torch.Tensor, tokens: torch.Tensor) -> float:
    total = 0.0
    for seed in range(PROBES):
        model.sink = taps.Sink({other: {} for other in model.matrices} | {name: {KIND: error.bfloat16()}})
        logits = model.logits(tokens, FIRST)
        (logits * taps.fisher_probe(logits, torch.Generator().manual_seed(seed))).sum().backward()
        total += model.sink.totals[name][KIND] / 2 / (TOKENS - FIRST)
    model.sink = None
    return total / PROBES


def caused(model, name: str, error: torch.Tensor, tokens: torch.Tensor) -> float:
    """Mean KL divergence with the matrix really changed, up and down, so that odd orders cancel."""
    found = []
    with torch.no_grad():
        base = model.logits(tokens, FIRST)
        model.forced = dict(enumerate(model.chosen))  # every token keeps its experts
        for sign in (1, -1):
            for weight, change in zip(model.matrices[name], error.bfloat16().float()):
                weight += sign * change
            found.append(taps.kl_divergence(base, model.logits(tokens, FIRST)).mean().item())
            for weight, change in zip(model.matrices[name], error.bfloat16().float()):
                weight -= sign * change
    model.forced = {}
    return float(np.mean(found))


@pytest.mark.minutes
@pytest.mark.parametrize(
    "name",
    [
        "layers.2.feed_forward.experts.w2.weight",
        "layers.2.feed_forward.experts.w1.weight",
        "model.layers.2.conv.out_proj.weight",
        "model.layers.1.self_attn.q_proj.weight",
        "model.layers.0.feed_forward.w2.weight",
        "model.embed_tokens.weight",
    ],
)
def test_damage_is_the_divergence_that_a_small_change_causes(model, name):
    tokens = torch.randint(0, 96, (TOKENS,), generator=torch.Generator().manual_seed(1))
    error = changes(model, name, 0.002)
    # Errors of one matrix at different positions count apart, so only the last layer's is exact.
    assert measured(model, name, error, tokens) == pytest.approx(caused(model, name, error, tokens), rel=0.35)


def test_damage_grows_with_the_square_of_the_error(model):
    tokens = torch.randint(0, 96, (TOKENS,), generator=torch.Generator().manual_seed(2))
    name = "model.layers.1.self_attn.v_proj.weight"
    small, large = (measured(model, name, changes(model, name, size), tokens) for size in (0.001, 0.004))
    assert large / small == pytest.approx(16, rel=0.02)


def test_a_probes_mean_square_is_the_fisher_information():
    logits = torch.randn(1, 7, generator=torch.Generator().manual_seed(0))
    p = torch.softmax(logits, -1)[0]
    generator = torch.Generator().manual_seed(3)
    v = torch.stack([taps.fisher_probe(logits, generator)[0] for _ in range(20_000)])
    assert torch.allclose(v.T @ v / len(v), torch.diag(p) - torch.outer(p, p), atol=0.01)


def test_an_input_is_rounded_as_eight_bit_codes_of_its_block():
    x = torch.tensor([[1.27, 0.004, -0.6349] + [0.0] * 29])
    found = taps.rounded_input(x, 32)
    assert found[0, :3].tolist() == pytest.approx([1.27, 0.0, -0.63], abs=1e-6)
    assert (taps.rounded_input(x, 0) == x).all()


def test_flipping_a_router_exchanges_the_last_expert_for_the_next(model):
    tokens = torch.randint(0, 96, (TOKENS,), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        base = model.logits(tokens, FIRST)
        model.flip = {1: torch.arange(TOKENS) == TOKENS - 1}
        moved = taps.kl_divergence(base, model.logits(tokens, FIRST))
        model.flip = {}
    assert moved[-1] > 1e-6 and moved[:-1].max() < 1e-9
