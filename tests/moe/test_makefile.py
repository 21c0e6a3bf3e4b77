"""make train is a line of files like the rest: base, core, encoded rows, run."""

import re

import pytest

pytestmark = pytest.mark.minutes


def commands(output):
    """[(script, its arguments)] of a dry run."""
    joined = output.replace("\\\n", " ")
    call = r"^\.venv/bin/python scripts/(?:plan_run\.py \S+ -- scripts/)?(\w+)\.py(.*)$"
    return re.findall(call, joined, flags=re.MULTILINE)


def test_train_checks_the_base_builds_the_core_and_encodes_rows_first(checkout):
    code, output, _ = checkout.make("-n", "train", "MODE=grouped")
    assert code == 0, output
    ran = commands(output)
    names = [
        name
        for name, _ in ran
        if name in ("traces_prepare", "moe_fetch_base", "moe_build_core", "moe_encode_rows", "moe_train")
    ]
    assert sorted(names[:2]) == ["moe_fetch_base", "traces_prepare"] or names[:3] == [
        "traces_prepare",
        "moe_fetch_base",
        "moe_build_core",
    ]
    assert names[-4:] == ["moe_build_core", "moe_encode_rows", "moe_encode_rows", "moe_train"]
    flags = dict(ran)["moe_train"]
    assert (
        "--mode grouped" in flags
        and "--core runs/tiny/core" in flags
        and "--config configs/tiny-moe.json" in flags
        and "--report runs/tiny/results/reports/moe.grouped.json" in flags
    )


def test_another_model_trains_in_its_own_folders_with_its_own_settings(checkout):
    code, output, _ = checkout.make("-n", "train", "MODEL=mine", "CONFIG=configs/lfm2.5-8b-a1b.json", "RUN=mine")
    assert code == 0, output
    flags = dict(commands(output))
    assert (
        "--model mine" in flags["moe_build_core"]
        and "--config configs/lfm2.5-8b-a1b-moe.json" in flags["moe_build_core"]
    )
    assert "--work runs/mine/moe/streamed" in flags["moe_train"] and "runs/tiny" not in flags["moe_train"]


def test_a_hub_model_is_fetched_at_its_commit_and_the_core_built_from_there(checkout):
    code, output, _ = checkout.make(
        "-n", "core", "MODEL=owner/name", "REVISION=0123", "CONFIG=configs/lfm2.5-8b-a1b.json", "RUN=mine"
    )
    assert code == 0, output
    flags = dict(commands(output))
    assert (
        "--model owner/name --revision 0123 --out runs/mine/base" in " ".join(flags["moe_fetch_base"].split())
        and "--model runs/mine/base" in flags["moe_build_core"]
    )


def test_the_proof_of_learning_makes_short_rows_of_its_own(checkout):
    code, output, _ = checkout.make("-n", "train-proof")
    assert code == 0, output
    ran = commands(output)
    assert [name for name, _ in ran][-3:] == ["moe_encode_rows", "moe_encode_rows", "moe_prove_training"]
    flags = dict(ran)
    assert (
        "--context compact" in flags["traces_build_router_rows"]
        and "--out runs/tiny/moe/proof/data" in flags["traces_prepare"]
    )
    assert (
        "--train runs/tiny/moe/proof/train.jsonl" in flags["moe_prove_training"]
        and "--report runs/tiny/results/reports/moe_proof.json" in flags["moe_prove_training"]
    )


def test_a_core_that_is_only_reported_is_built_again(checkout):
    """Reports are committed and cores are not: a fresh clone has the one without the other."""
    for name in ("base", "core"):
        report = checkout.folder / f"reports/tiny/{name}.json"
        report.parent.mkdir(parents=True, exist_ok=True)
        report.touch()
    code, output, _ = checkout.make("-n", "core")
    assert code == 0 and "moe_build_core" in dict(commands(output)), output


def test_a_step_without_a_checkpoint_says_what_to_run(checkout):
    code, output, _ = checkout.make("step")
    assert code and "runs/tiny/moe/streamed has no checkpoint: run make train" in output


def test_fewer_passes_of_the_8b_proof_are_a_variable(checkout):
    code, output, _ = checkout.make("-n", "prove-8b", "GROUPED_PASSES=3")
    assert code == 0 and "--grouped-passes 3" in dict(commands(output))["moe_prove_8b"]
