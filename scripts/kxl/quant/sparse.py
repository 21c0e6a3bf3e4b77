"""A GGUF with a model's real shapes and no weights: its tensor data is one hole, which takes no disk."""

import os
import re
from pathlib import Path

import gguf
from gguf import GGMLQuantizationType as Type

from kxl.base.files import atomic_path, read_json, shown
from kxl.model.shapes import expected_shapes, normalize_config
from kxl.quant.policy import Tensor, nbytes

ARCH = gguf.MODEL_ARCH.LFM2MOE


def gguf_tensors(config: dict) -> dict[str, tuple[tuple[int, ...], Type]]:
    """GGUF name to (shape in numpy's order, type) of the BF16 GGUF of an LFM2-MoE, experts stacked.

    Types as upstream's converter gives them: norms, routers, expert biases and conv kernels F32.
    """
    names = gguf.get_tensor_name_map(ARCH, config["num_hidden_layers"])
    tensors = {}
    for name, shape in expected_shapes(config).items():
        if match := re.fullmatch(r"model\.(layers\.\d+\.feed_forward\.experts)\.\d+\.(w[123]\.weight)", name):
            name, shape = f"{match[1]}.{match[2]}", (config["num_experts"], *shape)
        elif name.endswith("conv.conv.weight"):
            shape = (shape[0], shape[2])
        elif name.endswith(".expert_bias"):
            name += ".bias"
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        keep = len(shape) < 2 or target.endswith(("_norm.weight", "ffn_gate_inp.weight", "shortconv.conv.weight"))
        tensors[target] = (shape, Type.F32 if keep else Type.BF16)
    return tensors


def tensors_of(config: dict) -> list[Tensor]:
    """The tensors that the BF16 GGUF of a normalized config has."""
    return [Tensor(name, tuple(reversed(shape)), kind) for name, (shape, kind) in gguf_tensors(config).items()]


def write_sparse(config: dict, out: Path) -> None:
    """Write the GGUF of `config` (a normalized one) with a hole for data."""
    writer = gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[ARCH])
    heads = config["num_key_value_heads"]
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name("shapes only")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv([heads if kind == "full_attention" else 0 for kind in config["layer_types"]])
    writer.add_rope_freq_base(rope_theta(config))
    writer.add_layer_norm_rms_eps(config["norm_eps"])
    writer.add_expert_count(config["num_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_leading_dense_block_count(config["num_dense_layers"])
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_shortconv_l_cache(config["conv_L_cache"])
    size = 0
    for name, (shape, kind) in gguf_tensors(config).items():
        length = nbytes(shape, kind)
        writer.add_tensor_info(name, shape, "float32" if kind == Type.F32 else "uint16", length, raw_dtype=kind)
        size += gguf.GGUFWriter.ggml_pad(length, writer.data_alignment)
    with atomic_path(out) as partial:
        writer.write_header_to_file(partial)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        writer.close()
        start = gguf.GGUFWriter.ggml_pad(partial.stat().st_size, writer.data_alignment)
        os.truncate(partial, start + size)


def rope_theta(config: dict) -> float:
    """The base of the rotary embedding, where transformers 5 or an earlier one keeps it; no size depends on it."""
    return config.get("rope_theta") or (config.get("rope_parameters") or {}).get("rope_theta") or 1e6


def read_shapes(path: Path) -> dict:
    """The normalized config in a config.json or a shapes file."""
    return normalize_config(read_json(path), shown(path))
