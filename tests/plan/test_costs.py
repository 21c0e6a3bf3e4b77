"""Seconds, memory and disk of a stage: the plane through three walks, and what grows with shapes and counts."""

import time
from dataclasses import replace

import pytest

from conftest import ROOT
from kxl.base.cli import UserError
from kxl.base.files import read_json, write_json
from kxl.lora import memory as lora_memory
from kxl.lora.memory import Lengths
from kxl.moe import core as moe_core
from kxl.moe import hardware, memory
from kxl.plan import costs, sizes
from kxl.plan.costs import Job
from kxl.plan.line import Line
from kxl.plan.walk import POLICIES, STAGES, Pace, Walk

SHAPES = read_json(ROOT / "configs" / "walk-shapes.json")
EIGHT = {**read_json(ROOT / "gguf/lfm2-8b-a1b.shapes.json"), "vocab_size": 128_000}
PACE = {
    "train_steps": 2, "lora_steps": 2, "imatrix_chunks": 4, "imatrix_context": 512, "cases": 3, "answer_tokens": 32,
    "context": 65536, "router_rows": 50,
}  # fmt: skip
GIB = 2**30


def lengths(short: float, long: float) -> list[dict]:
    """A step of 256 and one of 1,024 tokens, a quarter of each forward."""
    return [
        {"tokens": tokens, "seconds": seconds, "forward": seconds / 4}
        for tokens, seconds in ((256, short), (1024, long))
    ]


def profile(per_weight=1e-8, start=1.0, per_word=0.0):
    """A machine on which each stage takes `start` seconds and so much more for each weight and token of vocabulary."""
    walks = []
    for name in ("small", "words", "wide"):
        size = sizes.of(SHAPES[name])
        took = {
            "seconds": start + per_weight * size.parameters + per_word * size.vocabulary,
            "held": 100 * 2**20 + size.plain,
            "work": {"trace_bytes": 1_590_000, "tokens": 724, "steps": 2, "prompt_tokens": 4000, "prompt_seconds": 10.0,
                     "answer_tokens": 192, "answer_seconds": 6.0},
        }  # fmt: skip
        walks.append({"shapes": SHAPES[name], "pace": PACE, "stages": dict.fromkeys(STAGES, took)})
    return {
        "walks": walks,
        "steps": [
            {"shapes": SHAPES["small"], "taken": lengths(0.1, 0.4)},
            {"shapes": SHAPES["wide"], "taken": lengths(5.0, 11.0)},
        ],
        "attention_ns": 20.0,
        "disk_read_mib_s": 1000,
        "disk_write_mib_s": 1000,
        "memory_gib": 24,
    }


def test_a_stage_that_reads_all_weights_is_on_the_line_through_both_walks():
    eight = sizes.of(EIGHT, POLICIES)
    need = costs.predict("gguf", eight, Job(), profile())
    assert need.seconds == pytest.approx(1.0 + 1e-8 * eight.parameters, rel=0.01)


def test_a_vocabulary_that_takes_its_time_is_told_from_the_weights():
    known = profile(per_word=1e-4)
    for shapes in (EIGHT, SHAPES["small"], {**SHAPES["small"], "vocab_size": 4316}):
        size = sizes.of(shapes)
        seconds = 1.0 + 1e-8 * size.parameters + 1e-4 * size.vocabulary
        assert costs.predict("gguf", size, Job(), known).seconds == pytest.approx(seconds, rel=0.01)


def test_neither_more_words_nor_more_work_takes_less():
    known = profile()
    known["walks"][1]["stages"] = {**known["walks"][1]["stages"], "gguf": {**known["walks"][1]["stages"]["gguf"]}}
    known["walks"][1]["stages"]["gguf"]["seconds"] = 0.2  # faster than with few words: noise
    small, large = sizes.of(SHAPES["small"]), sizes.of(EIGHT)
    seconds = [costs.predict("gguf", size, Job(), known).seconds for size in (small, large)]
    assert seconds[0] == pytest.approx(known["walks"][0]["stages"]["gguf"]["seconds"]) and seconds[1] > 50


def test_rows_that_are_encoded_tell_steps_and_tokens():
    config = read_json(ROOT / "configs/lfm2.5-8b-a1b.json")
    settings = read_json(ROOT / "configs/lfm2.5-8b-a1b-moe.json")
    short, long = (
        Line(config, EIGHT, settings, profile(), rows=rows).need("train").seconds for rows in ([500] * 40, [8000] * 40)
    )
    guessed = Line(config, EIGHT, settings, profile()).need("train").seconds
    assert short < long < guessed  # 40 rows instead of hundreds


def test_the_machine_that_was_measured_is_predicted_as_it_was():
    walk = profile()["walks"][2]
    size, job = sizes.of(walk["shapes"], POLICIES), costs.job_of(PACE, walk["stages"])
    for stage in ("checkpoint", "core", "train", "step", "lora", "fuse", "gguf", "imatrix", "q4kxl", "package"):
        need = costs.predict(stage, size, job, profile())
        assert need.seconds == pytest.approx(walk["stages"][stage]["seconds"], rel=0.02), stage
        if stage not in ("train", "lora"):  # of these the memory is counted
            assert need.memory == pytest.approx(walk["stages"][stage]["held"], rel=0.35), stage


def test_more_steps_tokens_and_cases_take_longer():
    eight, known = sizes.of(EIGHT, POLICIES), profile()

    def seconds(stage, **job):
        return costs.predict(stage, eight, Job(**job), known).seconds

    assert seconds("train", train_steps=20) > 5 * seconds("train", train_steps=2)
    assert seconds("train", train_steps=2, train_tokens=4096) > seconds("train", train_steps=2, train_tokens=512)
    assert seconds("imatrix", imatrix_tokens=65536) > 4 * seconds("imatrix", imatrix_tokens=8192)
    assert seconds("serve", prompt_tokens=8000) > seconds("serve", prompt_tokens=4000)


def test_an_adapter_of_an_8b_is_planned_in_14_gib_layer_by_layer_and_in_more_memory_faster():
    eight, known = sizes.of(EIGHT, POLICIES), profile()
    job = Job(lora_steps=10, lora_tokens=4096, lora_batch=Lengths(0, 1, 4096), lora_floats=True)
    small, large = (replace(job, memory=gib * GIB) for gib in (14, 500))
    assert costs.lora(eight, small).way == lora_memory.BY_LAYER and costs.lora(eight, small).mapped
    assert costs.lora(eight, large).way == lora_memory.WHOLE and not costs.lora(eight, large).mapped
    for rates in (known, None):
        need, other = (costs.predict("lora", eight, one, rates) for one in (small, large))
        assert need.memory < 8 * GIB < other.memory
    assert costs.predict("lora", eight, small, known).seconds > costs.predict("lora", eight, large, known).seconds
    # Where nothing fits, the least is told.
    assert costs.predict("lora", eight, replace(job, memory=GIB), known).memory < need.memory


def test_a_repair_that_needs_a_core_writes_it_and_one_with_enough_memory_does_not():
    config = read_json(ROOT / "configs/lfm2.5-8b-a1b.json")
    config["repair"] = {**config.get("repair", {}), "suites": {}}
    plan = Line(config, EIGHT, None, None)
    little, much = (plan.need("repair-loop", gib * GIB) for gib in (14, 500))
    assert little.memory < 14 * GIB and little.disk == much.disk + plan.size.core


def test_what_is_written_is_no_faster_than_the_disk():
    slow = {**profile(per_weight=0, start=0.1), "disk_write_mib_s": 100, "memory_gib": 0}
    assert costs.predict("gguf", sizes.of(EIGHT, POLICIES), Job(), slow).seconds > 150


def test_logits_of_a_long_chunk_are_counted():
    eight = sizes.of(EIGHT, POLICIES)
    need = costs.predict("imatrix", eight, Job(imatrix_tokens=65536, imatrix_context=8192), None)
    # 8,192 rows of the chunk, 2,048 of a batch and 512 in the making, of 128,000 float32.
    assert need.memory >= 4 * 128_000 * (8192 + 2048 + 512)


IN_MEMORY = {"storage": "resident", "carry_bits": 0}


def line(training=IN_MEMORY, **eval_settings):
    config = read_json(ROOT / "configs/lfm2.5-8b-a1b.json")
    config["eval"] |= eval_settings
    return Line(config, EIGHT, {**read_json(ROOT / "configs/lfm2.5-8b-a1b-moe.json"), **training}, None)


def test_a_core_in_mapped_files_fits_where_one_in_memory_does_not():
    assert line(training={}).problem("train", 4 * GIB, 1000 * GIB) is None
    assert line().problem("train", 4 * GIB, 1000 * GIB)


def test_an_8b_on_16_gib_is_told_what_does_not_fit_and_what_to_change():
    plan = line()
    problem = plan.problem("eval:fixed_hermes_43:mlx", 16 * GIB, 1000 * GIB)
    assert "needs 31" in problem and "16.0" in problem and "Mac" in problem
    assert "max_tokens" in plan.problem("train", int(10.2 * GIB), 1000 * GIB)
    assert "imatrix.context_tokens to" in plan.problem("imatrix", 4 * GIB, 1000 * GIB)
    assert plan.problem("gguf", 16 * GIB, 1000 * GIB) is None


def test_a_full_disk_is_told_with_the_number():
    problem = line().problem("gguf", 16 * GIB, 10 * GIB)
    assert "writes 15.8 GiB and 10.0 are free" in problem


def test_a_smaller_max_tokens_that_is_advised_fits():
    plan, memory = line(), int(10.2 * GIB)
    advised = int(plan.problem("train", memory, 1000 * GIB).rsplit(" ", 1)[1])
    assert plan._train(max_tokens=advised).memory <= memory < plan._train(max_tokens=advised + 512).memory


def test_the_rows_of_a_batch_take_the_time_of_their_tokens_in_one_step():
    """A step of 1,024 tokens was measured at 11 s, one of 256 at 5: four rows of 256 take 11 and not 20."""
    wide, known = sizes.of(SHAPES["wide"]), profile()
    moved = 2 * wide.core / (1000 * 2**20)
    for rows, steps, seconds in ((4, 10, 110), (1, 10, 50), (1, 40, 200)):
        job = Job(train_steps=steps, train_rows=rows, train_tokens=256)
        assert costs.effort("train", wide, job, known) == pytest.approx(moved + seconds)


def test_a_plan_of_epochs_takes_fewer_steps_of_a_larger_batch():
    by_one, by_four = (seconds_of(batch=batch) for batch in (1, 4))
    assert by_one / 4 < by_four < by_one


def seconds_of(**training):
    config = read_json(ROOT / "configs/lfm2.5-8b-a1b.json")
    settings = {**read_json(ROOT / "configs/lfm2.5-8b-a1b-moe.json"), **training}
    return Line(config, EIGHT, settings, profile()).need("train").seconds


@pytest.mark.parametrize("batch, shares", [(1, 1), (4, 1), (4, 4)])
def test_a_plan_asks_for_the_memory_at_which_the_training_would_refuse_itself(batch, shares):
    settings = {**read_json(ROOT / "configs/lfm2.5-8b-a1b-moe.json"), "batch": batch, "shares": shares}
    config = moe_core.check_config(EIGHT, 64, "shapes")
    predicted = memory.predict(config, settings, batch * 10240, 10240, shares)["peak"]  # as moe_train.py asks
    assert line(training=settings).need("train").memory == predicted + costs.BASE
    kept = 22 * batch * 10240 * 2048 * 2  # bytes of the inputs of 22 MoE layers, in bfloat16
    assert predicted > kept


def test_where_a_batch_does_not_fit_a_smaller_one_is_advised_and_then_shorter_rows():
    plan = line(training={"batch": 4})
    alone, four = (plan._train(batch=batch).memory for batch in (1, 4))
    assert plan.problem("train", four, 1000 * GIB) is None
    assert plan.problem("train", four - 1, 1000 * GIB).endswith("set batch of the training to 3")
    problem = plan.problem("train", alone - 1, 1000 * GIB)
    assert problem.endswith("set max_tokens of the training to 9728 and batch to 1")
    in_shares = line(training={"batch": 4, "shares": 2})
    assert in_shares.problem("train", in_shares.need("train").memory - 1, 1000 * GIB).endswith("training to 2")


def test_a_number_without_end_is_advised_on_at_once():
    started = time.monotonic()
    training = {**IN_MEMORY, "max_tokens": 10**12, "batch": 10**9}
    problem = line(training).problem("train", int(10.2 * GIB), 1000 * GIB)
    assert "set max_tokens of the training to" in problem and time.monotonic() - started < 5


def test_a_training_from_mapped_files_needs_disk_for_the_files_that_it_maps():
    """Two checkpoints are kept and the third is written before the first goes; a mapped core lies beside them."""
    one = moe_core.stored_bytes(moe_core.check_config(EIGHT, 64, "shapes"), 64, 8)
    mapped, resident = (line(training={"storage": kind, "carry_bits": 8}) for kind in ("mapped", "resident"))
    assert mapped.need("train").disk == resident.need("train").disk == pytest.approx(3 * one, rel=1e-3)
    assert resident.problem("train", 99 * GIB, int(3.1 * one)) is None
    assert "writes" in mapped.problem("train", 99 * GIB, int(3.9 * one))
    assert mapped.problem("train", 99 * GIB, int(4.1 * one)) is None


def test_a_walk_has_room_for_the_files_that_its_training_maps(tmp_path):
    walk = Walk(tmp_path, EIGHT, Pace())
    needs, one = costs.of_walk(walk, None), moe_core.stored_bytes(moe_core.check_config(EIGHT, 64, "shapes"), 64, 8)
    # The core, the checkpoint and the mapped copy.
    assert costs.largest_moment(needs, STAGES, list(STAGES)) >= 3 * one
    assert costs.largest_moment(needs, STAGES, [name for name in STAGES if name != "train"]) < 3 * one


def test_a_profile_says_how_much_other_work_ran_beside_it():
    known = profile()
    for walk in known["walks"]:
        walk["stages"] = {"gguf": {"seconds": 3.0, "others": 0.8}, "core": {"seconds": 1.0, "others": 0.0}}
    assert costs.others(known) == pytest.approx(0.6)


def test_a_file_that_is_no_profile_of_the_line_is_refused(tmp_path):
    write_json(tmp_path / "old.json", {"results": {"memory_stop_gib": 20}})
    with pytest.raises(UserError, match="make profile"):
        costs.load(tmp_path / "old.json")


def test_a_repair_on_a_suite_of_ones_own_is_planned(tmp_path):
    write_json(tmp_path / "own.json", read_json(ROOT / "evals/suites/structured_6.json"))
    config, needs = read_json(ROOT / "configs/tiny.json"), []
    for suite in ("structured_6", str(tmp_path / "own.json")):
        config["repair"]["suites"] = {suite: 6}
        training = read_json(ROOT / "configs/tiny-moe.json")
        needs.append(Line(config, SHAPES["small"], training, profile()).need("repair-loop"))
    assert needs[0] == needs[1]


def test_the_profiles_here_are_profiles():
    for path in sorted((ROOT / "configs/hardware").glob("*.json")):
        assert hardware.load_profile(path)["memory_gib"] > 0
        if "walks" in hardware.load_profile(path):
            assert len(costs.load(path)["walks"]) == 3


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (["results"], []),
        (["results", "memory_stop_gib"], "x"),
        (["results", "memory_stop_gib"], [1]),
        (["results", "memory_gib"], 1 << 2000),
        (["results", "disk_write_mib_s"], 0),
        (["results", "steps"], []),
        (["results", "steps", 0, "taken", 0, "seconds"], None),
        (["results", "walks"], [{}]),
        (["results", "walks", 1, "stages"], {}),
        (["results", "walks", 1, "pace", "train_steps"], 0),
        (["results", "walks", 0, "stages", "serve", "work"], {}),
        (["results", "walks", 0, "stages", "serve", "work", "prompt_tokens"], 0),
    ],
)
def test_a_profile_that_no_measurement_wrote_is_refused(tmp_path, place, value):
    content = read_json(ROOT / "configs/hardware/linux-2-cores-24gb.json")
    write_json(tmp_path / "good.json", content)
    assert costs.load(tmp_path / "good.json")
    *above, last = place
    inner = content
    for key in above:
        inner = inner[key]
    inner[last] = value
    write_json(tmp_path / "odd.json", content)
    with pytest.raises(UserError, match="odd.json: .*make profile"):
        costs.load(tmp_path / "odd.json")
