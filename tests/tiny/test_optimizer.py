"""Our float32 Muon against torch's own, which rounds to bfloat16."""

import pytest
import torch

from kxl.tiny.optimizer import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(32, 32), (16, 48), (48, 16)])
def test_steps_as_torch_does(shape):
    torch.manual_seed(0)
    ours, theirs = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
    a, b = (
        Muon([ours], 0.02, 0.1),
        torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="original"),
    )
    for _ in range(3):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        a.step(), b.step()
    moved = (theirs - 1).norm()
    assert (ours - theirs).norm() < 0.02 * moved


def test_singular_values_come_near_one():
    values = torch.linalg.svdvals(orthogonalize(torch.randn(3, 64, 40, generator=torch.Generator().manual_seed(1))))
    assert values.min() > 0.5 and values.max() < 1.3


def test_matrices_of_one_shape_are_independent():
    torch.manual_seed(2)
    grads = torch.randn(4, 24, 24)
    assert torch.allclose(orthogonalize(grads)[2], orthogonalize(grads[2:3])[0], atol=1e-6)
