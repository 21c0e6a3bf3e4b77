"""Small random LFM2 models with adapters whose both halves are random, so that every gradient is there."""

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models import lfm2_moe

from kxl.lora import adapter

COMMON = dict(
    vocab_size=61,
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=512,
    norm_eps=1e-5,
    conv_bias=False,
    conv_L_cache=3,
    layer_types=["conv", "full_attention", "conv", "full_attention"],
)
LFM2_MOE = dict(
    model_type="lfm2_moe",
    intermediate_size=48,
    moe_intermediate_size=24,
    num_experts=5,
    num_experts_per_tok=2,
    norm_topk_prob=True,
    use_expert_bias=True,
    num_dense_layers=1,
    **COMMON,
)


def sparse_model() -> lfm2_moe.Model:
    """A random model of LFM2_MOE, its experts' biases random, too."""
    mx.random.seed(0)
    model = lfm2_moe.Model(lfm2_moe.ModelArgs(**LFM2_MOE))
    for layer in model.layers[1:]:
        layer.feed_forward.expert_bias = mx.random.normal((5,)) * 0.3
    return model


def attach(model, settings: dict, **others):
    """`model` with an adapter of `settings`, all that it trains drawn at random."""
    adapter.attach(model, settings, **others)
    mx.random.seed(1)
    model.update(tree_map(lambda a: 0.2 * mx.random.normal(a.shape), model.trainable_parameters()))
    mx.eval(model.parameters())
    return model
