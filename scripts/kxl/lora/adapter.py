"""Low-rank adapters on any mlx-lm model: attach, save, load, and what they add to a weight.

    attached = attach(model, {"rank": 16, "alpha": 32, "modules": ["q_proj", "down_proj"], "embedding": "low_rank"})
    model.trainable_parameters()   # the adapter alone; the model is frozen

A linear layer W [out, in] becomes x Wᵀ + s (x A) B with A [in, r], B [r, out] and s = alpha / r (Hu et al. 2021,
https://arxiv.org/abs/2106.09685). B starts at zero, so an attached model computes what it did before.

"embedding" says how embed_tokens moves, which with tied embeddings is the output head, too:

  none        not at all
  low_rank    every row, by A[token] B with A [vocabulary, r], B [r, width]
  token_rows  only the rows of the tool tokens, each by a free vector: 4 × width numbers
"""

import math
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from kxl.base import config
from kxl.base.cli import UserError
from kxl.base.files import atomic_dir, shown, write_json
from kxl.model import safetensors_io

EMBEDDING = "embed_tokens"  # what mlx-lm's models call it
EMBEDDINGS = ("none", "low_rank", "token_rows")
WEIGHTS, SETTINGS = "adapter.safetensors", "adapter.json"


class LoRALinear(nn.Module):
    """A frozen linear layer, quantized or not, plus a low-rank change."""

    def __init__(self, linear: nn.Module, rank: int, scale: float):
        super().__init__()
        out = linear.weight.shape[0]
        columns = linear.weight.shape[1]
        if isinstance(linear, nn.QuantizedLinear):
            columns = columns * 32 // linear.bits
        self.linear, self.scale = linear, scale
        self.lora_a = mx.random.uniform(-1, 1, (columns, rank)) / math.sqrt(columns)
        self.lora_b = mx.zeros((rank, out))

    def __call__(self, x):
        # addmm adds inside the matmul: on a CPU the passes over the output are what an adapter costs.
        return mx.addmm(self.linear(x), x @ self.lora_a, self.lora_b, alpha=self.scale).astype(x.dtype)


class LoRAEmbedding(nn.Module):
    """A frozen embedding plus a low-rank change of every row; `as_linear` is the tied output head."""

    def __init__(self, embedding: nn.Module, rank: int, scale: float):
        super().__init__()
        rows, width = embedding.weight.shape
        self.embedding, self.scale = embedding, scale
        self.lora_a = mx.random.uniform(-1, 1, (rows, rank)) / math.sqrt(rows)
        self.lora_b = mx.zeros((rank, width))

    def __call__(self, x):
        embedded = self.embedding(x)
        return embedded + (self.scale * (self.lora_a[x] @ self.lora_b)).astype(embedded.dtype)

    def as_linear(self, x):
        return mx.addmm(self.embedding.as_linear(x), x @ self.lora_b.T, self.lora_a.T, alpha=self.scale).astype(x.dtype)


class TokenRows(nn.Module):
    """A frozen embedding of which only the rows of `ids` move; `as_linear` is the tied output head."""

    def __init__(self, embedding: nn.Module, ids: tuple):
        super().__init__()
        self.embedding, self._ids = embedding, mx.array(ids)
        self.rows = mx.zeros((len(ids), embedding.weight.shape[1]))

    def __call__(self, x):
        embedded = self.embedding(x)
        return embedded + ((x[..., None] == self._ids).astype(mx.float32) @ self.rows).astype(embedded.dtype)

    def as_linear(self, x):
        logits = self.embedding.as_linear(x)
        return logits.at[..., self._ids].add((x @ self.rows.T).astype(logits.dtype))


def attach(model: nn.Module, settings: dict, ids: tuple = ()) -> list[str]:
    """Freeze `model` and put adapters on it; returns the names of the layers that have one.

    settings: rank, alpha, modules (last parts of layer names), embedding (see above; token_rows needs `ids`).
    UserError for a module name that no layer has.
    """
    if settings["embedding"] not in EMBEDDINGS:
        raise UserError(f"embedding is {settings['embedding']!r}, it must be one of {', '.join(EMBEDDINGS)}")
    model.freeze()
    adapted = {}
    for name, module in model.named_modules():
        kind = name.rsplit(".", 1)[-1]
        if kind in settings["modules"] and isinstance(module, (nn.Linear, nn.QuantizedLinear)):
            adapted[name] = LoRALinear(module, settings["rank"], settings["alpha"] / settings["rank"])
        elif kind == EMBEDDING and settings["embedding"] != "none":
            adapted[name] = _adapted_embedding(name, module, settings, ids)
    linear = {name.rsplit(".", 1)[-1] for name, layer in adapted.items() if isinstance(layer, LoRALinear)}
    if missing := sorted(set(settings["modules"]) - linear):
        raise UserError(f'no layer of this model is called {", ".join(missing)}; correct "modules" in the config')
    model.update_modules(tree_unflatten(list(adapted.items())))
    return sorted(adapted)


def _adapted_embedding(name: str, module: nn.Module, settings: dict, ids: tuple) -> nn.Module:
    if isinstance(module, nn.QuantizedEmbedding):
        raise UserError(f"{name} is quantized; an adapter on the embedding needs an unquantized one")
    if settings["embedding"] == "token_rows":
        return TokenRows(module, ids)
    return LoRAEmbedding(module, settings["rank"], settings["alpha"] / settings["rank"])


def trainable(model: nn.Module) -> dict[str, mx.array]:
    """The adapter's arrays by name."""
    return dict(tree_flatten(model.trainable_parameters()))


def save(folder: Path, arrays: dict[str, mx.array], settings: dict) -> None:
    """Write an adapter folder, whole or not at all; the arrays as BF16."""
    with atomic_dir(folder) as partial:
        mx.save_safetensors(str(partial / WEIGHTS), {name: array.astype(mx.bfloat16) for name, array in arrays.items()})
        write_json(partial / SETTINGS, settings)


def load(model: nn.Module, folder: Path) -> dict:
    """Attach the adapter of a folder to a fresh model; returns its settings. UserError when it is another model's."""
    settings = config.load_adapter(Path(folder) / SETTINGS)
    attach(model, settings["lora"], tuple(settings["token_ids"]))
    expected = {name: array.shape for name, array in trainable(model).items()}
    safetensors_io.read_header(Path(folder) / WEIGHTS)  # UserError where it is none
    arrays = mx.load(str(Path(folder) / WEIGHTS))
    if {name: array.shape for name, array in arrays.items()} != expected:
        raise UserError(f"{shown(folder)}: its arrays are not those of an adapter for this model")
    model.load_weights([(name, array.astype(mx.float32)) for name, array in arrays.items()], strict=False)
    return settings


@dataclass(frozen=True)
class LowRankChange:
    """scale · A B, with A [rows, r] and B [r, columns]; transposed for a linear layer, which is stored as [out, in]."""

    a: np.ndarray
    b: np.ndarray
    scale: float
    transposed: bool

    def add_to(self, weight: np.ndarray) -> np.ndarray:
        """`weight` float32 with the change; ValueError where the shapes do not fit."""
        product = self.a @ self.b
        return weight + self.scale * (product.T if self.transposed else product)


@dataclass(frozen=True)
class RowsChange:
    """vectors [n, width], added to the rows `ids` of an embedding."""

    ids: list[int]
    vectors: np.ndarray

    def add_to(self, weight: np.ndarray) -> np.ndarray:
        """`weight` float32 with the change; ValueError where the shapes do not fit."""
        changed = weight.copy()
        changed[self.ids] += self.vectors
        return changed


def changes(folder: Path) -> dict[str, LowRankChange | RowsChange]:
    """What an adapter folder adds to each weight, by the weight's name; float32."""
    settings = config.load_adapter(Path(folder) / SETTINGS)
    stored = safetensors_io.read_header(Path(folder) / WEIGHTS)
    scale = settings["lora"]["alpha"] / settings["lora"]["rank"]
    arrays = {name: entry.rows(0, math.prod(entry.shape[:-1])) for name, entry in stored.items()}
    by_weight = {}
    for name, array in arrays.items():
        layer, part = name.rsplit(".", 1)
        if part == "lora_a":
            is_linear = not layer.endswith(EMBEDDING)
            by_weight[f"{layer}.weight"] = LowRankChange(array, arrays[f"{layer}.lora_b"], scale, transposed=is_linear)
        elif part == "rows":
            by_weight[f"{layer}.weight"] = RowsChange(settings["token_ids"], array)
    return by_weight
