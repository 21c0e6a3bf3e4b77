"""What a config.json of LFM2 or LFM2-MoE says the checkpoint must hold: every name and shape.

In: the config as a dict. Out: canonical (transformers) names with shapes, in layer order.
Shapes as in transformers 5.23 models/lfm2 and models/lfm2_moe; H = hidden_size.
"""

from kxl.base.cli import UserError

MODEL_TYPES = {"lfm2": "Lfm2ForCausalLM", "lfm2_moe": "Lfm2MoeForCausalLM"}
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "conv_L_cache")
MOE_SIZES = ("intermediate_size", "moe_intermediate_size", "num_experts", "num_experts_per_tok", "num_dense_layers")


LARGEST = {"num_hidden_layers": 1000, "num_experts": 4096}  # each tensor of each is listed by name


def normalize_config(config: dict, path: str) -> dict:
    """A copy with architectures, layer_types and tie_word_embeddings filled in, and checked.

    Raises UserError naming `path` and the key.
    """
    if not isinstance(config, dict):
        raise UserError(f"{path}: is no JSON object; take the config.json of the checkpoint")
    config = dict(config)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
        raise UserError(f"{path}: model_type is {model_type!r}; this reads {' and '.join(MODEL_TYPES)}")
    for key in ("quantization_config", "quantization", "rope_parameters", "rope_scaling"):
        if not isinstance(config.get(key) or {}, dict):
            raise UserError(f"{path}: {key} is {config[key]!r}, not an object")
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method:
        raise UserError(f"{path}: the checkpoint is quantized by {method!r}; save a BF16 one and use that")
    for key in SIZES + (MOE_SIZES if model_type == "lfm2_moe" else ()):
        low = 0 if key == "num_dense_layers" else 1
        if type(config.get(key)) is not int or config[key] < low:
            raise UserError(f"{path}: {key} is {config.get(key)!r}, not a positive whole number")
        if config[key] > LARGEST.get(key, 1 << 31):
            raise UserError(f"{path}: {key} is {config[key]}, more than any such model has")
    for key in ("block_ff_dim", "block_multiple_of") + (() if model_type == "lfm2_moe" else ("intermediate_size",)):
        if config.get(key) is not None and (type(config[key]) is not int or not 0 < config[key] < 1 << 31):
            raise UserError(f"{path}: {key} is {config[key]!r}, not a positive whole number")
    if model_type == "lfm2" and config.get("block_ff_dim") is None and config.get("intermediate_size") is None:
        raise UserError(
            f"{path}: neither intermediate_size nor block_ff_dim tells how wide the feed-forward layers are"
        )
    for key in ("norm_eps", "rope_theta", "block_ffn_dim_multiplier"):
        if config.get(key) is not None and not _is_positive(config[key]):
            raise UserError(f"{path}: {key} is {config[key]!r}, not a positive number")
    # What the weights belong to is said by their names and shapes, which are all checked; the entry is rewritten by
    # whatever saved the checkpoint last (Lfm2MoeModel, PeftModelForCausalLM).
    config["architectures"] = [MODEL_TYPES[model_type]]
    # LFM2 calls it tie_embedding, transformers tie_word_embeddings; the former wins there too
    config["tie_word_embeddings"] = bool(config.get("tie_embedding", config.get("tie_word_embeddings", True)))

    layers = config["num_hidden_layers"]
    if config.get("layer_types") is None:
        attention = config.get("full_attn_idxs")
        if attention is None:
            raise UserError(f"{path}: neither layer_types nor full_attn_idxs tells which layers are attention")
        if not isinstance(attention, list) or not all(type(one) is int for one in attention):
            raise UserError(f"{path}: full_attn_idxs is {attention!r}, not a list of layers")
        config["layer_types"] = ["full_attention" if i in attention else "conv" for i in range(layers)]
    kinds = config["layer_types"]
    if not isinstance(kinds, list) or not all(isinstance(kind, str) for kind in kinds):
        raise UserError(f"{path}: layer_types is {kinds!r}, not a list of conv and full_attention")
    if len(kinds) != layers or set(kinds) - {"conv", "full_attention"}:
        raise UserError(
            f"{path}: layer_types has {len(kinds)} entries of kind {sorted(set(kinds))}; "
            f"{layers} of conv or full_attention are needed"
        )
    if config["hidden_size"] % config["num_attention_heads"]:
        raise UserError(
            f"{path}: hidden_size {config['hidden_size']} is no multiple of num_attention_heads "
            f"{config['num_attention_heads']}"
        )
    if model_type == "lfm2_moe" and config["num_experts_per_tok"] > config["num_experts"]:
        raise UserError(
            f"{path}: num_experts_per_tok {config['num_experts_per_tok']} exceeds num_experts {config['num_experts']}"
        )
    return config


def _is_positive(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e30


def dense_width(config: dict) -> int:
    """Width of the dense feed-forward layers.

    LFM2 (not MoE) may ask for 2/3 of the given width, times a multiplier, rounded up
    (transformers Lfm2MLP.__init__).
    """
    if config["model_type"] == "lfm2_moe":
        return config["intermediate_size"]
    width = config["intermediate_size"] if config.get("block_ff_dim") is None else config["block_ff_dim"]
    if config.get("block_auto_adjust_ff_dim", True):
        multiple = config.get("block_multiple_of") or 256
        width = int(2 * width / 3)
        if config.get("block_ffn_dim_multiplier", 1.0) is not None:
            width = int(config.get("block_ffn_dim_multiplier", 1.0) * width)
        width = multiple * ((width + multiple - 1) // multiple)
    return width


def expected_shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """Every tensor of the checkpoint: canonical name to shape. `config` is a normalized one."""
    hidden, conv_bias = config["hidden_size"], config.get("conv_bias", False)
    head = hidden // config["num_attention_heads"]
    kv = head * config["num_key_value_heads"]
    dense_layers = config.get("num_dense_layers", config["num_hidden_layers"])
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for i, kind in enumerate(config["layer_types"]):
        layer = f"model.layers.{i}"
        shapes[f"{layer}.operator_norm.weight"] = (hidden,)
        if kind == "full_attention":
            shapes[f"{layer}.self_attn.q_proj.weight"] = (hidden, hidden)
            shapes[f"{layer}.self_attn.k_proj.weight"] = (kv, hidden)
            shapes[f"{layer}.self_attn.v_proj.weight"] = (kv, hidden)
            shapes[f"{layer}.self_attn.out_proj.weight"] = (hidden, hidden)
            shapes[f"{layer}.self_attn.q_layernorm.weight"] = (head,)
            shapes[f"{layer}.self_attn.k_layernorm.weight"] = (head,)
        else:
            shapes[f"{layer}.conv.conv.weight"] = (hidden, 1, config["conv_L_cache"])
            shapes[f"{layer}.conv.in_proj.weight"] = (3 * hidden, hidden)
            shapes[f"{layer}.conv.out_proj.weight"] = (hidden, hidden)
            if conv_bias:
                shapes[f"{layer}.conv.conv.bias"] = (hidden,)
                shapes[f"{layer}.conv.in_proj.bias"] = (3 * hidden,)
                shapes[f"{layer}.conv.out_proj.bias"] = (hidden,)
        shapes[f"{layer}.ffn_norm.weight"] = (hidden,)
        if i < dense_layers:
            shapes |= _mlp(f"{layer}.feed_forward", hidden, dense_width(config))
            continue
        shapes[f"{layer}.feed_forward.gate.weight"] = (config["num_experts"], hidden)
        if config.get("use_expert_bias", True):
            shapes[f"{layer}.feed_forward.expert_bias"] = (config["num_experts"],)
        for expert in range(config["num_experts"]):
            shapes |= _mlp(f"{layer}.feed_forward.experts.{expert}", hidden, config["moe_intermediate_size"])
    shapes["model.embedding_norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def _mlp(prefix: str, hidden: int, width: int) -> dict[str, tuple[int, int]]:
    """SwiGLU: w1 is the gate, w3 the up and w2 the down projection."""
    return {
        f"{prefix}.w1.weight": (width, hidden),
        f"{prefix}.w3.weight": (width, hidden),
        f"{prefix}.w2.weight": (hidden, width),
    }
