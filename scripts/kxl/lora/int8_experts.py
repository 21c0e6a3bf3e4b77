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
from kxl.model import safetensors_io
from kxl.model.shapes import expected_shapes, normalize_config
from kxl.moe import core as moe_core
from kxl.moe.int8 import Int8Matrix, dequantize_mlx

DENSE = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}  # mlx-lm's names of a dense layer's matrices


def is_core(folder: Path) -> bool:
    """Whether a folder holds int8 experts under transformers' names: a core, or a step of a MoE training."""
    path = Path(folder) / "config.json"
    if not path.is_file() or "quantization" not in read_json(path):
        return False
    return any(".feed_forward.experts.0.w1.scales" in name for name in safetensors_io.index_folder(folder))


class Int8Experts(nn.Module):
    """In place of a SwitchGLU: the experts of one layer, each a list of gate, up and down as Int8Matrix."""

    def __init__(self, experts: list[list[Int8Matrix]]):
        super().__init__()
        self._experts = experts  # the underscore keeps them out of the model's parameters

    def __call__(self, x: mx.array, chosen: mx.array) -> mx.array:
        """x [..., D], chosen [..., k] expert numbers; returns [..., k, D], not yet weighted."""
        top, width = chosen.shape[-1], x.shape[-1]
        flat = np.array(chosen).reshape(-1)
        order = np.argsort(flat, kind="stable").astype(np.int32)
        used, starts = np.unique(flat[order], return_index=True)
        places = list(zip(used.tolist(), np.split(order, starts[1:])))

        # Outside of MLX's graph: a graph would hold every dequantized expert of every layer until the end.
        @mx.custom_function
        def outputs(rows: mx.array) -> mx.array:
            values, made = np.array(rows), np.empty((len(flat), width), np.float32)
            for expert, pairs in places:
                gate, up, down = self._weights(expert)
                piece = mx.array(values[pairs // top])
                g = piece @ gate.T
                made[pairs] = np.array((g * mx.sigmoid(g) * (piece @ up.T)) @ down.T)
            return mx.array(made)

        @outputs.vjp
        def gradient(rows: mx.array, d_made: mx.array, made: mx.array) -> mx.array:
            values, d_values = np.array(rows), np.array(d_made)
            d_rows = np.zeros_like(values)
            for expert, pairs in places:
                gate, up, down = self._weights(expert)
                piece, d = mx.array(values[pairs // top]), mx.array(d_values[pairs])
                g, u = piece @ gate.T, piece @ up.T
                s = mx.sigmoid(g)
                a, d_h = g * s, d @ down
                d_piece = (d_h * u * (s + a * (1 - s))) @ gate + (d_h * a) @ up  # the derivative of x * sigmoid(x)
                np.add.at(d_rows, pairs // top, np.array(d_piece))
            return mx.array(d_rows)

        return outputs(x.reshape(-1, width)).reshape(*chosen.shape, width)

    def _weights(self, expert: int) -> list[mx.array]:
        weights = [dequantize_mlx(matrix) for matrix in self._experts[expert]]
        mx.eval(weights)
        return weights


def load(folder: Path) -> nn.Module:
    """The mlx-lm model of a core, its codes mapped. UserError names a tensor that is missing or of another shape."""
    from mlx_lm.models import lfm2_moe

    folder = Path(folder)
    config = normalize_config(read_json(folder / "config.json"), shown(folder / "config.json"))
    stored = safetensors_io.index_folder(folder)
    model = lfm2_moe.Model(lfm2_moe.ModelArgs.from_dict(config))
    experts, weights = {}, []
    for name, shape in expected_shapes(config).items():
        if moe_core.is_expert(name):
            _, _, layer, _, _, expert, matrix, _ = name.split(".")
            of_expert = experts.setdefault(int(layer), {}).setdefault(int(expert), {})
            of_expert[matrix] = _matrix(stored, folder, name, shape)
        else:
            value = stored[name].rows(0, math.prod(shape[:-1])).reshape(shape) if name in stored else None
            if value is None:
                raise UserError(f"{shown(folder)}: {name} is missing; build the core again (make core)")
            weights.append((_mlx_name(name), mx.array(value.swapaxes(1, 2) if "conv.conv" in name else value)))
    for number, of_layer in experts.items():
        matrices = [[of_layer[expert][name] for name in moe_core.MATRICES] for expert in sorted(of_layer)]
        model.layers[number].feed_forward.switch_mlp = Int8Experts(matrices)
    model.load_weights(weights, strict=True)
    mx.eval(model.parameters())
    return model


def _mlx_name(name: str) -> str:
    parts = name.split(".")
    return ".".join(DENSE.get(part, part) if parts[3:4] == ["feed_forward"] else part for part in parts)


def _matrix(stored: dict, folder: Path, name: str, shape: tuple) -> Int8Matrix:
    """An expert matrix, codes mapped from its file; scales and biases are read."""
    base, (rows, columns) = name.removesuffix(".weight"), shape
    parts = [stored.get(f"{base}.{kind}") for kind in ("weight", "scales", "biases")]
    if None in parts or parts[0].shape != (rows, columns // 4):
        raise UserError(f"{shown(folder)}: {name} is missing or of another shape; build the core again (make core)")
    codes = np.memmap(parts[0].file, np.uint8, "r", parts[0].offset, (rows, columns))
    grids = [np.memmap(part.file, np.uint16, "r", part.offset, part.shape) for part in parts[1:]]
    return Int8Matrix(codes, *map(np.array, grids))
