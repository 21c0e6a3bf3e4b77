"""A dense Llama GGUF (SmolLM2's architecture) back into what transformers and mlx-lm load.

In:  a GGUF file, quantized or not. Out: a folder with model.safetensors (BF16), config.json, tokenizer.json
and tokenizer_config.json. The inverse of llama.cpp's conversion/llama.py: names mapped back, and the rows of
q_proj and k_proj, which the converter permutes for llama.cpp's rope, put back in transformers' order.
"""

import json
import typing
from pathlib import Path

import gguf
import numpy as np

from kxl.base.cli import UserError
from kxl.base.files import shown, write_json
from kxl.model import gguf_file, safetensors_io
from kxl.model.tensors import Tensor, from_array

LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
SPECIAL = 3  # tokenizer.ggml.token_type of a control token


def open_gguf(path: Path) -> gguf.GGUFReader:
    """The file, if it is a dense Llama with tied embeddings and SmolLM's tokenizer; else a UserError."""
    reader = gguf_file.open_reader(path)
    wanted = {"general.architecture": "llama", "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm"}
    for key, value in wanted.items():
        if (stored := field(reader, key)) != value:
            raise UserError(f"{shown(path)}: {key} is {stored!r}, only {value!r} is read here")
    if any(tensor.name == "output.weight" for tensor in reader.tensors):
        raise UserError(f"{shown(path)}: has an output.weight of its own; only tied embeddings are read here")
    return reader


def field(reader: gguf.GGUFReader, key: str):
    """A metadata value, or None."""
    return reader.fields[key].contents() if key in reader.fields else None


def needed(reader: gguf.GGUFReader, key: str, kind: type):
    """A metadata value of a type, of list[...] every item. UserError that names the key where it is another or none."""
    value = field(reader, key)
    inner = typing.get_args(kind)
    fits = isinstance(value, list) and all(isinstance(item, inner) for item in value) if inner else type(value) is kind
    if not fits:
        found = "missing" if value is None else f"{str(value)[:60]!r}"
        raise UserError(f"{shown(reader.data.filename)}: {key} is {found}, a {kind} is needed; make the file again")
    return value


def config(reader: gguf.GGUFReader) -> dict:
    """transformers' config.json for the file."""

    def number(key, kind=int):
        return needed(reader, f"llama.{key}", kind)

    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "hidden_size": number("embedding_length"),
        "intermediate_size": number("feed_forward_length"),
        "num_hidden_layers": number("block_count"),
        "num_attention_heads": number("attention.head_count"),
        "num_key_value_heads": number("attention.head_count_kv"),
        "max_position_embeddings": number("context_length"),
        "vocab_size": number("vocab_size"),
        "rope_theta": number("rope.freq_base", float),
        # Stored as float32, where 1e-5 reads 9.99999975e-06.
        "rms_norm_eps": float(f"{number('attention.layer_norm_rms_epsilon', float):.6g}"),
        "attention_bias": False,
        "mlp_bias": False,
        "dtype": "bfloat16",
        "bos_token_id": field(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": field(reader, "tokenizer.ggml.eos_token_id"),
        "pad_token_id": field(reader, "tokenizer.ggml.padding_token_id"),
    }


def hf_name(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight; UserError for a name that no Llama has."""
    if name in TOP_NAMES:
        return TOP_NAMES[name]
    parts = name.split(".")
    if (
        len(parts) == 4
        and parts[0] == "blk"
        and parts[1].isdecimal()
        and parts[3] == "weight"
        and parts[2] in LAYER_NAMES
    ):
        return f"model.layers.{parts[1]}.{LAYER_NAMES[parts[2]]}.weight"
    raise UserError(f"{name} is no tensor of a dense Llama")


def unpermute(weights: np.ndarray, heads: int) -> np.ndarray:
    """Rows [heads * width, in] from ggml's rope order (pairs interleaved) to transformers' (halves)."""
    rows = weights.shape[0]
    return weights.reshape(heads, rows // heads // 2, 2, -1).swapaxes(1, 2).reshape(rows, -1)


def tensors(reader: gguf.GGUFReader) -> list[Tensor]:
    """Every tensor, dequantized, in transformers' names and order of rows, to be saved as BF16."""
    heads = {
        "attn_q": needed(reader, "llama.attention.head_count", int),
        "attn_k": needed(reader, "llama.attention.head_count_kv", int),
    }
    converted = []
    for entry in reader.tensors:
        name, where = hf_name(entry.name), f"{shown(reader.data.filename)}: {entry.name}"
        shape = tuple(int(n) for n in reversed(entry.shape))
        try:
            values = gguf.dequantize(entry.data, entry.tensor_type).reshape(shape)
        except NotImplementedError:
            raise UserError(f"{where} is {entry.tensor_type.name}, which cannot be read back") from None
        kind = entry.name.split(".")[2] if entry.name.startswith("blk.") else ""
        if kind in heads:
            if heads[kind] < 1 or len(shape) != 2 or shape[0] % (2 * heads[kind]):
                raise UserError(f"{where} has the shape {list(shape)}, which {heads[kind]} heads do not divide")
            values = unpermute(values, heads[kind])
        converted.append(from_array(name, values))
    return sorted(converted, key=lambda tensor: tensor.name)


def tokenizer(reader: gguf.GGUFReader) -> dict:
    """tokenizer.json: byte-level BPE that takes digits one by one, as HuggingFaceTB's SmolLM tokenizers do.

    llama.cpp's name for that is "smollm"; its converter recognises the result by the hash of one text.
    """
    words = needed(reader, "tokenizer.ggml.tokens", list[str])
    types = needed(reader, "tokenizer.ggml.token_type", list[int])
    added = [
        {
            "id": i,
            "content": word,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, (word, kind) in enumerate(zip(words, types))
        if kind == SPECIAL
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level],
        },
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {word: i for i, word in enumerate(words)},
            "merges": needed(reader, "tokenizer.ggml.merges", list[str]),
        },
    }


def write_folder(reader: gguf.GGUFReader, folder: Path) -> None:
    """Write the four files into an existing folder."""
    settings, made = config(reader), tokenizer(reader)
    words = needed(reader, "tokenizer.ggml.tokens", list[str])
    for name in ("bos", "eos", "pad"):
        place = settings[f"{name}_token_id"]
        if type(place) is not int or not 0 <= place < len(words):
            raise UserError(f"{shown(reader.data.filename)}: its {name} token is {place!r} of {len(words)} words")
    safetensors_io.write_file(folder / "model.safetensors", tensors(reader), {"format": "pt"})
    write_json(folder / "config.json", settings)
    # Not write_json: sorted keys would put "merges" and the ids of the vocabulary in no order a person can follow.
    text = json.dumps(made, ensure_ascii=False, indent=1) + "\n"
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            "bos_token": words[settings["bos_token_id"]],
            "eos_token": words[settings["eos_token_id"]],
            "pad_token": words[settings["pad_token_id"]],
            "model_max_length": settings["max_position_embeddings"],
        },
    )
