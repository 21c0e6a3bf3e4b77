"""The GPU's ways through the model give what the CPU's give; tried on a CPU, and on CUDA where there is one."""

import copy

import pytest
import torch

from kxl.tiny import model as tiny

pytestmark = pytest.mark.minutes

CONFIG = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 24, "num_hidden_layers": 4,
    "num_dense_layers": 1, "num_experts": 6, "num_experts_per_tok": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "norm_eps": 1e-5, "conv_L_cache": 3, "rope_theta": 1e6,
    "layer_types": ["conv", "full_attention", "conv", "full_attention"],
}  # fmt: skip


def gradients(model, prefix, tokens):
    """(hidden states, gradients by name) of a loss that each token takes part in."""
    model.zero_grad()
    hidden = model(tokens, model(prefix)[1])[0]
    (hidden * torch.linspace(-1, 1, hidden.numel(), device=hidden.device).view_as(hidden)).sum().backward()
    return hidden.detach().cpu(), {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}


def drawn():
    torch.manual_seed(3)
    return tiny.TinyLfm2Moe(CONFIG), torch.randint(0, 50, (1, 9)), torch.randint(0, 50, (3, 7))


def assert_same(found, wanted):
    assert torch.allclose(found[0], wanted[0], atol=1e-5)
    for name, gradient in wanted[1].items():
        assert torch.allclose(found[1][name], gradient, atol=2e-5, rtol=1e-4), name


def test_plain_attention_and_all_experts_give_the_output_and_gradients_of_the_cpus_kernels(monkeypatch):
    model, prefix, tokens = drawn()
    wanted = gradients(model, prefix, tokens)
    monkeypatch.setattr(tiny.PrefixAttention, "apply", tiny.plain_prefix_attention)

    def by_all(self, x):
        flat = x.reshape(-1, x.shape[-1])
        scores = torch.sigmoid(self.gate(flat))
        chosen = (scores.detach() + self.expert_bias).topk(self.top_k, -1).indices
        weights = scores.gather(-1, chosen)
        return self.by_all(flat, chosen, weights / (weights.sum(-1, keepdim=True) + 1e-6)).view(x.shape)

    load = [moe.load.clone() for moe in model.moe_layers()]
    for moe in model.moe_layers():
        moe.load.zero_()
    monkeypatch.setattr(tiny.SparseMoE, "forward", by_all)
    assert_same(gradients(model, prefix, tokens), wanted)
    assert all(torch.equal(moe.load, held) for moe, held in zip(model.moe_layers(), load))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_cpus_output_and_gradients():
    model, prefix, tokens = drawn()
    wanted = gradients(model, prefix, tokens)
    assert_same(gradients(copy.deepcopy(model).cuda(), prefix.cuda(), tokens.cuda()), wanted)


def test_decoding_token_by_token_gives_the_first_choices_of_the_whole_row():
    model, prefix, _ = drawn()
    model.eval()
    rows = [[3, 4], [5, 6, 7, 8, 9], [1]]
    made = model.decode(model(prefix)[1], rows, 6, end=49)
    for row, following in zip(rows, made):
        for i in range(len(following)):
            whole = torch.tensor([prefix[0].tolist() + row + following[:i]])
            assert model.logits(model(whole)[0])[0, -1].argmax().item() == following[i]
        assert len(following) == 6 or following[-1] == 49
