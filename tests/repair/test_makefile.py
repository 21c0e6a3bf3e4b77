"""The repair targets of the Makefile: what starts from what, and under which names."""

import pytest

pytestmark = pytest.mark.minutes


def test_a_run_named_like_a_config_takes_it_and_starts_from_the_weak_checkpoint(checkout):
    code, output, ran = checkout.make("repair-loop", "RUN=tiny-repair")
    assert code == 0, output
    assert [line.split()[0] for line in ran] == ["repair_build_weak_set", "repair_train", "repair_fuse", "repair_loop"]
    assert "--model runs/tiny-repair/weak --config configs/tiny-repair.json --work runs/tiny-repair/repair" in ran[-1]


def test_one_iteration_of_an_own_checkpoint_stops_after_it(checkout):
    code, output, ran = checkout.make("repair", "ITER=03", "MODEL=mine", "RUN=mine")
    assert code == 0, output
    assert len(ran) == 1 and "--model mine --config configs/tiny.json" in ran[0] and ran[0].endswith("--iterations 3")
    code, output, _ = checkout.make("repair", "MODEL=mine", "RUN=mine")
    assert code != 0 and "make repair ITER=03" in output


def test_the_parser_check_needs_a_model_and_no_name(checkout):
    assert checkout.make("check-parser", "MODEL=mine")[2] == ["repair_check_parser --model mine"]


def test_each_variant_is_built_once_and_judged_on_every_suite(checkout):
    code, output, ran = checkout.make("mlx-variants", "MODEL=mine", "RUN=mine", "CONFIG=configs/tiny-repair.json")
    assert code == 0, output
    built = [line for line in ran if line.startswith("repair_build_variant")]
    judged = [line for line in ran if line.startswith("eval_run")]
    assert [line.split("--variant ")[1].split()[0] for line in built] == ["8bit", "6bit", "mixed"]
    assert len(judged) == 4 * 5 and all("--backend mlx" in line for line in judged)
    assert any(
        "--model mine --artifact bf16 --out runs/mine/results/evals/structured_6.mlx.bf16.json" in line
        for line in judged
    )
    assert any(
        "--model runs/mine/mlx/mixed --artifact mixed --out runs/mine/results/evals/colloquial_20.mlx.mixed.json"
        in line
        for line in judged
    )
