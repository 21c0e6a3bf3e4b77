"""A random LFM2 with a byte-level vocabulary and a chat template, as GGUF: for who needs a llama-server, not sense."""

from pathlib import Path

import gguf
import numpy as np

from kxl.base.files import ROOT

TEMPLATE = ROOT / "configs" / "templates" / "lfm2.5-tools.jinja"
SPECIAL = [
    "<|pad|>",
    "<|startoftext|>",
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|tool_call_start|>",
    "<|tool_call_end|>",
]
HIDDEN, FEED_FORWARD, HEADS, KERNEL = 64, 128, 2, 3
LAYERS = ("conv", "attention", "conv")  # hybrid, because the conv state is what a server cannot roll back


def byte_tokens() -> list[str]:
    """The 256 printable stand-ins for bytes of GPT-2's byte-level BPE."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = iter(range(256, 512))
    return [chr(byte if byte in kept else next(moved)) for byte in range(256)]


def write(path: Path, context: int = 65536, template: str | None = None) -> Path:
    """Write the model (about 0.4 MB), with `template` or our own, and return its path."""
    random = np.random.default_rng(0)
    tokens = [*SPECIAL, *byte_tokens(), "th"]
    writer = gguf.GGUFWriter(path, "lfm2")
    writer.add_block_count(len(LAYERS))
    writer.add_context_length(context)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv([HEADS if kind == "attention" else 0 for kind in LAYERS])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e6)
    writer.add_shortconv_l_cache(KERNEL)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("lfm2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * len(SPECIAL) + [gguf.TokenType.NORMAL] * 257)
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(SPECIAL.index("<|startoftext|>"))
    writer.add_eos_token_id(SPECIAL.index("<|im_end|>"))
    writer.add_add_bos_token(True)
    writer.add_chat_template(TEMPLATE.read_text(encoding="utf-8") if template is None else template)

    def matrix(name: str, *shape: int) -> None:
        writer.add_tensor(name, random.normal(0, 0.1, shape).astype(np.float32))

    def ones(name: str, length: int) -> None:
        writer.add_tensor(name, np.ones(length, dtype=np.float32))

    matrix("token_embd.weight", len(tokens), HIDDEN)
    ones("token_embd_norm.weight", HIDDEN)
    for index, kind in enumerate(LAYERS):
        block = f"blk.{index}"
        ones(f"{block}.attn_norm.weight", HIDDEN)
        ones(f"{block}.ffn_norm.weight", HIDDEN)
        if kind == "conv":
            matrix(f"{block}.shortconv.conv.weight", HIDDEN, KERNEL)
            matrix(f"{block}.shortconv.in_proj.weight", 3 * HIDDEN, HIDDEN)
            matrix(f"{block}.shortconv.out_proj.weight", HIDDEN, HIDDEN)
        else:
            ones(f"{block}.attn_q_norm.weight", HIDDEN // HEADS)
            ones(f"{block}.attn_k_norm.weight", HIDDEN // HEADS)
            for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
                matrix(f"{block}.{part}.weight", HIDDEN, HIDDEN)
        matrix(f"{block}.ffn_gate.weight", FEED_FORWARD, HIDDEN)
        matrix(f"{block}.ffn_up.weight", FEED_FORWARD, HIDDEN)
        matrix(f"{block}.ffn_down.weight", HIDDEN, FEED_FORWARD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
