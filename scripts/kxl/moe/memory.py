"""How much memory a training step holds at its peak: predicted from shapes alone, and measured on a real step.

    predict(config, settings, tokens, length)["peak"]     bytes resident
    predict(...)["parts"]                                 {part: bytes}, which add up to it
    measured(script, [...])["peak_rss_gib"]               of one step in a process of its own

Always there: the process, the core, the optimizer's moments. Of a core in mapped files only the layer that is being
changed counts: all other pages are as on the disk and can be taken back (hardware.held). Then the inputs of the MoE
layers, kept from the forward to the backward. Then the largest of what is at work at one time: an MoE layer's backward,
attention's or the convolution's, a dense layer, or the loss. Each count names the arrays that are alive together in the
code; `make sweep` and `make prove-8b` check the sum against the resident memory of real steps.

Streamed and grouped steps peak alike: the lowest group's pass keeps the input of every MoE layer above it.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from kxl.base import processes
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, shown
from kxl.model import blas
from kxl.model.shapes import normalize_config
from kxl.moe import core
from kxl.moe.layers import Blocks

FLOAT = 4
# Python with MLX and numpy, OpenBLAS's buffers and the optimizer's blocks.
PROCESS = 80 * 2**20
# Freed buffers that MLX keeps for the next array of their size; every training process sets this limit. At 8B an
# expert's matrices and gradients take 88 MiB and a convolution's weights 100: with less, each pushes the other out, and
# what comes back from the system is zeroed page by page (up to 3 s per GiB on a virtual machine).
CACHE = 256 * 2**20


def predict(config: dict, settings: dict, tokens: int, length: int, shares: int = 1) -> dict:
    """{"peak": bytes, "parts": {part: bytes}}. `tokens` in the batch, `length` of its longest row.

    Of a process among several: its own tokens, and in how many `shares` it computes them.

    settings: as in configs/NAME-moe.json.
    """
    parts = {
        "process": PROCESS + CACHE,
        "core": stored(config, settings),
        "moments": moments(config, settings["optimizer"]),
        "layer inputs": layer_inputs(config, settings["layer_inputs"], tokens),
        "work": max(work(config, Blocks(**settings["blocks"]), tokens, length, shares).values()),
    }
    return {"peak": sum(parts.values()), "parts": parts}


def stored(config: dict, settings: dict) -> int:
    """Bytes of the core and its carry; in mapped files those of one MoE layer, which no write has reached yet.

    A settings object of before there was a carry has none of the keys.
    """
    bits = settings.get("carry_bits", 0)
    if settings.get("storage", "resident") == "resident":
        return core.stored_bytes(config, settings["group_size"], bits)
    weights = 3 * config["num_experts"] * config["moe_intermediate_size"] * config["hidden_size"]
    return weights * (8 + bits) // 8 + 4 * weights // settings["group_size"]


def moments(config: dict, optimizer: str) -> int:
    """One float32 per row and column of every expert matrix and router."""
    if optimizer == "sgd":
        return 0
    width, hidden, experts = config["moe_intermediate_size"], config["hidden_size"], config["num_experts"]
    return FLOAT * _moe_layers(config) * (3 * experts * (width + hidden) + experts + hidden)


def layer_inputs(config: dict, keep: str, tokens: int) -> int:
    """The inputs of all MoE layers, kept for the way back as `keep` (bfloat16 or float32)."""
    return _moe_layers(config) * tokens * config["hidden_size"] * (2 if keep == "bfloat16" else 4)


def _moe_layers(config: dict) -> int:
    return config["num_hidden_layers"] - config["num_dense_layers"]


def work(config: dict, blocks: Blocks, tokens: int, length: int, shares: int = 1) -> dict[str, int]:
    """Bytes alive at the peak of each kind of work."""
    hidden, width, vocabulary = config["hidden_size"], config["moe_intermediate_size"], config["vocab_size"]
    share = config["num_key_value_heads"] / config["num_attention_heads"]
    own = tokens // shares
    rows = own // length
    whole, part = FLOAT * tokens * hidden, FLOAT * own * hidden  # one [B, L, D] of all shares, and of one
    block = FLOAT * rows * min(blocks.tokens, length) * hidden
    expert_rows = min(blocks.tokens, own)
    matrix = FLOAT * hidden * width
    score = FLOAT * rows * min(blocks.queries, length) * length / share  # the heads of one key
    square = FLOAT * hidden * hidden
    chunk = FLOAT * min(blocks.vocabulary, vocabulary) * hidden
    # d_output, x, h, normed and d_normed; weights and gradients of an expert, one matrix twice while it is made;
    # g, u, s, a, h, d_h (twice), d_u, d_g and two in the making; x, d and four in the making. Gradients of a share
    # wait for its neighbour's, one expert's at each level of the tree; those of the last piece are added one by one.
    waiting = shares.bit_length() - 1 - (shares > 1 and own <= blocks.tokens)
    moe = 5 * whole + (7 + 3 * waiting) * matrix + FLOAT * expert_rows * (11 * width + 6 * hidden)
    # x, d_output, d_h; of a share q, d_q in blocks and as a whole, k, v and their gradients; scores, weights, their
    # gradients.
    attention = 3 * whole + (3 + 4 * share) * part + 2 * (1 + share) * square + 5 * score + 2 * block
    # x, d_output, d_h; of a share the blocks of the result beside their concatenation; the three-fold projection and
    # its gradient.
    conv = 3 * whole + 2 * part + 4 * square + 12 * block
    # hidden and its gradient; logits and two chunks more; a chunk of the embedding as BF16 and float32.
    logits = FLOAT * min(blocks.logits, own)
    loss = 2 * whole + part + logits * (vocabulary + 3 * min(blocks.vocabulary, vocabulary)) + 1.5 * chunk
    # x, h and the result; of a share normed and the result in blocks; three matrices, one still in BF16; g, u and two
    # in the making.
    dense = (
        3 * whole
        + 2 * part
        + 3.5 * FLOAT * hidden * config["intermediate_size"]
        + 4 * FLOAT * rows * min(blocks.tokens, length) * config["intermediate_size"]
    )
    return {
        "moe": int(moe),
        "attention": int(attention),
        "convolution": int(conv),
        "dense": int(dense),
        "loss": int(loss),
    }


def add_flags(parser: argparse.ArgumentParser, tokens: int = 1024) -> None:
    """--shapes and --config, LFM2-8B-A1B's by default, and --tokens of the one example that a step is measured on."""
    parser.add_argument(
        "--shapes", type=Path, default=ROOT / "gguf/lfm2-8b-a1b.shapes.json", help="config.json of the shapes"
    )
    parser.add_argument("--config", type=Path, default=ROOT / "configs/lfm2.5-8b-a1b-moe.json", help="training config")
    parser.add_argument("--tokens", type=int, default=tokens, help="tokens of the example")


def shapes(path: Path, layers: int | None) -> dict:
    """The config of the first `layers` layers of a model, of all for None."""
    config = normalize_config(read_json(path), shown(path))
    if layers is not None:
        config |= {"layer_types": config["layer_types"][:layers], "num_hidden_layers": layers}
    return config


def measured(script: Path, arguments: list) -> dict:
    """What `script`, moe_measure_step.py, says of a step in a fresh process. UserError with its arguments if it fails.

    Its path comes from the caller, so that only what measures depends on it.
    """
    command = [sys.executable, str(script), *map(str, arguments)]
    ended = processes.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **blas.child_env()})
    if ended.returncode:
        raise UserError(f"{' '.join(command[1:])} ended with {ended.returncode}; its message is above")
    return json.loads(ended.stdout)
