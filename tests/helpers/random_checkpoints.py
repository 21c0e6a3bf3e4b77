"""Random LFM2-MoE checkpoints with a small BPE tokenizer, for tests: made by transformers, not by us."""

import json
import math
import os
import struct
from pathlib import Path

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

SPECIAL = [
    "<|pad|>",
    "<|startoftext|>",
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|tool_call_start|>",
    "<|tool_call_end|>",
]
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXT = [
    "The agent reads a file, runs a command in the terminal and writes what it found.",
    "list the files here, then open https://docs.python.org/3/ in the browser!",
    "def main():\n    print('hello', 1234)\n\n\nfor i in range(10):\n\ti += 1",
    "It's a test; we'll see what they've got, don't you think? \u00e9t\u00e9, na\u00efve, \u4f60\u597d \U0001f680",
    '{"path": "src/app/main.py", "exit_code": 0, "error": null}',
]
TEMPLATE = (
    "{{- bos_token -}}{%- for m in messages -%}{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + "
    "'<|im_end|>\\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)

# Expert count, top-k, layer order, dense layers and vocabulary differ; no vocabulary is a multiple of 64.
SHAPES = {
    "six": dict(
        vocab_size=1000,
        num_hidden_layers=4,
        num_experts=6,
        num_experts_per_tok=2,
        num_dense_layers=1,
        layer_types=["conv", "full_attention", "conv", "full_attention"],
    ),
    "five": dict(
        vocab_size=777,
        num_hidden_layers=5,
        num_experts=5,
        num_experts_per_tok=3,
        num_dense_layers=2,
        layer_types=["full_attention", "conv", "conv", "full_attention", "conv"],
    ),
    "twelve": dict(
        vocab_size=1031,
        num_hidden_layers=4,
        num_experts=12,
        num_experts_per_tok=1,
        num_dense_layers=1,
        layer_types=["conv", "conv", "conv", "full_attention"],
        num_attention_heads=2,
        num_key_value_heads=1,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
    ),
}
BASE = dict(
    hidden_size=256,
    intermediate_size=512,
    moe_intermediate_size=256,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=4096,
    norm_eps=1e-5,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=4,
)


def save_tokenizer(folder: Path, vocab_size: int) -> None:
    """A byte-level BPE with LFM2's pre-tokenizer; it leaves the last ids of the embedding unused, as real ones do."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 9,
        min_frequency=1,
        show_progress=False,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A", special_tokens=[("<|startoftext|>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": SPECIAL[1],
                "eos_token": SPECIAL[4],
                "pad_token": SPECIAL[0],
                "clean_up_tokenization_spaces": False,
                "model_input_names": ["input_ids", "attention_mask"],
            }
        )
    )
    (folder / "chat_template.jinja").write_text(TEMPLATE)


def save_hf(folder: Path, shape: str = "six", seed: int = 0, shard: str = "5GB", **changes):
    """Save a random BF16 checkpoint as transformers does; return the model (float32, with the BF16 values)."""
    import torch
    from transformers import Lfm2MoeConfig, Lfm2MoeForCausalLM

    torch.manual_seed(seed)
    model = Lfm2MoeForCausalLM(Lfm2MoeConfig(**{**BASE, **SHAPES[shape], **changes}))
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "inv_freq" in name:
                continue
            if "norm" in name:
                tensor.uniform_(0.5, 1.5)
            elif "conv.conv" in name:
                tensor.normal_(0, 0.6)
            elif "expert_bias" in name:
                tensor.normal_(0, 0.2)
            else:
                tensor.normal_(0, 1.5 * tensor.shape[-1] ** -0.5)
    rounded = {name: tensor.to(torch.bfloat16) for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: tensor.float() for name, tensor in rounded.items()})
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size=shard)
    save_tokenizer(Path(folder), model.config.vocab_size)
    return Lfm2MoeForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def write_zeros(folder: Path, config: dict) -> None:
    """An MLX-named BF16 checkpoint of any size whose data is one hole in the file."""
    from kxl.model.layouts import mlx_tensors
    from kxl.model.shapes import expected_shapes, normalize_config
    from kxl.model.tensors import Checkpoint, Tensor

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {
        name: Tensor(name, shape, "BF16", ())
        for name, shape in expected_shapes(normalize_config(config, "config.json")).items()
    }
    header, offset = {}, 0
    for tensor in mlx_tensors(Checkpoint(folder, config, tensors)):
        size = 2 * math.prod(tensor.shape)
        header[tensor.name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
