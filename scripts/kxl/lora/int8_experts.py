"""An LFM2-MoE whose frozen experts stay int8 codes in mapped files, for training an adapter where BF16 does not fit.

    model = load(Path("runs/mine/moe/streamed/step_01746_final"))     # a core, or a checkpoint of a MoE training

It is an mlx-lm model: adapter, loss and loop take it as any other. One expert at a time is dequantized, on the way
forward and again on the way back; what stands between is not kept. The gradient at the input is exact; there is none at
the experts, which an adapter of a repair leaves alone. All else is float32: 2.9 GiB at LFM2.5-8B-A1B's shapes beside
7.8 GiB of mapped codes, which the system may drop and read again.
"""

import math
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from kxl.base.cli import UserError
from kxl.base.files import read_json, shown
from kxl.lora import eager, memory
from kxl.model import safetensors_io
from kxl.model.shapes import expected_shapes, normalize_config
from kxl.moe import core as moe_core
from kxl.moe import experts as moe_experts
from kxl.moe.experts import Routed
from kxl.moe.int8 import Int8Matrix, dequantize_mlx

DENSE = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}  # mlx-lm's names of a dense layer's matrices


def is_core(folder: Path) -> bool:
    """Whether a folder holds int8 experts under transformers' names: a core, or a step of a MoE training."""
    path = Path(folder) / "config.json"
    if not path.is_file() or "quantization" not in read_json(path):
        return False
    return any(".feed_forward.experts.0.w1.scales" in name for name in safetensors_io.index_folder(folder))


class Int8Experts(nn.Module):
    """In place of an LFM2-MoE's sparse feed-forward: router, and the experts as gate, up and down Int8Matrix each."""

    def __init__(self, experts: list[list[Int8Matrix]], config: dict):
        super().__init__()
        self.gate = nn.Linear(config["hidden_size"], len(experts), bias=False)
        if config["use_expert_bias"]:
            self.expert_bias = mx.zeros((len(experts),))
        self._experts, self._config = experts, config  # the underscore keeps them out of the model's parameters

    def __call__(self, x: mx.array) -> mx.array:
        """x [..., D]; returns the weighted sum of each token's experts, [..., D]."""
        tokens = x.reshape(-1, x.shape[-1])
        bias = self.expert_bias if "expert_bias" in self else None
        gate = self.gate.weight
        chosen = moe_experts.most_wanted(mx.stop_gradient(tokens), gate, bias, self._config["num_experts_per_tok"])
        weights = moe_experts.routing_weights(tokens, gate, chosen, self._config)
        return self.weighted(tokens, chosen, weights).reshape(x.shape)

    def weighted(self, tokens: mx.array, chosen: mx.array, weights: mx.array) -> mx.array:
        """tokens [T, D], chosen expert numbers and their weights [T, k]; returns [T, D]."""
        chosen = eager.finished(chosen)
        per_expert = moe_experts.by_expert(chosen, np.ones(len(chosen), bool), len(self._experts))

        # Outside of MLX's graph: a graph would hold every dequantized expert of every layer until the end.
        def forward(tokens: mx.array, weights: mx.array) -> mx.array:
            share = Routed(tokens, None, None, chosen, weights, per_expert)
            return moe_experts.outputs(self._matrices, [share], memory.ROWS)[0]

        def backward(d: mx.array, tokens: mx.array, weights: mx.array) -> list[mx.array]:
            share = Routed(tokens, None, None, chosen, weights, per_expert, d)
            share.d_weights, share.d_normed = np.zeros(chosen.size, np.float32), mx.zeros_like(tokens)
            for expert, pairs in enumerate(per_expert):
                if len(pairs):
                    moe_experts.expert_backward(expert, self._matrices(expert), memory.ROWS, False, share)
            return [share.d_normed, mx.array(share.d_weights).reshape(chosen.shape)]

        return eager.function(forward, backward)(tokens, weights)

    def _matrices(self, expert: int) -> list[mx.array]:
        return [dequantize_mlx(matrix) for matrix in self._experts[expert]]


def load(folder: Path) -> nn.Module:
    """The mlx-lm model of a core, its codes mapped. UserError names a tensor that is missing or of another shape."""
    from mlx_lm.models import lfm2_moe

    folder = Path(folder)
    config = normalize_config(read_json(folder / "config.json"), shown(folder / "config.json"))
    stored = safetensors_io.index_folder(folder)
    model = lfm2_moe.Model(lfm2_moe.ModelArgs.from_dict(config))
    experts, weights = {}, []
    maps = Maps()
    for name, shape in expected_shapes(config).items():
        if moe_core.is_expert(name):
            _, _, layer, _, _, expert, matrix, _ = name.split(".")
            of_expert = experts.setdefault(int(layer), {}).setdefault(int(expert), {})
            of_expert[matrix] = _matrix(stored, folder, name, shape, maps)
        else:
            value = stored[name].rows(0, math.prod(shape[:-1])).reshape(shape) if name in stored else None
            if value is None:
                raise UserError(f"{shown(folder)}: {name} is missing; build the core again (make core)")
            weights.append((_mlx_name(name), mx.array(value.swapaxes(1, 2) if "conv.conv" in name else value)))
    for number, of_layer in experts.items():
        matrices = [[of_layer[expert][name] for name in moe_core.MATRICES] for expert in sorted(of_layer)]
        model.layers[number].feed_forward = Int8Experts(matrices, config)
    model.load_weights(weights, strict=True)
    mx.eval(model.parameters())
    return model


def _mlx_name(name: str) -> str:
    parts = name.split(".")
    return ".".join(DENSE.get(part, part) if parts[3:4] == ["feed_forward"] else part for part in parts)


class Maps(dict):
    """{file: its bytes, mapped}: one map a file, since an 8B has more matrices than a process may have open files."""

    def __missing__(self, file: Path) -> np.memmap:
        self[file] = np.memmap(file, np.uint8, "r")
        return self[file]

    def array(self, part: safetensors_io.Stored, kind: type, shape: tuple) -> np.ndarray:
        """A tensor of its file as an array of `kind` [shape], which holds no memory of its own."""
        size = math.prod(shape) * np.dtype(kind).itemsize
        return self[part.file][part.offset : part.offset + size].view(kind).reshape(shape)


def _matrix(stored: dict, folder: Path, name: str, shape: tuple, maps: Maps) -> Int8Matrix:
    """An expert matrix, mapped from its file."""
    base, (rows, columns) = name.removesuffix(".weight"), shape
    parts = [stored.get(f"{base}.{kind}") for kind in ("weight", "scales", "biases")]
    if None in parts or parts[0].shape != (rows, columns // 4):
        raise UserError(f"{shown(folder)}: {name} is missing or of another shape; build the core again (make core)")
    codes = maps.array(parts[0], np.uint8, (rows, columns))
    return Int8Matrix(codes, *(maps.array(part, np.uint16, part.shape) for part in parts[1:]))
