"""The tiny LFM2-MoE as a torch module whose batch shares one long prefix.

Torch because it trains about as fast as these CPUs multiply; the result is saved under HF names and
served by mlx-lm and llama.cpp, whose logits are checked against each other (quant_check_parity.py).

All requests of a batch start with the same system prompt and tool list (thousands of tokens). Its
keys, values and convolution states are computed once and shared, with gradient: exactly the function
and the gradient of running each request with its own copy of the prefix.
"""

import torch
import torch.nn.functional as F
from torch import nn

from kxl.model.prefix_attention import PrefixAttention, plain_prefix_attention

CONV, ATTENTION = "conv", "full_attention"


class RMSNorm(nn.Module):
    """x / rms(x) times a learned weight, over the last axis."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def rotate(x: torch.Tensor, positions: torch.Tensor, theta: float) -> torch.Tensor:
    """Rotary embedding over the two halves of the last axis (HF and MLX convention).

    x: [..., L, head_dim]; positions: [L].
    """
    half = x.shape[-1] // 2
    frequencies = theta ** (-torch.arange(half, dtype=torch.float32, device=x.device) / half)
    angles = positions.float()[:, None] * frequencies
    cos, sin = angles.cos(), angles.sin()
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Attention(nn.Module):
    """Grouped-query attention with normed queries and keys and rotary positions."""

    def __init__(self, c: dict):
        super().__init__()
        self.heads, self.kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
        self.head_dim = c["hidden_size"] // self.heads
        self.theta = c["rope_theta"]
        self.q_proj = nn.Linear(c["hidden_size"], self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(c["hidden_size"], self.kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(c["hidden_size"], self.kv_heads * self.head_dim, bias=False)
        self.out_proj = nn.Linear(self.heads * self.head_dim, c["hidden_size"], bias=False)
        self.q_layernorm = RMSNorm(self.head_dim, c["norm_eps"])
        self.k_layernorm = RMSNorm(self.head_dim, c["norm_eps"])

    def forward(self, x, state):
        """x [B, L, D], state (k, v) of the prefix [1, kv, P, hd] or None → ([B, L, D], state of x)."""
        b, length, _ = x.shape
        past = 0 if state is None else state[0].shape[2]
        q, k, v = self.project(x, past)
        group = self.heads // self.kv_heads
        if state is None:
            o = F.scaled_dot_product_attention(
                q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), is_causal=True
            )
        else:
            # The query heads of one kv head stand one after another, so that keys need no copies.
            attend = PrefixAttention.apply if x.device.type == "cpu" else plain_prefix_attention
            o = attend(q.reshape(b, self.kv_heads, group * length, self.head_dim), *state, k, v)
        o = o.reshape(b, self.heads, length, self.head_dim).transpose(1, 2).reshape(b, length, -1)
        return self.out_proj(o), (k, v)

    def project(self, x, past: int):
        """Queries [B, heads, L, hd], keys and values [B, kv, L, hd] of tokens that stand behind `past` others."""
        b, length, _ = x.shape
        positions = torch.arange(past, past + length, device=x.device)
        q = self.q_layernorm(self.q_proj(x).view(b, length, self.heads, self.head_dim)).transpose(1, 2)
        k = self.k_layernorm(self.k_proj(x).view(b, length, self.kv_heads, self.head_dim)).transpose(1, 2)
        v = self.v_proj(x).view(b, length, self.kv_heads, self.head_dim).transpose(1, 2)
        return rotate(q, positions, self.theta), rotate(k, positions, self.theta), v

    def decode(self, x, prefix, held, place: int):
        """One token a row, x [B, 1, D], behind the prefix and `place` tokens of its own, whose keys and values are in
        `held` (k, v) [B, kv, room, hd]; this token's are added. Returns [B, 1, D]."""
        q, k, v = self.project(x, prefix[0].shape[2] + place)
        held[0][:, :, place], held[1][:, :, place] = k[:, :, 0], v[:, :, 0]
        q = q.reshape(len(x), self.kv_heads, -1, self.head_dim)
        o = plain_prefix_attention(q, *prefix, held[0][:, :, : place + 1], held[1][:, :, : place + 1], last=True)
        return self.out_proj(o.reshape(len(x), 1, -1))


class ShortConv(nn.Module):
    """LFM2's operator: a short causal convolution of each column between two gates."""

    def __init__(self, c: dict):
        super().__init__()
        d, self.kernel = c["hidden_size"], c["conv_L_cache"]
        self.in_proj = nn.Linear(d, 3 * d, bias=False)
        self.out_proj = nn.Linear(d, d, bias=False)
        self.weight = nn.Parameter(torch.empty(d, self.kernel).uniform_(-1, 1) * self.kernel**-0.5)

    def forward(self, x, state):
        """x [B, L, D], state: the prefix's last kernel−1 gated inputs [1, kernel−1, D] or None.

        Returns ([B, L, D], state of x).
        """
        b, length, d = x.shape
        gate_in, gate_out, value = self.in_proj(x).chunk(3, -1)
        past = x.new_zeros(b, self.kernel - 1, d) if state is None else state.expand(b, -1, -1)
        gated = torch.cat([past, gate_in * value], 1)
        # Causal and depthwise; tap j sees position t − (kernel − 1) + j.
        mixed = sum(gated[:, j : j + length] * self.weight[:, j] for j in range(self.kernel))
        return self.out_proj(gate_out * mixed), gated[:, -(self.kernel - 1) :]


class MLP(nn.Module):
    """SwiGLU: w2(SiLU(w1 x) · w3 x)."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.w1, self.w3 = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.w2 = nn.Linear(inner, width, bias=False)

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class SparseMoE(nn.Module):
    """Sigmoid router; expert_bias takes part in the choice only, not in the weights (LFM2-MoE).

    The bias is moved against the load after each step, which balances the experts without an
    auxiliary loss (DeepSeek-V3, arXiv 2412.19437, section 2.1.2).
    """

    def __init__(self, c: dict):
        super().__init__()
        self.top_k, self.count = c["num_experts_per_tok"], c["num_experts"]
        self.gate = nn.Linear(c["hidden_size"], self.count, bias=False)
        self.experts = nn.ModuleList(MLP(c["hidden_size"], c["moe_intermediate_size"]) for _ in range(self.count))
        self.register_buffer("expert_bias", torch.zeros(self.count))
        self.register_buffer("load", torch.zeros(self.count), persistent=False)

    def forward(self, x):
        """x [..., D] → the same shape."""
        shape, x = x.shape, x.reshape(-1, x.shape[-1])
        scores = torch.sigmoid(self.gate(x))
        chosen = (scores.detach() + self.expert_bias).topk(self.top_k, -1).indices
        weights = scores.gather(-1, chosen)
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-6)
        if x.device.type != "cpu":
            return self.by_all(x, chosen, weights).view(shape)
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=self.count)
        if self.training:
            self.load += counts
        token = order // self.top_k
        pieces = x[token].split(counts.tolist())
        outputs = torch.cat([expert(piece) for expert, piece in zip(self.experts, pieces)])
        return torch.zeros_like(x).index_add(0, token, outputs * weights.flatten()[order, None]).view(shape)

    def by_all(self, x, chosen, weights):
        """The same sum with every expert on every token: more to multiply, but a GPU need not wait for the counts."""
        share = torch.zeros(len(x), self.count, device=x.device, dtype=x.dtype).scatter(-1, chosen, weights)
        if self.training:
            self.load += torch.zeros_like(share).scatter(-1, chosen, 1.0).sum(0)
        w1, w3, w2 = (
            torch.stack([getattr(expert, name).weight for expert in self.experts]) for name in ("w1", "w3", "w2")
        )
        inner = F.silu(torch.matmul(x, w1.mT)) * torch.matmul(x, w3.mT)  # [experts, N, inner]
        return (torch.bmm(inner, w2.mT) * share.T[..., None]).sum(0)

    def balance(self, rate: float) -> None:
        """Move the bias by `rate` towards equal load, and forget the counts."""
        self.expert_bias += rate * torch.sign(self.load.mean() - self.load)
        self.expert_bias -= self.expert_bias.mean()
        self.load.zero_()


class Layer(nn.Module):
    """Attention or convolution, then MLP or experts, each behind a norm and added to its input."""

    def __init__(self, c: dict, index: int):
        super().__init__()
        self.dropout = 0.0
        self.operator = Attention(c) if c["layer_types"][index] == ATTENTION else ShortConv(c)
        dense = index < c["num_dense_layers"]
        self.feed_forward = MLP(c["hidden_size"], c["intermediate_size"]) if dense else SparseMoE(c)
        self.operator_norm = RMSNorm(c["hidden_size"], c["norm_eps"])
        self.ffn_norm = RMSNorm(c["hidden_size"], c["norm_eps"])

    def forward(self, x, state):
        mixed, state = self.operator(self.operator_norm(x), state)
        x = x + F.dropout(mixed, self.dropout, self.training)
        return x + F.dropout(self.feed_forward(self.ffn_norm(x)), self.dropout, self.training), state


class TinyLfm2Moe(nn.Module):
    """config: the checkpoint's config.json as a dict."""

    def __init__(self, config: dict):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config["num_hidden_layers"]))
        self.embedding_norm = RMSNorm(config["hidden_size"], config["norm_eps"])
        # Small matrices and a larger embedding: at first the residual stream is the token itself, which is what
        # attention has to find in order to copy.
        for name, weight in self.named_parameters():
            if weight.ndim == 2 and "operator.weight" not in name:
                nn.init.normal_(weight, std=0.15 if "embed" in name else 0.02)
        self.embedding_norm.weight.data.fill_(0.3)

    def set_dropout(self, share: float) -> None:
        """Leave out that share of what each block adds, in training."""
        for layer in self.layers:
            layer.dropout = share

    def forward(self, tokens: torch.Tensor, states: list | None = None) -> tuple[torch.Tensor, list]:
        """tokens [B, L], states of a common prefix or None → (normed hidden states [B, L, D], states)."""
        x, after = self.embed_tokens(tokens), []
        for layer, state in zip(self.layers, states or [None] * len(self.layers)):
            x, state = layer(x, state)
            after.append(state)
        return self.embedding_norm(x), after

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden @ self.embed_tokens.weight.T

    @torch.no_grad()
    def decode(self, states: list, rows: list[list[int]], room: int, end: int) -> list[list[int]]:
        """What follows each row of ids, greedily, to the token `end` or for `room` tokens; `states`: of their prefix.

        All rows go on by one token a step, those inside their prompt by its next token.
        """
        device, batch = self.embed_tokens.weight.device, len(rows)
        longest = max(map(len, rows))
        given = torch.full((batch, longest + room), -1, dtype=torch.long)
        for i, row in enumerate(rows):
            given[i, : len(row)] = torch.tensor(row)
        given, lengths = given.to(device), torch.tensor([len(row) for row in rows], device=device)
        held: list = []
        for layer, state in zip(self.layers, states):
            if isinstance(layer.operator, Attention):
                shape = (batch, state[0].shape[1], longest + room, state[0].shape[3])
                held.append([torch.zeros(shape, device=device) for _ in range(2)])
            else:
                held.append(state.expand(batch, -1, -1))
        token, out = given[:, 0], torch.full((batch, longest + room), end, dtype=torch.long, device=device)
        done = torch.zeros(batch, dtype=torch.bool, device=device)
        for place in range(longest + room - 1):
            x = self.embed_tokens(token)[:, None]
            for i, layer in enumerate(self.layers):
                if isinstance(layer.operator, Attention):
                    mixed = layer.operator.decode(layer.operator_norm(x), states[i], held[i], place)
                else:
                    mixed, held[i] = layer.operator(layer.operator_norm(x), held[i])
                x = x + mixed
                x = x + layer.feed_forward(layer.ffn_norm(x))
            following = self.logits(self.embedding_norm(x)[:, 0]).argmax(-1)
            own = (place + 1 >= lengths) & (place + 1 < lengths + room) & ~done
            out[:, place + 1] = torch.where(own, following, out[:, place + 1])
            done |= (place + 1 >= lengths) & ((following == end) | (place + 2 >= lengths + room))
            token = torch.where(given[:, place + 1] >= 0, given[:, place + 1], following)
            if place % 16 == 0 and bool(done.all()):
                break
        answers = []
        for row, tokens in zip(rows, out.tolist()):
            answer = tokens[len(row) : len(row) + room]
            answers.append(answer[: answer.index(end) + 1] if end in answer else answer)
        return answers

    def moe_layers(self) -> list[SparseMoE]:
        return [layer.feed_forward for layer in self.layers if isinstance(layer.feed_forward, SparseMoE)]

    def load_hf(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take over weights named and shaped as `hf_tensors` gives them."""
        with torch.no_grad():
            for name, own in self.hf_tensors().items():
                own.copy_(tensors[name])

    def hf_tensors(self) -> dict[str, torch.Tensor]:
        """The weights under the names and in the shapes of an HF LFM2-MoE checkpoint."""
        tensors = {}
        for name, tensor in list(self.named_parameters()) + list(self.named_buffers()):
            if name.endswith(".load"):
                continue
            if name.startswith("layers."):
                kind = "self_attn" if isinstance(self.layers[int(name.split(".")[1])].operator, Attention) else "conv"
                name = name.replace(".operator.weight", ".conv.conv.weight").replace(".operator.", f".{kind}.")
                if name.endswith("conv.conv.weight"):
                    tensor = tensor[:, None, :]
            tensors["model." + name] = tensor.detach()
        return tensors
