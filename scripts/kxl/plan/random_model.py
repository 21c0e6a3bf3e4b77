"""A checkpoint of real shapes and random weights, with a tokenizer of the real size: what a rehearsal goes with.

The weights are slices of one block of noise, scaled as a trained model's are, so that 17 GB are written as fast as the
disk takes them. The tokenizer is the tiny model's, grown to the vocabulary by merges of its own pieces; it tokenizes
text as the tiny model's does, and its file is as large as a real one's.
"""

import json
from pathlib import Path

import numpy as np

from kxl.base.files import ROOT, read_json, require_space, write_json
from kxl.model import checkpoint, safetensors_io
from kxl.model.shapes import expected_shapes, normalize_config
from kxl.model.tensors import Checkpoint, Tensor

TOKENIZER_OF = ROOT / "models" / "tiny"
NOISE = 1 << 24  # values of the block that all weights are cut from
# What every LFM2-MoE says of itself, and shapes files leave out.
LFM2_MOE = {
    "architectures": ["Lfm2MoeForCausalLM"],
    "dtype": "bfloat16",
    "conv_bias": False,
    "norm_topk_prob": True,
    "use_expert_bias": True,
    "routed_scaling_factor": 1.0,
}
SHARD_BYTES = 5 * 10**9
DEVIATION = 0.02  # of the weights of LFM2 checkpoints


def write(folder: Path, shapes: dict, template: Path, seed: int = 0) -> dict:
    """Write the checkpoint of `shapes` (a config.json or gguf/*.shapes.json) to `folder`; returns its config.

    template: the chat template to ship with it. UserError when the disk has no room.
    """
    config = normalize_config({**shapes, **LFM2_MOE}, "shapes")
    names = expected_shapes(config)
    require_space(folder.parent, 2 * sum(int(np.prod(shape)) for shape in names.values()))
    staging = folder.with_name(f"{folder.name}-tokenizer")
    staging.mkdir(parents=True, exist_ok=True)
    ids = write_tokenizer(staging, config["vocab_size"])
    (staging / "chat_template.jinja").write_text(template.read_text(encoding="utf-8"), encoding="utf-8")
    config |= {"bos_token_id": ids["bos_token"], "eos_token_id": ids["eos_token"], "pad_token_id": ids["pad_token"]}
    noise = np.random.default_rng(seed).standard_normal(NOISE, dtype=np.float32)
    blocks = {
        "weight": safetensors_io.float32_to_bf16(DEVIATION * noise),
        "norm": safetensors_io.float32_to_bf16(1 + 0.1 * noise),
        "conv": safetensors_io.float32_to_bf16(0.5 * noise),
        "bias": 0.01 * noise[: 1 << 16],
    }
    del noise
    offset, tensors = 0, {}
    for name, shape in names.items():
        kind = next((key for key in ("norm", "conv.conv", "expert_bias") if key in name), "weight")
        block = blocks[{"conv.conv": "conv", "expert_bias": "bias"}.get(kind, kind)]
        start, offset = offset, offset + 7919  # no two tensors begin at one place
        tensors[name] = Tensor(name, shape, "F32" if kind == "expert_bias" else "BF16", _parts(block, shape, start))
    checkpoint.save_hf(folder, Checkpoint(staging, config, tensors), SHARD_BYTES)
    for file in staging.iterdir():
        file.unlink()
    staging.rmdir()
    return config


def _parts(block: np.ndarray, shape: tuple, start: int) -> tuple:
    """A tensor in pieces of whole rows, each read from the block from another place on."""
    columns = int(np.prod(shape[1:])) if len(shape) > 1 else 1
    rows = max(1, (len(block) // 2) // columns)
    pieces = []
    for first in range(0, shape[0], rows):
        count = min(rows, shape[0] - first) * columns
        place = (start + first * columns) % (len(block) - count)
        of_rows = (min(rows, shape[0] - first), *shape[1:])
        pieces.append(lambda place=place, count=count, of_rows=of_rows: block[place : place + count].reshape(of_rows))
    return tuple(pieces)


def write_tokenizer(folder: Path, vocabulary: int) -> dict:
    """tokenizer.json with `vocabulary` entries but eight, which the embedding has spare; ids of the special ones.

    Two pieces that are in the vocabulary are merged to a new one as often as needed: a longer tail that ordinary text
    does not reach, since the merges that are there come first.
    """
    made = json.loads((TOKENIZER_OF / "tokenizer.json").read_text(encoding="utf-8"))
    settings = read_json(TOKENIZER_OF / "tokenizer_config.json")
    vocab, merges = made["model"]["vocab"], made["model"]["merges"]
    special = {token["content"] for token in made["added_tokens"]}
    pieces = [piece for piece in vocab if piece not in special]
    wanted, used = vocabulary - 8, max(vocab.values()) + 1
    words = [piece for piece in pieces if len(piece) > 2]
    for left in words:
        for right in words:
            if used >= wanted:
                break
            if left + right not in vocab:
                vocab[left + right] = used
                merges.append([left, right] if isinstance(merges[0], list) else f"{left} {right}")
                used += 1
        if used >= wanted:
            break
    (folder / "tokenizer.json").write_text(json.dumps(made, ensure_ascii=False), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", settings)
    return {key: vocab[settings[key]] for key in ("bos_token", "eos_token", "pad_token")}
