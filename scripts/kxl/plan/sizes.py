"""What a model's shapes say: bytes on disk in each form, and the work of a token. No weights are read.

size = of(read_json(Path("models/tiny/config.json")))
size.bf16, size.core, size.quants["q4kxl"], size.flops, size.cache(65536)
"""

import math
import platform
from dataclasses import dataclass, field

from kxl.model.shapes import expected_shapes, normalize_config
from kxl.moe import core as moe_core
from kxl.quant import policy, sparse

ARM = ("arm64", "aarch64")
GROUP = 64  # columns with one scale in an int8 core
SCALARS = 2  # BF16
# An expert's matrix meets the few tokens of a batch that chose it: for each weight and token that takes this many times
# as long as a dense matrix (llama.cpp at LFM2-8B-A1B's shapes, two cores with AVX-512).
EXPERT = 3
# Types whose matrices llama.cpp's CPU backend lays out anew when it loads them (repack.cpp), by processor.
LAID_OUT = {"Q4_0", "Q4_K", "Q2_K", "IQ4_NL"} | ({"Q5_K", "Q6_K", "Q8_0"} if platform.machine() in ARM else set())
TOKEN_BYTES = 40  # of a GGUF's metadata, for each token of the vocabulary


@dataclass(frozen=True)
class Size:
    """Bytes, unless it says otherwise.

    parameters, experts  weights in all, and of experts alone (numbers)
    plain                weights outside the experts, as BF16
    active               weights that one token is multiplied with (number)
    flops                work of one token, forward (2 for each active weight)
    largest              weights of the largest tensor of a GGUF (number)
    quants               bytes of each policy's GGUF
    laid_out             of these, bytes that llama.cpp lays out anew for this kind of processor, and so holds
    """

    config: dict
    parameters: int
    experts: int
    active: int
    largest: int
    core: int
    quants: dict[str, int] = field(default_factory=dict)
    laid_out: dict[str, int] = field(default_factory=dict)

    @property
    def bf16(self) -> int:
        return SCALARS * self.parameters

    @property
    def plain(self) -> int:
        return SCALARS * (self.parameters - self.experts)

    @property
    def flops(self) -> int:
        return 2 * self.active

    @property
    def read_work(self) -> int:
        """Work of a token that llama.cpp reads without making logits for it, as multiplications of dense matrices."""
        experts = self.active - (self.parameters - self.experts)
        return 2 * (self.active - self.vocabulary * self.hidden + (EXPERT - 1) * experts)

    @property
    def scored_work(self) -> int:
        """The same of a token that gets logits."""
        return self.read_work + 2 * self.vocabulary * self.hidden

    @property
    def vocabulary(self) -> int:
        return self.config["vocab_size"]

    @property
    def hidden(self) -> int:
        return self.config["hidden_size"]

    def cache(self, context: int) -> int:
        """Keys and values of `context` tokens, as llama-server keeps them (F16)."""
        config = self.config
        head = config["hidden_size"] // config["num_attention_heads"]
        layers = config["layer_types"].count("full_attention")
        return 2 * 2 * layers * config["num_key_value_heads"] * head * context


def of(shapes: dict, policies: tuple = ()) -> Size:
    """The sizes of a config.json or shapes file. `policies`: names of gguf/export_plan.json whose bytes are wanted."""
    config = normalize_config(shapes, "shapes")
    names = {name: math.prod(shape) for name, shape in expected_shapes(config).items()}
    experts = sum(count for name, count in names.items() if moe_core.is_expert(name))
    total = sum(names.values())
    share = config["num_experts_per_tok"] / config["num_experts"] if experts else 0
    is_moe = config["model_type"] == "lfm2_moe"
    quants, laid_out, largest = {}, {}, max(names.values())
    if is_moe:
        tensors = [policy.Tensor(name, tuple(reversed(shape)), kind) for name, (shape, kind) in _gguf(config)]
        largest = max(math.prod(tensor.shape) for tensor in tensors)
        metadata = TOKEN_BYTES * config["vocab_size"]
        for name in policies:
            types = policy.assign(policy.load(name, policy.PLAN), tensors)
            quants[name] = policy.data_bytes(tensors, types) + metadata
            anew = [tensor for tensor in tensors if types[tensor.name].name in LAID_OUT]
            laid_out[name] = policy.data_bytes(anew, types)
    return Size(
        config,
        total,
        experts,
        round(total - experts + share * experts),
        largest,
        moe_core.stored_bytes(config, GROUP) if is_moe else 0,
        quants,
        laid_out,
    )


def _gguf(config: dict):
    return sparse.gguf_tensors(config).items()
