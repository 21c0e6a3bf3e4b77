"""How much the logits of a torch model would move if one matrix were quantized, measured at the matrix itself.

The KL divergence of slightly changed logits z + d from z is d' F d / 2, with F = diag(p) - p p' and p the softmax of z
(Fisher information). For a random v with E[v v'] = F that is E[(v' d)^2] / 2. One backward pass from sum(v' z) gives at
each matrix's output y the gradient g, and an error e of that output moves v' z by g' e. So

    damage of a matrix = mean over tokens of (g' e)^2 / 2,    e = round(x) round(W)' - x W'

for every matrix and every type from the same pass. The choice of experts is kept as it is, so nothing jumps and the
quantity is smooth; errors of one matrix at different positions count apart. round(x) is what llama.cpp does to the
input of a product on CPUs.

What jumps is estimated apart (`flips`): an expert is exchanged for the next one when the margin between their scores
moves by more than its size. The same pass from the margins gives the variance of each margin by each matrix.
"""

from collections import defaultdict
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from gguf import GGMLQuantizationType as Type

# How ggml's CPU backend rounds the input of a product: values per scale. BF16 and float types: to the type itself.
INPUT_BLOCK = {Type.Q8_0: 32, Type.Q5_0: 32, Type.Q5_1: 32, Type.Q4_0: 32, Type.Q4_1: 32, Type.IQ4_NL: 32}
K_BLOCK = 256


def rounded_input(x: torch.Tensor, block: int) -> torch.Tensor:
    """`x` [..., columns] in 8-bit codes with one scale for each `block` values, as ggml's q8_0 and q8_K, and back.

    `block` 0 leaves it as it is.
    """
    if not block:
        return x
    groups = x.reshape(-1, block)
    scale = groups.abs().amax(-1, keepdim=True) / 127
    codes = torch.round(groups / scale.clamp_min(1e-30))
    return (codes * scale).reshape(x.shape)


def input_block(kind: Type) -> int:
    """How many values of a product's input share a scale where the weights are of `kind`; 0 where it is not rounded."""
    if kind in (Type.F32, Type.F16, Type.BF16):
        return 0
    return INPUT_BLOCK.get(kind, K_BLOCK)


class Sink:
    """Sums of (g' e)^2 by (matrix, type), filled while a backward pass runs.

    `errors` {matrix: {type: bfloat16 [experts, rows, columns], the quantized weights minus the true ones}}. Of the
    tokens of each product a random `share` is taken, which costs less; the sums are of all, as far as these tell.
    """

    def __init__(self, errors: dict[str, dict[Type, torch.Tensor]], share: float = 1.0, seed: int = 0):
        self.errors, self.share, self.generator = errors, share, torch.Generator().manual_seed(seed)
        self.totals: dict[str, dict[Type, float]] = defaultdict(lambda: defaultdict(float))

    def product(self, name: str, expert: int, weight: torch.Tensor, x: torch.Tensor, gradient: torch.Tensor) -> None:
        """A product x [tokens, columns] times weight [rows, columns] whose output has `gradient` [tokens, rows]."""
        x, gradient = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
        used = (gradient.abs().amax(-1) > 0) & self._drawn(len(x))
        if not used.any():
            return
        x, gradient = x[used], gradient[used]
        back = gradient @ weight  # of the input
        inputs = {}
        for kind, error in self.errors[name].items():
            block = input_block(kind)
            if block not in inputs:
                rounded = rounded_input(x, block)
                inputs[block] = rounded, ((rounded - x) * back).sum(-1)
            rounded, moved = inputs[block]
            moved = moved + ((gradient @ error[expert].float()) * rounded).sum(-1)
            self.totals[name][kind] += float((moved.double() ** 2).sum()) / self.share

    def _drawn(self, count: int) -> torch.Tensor:
        return torch.rand(count, generator=self.generator) < self.share

    def lookup(self, name: str, tokens: torch.Tensor, gradient: torch.Tensor) -> None:
        """Rows of a table taken by token id; `gradient` [tokens, columns]."""
        tokens, gradient = tokens.reshape(-1), gradient.reshape(-1, gradient.shape[-1])
        for kind, error in self.errors[name].items():
            moved = (gradient * error[0][tokens].float()).sum(-1)
            self.totals[name][kind] += float((moved.double() ** 2).sum())


class Tapped:
    """A transformers model whose matrices report to a sink.

    `names` says for a parameter of the model which GGUF tensors it is: {parameter: (tensor, ...)}, two for gate and up
    that are stored above each other.
    """

    def __init__(self, model: torch.nn.Module, names: Callable[[str], str]):
        self.model, self.sink, self.routers = model, None, []
        self.matrices: dict[str, list[torch.Tensor]] = {}
        self.head = names("model.embed_tokens.weight")
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear):
                own = self.head if name == "lm_head" and _tied(model) else names(f"{name}.weight")
                self.matrices[own] = [module.weight.detach()]
                module.forward = partial(self._linear, module, own)
            elif isinstance(module, torch.nn.Embedding):
                self.matrices[self.head] = [module.weight.detach()]
                module.forward = partial(self._embedding, module)
            elif hasattr(module, "gate_up_proj") and module.gate_up_proj.ndim == 3:
                stacked = name.removeprefix("model.")  # so upstream's list has them
                kinds = [names(f"{stacked}.{part}.weight") for part in ("w1", "w3", "w2")]
                gate, up = module.gate_up_proj.detach().chunk(2, dim=1)
                for own, weights in zip(kinds, (gate, up, module.down_proj.detach())):
                    self.matrices[own] = list(weights)
                module.forward = partial(self._experts, kinds)
            elif name.endswith("feed_forward.gate"):
                self.routers.append(module)
                module.forward = partial(self._router, module, module.forward)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self.margins: list[torch.Tensor] = []
        self.chosen: list[torch.Tensor] = []  # experts of each router of the last text
        self.flip: dict[int, torch.Tensor] = {}  # by router: tokens that take the next expert
        self.forced: dict[int, torch.Tensor] = {}  # by router: the experts to take, whatever the scores

    def logits(self, tokens: torch.Tensor, first: int) -> torch.Tensor:
        """Logits [tokens - first, vocabulary] of one text `tokens` [tokens]; margins of its routers in `margins`."""
        self.margins, self.chosen = [], []
        hidden = self.model.model(input_ids=tokens[None], use_cache=False).last_hidden_state
        return self.model.lm_head(hidden[0, first:])

    def _tap(self, y: torch.Tensor, take: Callable[[torch.Tensor], None]) -> torch.Tensor:
        if self.sink is not None and y.requires_grad:
            y.register_hook(lambda gradient: take(gradient))
        return y

    def _product(self, own: str, expert: int, weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        y, seen = F.linear(x, weight), x.detach()
        return self._tap(y, lambda g: self.sink.product(own, expert, weight, seen, g) if self.sink else None)

    def _linear(self, module, own: str, x: torch.Tensor) -> torch.Tensor:
        y = self._product(own, 0, module.weight.detach(), x)
        return y if module.bias is None else y + module.bias

    def _embedding(self, module, tokens: torch.Tensor) -> torch.Tensor:
        y = F.embedding(tokens, module.weight.detach()).requires_grad_(True)
        return self._tap(y, lambda g: self.sink.lookup(self.head, tokens, g) if self.sink else None)

    def _experts(self, kinds: list[str], x: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(x)
        gate, up, down = kinds
        for expert in range(len(self.matrices[gate])):
            token, place = torch.where(chosen == expert)
            if not len(token):
                continue
            mine = x[token]
            a = self._product(gate, expert, self.matrices[gate][expert], mine)
            b = self._product(up, expert, self.matrices[up][expert], mine)
            y = self._product(down, expert, self.matrices[down][expert], F.silu(a) * b)
            out = out.index_add(0, token, y * shares[token, place, None])
        return out

    def _router(self, module, forward: Callable, x: torch.Tensor, bias: torch.Tensor | None = None):
        layer = len(self.margins)
        logits, shares, chosen = forward(x, bias)
        scores = logits.sigmoid()
        chances = scores if bias is None else scores + bias
        best = chances.topk(module.top_k + 1, dim=-1)
        self.margins.append(best.values[:, -2] - best.values[:, -1])
        self.chosen.append(chosen)
        forced = self.forced.get(layer)
        if layer in self.flip:  # the last expert taken gives way to the first one that was not
            flipped = self.flip[layer]
            forced = best.indices[:, : module.top_k].clone()
            forced[flipped, -1] = best.indices[flipped, -1]
        if forced is not None:
            chosen, shares = forced, torch.gather(scores, 1, forced)
            if module.norm_topk_prob:
                shares = shares / (shares.sum(-1, keepdim=True) + 1e-6)
            shares = shares * module.routed_scaling_factor
        return logits, shares, chosen


def _tied(model) -> bool:
    return bool(getattr(model.config, "tie_word_embeddings", False))


def fisher_probe(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Random v [tokens, vocabulary] with E[v v'] = diag(p) - p p', p the softmax of each row of `logits`."""
    p = torch.softmax(logits.detach(), -1)
    signs = torch.randint(0, 2, p.shape, generator=generator, dtype=torch.float32) * 2 - 1
    v = p.sqrt() * signs
    return v - p * v.sum(-1, keepdim=True)  # (diag(s) - p s') signs, with s = sqrt(p): its square is F


def kl_divergence(base: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL divergence [tokens] of softmax(other) from softmax(base), in nats; float64."""
    a, b = torch.log_softmax(base.double(), -1), torch.log_softmax(other.double(), -1)
    return (a.exp() * (a - b)).sum(-1)


def importance_of(entry, expert: int) -> np.ndarray | None:
    """Mean square of each input column of one expert, as llama-quantize takes it from an imatrix entry."""
    return None if entry is None else (entry.sums[expert] / max(1, entry.counts[expert])).astype(np.float32)
