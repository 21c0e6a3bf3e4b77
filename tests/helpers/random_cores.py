"""Random cores of small LFM2-MoE shapes, for tests of training."""

import numpy as np

from kxl.moe import core as moe_core

# Expert count, top-k, layer order, dense layers, heads, biases and head differ.
# (Of one chosen expert, normed weights would be a constant.)
SHAPES = {
    "six": dict(
        vocab_size=300,
        num_hidden_layers=5,
        num_experts=6,
        num_experts_per_tok=2,
        num_dense_layers=1,
        layer_types=["conv", "full_attention", "conv", "full_attention", "conv"],
    ),
    "five": dict(
        vocab_size=257,
        num_hidden_layers=5,
        num_experts=5,
        num_experts_per_tok=3,
        num_dense_layers=2,
        layer_types=["full_attention", "conv", "conv", "full_attention", "conv"],
        conv_bias=True,
    ),
    "twelve": dict(
        vocab_size=331,
        num_hidden_layers=4,
        num_experts=12,
        num_experts_per_tok=1,
        num_dense_layers=1,
        layer_types=["conv", "conv", "conv", "full_attention"],
        num_attention_heads=2,
        num_key_value_heads=1,
        rope_theta=50000.0,
        tie_word_embeddings=False,
        routed_scaling_factor=1.7,
        norm_topk_prob=False,
    ),
}
BASE = dict(
    model_type="lfm2_moe",
    hidden_size=64,
    intermediate_size=96,
    moe_intermediate_size=128,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=4096,
    norm_eps=1e-5,
    conv_L_cache=3,
    conv_bias=False,
    rope_theta=1000000.0,
    norm_topk_prob=True,
    use_expert_bias=True,
    routed_scaling_factor=1.0,
    tie_word_embeddings=True,
)


def config(shape: str = "six", **changes) -> dict:
    return {**BASE, **SHAPES[shape], **changes}


def random_core(shape: str = "six", seed: int = 0, **changes):
    return moe_core.random(config(shape, **changes), 32, seed, deviation=0.1)


def examples(core, lengths, seed: int = 0) -> list:
    """[(tokens, mask)] of random tokens, two of three scored."""
    rng = np.random.default_rng(seed)
    return [(rng.integers(0, core.config["vocab_size"], n).astype(np.int32), rng.random(n) < 0.67) for n in lengths]
