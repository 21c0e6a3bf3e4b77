"""What the proofs of carry, mapped files and transfer compute and refuse."""

import json
import re

import numpy as np
import pytest

import moe_build_new_rows
import moe_measure_noise
import moe_prove_mapped
import moe_prove_transfer
from conftest import ROOT
from helpers import random_cores
from helpers.training import SETTINGS, some_rows
from kxl.base.cli import UserError
from kxl.base.files import read_json
from kxl.moe import int8
from kxl.moe.settings import check_settings

pytestmark = pytest.mark.minutes


def test_without_a_signal_a_carry_leaves_the_noise_that_theory_says_and_factored_feedback_leaves_more():
    """Each update d of one code's step rounds with variance |d| (1 - |d|), with a carry of b bits with |d| / 2^b."""
    settings = {**SETTINGS, "learning_rate": 1e-6, "warmup_steps": 0, "final_rate": 1.0, "group_size": 64}
    small = random_cores.config("six", hidden_size=256, moe_intermediate_size=256)
    found = moe_measure_noise.distances(small, settings, 100, "sign", 0)
    step = np.mean(1e-6 / int8.bf16_to_float32(int8.quantize(normal(), 64).scales))  # of a code, in each update
    for bits in int8.CARRIES:
        walk = (100 * step * (2.0**-bits - step)) ** 0.5 if step < 2.0**-bits else 0.29 * 2.0**-bits * 10
        assert abs(found[str(bits)]["codes_rms"] / walk - 1) < 0.15, bits
    assert found["factored"]["codes_rms"] > found["0"]["codes_rms"] > 3 * found["4"]["codes_rms"]
    assert found["0"]["alone_rms"] == found["0"]["codes_rms"] and found["8"]["alone_rms"] < 0.05


def normal():
    return (0.02 * np.random.default_rng(0).standard_normal((256, 256))).astype(np.float32)


def test_a_divergence_is_that_of_the_definition():
    p, q = np.array([[0.5, 0.25, 0.25], [0.9, 0.05, 0.05]]), np.array([[0.25, 0.5, 0.25], [0.9, 0.05, 0.05]])
    assert abs(moe_measure_noise.divergence([np.log(p)], [np.log(q)]) - 0.25 * np.log(2) / 2) < 1e-12


def test_noise_above_the_limit_is_refused():
    entry = {"codes_rms": 0.6, "carry_bits": 8, "kld": {"8": 0.003}}
    missed = moe_measure_noise.misses({"q8_0": {"kld": 0.002}, "schedules": {"x": entry}})
    assert "rounding leaves 0.6 codes, 0.5 are the limit" in missed[0] and "as Q8_0" in missed[1]
    entry |= {"codes_rms": 0.1, "kld": {"8": 0.001}}
    assert moe_measure_noise.misses({"q8_0": {"kld": 0.002}, "schedules": {"x": entry}}) == []


@pytest.mark.parametrize(
    "change, message",
    [
        ({"peak_gib": 5.1}, "5.10 GiB, and 5 are the limit"),
        ({"ratio_to_resident": 1.4}, "1.40 times the time"),
        ({"prediction_error": 0.2}, r"memory model is \+20 % off"),
        ({"squeezed": {"others_held_gib": [0, 0]}}, "did not live"),
    ],
)
def test_a_mapped_step_that_misses_a_limit_says_which(change, message):
    good = {"peak_gib": 1.5, "ratio_to_resident": 1.2, "prediction_error": 0.05}
    assert moe_prove_mapped.misses(good, 5) == []
    (missed,) = moe_prove_mapped.misses({**good, **change}, 5)
    assert re.search(message, missed)


def test_a_mapped_proof_joins_a_report_of_the_same_shapes_and_settings_alone(tmp_path):
    shapes = ROOT / "gguf/lfm2-8b-a1b.shapes.json"
    settings = check_settings(read_json(ROOT / "configs/lfm2.5-8b-a1b-moe.json"), "x")
    published = ROOT / "reports/prove-8b/memory.json"
    assert "streamed_10240" in moe_prove_mapped.earlier(published, shapes, settings)["results"]
    assert moe_prove_mapped.earlier(tmp_path / "none.json", shapes, settings)["results"] == {}
    for other in ((shapes, {**settings, "group_size": 32}), (ROOT / "gguf/lfm2-24b-a2b.shapes.json", settings)):
        with pytest.raises(UserError, match="other shapes or settings"):
            moe_prove_mapped.earlier(published, *other)


def test_new_rows_share_no_wording_or_value_between_training_and_test():
    source = read_json(moe_build_new_rows.SOURCE)
    made = {part: moe_build_new_rows.rows(source, part, 60, 1) for part in moe_build_new_rows.ROWS}
    requests = {part: {row["messages"][0]["content"] for row in rows} for part, rows in made.items()}
    assert not requests["train"] & (requests["tune"] | requests["test"]) and not requests["tune"] & requests["test"]
    calls = {
        part: {json.dumps(row["messages"][1]["tool_calls"][0]["function"]["arguments"]) for row in rows}
        for part, rows in made.items()
    }
    assert not calls["train"] & (calls["tune"] | calls["test"])
    hermes = {tool["function"]["name"] for tool in read_json(ROOT / "configs/hermes_tools.json", list)}
    assert not hermes & set(source["tools"])
    for rows in made.values():
        for row in rows:
            call = row["messages"][1]["tool_calls"][0]["function"]
            (tool,) = [t["function"] for t in row["tools"] if t["function"]["name"] == call["name"]]
            kinds = {"integer": int, "string": str}
            properties = tool["parameters"]["properties"]
            assert set(call["arguments"]) == set(properties) and len(row["tools"]) == 3
            assert all(isinstance(v, kinds[properties[k]["type"]]) for k, v in call["arguments"].items())


def test_float_experts_move_by_adamw_as_torch_does():
    torch = pytest.importorskip("torch")
    core = moe_prove_transfer.floats(random_cores.random_core("six"))
    rows = some_rows(core, 4, 1)
    settings = {**SETTINGS, "batch": 2, "steps": 3, "learning_rate": 1e-2, "layer_inputs": "float32"}
    options = moe_prove_transfer.StepOptions(moe_prove_transfer.Blocks(), "float32")
    name, seen = "model.layers.2.feed_forward.experts.1.w3", []
    weight = torch.nn.Parameter(torch.tensor(np.array(core.values[name])))
    adam = torch.optim.AdamW([weight], lr=0.0, weight_decay=0.0)
    original = moe_prove_transfer.streamed_step

    def watched(core, batch, update, options):
        def also(number, layer, expert, gradients):
            if (layer, expert) == (2, 1):
                seen.append(np.array(gradients[1]))
            update(number, layer, expert, gradients)

        return original(core, batch, also, options)

    moe_prove_transfer.streamed_step = watched
    try:
        moe_prove_transfer.train_floats(core, rows, settings, options)
    finally:
        moe_prove_transfer.streamed_step = original
    assert len(seen) == 3
    for step, gradient in enumerate(seen):
        adam.param_groups[0]["lr"] = moe_prove_transfer.moe_rows.learning_rate(settings, step, 3)
        weight.grad = torch.tensor(gradient)
        adam.step()
    assert np.allclose(np.array(core.values[name]), weight.detach().numpy(), atol=2e-5)


def test_the_verdict_compares_with_adamw_at_tuned_rates():
    def one(gain, kld):
        return {"gain": {"mean": gain}, "kld": {"mean": kld}}

    undamaged = {"seeds": 2, "tuned": {"carry": one(0.98, 0.1), "adamw": one(1.0, 0.2)}}
    assert moe_prove_transfer.verdict(undamaged)["enough"]
    undamaged["tuned"]["carry"] = one(0.9, 0.1)
    said = moe_prove_transfer.verdict(undamaged)
    assert not said["enough"] and "gains 90.0 % of what float32 AdamW gains, over 2 seeds" in said["words"]
