"""How the tiny model's weights move: Muon or AdamW by the kind of weight, and the learning rate of each step.

Muon here is in float32, with matrices of one shape orthogonalized together. torch.optim.Muon multiplies in bfloat16,
which a CPU without bfloat16 instructions does hundreds of times slower than float32 (36 s a step for the tiny model on
AVX2, of which the model needs 3 s).
"""

import math
from collections import defaultdict

import torch
from torch import nn

# Quintic Newton-Schulz coefficients of K. Jordan, "Muon: An optimizer for hidden layers" (2024).
A, B, C = 3.4445, -4.7750, 2.0315
NOT_HIDDEN = ("embed_tokens.weight", "gate.weight", "operator.weight")  # matrices that Muon does not move


def orthogonalize(x: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Nearest semi-orthogonal matrices of x [N, R, C], roughly: singular values end between 0.7 and 1.2."""
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Momentum (Nesterov), orthogonalized; a step of `lr` × sqrt(max(1, rows / columns)), decoupled weight decay.

    The same update as torch.optim.Muon(adjust_lr_fn="original"), up to its rounding to bfloat16.
    """

    def __init__(self, parameters, lr: float, weight_decay: float, momentum: float = 0.95):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:  # an expert that no token of the batch chose keeps its weights
                    by_shape[p.shape].append(p)
            for shape, same in by_shape.items():
                grads, held = [p.grad for p in same], [self.momentum_of(p) for p in same]
                torch._foreach_lerp_(held, grads, 1 - group["momentum"])
                updates = orthogonalize(torch.stack(torch._foreach_lerp(grads, held, group["momentum"])))
                torch._foreach_mul_(same, 1 - group["lr"] * group["weight_decay"])
                rate = group["lr"] * math.sqrt(max(1, shape[0] / shape[1]))
                torch._foreach_add_(same, list(updates), alpha=-rate)

    def momentum_of(self, p: torch.Tensor) -> torch.Tensor:
        if "momentum_buffer" not in self.state[p]:
            self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return self.state[p]["momentum_buffer"]


def build_optimizers(model: nn.Module, settings: dict) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for embedding, routers, convolutions and norms.

    Weights whose names hold one of settings["frozen"] do not move.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(part in name for part in settings.get("frozen", ())))
    moving = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    hidden = [name for name, parameter in moving.items() if parameter.ndim == 2 and not name.endswith(NOT_HIDDEN)]
    others = [parameter for name, parameter in moving.items() if name not in hidden]
    return [
        Muon([moving[name] for name in hidden], settings["muon_learning_rate"], settings["weight_decay"]),
        torch.optim.AdamW(others, lr=settings["adam_learning_rate"], betas=(0.9, 0.95), weight_decay=0.0),
    ]


def set_learning_rates(optimizers: list[torch.optim.Optimizer], settings: dict, step: int) -> None:
    """Give the two optimizers of build_optimizers their rates for a step (from 0)."""
    for optimizer, peak in zip(optimizers, (settings["muon_learning_rate"], settings["adam_learning_rate"])):
        for group in optimizer.param_groups:
            group["lr"] = peak * share_of_peak(settings, step)


def share_of_peak(settings: dict, step: int) -> float:
    """The schedule, as a share of the peak learning rate: linear warm-up, flat, linear decay to zero at the end."""
    steps = settings["steps"]
    return min(1, (step + 1) / settings["warmup"], (steps - step) / (settings["decay"] * steps))
