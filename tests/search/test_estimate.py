"""Errors of an estimate are those of the rounded weights, by the imatrix; priors bring back what was measured."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from kxl.base.cli import UserError
from kxl.quant.imatrix import Entry
from kxl.quant.policy import Tensor
from kxl.search import estimate, ggml


def test_a_relative_error_weighs_columns_by_importance_and_experts_by_use(llama_bin):
    draw = np.random.default_rng(0)
    weights = draw.normal(0, 0.1, (2, 6, 64)).astype(np.float32)
    entry = Entry(draw.exponential(1.0, (2, 64)).astype(np.float32) * 8, np.array([8, 24]))
    tensor = Tensor("blk.1.ffn_up_exps.weight", (64, 6, 2), Type.F32)
    found, absolute = estimate.relative_errors(tensor, weights.view(np.uint8), entry, sample=10**6)
    moved = size = 0.0
    for expert, used in enumerate((0.25, 0.75)):
        importance = entry.sums[expert] / entry.counts[expert]
        change = ggml.rounded(weights[expert], Type.Q5_1, importance) - weights[expert]
        moved += used * (importance * change.astype(float) ** 2).sum()
        size += used * (importance * weights[expert].astype(float) ** 2).sum()
    assert found[Type.Q5_1] == pytest.approx(moved / size, rel=1e-6)
    assert absolute[Type.Q5_1] == pytest.approx(moved, rel=1e-6)
    assert found[Type.Q8_0] < found[Type.Q5_1] < found[Type.Q5_0] < found[Type.IQ4_NL]


def test_a_sample_of_rows_tells_nearly_what_all_rows_do(llama_bin):
    weights = np.random.default_rng(1).normal(0, 0.1, (1, 512, 64)).astype(np.float32)
    tensor = Tensor("blk.1.ffn_up.weight", (64, 512), Type.F32)
    whole, whole_sum = estimate.relative_errors(tensor, weights.view(np.uint8), None, sample=10**6)
    some, some_sum = estimate.relative_errors(tensor, weights.view(np.uint8), None, sample=64 * 64)
    assert some[Type.Q5_1] == pytest.approx(whole[Type.Q5_1], rel=0.05)
    assert some_sum[Type.Q5_1] == pytest.approx(whole_sum[Type.Q5_1], rel=0.1)


def test_priors_that_are_fitted_bring_back_the_damage_that_was_measured():
    relative = {name: {"Q8_0": 3e-5 * size, "Q4_K": 5e-3 * size} for name, size in NAMES.items()}
    factor = {name: 2.0 + place for place, name in enumerate(NAMES)}
    measured = {
        "tensors": {
            name: {
                "types": {
                    kind: {"bytes": 100, "damage": factor[name] * (error + estimate.input_error(Type[kind]))}
                    for kind, error in relative[name].items()
                }
            }
            for name in NAMES
        }
    }
    priors = estimate.fit({"one": (measured, relative)})
    for name in NAMES:
        assert estimate.factor_of(name, 3, priors) == pytest.approx(factor[name], rel=0.01)


NAMES = {"token_embd.weight": 1.0, "blk.0.ffn_up.weight": 1.1, "blk.1.ffn_up.weight": 0.9, "blk.2.ffn_up.weight": 1.2}


def test_a_kind_that_no_measured_model_had_is_refused_by_name():
    with pytest.raises(UserError, match="no factor for ssm_in"):
        estimate.factor_of("blk.3.ssm_in.weight", 8, {"factors": {"ffn_up": {"between": 1.0}}})


def test_an_input_of_256_to_a_scale_is_rounded_more_coarsely_than_one_of_32():
    draw = np.random.default_rng(0).normal(0, 1, (200, 256))
    for kind, block in ((Type.Q8_0, 32), (Type.Q4_K, 256)):
        groups = draw.reshape(-1, block)
        step = np.abs(groups).max(-1, keepdims=True) / 127
        true = ((np.round(groups / step) * step - groups) ** 2).mean()
        assert estimate.input_error(kind) == pytest.approx(true, rel=0.2)
    assert estimate.input_error(Type.BF16) == 0
