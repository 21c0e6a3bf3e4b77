"""Updates far below one int8 step survive, on average exactly; nearest rounding loses them."""

import numpy as np
import pytest

from helpers import random_cores
from helpers.training import SETTINGS
from kxl.base.cli import UserError
from kxl.model import checkpoint
from kxl.model.layouts import dequantize
from kxl.moe import core as moe_core
from kxl.moe import int8
from kxl.moe.optimizer import FEW, ExpertOptimizer
from kxl.moe.rounding import ROUNDINGS, subtract_bf16
from kxl.moe.streamed import NotFinite


def random_matrix(rows=256, columns=256, deviation=0.02, seed=0):
    values = (deviation * np.random.default_rng(seed).standard_normal((rows, columns))).astype(np.float32)
    return int8.quantize(values, 64), values


def noise(seed):
    return np.random.SFC64(seed)


def test_quantizing_is_within_half_a_step_and_the_grid_holds_every_weight():
    matrix, values = random_matrix()
    step = int8.bf16_to_float32(matrix.scales).repeat(64, axis=1)
    assert (np.abs(int8.dequantize(matrix) - values) <= 0.5001 * step).all()
    exact = (values.reshape(256, 4, 64).max(-1) - values.reshape(256, 4, 64).min(-1)) / 255
    assert (int8.bf16_to_float32(matrix.scales) < 1.03 * exact).all()  # BF16 costs at most three per cent of the step


@pytest.mark.parametrize("value", [0.0, 0.25, -3.0])
def test_a_group_of_equal_weights_survives(value):
    matrix = int8.quantize(np.full((2, 64), value, np.float32), 64)
    assert np.abs(int8.dequantize(matrix) - value).max() <= abs(value) / 250
    int8.subtract(matrix, slice(0, 2), np.full((2, 64), 0.5, np.float32), noise(1))
    assert np.abs(int8.dequantize(matrix) - (value - 0.5)).max() <= 0.02


def test_mlx_and_checkpoint_dequantize_alike():
    matrix, _ = random_matrix()
    ours = int8.dequantize(matrix)
    scales, biases = (int8.bf16_to_float32(bits) for bits in (matrix.scales, matrix.biases))
    assert np.array_equal(ours, np.array(int8.dequantize_mlx(matrix)))
    assert np.array_equal(ours, dequantize(matrix.codes.view(np.uint32), scales, biases, 8))


@pytest.mark.parametrize("rate, steps", [(1e-6, 100), (1e-5, 10), (1e-5, 100)])
def test_stochastic_rounding_keeps_the_drift_that_nearest_loses(rate, steps):
    """FACTS: at sigma 0.02 half a step is about 1.8e-4, so nearest keeps nothing of either."""
    kept = {}
    for rounding in ROUNDINGS:
        matrix, _ = random_matrix(512, 512)
        before = int8.dequantize(matrix)
        for step in range(steps):
            delta = np.full((512, 512), rate, np.float32)
            int8.subtract(matrix, slice(0, 512), delta, noise(step) if rounding == "stochastic" else None)
        kept[rounding] = float((before - int8.dequantize(matrix)).mean(dtype=np.float64)) / (rate * steps)
    # One weight moves by chance about sqrt(drift * step); over 262,144 of them three deviations are 0.04 of the
    # smallest drift.
    assert abs(kept["stochastic"] - 1) < 0.05
    assert kept["nearest"] == 0


def test_a_weight_without_update_keeps_its_code_whatever_its_neighbours_do():
    matrix, _ = random_matrix()
    before = matrix.codes.copy()
    delta = np.zeros((256, 256), np.float32)
    delta[:, 1::2] = 1e-6
    inner = ((before.reshape(256, 4, 64) > 0) & (before.reshape(256, 4, 64) < 255)).reshape(256, 256)
    scales, biases = matrix.scales.copy(), matrix.biases.copy()
    changed = int8.subtract(matrix, slice(0, 256), delta, noise(3))
    same_grid = np.repeat((scales == matrix.scales) & (biases == matrix.biases), 64, axis=1)
    assert changed > 0 and same_grid.mean() > 0.9
    assert np.array_equal(
        matrix.codes[:, ::2][(same_grid & inner)[:, ::2]], before[:, ::2][(same_grid & inner)[:, ::2]]
    )


def test_a_group_that_grows_gets_a_new_grid_and_loses_nothing_on_average():
    matrix, _ = random_matrix(1024, 64)
    before = int8.dequantize(matrix)
    delta = np.where(np.arange(64) == 7, -0.5, 0).astype(np.float32) * np.ones((1024, 1), np.float32)
    int8.subtract(matrix, slice(0, 1024), delta.copy(), noise(5))
    moved = int8.dequantize(matrix) - before + delta
    step = int8.bf16_to_float32(matrix.scales)
    assert np.abs(moved).max() <= 1.01 * step.max()
    assert abs(moved.mean(dtype=np.float64)) < 5 * step.max() / np.sqrt(12 * moved.size)


def test_routers_round_stochastically_too():
    bits = int8.float32_to_bf16(np.full(100_000, 0.02, np.float32))
    start = int8.bf16_to_float32(bits)
    nearest = bits.copy()
    for step in range(20):
        subtract_bf16(bits, np.float32(1e-6), noise(step))
        subtract_bf16(nearest, np.float32(1e-6), None)
    drift = (start - int8.bf16_to_float32(bits)).mean(dtype=np.float64)
    assert abs(drift / 2e-5 - 1) < 0.05
    assert np.array_equal(int8.bf16_to_float32(nearest), start)


class Recorder:
    """An optimizer on one expert of a random core, with gradients of our own."""

    def __init__(self, kind="adafactor", clip=1.0, rounding="stochastic", carry_bits=0, **changes):
        self.core = random_cores.random_core("six")
        self.core.set_carry(carry_bits)
        given = {"optimizer": kind, "update_clip": clip, "rounding": rounding, "seed": 1, **changes}
        self.optimizer = ExpertOptimizer(self.core, {**SETTINGS, **given})

    def gradients(self, seed, scale=1e-3):
        rng = np.random.default_rng(seed)
        return [(scale * rng.standard_normal(m.codes.shape)).astype(np.float32) for m in self.core.expert(1, 0)]

    def weights(self):
        return [int8.dequantize(m) for m in self.core.expert(1, 0)]


def adafactor(gradients, rate, clip):
    """Adafactor by the paper's Algorithm 4, on a full V in float64; the sum of its updates."""
    rows = columns = 0
    moved = 0
    for t, g in enumerate(gradients, 1):
        beta, square = 1 - t**-0.8, np.square(g, dtype=np.float64) + 1e-30
        rows, columns = beta * rows + (1 - beta) * square.mean(1), beta * columns + (1 - beta) * square.mean(0)
        update = g / np.sqrt(np.outer(rows, columns) / rows.mean())
        moved = moved + rate * update / max(1, np.sqrt(np.mean(update**2)) / clip)
    return moved


@pytest.mark.parametrize("clip", [0.5, 10.0])
def test_adafactor_moves_the_weights_as_the_paper_says(clip):
    recorder = Recorder(clip=clip)
    before, given = recorder.weights(), [recorder.gradients(seed, scale=10.0**seed) for seed in range(4)]
    for step, gradients in enumerate(given):
        recorder.optimizer.begin(step, 0.02)
        recorder.optimizer.update(0, 1, 0, gradients)
        assert recorder.optimizer.report()["clipped"] == (1 if clip == 0.5 else 0)
        assert 0 < recorder.optimizer.report()["codes_changed"] < 1
    for place, (old, new) in enumerate(zip(before, recorder.weights())):
        wanted = adafactor([gradients[place] for gradients in given], 0.02, clip)
        # Rounding adds up to a step per update to each weight; along the update it averages out.
        along = ((old - new) * wanted).sum(dtype=np.float64) / np.square(wanted).sum()
        assert abs(along - 1) < 0.02
        assert np.abs(old - new - wanted).max() < 5 * 0.0017


def test_sgd_moves_by_the_gradient_and_clips_by_its_root_mean_square():
    for clip, factor in ((1e9, 1.0), (5e-4, 0.5)):
        recorder = Recorder("sgd", clip)
        before, gradients = recorder.weights(), recorder.gradients(0)
        recorder.optimizer.begin(0, 10.0)
        recorder.optimizer.update(0, 1, 0, gradients)
        for old, new, gradient in zip(before, recorder.weights(), gradients):
            along = ((old - new) * gradient).sum(dtype=np.float64) / np.square(gradient).sum(dtype=np.float64)
            assert abs(along - 10 * factor) < 0.3 * factor


def test_the_same_seed_and_step_give_the_same_codes_and_others_do_not():
    codes = []
    for step in (0, 0, 1):
        recorder = Recorder()
        recorder.optimizer.begin(step, 1e-3)
        recorder.optimizer.update(0, 1, 0, recorder.gradients(0))
        codes.append(np.concatenate([m.codes.ravel() for m in recorder.core.expert(1, 0)]))
    assert np.array_equal(codes[0], codes[1]) and not np.array_equal(codes[0], codes[2])


def counted(recorder, layer, tokens):
    recorder.optimizer.counted(layer, np.array(tokens))


def test_moments_that_forget_by_tokens_are_an_average_over_the_tokens_seen():
    """Half-life 100: the weight of an update is what its tokens add, whatever updates they came in."""
    recorder = Recorder(carry_bits=8, decay_tokens=100)
    gradients = [recorder.gradients(seed) for seed in range(3)]
    tokens = [10, 200, 50]
    for step, count in enumerate(tokens):
        recorder.optimizer.begin(step, 1e-4)
        counted(recorder, 1, [count, 7, 0, 0, 0, 0])
        recorder.optimizer.update(0, 1, 0, gradients[step])
    ages = np.cumsum([0, *tokens[::-1]])[::-1]  # tokens after each update's end, then after its start
    weights = np.array([0.5 ** (ages[i + 1] / 100) - 0.5 ** (ages[i] / 100) for i in range(3)])
    weights /= weights.sum()
    name = "model.layers.1.feed_forward.experts.0.w3"
    wanted = sum(w * np.square(g[1], dtype=np.float64).mean(1) for w, g in zip(weights, gradients))
    assert np.allclose(recorder.optimizer.moments[name].rows, wanted, rtol=1e-4)
    assert recorder.optimizer.moments[name].updates == 260


def test_an_expert_that_few_tokens_reached_moves_less_and_none_moves_farther():
    moved = {}
    for few in FEW:
        for tokens in (4, 100, 900):
            recorder = Recorder(carry_bits=8, few_tokens=few)
            before = recorder.weights()
            recorder.optimizer.begin(0, 1e-3)
            counted(recorder, 1, [tokens, *[(600 - tokens) // 5 if tokens < 600 else 0] * 5])
            recorder.optimizer.update(0, 1, 0, recorder.gradients(0))
            after = recorder.weights()
            moved[few, tokens] = np.sqrt(np.mean([np.mean((a - b) ** 2) for a, b in zip(after, before)]))
    assert moved["full", 4] == moved["full", 100] == moved["full", 900]
    assert abs(moved["smaller", 4] / moved["full", 4] - 0.2) < 0.01  # sqrt(4 / (599 / 6))
    assert abs(moved["smaller", 100] / moved["full", 4] - 1) < 0.01 and moved["smaller", 900] == moved["full", 900]


def test_clipping_over_the_whole_step_scales_every_gradient_alike():
    """With SGD the move is the gradient's: half the scale is half the move."""
    moved = []
    for scale in (1.0, 0.5):
        recorder = Recorder("sgd", clip=1e9, carry_bits=8)
        before = recorder.weights()
        recorder.optimizer.begin(0, 10.0)
        recorder.optimizer.scale = scale
        recorder.optimizer.update(0, 1, 0, recorder.gradients(0))
        moved.append(np.concatenate([(a - b).ravel() for a, b in zip(before, recorder.weights())]))
    assert abs((moved[0] * moved[1]).sum() / np.square(moved[0]).sum() - 0.5) < 0.01


def test_a_gradient_that_is_not_finite_names_its_matrix():
    recorder = Recorder()
    gradients = recorder.gradients(0)
    gradients[1][3, 4] = np.inf
    with pytest.raises(NotFinite, match=r"layers\.1\.feed_forward\.experts\.0\.w3 is not finite"):
        recorder.optimizer.update(0, 1, 0, gradients)


def test_a_core_comes_back_from_disk_as_it_was(tmp_path):
    core = random_cores.random_core("five")
    moe_core.save(tmp_path / "core", core)
    again = moe_core.load(tmp_path / "core")
    assert again.config == core.config and again.group == core.group
    for name, matrix in core.experts.items():
        for part in ("codes", "scales", "biases"):
            assert np.array_equal(getattr(matrix, part), getattr(again.experts[name], part)), name
    assert all(np.array_equal(array, again.plain[name]) for name, array in core.plain.items())
    read = checkpoint.read(tmp_path / "core")
    for name, matrix in core.experts.items():
        assert np.array_equal(read.tensors[f"{name}.weight"].read(), int8.dequantize(matrix))


def test_a_core_of_random_weights_has_the_size_that_is_predicted(tmp_path):
    core = random_cores.random_core("twelve")
    assert core.nbytes == moe_core.stored_bytes(core.config, core.group)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"hidden_size": 80}, "80 columns cannot be quantized in groups of 32; set group_size to nothing"),
        ({"moe_intermediate_size": 100}, "moe_intermediate_size"),
    ],
)
def test_a_group_size_that_does_not_fit_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        random_cores.random_core("six", **changes)
