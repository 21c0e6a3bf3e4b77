"""The memory of an adapter's step: what is counted is what MLX allocates, and the choice is the best that fits."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models import lfm2_moe

from conftest import ROOT
from kxl.base.cli import UserError
from kxl.base.files import read_json
from kxl.lora import adapter, by_layer, grouped_experts, int8_experts, memory, prefix
from kxl.lora.memory import BY_LAYER, ON_DISK, WHOLE, Lengths
from kxl.lora.prefix import Example
from kxl.model.shapes import normalize_config
from kxl.moe import core as moe_core
from kxl.plan.random_model import LFM2_MOE
from kxl.repair.settings import Settings

pytestmark = pytest.mark.usefixtures("on_the_cpu")

EIGHT = normalize_config({**read_json(ROOT / "gguf/lfm2-8b-a1b.shapes.json"), "vocab_size": 128_000}, "test")
LONG = Lengths(0, 1, 4096)
GIB = 2**30
SMALL = {
    **LFM2_MOE,
    "model_type": "lfm2_moe",
    "vocab_size": 1024,
    "hidden_size": 128,
    "intermediate_size": 448,
    "moe_intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_dense_layers": 2,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "conv_L_cache": 3,
    "layer_types": ["conv", "conv", "full_attention", "conv"],
    "norm_eps": 1e-5,
    "rope_theta": 1e6,
    "max_position_embeddings": 4096,
}
KINDS = {
    "attention": {"layer_types": ["conv", "conv", "full_attention", "full_attention"]},
    "dense": {"intermediate_size": 1024},
    "experts": {"moe_intermediate_size": 512},
    "vocabulary": {"vocab_size": 30000},
}


def loaded(config, mapped, folder):
    """A random model, its experts a core's in mapped files or float32."""
    if mapped:
        moe_core.write_random(folder, config, 64, 0, 0)
        return int8_experts.load(folder)
    model = lfm2_moe.Model(lfm2_moe.ModelArgs.from_dict(config))
    grouped_experts.use(model)
    return model


def crowd(model, used: int) -> None:
    """Let all tokens choose the same `used` experts: an expert is counted as if every token of a block chose it."""
    for layer in model.model.layers:
        if (bias := getattr(layer.feed_forward, "expert_bias", None)) is not None:
            layer.feed_forward.expert_bias = 10.0 * (mx.arange(len(bias)) < used)


@pytest.mark.minutes
@pytest.mark.parametrize("mapped, way", [(True, BY_LAYER), (True, ON_DISK), (False, BY_LAYER)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_counted_arrays_are_those_that_mlx_allocates(kind, mapped, way, tmp_path, monkeypatch, in_order):
    monkeypatch.setattr(memory, "QUERIES", 32)
    config = normalize_config({**SMALL, **KINDS[kind]}, "test")
    mx.clear_cache()
    start = mx.get_active_memory()
    model = loaded(config, mapped, tmp_path / "core")
    crowd(model, config["num_experts_per_tok"])
    adapter.attach(model, Settings().adapter)
    tokens = np.random.default_rng(1).integers(0, config["vocab_size"], 513).astype(np.int32)
    batch = prefix.collate([Example(tokens, np.ones(513, bool))])
    mx.eval(model.parameters())
    mx.reset_peak_memory()
    _, gradients = by_layer.loss_and_gradients(model, batch, folder=tmp_path if way == ON_DISK else None)
    mx.eval(gradients)
    held = mx.get_peak_memory() - start
    (lengths,) = memory.lengths_of([batch])
    parts = memory.predict(config, mapped, lengths, Settings().rank, way)["parts"]
    counted = sum(size for part, size in parts.items() if part != "process")
    assert 0.8 < counted / held < 1.5, (counted / held, parts)


def test_an_8b_is_trained_at_4096_tokens_in_less_than_a_16_gib_machine_has():
    choice = memory.choose(EIGHT, (False, True), [LONG], 16, 14 * GIB)
    assert choice.mapped and choice.way == BY_LAYER and choice.bytes < 8 * GIB


def test_the_best_way_that_fits_is_chosen_and_less_memory_means_a_way_that_takes_less():
    offered = memory.choices(EIGHT, (False, True), [LONG], 16)
    assert [choice.way for choice in offered] == 2 * [WHOLE, BY_LAYER, ON_DISK]
    for choice in offered:
        chosen = memory.choose(EIGHT, (False, True), [LONG], 16, choice.bytes)
        assert chosen.bytes <= choice.bytes and offered.index(chosen) <= offered.index(choice)
    weights = sum(size for name, size in memory.predict(EIGHT, True, LONG, 16, ON_DISK)["parts"].items())
    with pytest.raises(UserError, match=r"needs 4\.\d GiB .*lower --batch-size"):
        memory.choose(EIGHT, (False, True), [LONG], 16, weights - 1)


def test_short_rows_of_a_small_model_are_trained_through_the_whole_model():
    tiny = normalize_config(read_json(ROOT / "models/tiny/config.json"), "test")
    assert memory.choose(tiny, (False, True), [Lengths(300, 4, 60)], 16, 4 * GIB).way == WHOLE


def test_the_batch_that_needs_most_decides():
    short, shared = Lengths(0, 1, 256), Lengths(3900, 4, 150)
    alone = memory.choices(EIGHT, (True,), [shared], 16)
    assert memory.choices(EIGHT, (True,), [short, shared, short], 16) == alone
    assert memory.choices(EIGHT, (True,), [short], 16)[0].bytes < alone[0].bytes


def test_tokens_of_a_batch_are_those_of_its_beginning_and_its_padded_rows():
    rng = np.random.default_rng(0)
    start = rng.integers(0, 50, 20)
    rows = [np.concatenate([start, rng.integers(50, 99, n)]).astype(np.int32) for n in (5, 9)]
    batch = prefix.collate([Example(row, np.arange(len(row)) > 20) for row in rows])
    (lengths,) = memory.lengths_of([batch, batch])
    assert lengths.tokens == lengths.shared + batch.own.tokens.size and lengths.rows == 2
