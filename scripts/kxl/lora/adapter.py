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
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from kxl.base.cli import UserError
from kxl.base.files import atomic_dir, read_json, shown, write_json
from kxl.model import safetensors_io

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
        found = self.embedding(x)
        return found + (self.scale * (self.lora_a[x] @ self.lora_b)).astype(found.dtype)

    def as_linear(self, x):
        return mx.addmm(self.embedding.as_linear(x), x @ self.lora_b.T, self.lora_a.T, alpha=self.scale).astype(x.dtype)


class TokenRows(nn.Module):
    """A frozen embedding of which only the rows of `ids` move; `as_linear` is the tied output head."""

    def __init__(self, embedding: nn.Module, ids: tuple):
        super().__init__()
        self.embedding, self._ids = embedding, mx.array(ids)
        self.rows = mx.zeros((len(ids), embedding.weight.shape[1]))

    def __call__(self, x):
        found = self.embedding(x)
        return found + ((x[..., None] == self._ids).astype(mx.float32) @ self.rows).astype(found.dtype)

    def as_linear(self, x):
        logits = self.embedding.as_linear(x)
        return logits.at[..., self._ids].add((x @ self.rows.T).astype(logits.dtype))


def attach(model: nn.Module, settings: dict, ids: tuple = ()) -> list[str]:
    """Freeze `model` and put adapters on it; returns the names of the layers that have one.

    settings: rank, alpha, modules (last parts of layer names), embedding (see above; token_rows needs `ids`).
    UserError for a module name that no layer has.
    """
    model.freeze()
    scale = settings["alpha"] / settings["rank"]
    found, replaced = set(), []
    for name, module in model.named_modules():
        kind = name.rsplit(".", 1)[-1]
        if kind in settings["modules"] and isinstance(module, (nn.Linear, nn.QuantizedLinear)):
            replaced.append((name, LoRALinear(module, settings["rank"], scale)))
            found.add(kind)
        elif kind == "embed_tokens" and settings["embedding"] != "none":
            if settings["embedding"] not in EMBEDDINGS:
                raise UserError(f"embedding is {settings['embedding']!r}, it must be one of {', '.join(EMBEDDINGS)}")
            if isinstance(module, nn.QuantizedEmbedding):
                raise UserError(f"{name} is quantized; an adapter on the embedding needs an unquantized one")
            low_rank = settings["embedding"] == "low_rank"
            replaced.append(
                (name, LoRAEmbedding(module, settings["rank"], scale) if low_rank else TokenRows(module, ids))
            )
    if missing := sorted(set(settings["modules"]) - found):
        raise UserError(f'no layer of this model is called {", ".join(missing)}; correct "modules" in the config')
    model.update_modules(tree_unflatten(replaced))
    return sorted(name for name, _ in replaced)


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
    settings = read_json(Path(folder) / SETTINGS)
    attach(model, settings["lora"], tuple(settings["token_ids"]))
    expected = {name: array.shape for name, array in trainable(model).items()}
    arrays = mx.load(str(Path(folder) / WEIGHTS))
    if {name: array.shape for name, array in arrays.items()} != expected:
        raise UserError(f"{shown(folder)}: its arrays are not those of an adapter for this model")
    model.load_weights([(name, array.astype(mx.float32)) for name, array in arrays.items()], strict=False)
    return settings


def changes(folder: Path) -> dict[str, np.ndarray | tuple]:
    """What an adapter folder adds, by weight name: ("low_rank", A, B, s) with the change s·(A B)ᵀ for a linear layer
    and s·A B for an embedding, or ("rows", ids, vectors). float32."""
    settings = read_json(Path(folder) / SETTINGS)
    stored = safetensors_io.read_header(Path(folder) / WEIGHTS)
    scale = settings["lora"]["alpha"] / settings["lora"]["rank"]
    arrays = {name: entry.rows(0, math.prod(entry.shape[:-1])) for name, entry in stored.items()}
    found = {}
    for name, array in arrays.items():
        layer, part = name.rsplit(".", 1)
        if part == "lora_a":
            found[f"{layer}.weight"] = ("low_rank", array, arrays[f"{layer}.lora_b"], scale)
        elif part == "rows":
            found[f"{layer}.weight"] = ("rows", settings["token_ids"], array, 1.0)
    return found


def apply_change(weight: np.ndarray, change: tuple, embedding: bool) -> np.ndarray:
    """`weight` float32 [out, in] or [vocabulary, width] with one entry of `changes` added."""
    kind, one, other, scale = change
    if kind == "rows":
        fused = weight.copy()
        fused[list(one)] += other
        return fused
    product = one @ other  # [in, out], or [vocabulary, width]
    return weight + scale * (product if embedding else product.T)
