"""Reading and writing checkpoints in both families of names, and what a broken one says."""

import json
import random
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from helpers import mutation, random_checkpoints
from kxl.base.cli import UserError
from kxl.model import checkpoint
from kxl.model.layouts import dequantize, mlx_tensors
from kxl.model.tensors import Checkpoint, from_array

pytestmark = pytest.mark.minutes


@pytest.fixture(scope="module", params=list(random_checkpoints.SHAPES))
def made(request, tmp_path_factory):
    """A random checkpoint as transformers saves it, in small shards, and the model it came from."""
    folder = tmp_path_factory.mktemp(request.param)
    return folder, random_checkpoints.save_hf(folder, request.param, shard="2MB")


@pytest.fixture(scope="module")
def six(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("six")
    random_checkpoints.save_hf(folder, "six", shard="2MB")
    return folder


@pytest.fixture
def copy(six, tmp_path) -> Path:
    """A copy to break."""
    shutil.copytree(six, tmp_path / "broken")
    return tmp_path / "broken"


def expected(model, name: str) -> np.ndarray:
    """What transformers holds under a canonical name; it keeps experts fused in memory."""
    state = model.state_dict()
    if ".experts." not in name:
        return state[name].numpy()
    prefix, rest = name.split(".experts.")
    expert, w, _ = rest.split(".")
    if w == "w2":
        return state[f"{prefix}.experts.down_proj"][int(expert)].numpy()
    return state[f"{prefix}.experts.gate_up_proj"][int(expert)].chunk(2)[0 if w == "w1" else 1].numpy()


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    assert list(one.tensors) == list(other.tensors)
    for name, tensor in one.tensors.items():
        assert (tensor.shape, tensor.dtype) == (other.tensors[name].shape, other.tensors[name].dtype), name
        assert np.array_equal(tensor.read(), other.tensors[name].read()), name


def test_every_weight_of_a_transformers_checkpoint_is_read_as_it_is(made):
    folder, model = made
    read = checkpoint.read(folder)
    assert (
        sum(np.prod(tensor.shape) for tensor in read.tensors.values())
        == sum(p.numel() for p in model.state_dict().values()) - model.lm_head.weight.numel()
    )  # tied, stored once
    for name, tensor in read.tensors.items():
        assert np.array_equal(tensor.read(), expected(model, name)), name


def test_mlx_lm_loads_what_we_save_and_computes_what_transformers_computes(made, tmp_path):
    import mlx.core as mx
    import torch
    from mlx_lm.utils import load_model

    folder, model = made
    checkpoint.save_mlx(tmp_path / "mlx", checkpoint.read(folder))
    loaded, _ = load_model(tmp_path / "mlx")
    loaded.set_dtype(mx.float32)
    ids = np.random.default_rng(0).integers(7, model.config.vocab_size, (1, 64))
    with torch.no_grad():
        wanted = model(torch.from_numpy(ids)).logits.numpy()
    assert np.abs(np.array(loaded(mx.array(ids))) - wanted).max() < 1e-3


def test_the_mlx_layout_read_back_is_the_same_checkpoint(made, tmp_path):
    original = checkpoint.read(made[0])
    checkpoint.save_mlx(tmp_path / "mlx", original)
    stored = json.loads(_header(tmp_path / "mlx" / "model.safetensors"))
    hidden, length = original.config["hidden_size"], original.config["conv_L_cache"]
    assert any(entry["shape"] == [hidden, length, 1] for name, entry in stored.items() if "conv.conv" in name)
    assert any("switch_mlp" in name for name in stored) and not any(".experts." in name for name in stored)
    assert_same(checkpoint.read(tmp_path / "mlx"), original)


def test_transformers_loads_what_we_save(made, tmp_path):
    from transformers import Lfm2MoeForCausalLM

    folder, model = made
    checkpoint.save_mlx(tmp_path / "mlx", checkpoint.read(folder))
    checkpoint.save_hf(tmp_path / "hf", checkpoint.read(tmp_path / "mlx"), shard_bytes=2_000_000)
    assert len(list((tmp_path / "hf").glob("model-*.safetensors"))) > 1
    again = Lfm2MoeForCausalLM.from_pretrained(tmp_path / "hf").float().state_dict()
    for name, tensor in model.state_dict().items():
        assert np.array_equal(again[name].numpy(), tensor.numpy()), name


def test_experts_fused_as_transformers_keeps_them_in_memory_are_read(made, tmp_path):
    from safetensors.torch import save_file

    folder, model = made
    state = {name: tensor.clone() for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    assert any(name.endswith("experts.gate_up_proj") for name in state)
    save_file(state, tmp_path / "model.safetensors")
    shutil.copy(folder / "config.json", tmp_path)
    wanted = checkpoint.read(folder).tensors
    for name, tensor in checkpoint.read(tmp_path).tensors.items():
        assert np.array_equal(tensor.read(), wanted[name].read()), name


def test_a_dense_lfm2_checkpoint_is_read_too(tmp_path):
    import torch
    from transformers import Lfm2Config, Lfm2ForCausalLM

    config = Lfm2Config(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=300,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        layer_types=["conv", "full_attention", "conv"],
    )
    model = Lfm2ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    for name, tensor in checkpoint.read(tmp_path).tensors.items():
        assert np.array_equal(tensor.read(), model.state_dict()[name].float().numpy()), name


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_codes_of_every_width_dequantize_as_mlx_does(bits):
    import mlx.core as mx

    weights = mx.random.normal((96, 512), key=mx.random.key(bits))
    codes, scales, biases = mx.quantize(weights, group_size=64, bits=bits)
    wanted = np.array(mx.dequantize(codes, scales, biases, group_size=64, bits=bits))
    found = dequantize(np.array(codes), np.array(scales), np.array(biases), bits)
    assert np.abs(found - wanted).max() <= 1e-6 * np.abs(wanted).max()


def test_an_mlx_quantized_checkpoint_with_per_layer_settings_reads_as_mlx_dequantizes_it(six, tmp_path):
    import mlx.core as mx
    from mlx_lm.utils import dequantize_model, load_model, quantize_model, save_config, save_model

    checkpoint.save_mlx(tmp_path / "mlx", checkpoint.read(six))
    model, config = load_model(tmp_path / "mlx")

    def predicate(path, _):
        if "gate_proj" in path:
            return {"group_size": 32, "bits": 3}
        return False if "self_attn" in path else {"group_size": 128, "bits": 6} if path.endswith("router") else True

    model, config = quantize_model(model, config, group_size=64, bits=4, quant_predicate=predicate)
    save_model(tmp_path / "quantized", model)
    save_config(config, tmp_path / "quantized" / "config.json")
    read = checkpoint.read(tmp_path / "quantized")

    model.set_dtype(mx.float32)
    dequantize_model(model)
    wanted = {name: np.array(value) for name, value in _flat(model)}
    for tensor in mlx_tensors(read):
        assert np.abs(tensor.read() - wanted[tensor.name]).max() <= 1e-6 * np.abs(wanted[tensor.name]).max(), (
            tensor.name
        )
    packed = json.loads(_header(next((tmp_path / "quantized").glob("*.safetensors"))))
    assert (
        sum(entry["dtype"] == "U32" for entry in packed.values()) > 10
    )  # the test would prove nothing on plain weights


def test_reading_and_writing_hold_a_few_rows_in_memory_not_the_checkpoint(tmp_path):
    """A checkpoint of 540 MB, experts stacked, is rewritten by a process that may grow by 150 MB."""
    config = {
        **random_checkpoints.BASE,
        **random_checkpoints.SHAPES["six"],
        "model_type": "lfm2_moe",
        "num_experts": 32,
        "conv_L_cache": 3,
        "hidden_size": 1024,
        "moe_intermediate_size": 1024,
        "num_attention_heads": 16,
        "vocab_size": 65536,
        "num_hidden_layers": 3,
        "layer_types": ["conv", "full_attention", "conv"],
    }
    random_checkpoints.write_zeros(tmp_path / "large", config)
    size = (tmp_path / "large" / "model.safetensors").stat().st_size
    assert size > 500e6
    program = f"""
import resource, sys
sys.path.insert(0, {str(ROOT / "scripts")!r})
from kxl.model import checkpoint
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before = peak()
source = checkpoint.read({str(tmp_path / "large")!r})
checkpoint.save_hf({str(tmp_path / "hf")!r}, source, shard_bytes=500_000_000)
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    shutil.rmtree(tmp_path / "large")
    assert sum(path.stat().st_size for path in (tmp_path / "hf").glob("*.safetensors")) > 500e6
    shutil.rmtree(tmp_path / "hf")
    assert int(done.stdout) < 150e6


# What a person with a broken checkpoint reads


def refusal(folder: Path, read_all: bool = False) -> str:
    with pytest.raises(UserError) as caught:
        for tensor in checkpoint.read(folder).tensors.values():
            if read_all:
                tensor.read()
    return str(caught.value)


def test_a_missing_shard_is_named(copy):
    shard = sorted(copy.glob("model-*.safetensors"))[2]
    shard.unlink()
    assert shard.name in refusal(copy) and "missing shard" in refusal(copy)


def test_a_missing_shard_without_an_index_is_named_too(copy):
    (copy / "model.safetensors.index.json").unlink()
    shard = sorted(copy.glob("model-*.safetensors"))[-1]
    shard.unlink()
    assert shard.name in refusal(copy)


def test_a_truncated_file_is_refused_before_anything_is_converted(copy):
    shard = sorted(copy.glob("model-*.safetensors"))[0]
    with open(shard, "r+b") as file:
        file.truncate(shard.stat().st_size - 100)
    assert shard.name in refusal(copy) and "bytes" in refusal(copy)


@pytest.mark.parametrize("keep", [0, 5, 40])
def test_a_file_cut_inside_its_header_is_refused(copy, keep):
    shard = sorted(copy.glob("model-*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:keep])
    assert shard.name in refusal(copy)


def test_a_header_length_beyond_the_file_is_refused(copy):
    shard = sorted(copy.glob("model-*.safetensors"))[0]
    with open(shard, "r+b") as file:
        file.write(struct.pack("<Q", 2**62))
    assert shard.name in refusal(copy) and "truncated" in refusal(copy)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_tensor_that_is_not_finite_is_named(six, tmp_path, value):
    source, name = checkpoint.read(six), "model.layers.1.feed_forward.experts.4.w3.weight"
    poisoned = source.tensors[name].read()
    poisoned[3, 5] = value
    tensors = {**source.tensors, name: replace(source.tensors[name], parts=(lambda: poisoned,))}
    checkpoint.save_mlx(tmp_path / "bad", replace(source, tensors=tensors))
    message = refusal(tmp_path / "bad", read_all=True)
    assert name in message and "switch_mlp.up_proj" in message and "not finite" in message


def test_index_and_shards_of_different_checkpoints_are_refused(copy):
    index = json.loads((copy / "model.safetensors.index.json").read_text())
    shards = sorted(set(index["weight_map"].values()))
    index["weight_map"]["model.embed_tokens.weight"] = shards[-1]
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model.embed_tokens.weight" in refusal(copy)


def test_an_index_left_over_from_another_save_is_the_odd_one(six, tmp_path):
    source = checkpoint.read(six)
    checkpoint.save_hf(tmp_path / "one", source)
    index = {"model.embed_tokens.weight": "model-00001-of-00002.safetensors", "x": "model-00002-of-00002.safetensors"}
    (tmp_path / "one" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    message = refusal(tmp_path / "one")
    assert "model.safetensors.index.json: is left over from another checkpoint" in message
    assert "remove the index" in message and "model-00001-of-00002.safetensors" in message


def test_a_single_file_beside_an_index_and_its_shards_is_one_checkpoint_too_many(copy, six, tmp_path):
    checkpoint.save_hf(tmp_path / "one", checkpoint.read(six))
    shutil.copy(tmp_path / "one" / "model.safetensors", copy)
    assert "model.safetensors beside an index that does not name it" in refusal(copy)


@pytest.mark.parametrize("weight_map", [None, [], {"x": None}, {"x": ["a"]}, {"x": "../model.safetensors"}, {"x": ""}])
def test_an_index_that_names_no_files_is_refused(copy, weight_map):
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert "model.safetensors.index.json: " in refusal(copy)


def test_an_adapter_alone_is_said_to_be_one(copy):
    for path in copy.glob("model*"):
        path.unlink()
    (copy / "adapter_model.safetensors").write_bytes(b"")
    assert "an adapter alone is no checkpoint" in refusal(copy)


def headers_survive(seeds, folder: Path, work: Path) -> None:
    """Mutated headers, indexes and configs are read as they are, or refused by file."""
    shards = sorted(folder.glob("model-*.safetensors"))
    texts = {name: (folder / name).read_text() for name in ("config.json", "model.safetensors.index.json")}
    shutil.copytree(folder, work)
    for seed in seeds:
        rng = random.Random(seed)
        name = rng.choice([*texts, shards[0].name])
        whole = (folder / name).read_bytes()
        if name in texts:
            changed = json.dumps(mutation.value(rng, json.loads(texts[name])))
            changed = mutation.text(rng, changed) if rng.random() < 0.3 else changed
            made = changed.encode("utf-8", "surrogatepass")
        elif rng.random() < 0.5:
            made = mutation.data(rng, whole, within=400)
        else:
            length = struct.unpack("<Q", whole[:8])[0]
            header = json.dumps(mutation.value(rng, json.loads(whole[8 : 8 + length]))).encode()
            made = struct.pack("<Q", len(header)) + header + whole[8 + length :]
        (work / name).write_bytes(made)
        try:
            checkpoint.read(work)
        except UserError as error:
            assert str(work) in str(error)
        (work / name).write_bytes(whole)


def test_a_mutated_header_index_or_config_is_read_or_refused_by_file(six, tmp_path):
    headers_survive(range(200), six, tmp_path / "work")


@pytest.mark.slow
def test_ten_thousand_mutated_headers_are_read_or_refused_by_file(six, tmp_path):
    headers_survive(range(200, 10_200), six, tmp_path / "work")


def test_a_config_of_another_width_is_refused_by_tensor_name_and_both_shapes(copy):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "moe_intermediate_size": 512}))
    message = refusal(copy)
    assert "experts.0.w1.weight" in message and "[256, 256]" in message and "[512, 256]" in message


def test_an_adapter_that_was_not_fused_is_recognized(six, tmp_path):
    source = checkpoint.read(six)
    lora = from_array("model.layers.1.self_attn.q_proj.lora_a", np.zeros((256, 8)))
    checkpoint.save_hf(tmp_path / "lora", replace(source, tensors={**source.tensors, lora.name: lora}))
    assert "fuse the adapter" in refusal(tmp_path / "lora")


def test_a_quantized_checkpoint_whose_config_lost_its_settings_is_refused(six, tmp_path):
    from mlx_lm.utils import load_model, quantize_model, save_config, save_model

    checkpoint.save_mlx(tmp_path / "mlx", checkpoint.read(six))
    model, config = quantize_model(*load_model(tmp_path / "mlx"), group_size=64, bits=4)
    save_model(tmp_path / "bad", model)
    save_config(
        {key: value for key, value in config.items() if key != "quantization"}, tmp_path / "bad" / "config.json"
    )
    assert "model.embed_tokens.weight" in refusal(tmp_path / "bad") and "bits None" in refusal(tmp_path / "bad")


def test_a_config_without_its_sizes_names_the_key(copy):
    config = json.loads((copy / "config.json").read_text())
    del config["num_experts"]
    (copy / "config.json").write_text(json.dumps(config))
    assert "num_experts" in refusal(copy)


def test_a_checkpoint_whose_writing_was_interrupted_does_not_exist(six, tmp_path):
    source = checkpoint.read(six)
    last = list(source.tensors)[-1]

    def stop():
        raise KeyboardInterrupt

    tensors = {**source.tensors, last: replace(source.tensors[last], parts=(stop,))}
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save_hf(tmp_path / "out", replace(source, tensors=tensors))
    assert list(tmp_path.iterdir()) == []


def _header(path: Path) -> bytes:
    data = path.read_bytes()
    return data[8 : 8 + struct.unpack("<Q", data[:8])[0]].replace(b'"__metadata__":{"format":"mlx"},', b"")


def _flat(model):
    from mlx.utils import tree_flatten

    return tree_flatten(model.parameters())
