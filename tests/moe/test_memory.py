"""The memory model counts what MLX really allocates."""

import mlx.core as mx
import pytest

from conftest import ROOT
from helpers import random_cores
from kxl.base.cli import UserError
from kxl.base.files import read_json, write_json
from kxl.model.batches import make_batch
from kxl.moe import core as moe_core
from kxl.moe import hardware, memory
from kxl.moe.grouped import grouped_step
from kxl.moe.layers import Blocks
from kxl.moe.settings import check_settings
from kxl.moe.streamed import StepOptions, streamed_step

pytestmark = pytest.mark.minutes

SHIPPED = check_settings(read_json(ROOT / "configs/lfm2.5-8b-a1b-moe.json"), "test")
SETTINGS = {**SHIPPED, "storage": "resident", "carry_bits": 0}
SHAPES = {
    "wide experts": dict(hidden_size=256, moe_intermediate_size=512, intermediate_size=256),
    "large vocabulary": dict(hidden_size=128, moe_intermediate_size=128, intermediate_size=256, vocab_size=20000),
    "long": dict(hidden_size=128, moe_intermediate_size=128, intermediate_size=256),
}
LENGTHS = {"wide experts": 300, "large vocabulary": 300, "long": 1500}


def crowded_core(shape):
    """A core whose tokens all choose the same two experts: as many rows of one expert as the model counts."""
    core = random_cores.random_core("six", **SHAPES[shape])
    for layer in core.moe_layers:
        core.plain[f"model.layers.{layer}.feed_forward.expert_bias"][:2] += 9
    return core


def held_by(step):
    """The most bytes that MLX holds while `step` runs, beyond what it held before."""
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    step()
    return mx.get_peak_memory() - before


@pytest.mark.parametrize("mode", ["streamed", "grouped"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_counted_arrays_are_those_that_mlx_allocates(shape, mode, in_order):
    core, tokens = crowded_core(shape), LENGTHS[shape]
    (row,), blocks = (
        random_cores.examples(core, [tokens + 1]),
        {"tokens": 512, "queries": 64, "logits": 64, "vocabulary": 4096},
    )
    step, more = (streamed_step, ()) if mode == "streamed" else (grouped_step, (2, 1))
    held = held_by(lambda: step(core, make_batch([row]), lambda *found: None, StepOptions(Blocks(**blocks)), *more))
    counted = memory.predict(core.config, {**SETTINGS, "group_size": 32, "blocks": blocks}, tokens, tokens)["parts"]
    assert 0.75 < (counted["work"] + counted["layer inputs"]) / held < 1.5


@pytest.mark.parametrize(
    "shape, length, block, crowded",
    [("wide experts", 100, 512, True), ("wide experts", 300, 64, False), ("large vocabulary", 100, 512, True)],
)
def test_a_batch_in_shares_takes_no_more_memory_and_what_it_takes_is_counted(shape, length, block, crowded, in_order):
    # An expert is given a block of rows at a time: a short one is full without a crowd.
    core = crowded_core(shape) if crowded else random_cores.random_core("six", **SHAPES[shape])
    rows = random_cores.examples(core, [length + 1] * 4)
    blocks = {"tokens": block, "queries": 64, "logits": 64, "vocabulary": 4096}
    settings, held = {**SETTINGS, "group_size": 32, "blocks": blocks}, {}
    for count in (1, 2, 4):
        shares = [make_batch(rows[share::count]) for share in range(count)]
        options = StepOptions(Blocks(**blocks))
        held[count] = held_by(lambda: streamed_step(core, shares, lambda *found: None, options))
        counted = memory.predict(core.config, settings, 4 * length, length, count)["parts"]
        assert 0.75 < (counted["work"] + counted["layer inputs"]) / held[count] < 1.5, count
    assert max(held[2], held[4]) < 1.2 * held[1]


def test_the_model_counts_the_core_to_the_byte():
    core = random_cores.random_core("twelve")
    parts = memory.predict(core.config, {**SETTINGS, "group_size": 32}, 64, 64)["parts"]
    assert parts["core"] == core.nbytes
    for bits in (4, 8):
        core = random_cores.random_core("twelve")
        core.set_carry(bits)
        settings = {**SETTINGS, "group_size": 32, "carry_bits": bits}
        assert memory.predict(core.config, settings, 64, 64)["parts"]["core"] == core.nbytes
    parts = memory.predict(core.config, {**SETTINGS, "group_size": 32}, 64, 64)["parts"]
    assert sum(parts.values()) == memory.predict(core.config, {**SETTINGS, "group_size": 32}, 64, 64)["peak"]


def test_an_8b_moe_trains_in_a_16_gib_machine_at_10240_tokens():
    config = moe_core.check_config(read_json(ROOT / "gguf/lfm2-8b-a1b.shapes.json"), 64, "shapes")
    assert 8.7 < moe_core.stored_bytes(config, 64) / hardware.GIB < 8.9
    assert memory.predict(config, SETTINGS, 10240, 10240)["peak"] < 13 * hardware.GIB


def test_in_mapped_files_it_trains_in_a_quarter_of_that():
    config = moe_core.check_config(read_json(ROOT / "gguf/lfm2-8b-a1b.shapes.json"), 64, "shapes")
    assert (SHIPPED["storage"], SHIPPED["carry_bits"]) == ("mapped", 8)
    assert memory.predict(config, SHIPPED, 1024, 1024)["peak"] < 2 * hardware.GIB
    assert memory.predict(config, SHIPPED, 10240, 10240)["peak"] < 4 * hardware.GIB


@pytest.mark.parametrize(
    "odd", [{"layer_types": 7}, {"layer_types": None}, {"num_hidden_layers": "x"}, {"layer_types": [None]}]
)
def test_shapes_that_are_none_are_named(tmp_path, odd):
    write_json(
        tmp_path / "shapes.json", {**read_json(ROOT / "gguf/lfm2-8b-a1b.shapes.json"), "full_attn_idxs": ["x"], **odd}
    )
    with pytest.raises(UserError, match="shapes.json: "):
        memory.shapes(tmp_path / "shapes.json", 2)
