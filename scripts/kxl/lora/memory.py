"""How much memory a LoRA step holds, by the way its gradient is computed, and which way this machine has room for.

    choice = choose(config, (False, True), lengths, rank, available)       # Choice(mapped, way, bytes); UserError
    predict(config, True, lengths, rank, BY_LAYER)["peak"]                 # bytes

Always there: the process and the weights, the model's in float32 and the adapter's with what Adam holds of them.
Experts of a core lie in mapped files, whose pages the system can take back (hardware.held). Then, of ordinary autograd,
what it keeps of each layer; of a gradient by layers, the inputs of their stages and the largest work of one stage. Each
count of that names the arrays that are alive together in the code; `make prove-lora-8b` checks the sum against a real
step.
"""

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from kxl.base.cli import UserError
from kxl.model.shapes import expected_shapes
from kxl.moe import hardware
from kxl.moe.core import is_expert
from kxl.moe.memory import CACHE

GIB = 2**30
FLOAT = 4
PROCESS = 200 * 2**20  # Python with MLX and a tokenizer, OpenBLAS's buffers
# The ways, best first: each takes less memory than the one before it, and more time.
WHOLE, BY_LAYER, ON_DISK = "through the whole model", "layer by layer", "layer by layer, inputs in a file"
WAYS = (WHOLE, BY_LAYER, ON_DISK)
# How much is in work at once, layer by layer. More is hardly faster on a CPU.
QUERIES = 256  # of a block of scores, for the heads of one key (attention.py)
LOGITS = 128  # tokens of a block of the loss (by_layer.py)
DENSE = 1024  # tokens of a block of a dense feed-forward (by_layer.py)
ROWS = 2048  # tokens that one expert computes at a time (int8_experts.py)


@dataclass(frozen=True)
class Lengths:
    """Tokens of a batch: of the beginning that its rows share, and of each row's own, padded to the longest."""

    shared: int
    rows: int
    own: int

    @property
    def tokens(self) -> int:
        return self.shared + self.rows * self.own

    @property
    def keys(self) -> int:
        """Places with keys: the beginning's, and again beside each row's own."""
        return self.tokens + (self.rows * self.shared if self.shared else 0)

    @property
    def scores(self) -> int:
        """Scores of one head."""
        return self.shared**2 + self.rows * self.own * (self.shared + self.own)


@dataclass(frozen=True)
class Choice:
    """Whether the experts are a core's in mapped files, the way of WAYS, and the bytes that it is predicted to hold."""

    mapped: bool
    way: str
    bytes: int

    def __str__(self) -> str:
        return f"{self.way}{' on int8 experts' if self.mapped else ''}, {self.bytes / GIB:.1f} GiB"


def lengths_of(batches: Iterable) -> list[Lengths]:
    """The Lengths of batches (prefix.SharedBatch), each once."""
    return list({Lengths(len(batch.shared), *batch.own.tokens.shape) for batch in batches})


def predict(config: dict, mapped: bool, lengths: Lengths, rank: int, way: str) -> dict:
    """{"peak": bytes, "parts": {part: bytes}}. config: normalized; mapped: whether the experts are a core's."""
    kept = FLOAT * lengths.tokens * config["hidden_size"]
    parts = {
        "process": PROCESS + CACHE,
        "weights": weights(config, mapped),
        "adapter": adapter(config, rank),
        "inputs": {BY_LAYER: 2 * config["num_hidden_layers"] * kept, ON_DISK: 0, WHOLE: 0}[way],
        "work": autograd(config, lengths) if way == WHOLE else max(work(config, mapped, lengths).values()),
    }
    return {"peak": sum(parts.values()), "parts": parts}


def choices(config: dict, mapped: Iterable[bool], lengths: list[Lengths], rank: int) -> list[Choice]:
    """What a training may choose from, best first: the model as it is by all ways, then its core by all ways."""
    # The batch that needs most by one way need not be the one that does by another; those of most tokens will do.
    largest = sorted(lengths, key=lambda one: (one.tokens, one.scores))[-1:] + [
        max(lengths, key=lambda one: one.scores)
    ]
    return [
        Choice(of_core, way, max(predict(config, of_core, one, rank, way)["peak"] for one in set(largest)))
        for of_core in mapped
        for way in WAYS
    ]


def choose(config: dict, mapped: Iterable[bool], lengths: list[Lengths], rank: int, available: int) -> Choice:
    """The first choice that fits into `available` bytes. UserError where none does."""
    offered = choices(config, mapped, lengths, rank)
    if fitting := [choice for choice in offered if choice.bytes <= available]:
        return fitting[0]
    tokens = max(one.tokens for one in lengths)
    raise UserError(
        f"a step of {tokens:,} tokens needs {offered[-1].bytes / GIB:.1f} GiB {offered[-1].way}, and "
        f"{available / GIB:.1f} GiB of memory are there; lower --batch-size, shorten the rows, or close other programs"
    )


def usable() -> int:
    """Bytes that a training may hold here now: what is available, less what the system keeps."""
    memory = psutil.virtual_memory()
    return int(memory.available - hardware.RESERVE * memory.total)


def weights(config: dict, mapped: bool) -> int:
    """All weights in float32, the experts only where they do not lie in mapped files."""
    shapes = expected_shapes(config).items()
    return FLOAT * sum(math.prod(shape) for name, shape in shapes if not (mapped and is_expert(name)))


def adapter(config: dict, rank: int) -> int:
    """An adapter on all linear layers but experts and router: value, gradient, two moments, one in the making."""
    outside = ("gate.weight", "embed_tokens.weight", "lm_head.weight")
    shapes = [
        shape
        for name, shape in expected_shapes(config).items()
        if len(shape) == 2 and not is_expert(name) and not name.endswith(outside)
    ]
    return 5 * FLOAT * rank * sum(rows + columns for rows, columns in shapes)


def autograd(config: dict, lengths: Lengths) -> int:
    """What MLX holds while it differentiates the whole model: of each token logits and what layers keep, and scores.

    Twice what the way back reads: on a CPU MLX makes arrays ahead of time (by_layer.py). How many arrays of a layer's
    width that is was measured: 36 at LFM2-8B-A1B's shapes, at those of its first six layers and at the tiny model's.
    Attention in blocks keeps no scores but a block's (attention.py); on a Mac's GPU they are kept.
    """
    attentions = config["layer_types"].count("full_attention") * config["num_attention_heads"]
    of_token = config["vocab_size"] + 36 * config["num_hidden_layers"] * config["hidden_size"]
    of_gpu = sys.platform == "darwin"
    scores = 2 * FLOAT * attentions * lengths.scores if of_gpu else 5 * block_of_scores(config, lengths)
    return 2 * FLOAT * lengths.tokens * of_token + scores


def block_of_scores(config: dict, lengths: Lengths) -> int:
    """Bytes of the scores of a block of queries, for the heads of one key."""
    in_block = [
        min(QUERIES, lengths.shared) * lengths.shared,
        lengths.rows * min(QUERIES, lengths.own) * (lengths.shared + lengths.own),
    ]
    return FLOAT * max(in_block) * config["num_attention_heads"] // config["num_key_value_heads"]


def work(config: dict, mapped: bool, lengths: Lengths) -> dict[str, int]:
    """Bytes at the peak of each kind of stage, counted in arrays [tokens, hidden] where nothing else is said."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    tokens, share = lengths.tokens, config["num_key_value_heads"] / config["num_attention_heads"]
    whole = FLOAT * tokens * hidden
    # x, its norm, q and the output, with and without the adapter's part, as MLX and as the blocks have them, and the
    # gradient of each; k, v and theirs likewise; five arrays of a block's scores.
    block = block_of_scores(config, lengths)
    found = {"attention": 22 * whole + 16 * FLOAT * share * lengths.keys * hidden + 5 * block}
    # x, its norm, the three-fold projection with and without the adapter's part, products, and the gradient of each.
    found["convolution"] = 16 * whole
    dense = config.get("intermediate_size") or config.get("block_ff_dim")
    part = FLOAT * min(tokens, DENSE)
    # The stage's input, output and gradients; of a block gate, up, their product with and without the adapter's part,
    # and the gradient of each.
    found["dense"] = 5 * whole + part * (8 * dense + 3 * hidden)
    if config["model_type"] == "lfm2_moe" and mapped:
        matrix = FLOAT * hidden * config["moe_intermediate_size"]
        rows = FLOAT * min(ROWS, tokens)
        # The stage's input, norm, output, sums over experts and their gradients; three matrices, of an expert and of
        # the one before, one in the making; of an expert's rows those of experts.expert_backward.
        found["moe"] = 11 * whole + 7 * matrix + rows * (11 * config["moe_intermediate_size"] + 6 * hidden)
    elif config["model_type"] == "lfm2_moe":
        # The same, and of all rows of all experts what autograd keeps (grouped_experts.py).
        rows = FLOAT * tokens * config["num_experts_per_tok"]
        found["moe"] = 14 * whole + rows * (8 * config["moe_intermediate_size"] + 2 * hidden)
    # Logits, their softmax, its gradient and one in the making; the hidden states and their gradient.
    found["loss"] = 6 * whole + 3.5 * FLOAT * min(LOGITS, tokens) * vocabulary
    return {kind: int(size) for kind, size in found.items()}
