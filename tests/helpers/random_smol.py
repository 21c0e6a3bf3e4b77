"""Small stand-ins for SmolLM: a byte-level tokenizer with the real ids of the special tokens, and a random Llama."""

import json
import shutil
from pathlib import Path

import numpy as np
from tokenizers import pre_tokenizers

from kxl.base.files import read_json, write_json
from kxl.model import safetensors_io
from kxl.model.tensors import from_array

ROOT = Path(__file__).resolve().parents[2]
SMOLLM2 = ROOT / "configs" / "smollm2-135m.json"
SMOLLM3 = ROOT / "configs" / "smollm3-3b.json"
SPECIAL2 = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<repo_name>",
    "<reponame>",
    "<file_sep>",
    "<filename>",
    "<gh_stars>",
    "<issue_start>",
    "<issue_comment>",
    "<issue_closed>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<jupyter_script>",
    "<empty_output>",
]
SPECIAL3 = {
    "<|im_start|>": 128011,
    "<|im_end|>": 128012,
    "<tool_response>": 128013,
    "</tool_response>": 128014,
    "<tool_call>": 128015,
    "</tool_call>": 128016,
    "<think>": 128002,
    "</think>": 128003,
    "<|end_of_text|>": 128001,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "write_file",
        "description": "Write a file.",
        "parameters": {
            "type": "object",
            "properties": {"path": {"type": "string"}, "text": {"type": "string"}},
            "required": ["path"],
        },
    },
}


def tokenizer(folder: Path, special: dict, template: Path) -> None:
    """tokenizer.json over bytes with `special` tokens at their ids, and the chat template, in an existing folder."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    free = (i for i in range(1 << 20) if i not in special.values())
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    write_json(
        folder / "tokenizer.json",
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "normalizer": None,
            "pre_tokenizer": byte_level,
            "post_processor": None,
            "decoder": byte_level,
            "added_tokens": [
                {
                    "id": i,
                    "content": word,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": False,
                    "normalized": False,
                    "special": True,
                }
                for word, i in sorted(special.items(), key=lambda item: item[1])
            ],
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": {**special, **{letter: next(free) for letter in letters}},
                "merges": [],
            },
        },
    )
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|im_end|>",
            "clean_up_tokenization_spaces": False,
        },
    )
    shutil.copyfile(template, folder / "chat_template.jinja")


def smollm2(folder: Path, renamed: bool = True, layers: int = 2) -> Path:
    """A random Llama of 64 columns with SmolLM2's special tokens, its tool tokens renamed or not yet."""
    from kxl.smol import tokens

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer(
        folder, {word: i for i, word in enumerate(SPECIAL2)}, ROOT / "configs" / "templates" / "smollm2-tools.jinja"
    )
    if renamed:
        tokens.rename(read_json(SMOLLM2), folder)
    rng = np.random.default_rng(5)
    width, inner, keys, rows = 64, 128, 32, len(SPECIAL2) + 256
    shapes = {"model.embed_tokens.weight": (rows, width), "model.norm.weight": (width,)}
    for i in range(layers):
        at = f"model.layers.{i}."
        shapes |= {
            at + "input_layernorm.weight": (width,),
            at + "post_attention_layernorm.weight": (width,),
            at + "self_attn.q_proj.weight": (width, width),
            at + "self_attn.k_proj.weight": (keys, width),
            at + "self_attn.v_proj.weight": (keys, width),
            at + "self_attn.o_proj.weight": (width, width),
            at + "mlp.gate_proj.weight": (inner, width),
            at + "mlp.up_proj.weight": (inner, width),
            at + "mlp.down_proj.weight": (width, inner),
        }
    tensors = [
        from_array(name, np.ones(shape) if len(shape) == 1 else rng.normal(0, 0.08, shape))
        for name, shape in shapes.items()
    ]
    safetensors_io.write_file(folder / "model.safetensors", tensors, {"format": "pt"})
    write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "tie_word_embeddings": True,
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 8192,
            "vocab_size": rows,
            "rope_theta": 100000.0,
            "rms_norm_eps": 1e-5,
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    )
    return folder


def smollm2_gguf(folder: Path, out: Path) -> Path:
    """The model of `smollm2` as GGUF, written by hand: the converter knows SmolLM2's own tokenizer alone."""
    import gguf

    config, vocabulary = read_json(folder / "config.json"), read_json(folder / "tokenizer.json")["model"]["vocab"]
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    words = sorted(vocabulary, key=vocabulary.get)
    writer.add_token_list(words)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if i < len(SPECIAL2) else gguf.TokenType.NORMAL for i in range(len(words))]
    )
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template((folder / "chat_template.jinja").read_text(encoding="utf-8"))
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
    for i in range(config["num_hidden_layers"]):
        names |= {
            f"model.layers.{i}.{theirs}": f"blk.{i}.{ours}"
            for ours, theirs in {
                "attn_norm": "input_layernorm",
                "ffn_norm": "post_attention_layernorm",
                "attn_q": "self_attn.q_proj",
                "attn_k": "self_attn.k_proj",
                "attn_v": "self_attn.v_proj",
                "attn_output": "self_attn.o_proj",
                "ffn_gate": "mlp.gate_proj",
                "ffn_up": "mlp.up_proj",
                "ffn_down": "mlp.down_proj",
            }.items()
        }
    for name, entry in safetensors_io.index_folder(folder).items():
        values = entry.rows(0, int(np.prod(entry.shape[:-1]))).reshape(entry.shape)
        for kind, heads in (("q_proj", config["num_attention_heads"]), ("k_proj", config["num_key_value_heads"])):
            if f".{kind}." in name:  # conversion/llama.py, LlamaModel.permute
                values = values.reshape(heads, 2, len(values) // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(names[name.removesuffix(".weight")] + ".weight", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def smollm3(folder: Path) -> Path:
    """SmolLM3's tokenizer files, as far as ids go: no weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer(folder, SPECIAL3, ROOT / "configs" / "templates" / "smollm3-tools.jinja")
    return folder


def tool_row(path: str = "a.txt", text: str = 'it\'s a "quote"\n\\d', name: str = "tool/1") -> dict:
    """A call with its result and an answer."""
    return {
        "id": name,
        "source": "test",
        "kind": "tool",
        "tools": [TOOL],
        "messages": [
            {"role": "user", "content": f"write {path}"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"type": "function", "function": {"name": "write_file", "arguments": {"path": path, "text": text}}}
                ],
            },
            {"role": "tool", "content": json.dumps({"ok": True})},
            {"role": "assistant", "content": "Done."},
        ],
    }


def ordinary_row(name: str = "ordinary/1") -> dict:
    """A question that needs no tool, beside one."""
    return {
        "id": name,
        "source": "test",
        "kind": "ordinary",
        "tools": [TOOL],
        "messages": [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hi there."}],
    }
