"""The patched converter takes a short-conv kernel in both layouts and refuses any other, for both LFM2 classes."""

import json
import subprocess
import sys

import pytest

HIDDEN, LENGTH = 256, 3
NAME = "model.layers.0.conv.conv.weight"
HF, MLX = (HIDDEN, 1, LENGTH), (HIDDEN, LENGTH, 1)
REFUSED = [
    (HIDDEN, LENGTH), (HIDDEN, 1, LENGTH, 1), (1, HIDDEN, LENGTH), (LENGTH, HIDDEN, 1), (HIDDEN, LENGTH, LENGTH),
    (HIDDEN, 1, LENGTH + 1), (HIDDEN, LENGTH + 1, 1), (HIDDEN + 1, 1, LENGTH), (HIDDEN,),
]  # fmt: skip

# Runs in a process of its own: the tree brings its own gguf package, and the one in .venv is older.
CONVERT = """
import json, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
import torch
from conversion import lfm2
from conversion.base import gguf

kind, name, hidden, length, shapes = json.loads(sys.argv[2])
kind = getattr(lfm2, kind)
model = object.__new__(kind)
model.hparams = {"hidden_size": hidden, "conv_L_cache": length}
model.fuse_gate_up_exps = model.fuse_qkv = False
model.tensor_map = gguf.get_tensor_name_map(kind.model_arch, 1)
results = []
for shape in shapes:
    kernel = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
    try:
        [(new_name, converted)] = model.modify_tensors(kernel, name, 0)
        results.append([new_name, converted.tolist()])
    except (ValueError, IndexError) as error:
        results.append(str(error))
print(json.dumps(results))
"""


@pytest.fixture(scope="module", params=["LFM2Model", "LFM2MoeModel"])
def converted(request, llama_tree) -> dict:
    """By shape: the new name and values of a kernel counting from 0, or the error."""
    shapes = [HF, MLX, *REFUSED]
    job = json.dumps([request.param, NAME, HIDDEN, LENGTH, shapes])
    ended = subprocess.run([sys.executable, "-c", CONVERT, str(llama_tree), job], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return dict(zip(shapes, json.loads(ended.stdout)))


@pytest.mark.parametrize("layout", [HF, MLX], ids=["Hugging Face", "MLX"])
def test_both_layouts_give_the_same_kernel(converted, layout):
    assert converted[layout] == [
        "blk.0.shortconv.conv.weight",
        [[float(row * LENGTH + tap) for tap in range(LENGTH)] for row in range(HIDDEN)],
    ]


@pytest.mark.parametrize("shape", REFUSED, ids=str)
def test_any_other_shape_is_refused_by_name_and_shape(converted, shape):
    assert isinstance(converted[shape], str), "converted instead of refused"
    assert NAME in converted[shape] and str(shape) in converted[shape]
