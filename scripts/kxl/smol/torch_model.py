"""A SmolLM with a low-rank adapter in torch: for a CPU, where torch multiplies BF16 in hardware if there is any.

    model = load(Path("runs/smollm2-135m/base"))
    attach(model, {"rank": 16, "alpha": 32, "modules": ["q_proj"], "embedding": "low_rank"}, ids)
    hidden = hidden_states(model, pack)      # [N, width]
    logits_at(model, hidden[places])         # [places, vocabulary]

The adapter is the one of kxl/lora/adapter.py: same arrays, same names, same folder, so that MLX, the fusing script and
this module read each other's. The model's own weights are frozen, in the type that this processor multiplies fast; the
adapter is float32. A pack is several rows in one sequence without padding (kxl/smol/packing.py).
"""

import math
from pathlib import Path

import torch
from torch import nn

from kxl.base import config
from kxl.base.cli import UserError
from kxl.base.files import atomic_dir, shown, write_json
from kxl.lora import torch_attention
from kxl.lora.adapter import EMBEDDING, EMBEDDINGS, SETTINGS, WEIGHTS
from kxl.model import safetensors_io


class Linear(nn.Module):
    """x Wᵀ + s (x A) B with W frozen, A [in, r], B [r, out]."""

    def __init__(self, linear: nn.Linear, rank: int, scale: float):
        super().__init__()
        self.linear, self.scale = linear, scale
        self.lora_a = nn.Parameter(_first(linear.in_features, rank))
        self.lora_b = nn.Parameter(torch.zeros(rank, linear.out_features))

    def forward(self, x):
        """x [..., in] to [..., out]."""
        change = (x @ self.lora_a.to(x.dtype)) @ (self.scale * self.lora_b).to(x.dtype)
        return self.linear(x) + change


class LowRankEmbedding(nn.Module):
    """A frozen embedding W [V, D] plus s A B in every row, A [V, r], B [r, D]; `head` is the tied output."""

    def __init__(self, embedding: nn.Embedding, rank: int, scale: float):
        super().__init__()
        self.embedding, self.scale = embedding, scale
        self.lora_a = nn.Parameter(_first(embedding.num_embeddings, rank))
        self.lora_b = nn.Parameter(torch.zeros(rank, embedding.embedding_dim))

    def forward(self, ids):
        """ids [...] to [..., D]."""
        embedded = self.embedding(ids)
        return embedded + (self.scale * (nn.functional.embedding(ids, self.lora_a) @ self.lora_b)).to(embedded.dtype)

    def head(self, hidden):
        """hidden [N, D] to logits [N, V]."""
        change = (hidden @ (self.scale * self.lora_b).to(hidden.dtype).T) @ self.lora_a.to(hidden.dtype).T
        return hidden @ self.embedding.weight.T + change


class Head(nn.Module):
    """The tied output of an adapted embedding; it owns nothing."""

    def __init__(self, embedding: nn.Module):
        super().__init__()
        self._embedding = [embedding]

    def forward(self, hidden):
        """hidden [..., D] to logits [..., V]."""
        return self._embedding[0].head(hidden)


class TokenRows(nn.Module):
    """A frozen embedding of which only the rows of `ids` move, each by a free vector."""

    def __init__(self, embedding: nn.Embedding, ids: tuple):
        super().__init__()
        self.embedding = embedding
        self.register_buffer("ids", torch.tensor(ids), persistent=False)
        self.rows = nn.Parameter(torch.zeros(len(ids), embedding.embedding_dim))

    def forward(self, ids):
        """ids [...] to [..., D]."""
        embedded = self.embedding(ids)
        return embedded + ((ids[..., None] == self.ids).float() @ self.rows).to(embedded.dtype)

    def head(self, hidden):
        """hidden [N, D] to logits [N, V]."""
        logits = hidden @ self.embedding.weight.T
        return logits.index_add(-1, self.ids, (hidden @ self.rows.to(hidden.dtype).T).to(logits.dtype))


def _first(rows: int, rank: int) -> torch.Tensor:
    """The first A: uniform within ±1/√rows, as kxl/lora/adapter.py's."""
    return (2 * torch.rand(rows, rank) - 1) / math.sqrt(rows)


def fast_type() -> torch.dtype:
    """BF16 where the processor multiplies it in hardware, else float32."""
    features = torch.cpu.get_capabilities()
    return torch.bfloat16 if features.get("avx512_bf16") or features.get("amx_bf16") else torch.float32


def load(folder: Path, dtype: torch.dtype | None = None, attention: str = "sdpa") -> nn.Module:
    """transformers' model of a checkpoint folder, frozen; its output head must be tied to the embedding.

    attention: a name that transformers knows; torch_attention.NAME for packs that are trained on.
    """
    from transformers import AutoModelForCausalLM

    if not (Path(folder) / "config.json").is_file():
        raise UserError(f"{shown(folder)}: no config.json here; name a checkpoint folder")
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype or fast_type(), attn_implementation=attention, local_files_only=True
    )
    if not model.config.tie_word_embeddings:
        raise UserError(f"{shown(folder)}: its output head is not its embedding; train it with MLX (--backend mlx)")
    return model.requires_grad_(False).eval()


def attach(model: nn.Module, settings: dict, ids: tuple = ()) -> list[str]:
    """Put adapters on `model`; the names of the layers that have one. UserError for a module that no layer has."""
    if settings["embedding"] not in EMBEDDINGS:
        raise UserError(f"embedding is {settings['embedding']!r}, it must be one of {', '.join(EMBEDDINGS)}")
    scale, adapted = settings["alpha"] / settings["rank"], {}
    for name, module in model.named_modules():
        kind = name.rsplit(".", 1)[-1]
        if kind in settings["modules"] and isinstance(module, nn.Linear):
            adapted[name] = Linear(module, settings["rank"], scale)
        elif kind == EMBEDDING and settings["embedding"] == "token_rows":
            adapted[name] = TokenRows(module, ids)
        elif kind == EMBEDDING and settings["embedding"] == "low_rank":
            adapted[name] = LowRankEmbedding(module, settings["rank"], scale)
    if missing := sorted(set(settings["modules"]) - {name.rsplit(".", 1)[-1] for name in adapted}):
        raise UserError(f'no layer of this model is called {", ".join(missing)}; correct "modules" in the config')
    for name, module in adapted.items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, module)
        if last == EMBEDDING:
            model.lm_head = Head(module)
    return sorted(adapted)


def trainable(model: nn.Module) -> dict[str, torch.Tensor]:
    """The adapter's arrays by name."""
    return {name: array for name, array in model.named_parameters() if array.requires_grad}


def save(folder: Path, arrays: dict[str, torch.Tensor], settings: dict) -> None:
    """Write an adapter folder, whole or not at all; the arrays as BF16."""
    from safetensors.torch import save_file

    with atomic_dir(folder) as partial:
        kept = {name: array.detach().to(torch.bfloat16).contiguous() for name, array in arrays.items()}
        save_file(kept, str(partial / WEIGHTS))
        write_json(partial / SETTINGS, settings)


def load_adapter(model: nn.Module, folder: Path) -> dict:
    """Attach the adapter of a folder to a fresh model; returns its settings. UserError when it is another model's."""
    from safetensors.torch import load_file

    settings = config.load_adapter(Path(folder) / SETTINGS)
    safetensors_io.read_header(Path(folder) / WEIGHTS)  # UserError where it is none
    attach(model, settings["lora"], tuple(settings["token_ids"]))
    stored, expected = load_file(str(Path(folder) / WEIGHTS)), trainable(model)
    if {name: array.shape for name, array in stored.items()} != {name: a.shape for name, a in expected.items()}:
        raise UserError(f"{shown(folder)}: its arrays are not those of an adapter for this model")
    for name, array in expected.items():
        array.data.copy_(stored[name])
    return settings


def hidden_states(model: nn.Module, tokens, positions, visible) -> torch.Tensor:
    """The last layer's output [N, D] of tokens [N] at positions [N]; visible [N, N]: which column each row sees."""
    frozen = next(array for array in model.parameters() if not array.requires_grad)
    mask = torch_attention.bias_of(visible, frozen.dtype)
    return model.model(
        input_ids=tokens[None], position_ids=positions[None], attention_mask=mask, use_cache=False
    ).last_hidden_state[0]


def logits_at(model: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """Logits [N, vocabulary] of hidden states [N, D]."""
    return model.lm_head(hidden)
