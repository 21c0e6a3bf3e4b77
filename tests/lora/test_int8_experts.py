"""An adapter trained on int8 experts: what is computed is what the dequantized matrices would compute."""

import os
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.lfm2_moe import Model, ModelArgs
from mlx_lm.models.switch_layers import SwitchGLU

from helpers.random_checkpoints import save_hf
from kxl.base.cli import UserError
from kxl.lora import adapter, int8_experts
from kxl.model import checkpoint
from kxl.moe import core as moe_core
from kxl.moe import int8

pytestmark = pytest.mark.usefixtures("on_the_cpu")


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    save_hf(folder / "model", "six")
    moe_core.build(folder / "core", checkpoint.read(folder / "model"), 64)
    return folder / "core"


def test_output_and_gradient_are_those_of_the_dequantized_experts():
    rng = np.random.default_rng(3)
    matrices = [
        [int8.quantize(rng.normal(0, 0.1, shape).astype(np.float32), 64) for shape in ((128, 64), (128, 64), (64, 128))]
        for _ in range(5)
    ]
    dense = SwitchGLU(64, 128, 5)
    for place, name in enumerate(("gate_proj", "up_proj", "down_proj")):
        getattr(dense, name).weight = mx.array(np.stack([int8.dequantize(expert[place]) for expert in matrices]))
    config = {"hidden_size": 64, "use_expert_bias": True, "num_experts_per_tok": 2}
    experts = int8_experts.Int8Experts(matrices, config)
    x = mx.array(rng.normal(size=(14, 64)).astype(np.float32))
    chosen = mx.array(rng.permuted(np.tile(np.arange(5), (14, 1)), axis=-1)[:, :2])
    shares = mx.array(rng.uniform(0.2, 1, (14, 2)).astype(np.float32))
    weight = mx.array(rng.normal(size=(14, 64)).astype(np.float32))

    def of_all(x, shares):
        return (dense(x, chosen) * shares[..., None]).sum(-2)

    def one_by_one(x, shares):
        return experts.weighted(x, chosen, shares)

    results = [
        mx.value_and_grad(lambda x, shares, of=of: (of(x, shares) * weight).sum(), (0, 1))(x, shares)
        for of in (of_all, one_by_one)
    ]
    (expected, d_expected), (found, d_found) = results
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    for one, other in zip(d_found, d_expected):
        assert np.allclose(np.array(one), np.array(other), rtol=1e-4, atol=1e-5)


def test_a_loaded_core_computes_what_mlx_lm_computes_from_its_dequantized_weights(core):
    read = checkpoint.read(core)
    checkpoint.float32_copy(core, core.parent / "float32") if not (core.parent / "float32").exists() else None
    expected = Model(ModelArgs.from_dict(read.config))
    weights = mx.load(str(core.parent / "float32" / "model.safetensors"))
    expected.load_weights(list(weights.items()))
    found = int8_experts.load(core)
    tokens = mx.array([[5, 9, 200, 31, 7, 7, 80]])
    assert np.allclose(np.array(found(tokens)), np.array(expected(tokens)), rtol=1e-3, atol=1e-3)


def test_only_the_adapter_is_trained_and_its_names_are_those_of_the_checkpoint(core):
    model = int8_experts.load(core)
    adapter.attach(model, {"rank": 4, "alpha": 8, "modules": ["q_proj", "down_proj"], "embedding": "none"})
    names = adapter.trainable(model)
    assert names and all(name.endswith(("lora_a", "lora_b")) for name in names)
    assert not any("switch_mlp" in name for name in names)


def test_a_core_is_told_from_a_checkpoint(core):
    assert int8_experts.is_core(core)
    assert not int8_experts.is_core(core.parent / "model")


def test_a_core_without_a_tensor_is_refused_by_its_name(core, tmp_path):
    broken = tmp_path / "core"
    shutil.copytree(core, broken)
    for shard in broken.glob("model-00003-of-*.safetensors"):
        tensors = mx.load(str(shard))
        tensors.pop("model.layers.1.feed_forward.experts.2.w3.scales")
        mx.save_safetensors(str(shard), tensors)
    with pytest.raises(UserError, match="experts.2.w3"):
        int8_experts.load(broken)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted in /proc")
def test_a_core_takes_one_open_file_for_each_of_its_files_not_for_each_matrix(core):
    files, matrices = len(list(core.glob("*.safetensors"))), 0
    before = len(os.listdir("/proc/self/fd"))
    model = int8_experts.load(core)
    for layer in model.layers:
        matrices += 9 * len(getattr(layer.feed_forward, "_experts", ()))  # codes, scales and biases of three
    assert matrices > 4 * files
    assert len(os.listdir("/proc/self/fd")) - before <= files
