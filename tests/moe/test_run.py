"""A run goes on to the same bits after any stop, refuses what would spoil it, and learns."""

import json
import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest

from conftest import ROOT
from helpers import disks, random_cores
from helpers.training import SETTINGS, some_rows
from kxl.base.cli import UserError
from kxl.base.files import read_json
from kxl.model import blas
from kxl.model.batches import own_shares
from kxl.moe import core as moe_core
from kxl.moe import hardware
from kxl.moe import run as moe_run
from kxl.moe.rounding import ROUNDINGS
from kxl.moe.rows import batch_of, learning_rate, steps_of
from kxl.moe.run import Run, checkpoints
from kxl.moe.settings import STORAGES, check_settings, overridden

pytestmark = pytest.mark.minutes


def a_run(work, core=None, guard=None, **changes):
    core = core or random_cores.random_core("six")
    rows = some_rows(core, 7, 1)
    guard = guard or hardware.MemoryGuard(2**50, 0)
    return Run(core, rows, some_rows(core, 4, 2), {**SETTINGS, **changes}, work, {"train": "rows"}, guard)


def resumed(work, **changes):
    last = checkpoints(work)[-1]
    run = a_run(work, moe_core.load(last), **changes)
    run.resume(last)
    return run


def weights(folder):
    """Bytes of everything that training changes."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix == ".safetensors"}


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "streamed"},
        {"mode": "grouped"},
        {"carry_bits": 0},
        {"carry_bits": 4, "decay_tokens": 50, "few_tokens": "smaller"},
        {"gradient_clip": 0.01, "balance_loss": 0.01, "z_loss": 0.001},
        {"shares": 2},
    ],
    ids=str,
)
def test_a_resumed_run_ends_with_the_same_bits(changes, tmp_path):
    whole = a_run(tmp_path / "whole", **changes).train()
    a_run(tmp_path / "parts", **changes).train(until=2)
    resumed(tmp_path / "parts", **changes).train(until=4)
    end = resumed(tmp_path / "parts", **changes).train()
    assert end.name == whole.name == "step_00006_final"
    assert weights(end) == weights(whole)
    one, other = (read_json(folder / "state.json") for folder in (whole, end))
    assert one["validation"] == other["validation"] and [h["loss"] for h in one["history"]] == [
        h["loss"] for h in other["history"]
    ]
    assert weights(whole) != weights(checkpoints(tmp_path / "parts")[0])


def test_learning_survives_int8_only_with_stochastic_rounding(tmp_path):
    """The same small learning rate, 1/23 of half an int8 step: nearest rounding keeps next to nothing of it."""
    learned, changed = {}, {}
    for rounding in ROUNDINGS:
        core = random_cores.random_core("six")
        before = {name: matrix.codes.copy() for name, matrix in core.experts.items()}
        run = a_run(
            tmp_path / rounding,
            core,
            rounding=rounding,
            carry_bits=0,
            steps=30,
            learning_rate=3e-5,
            warmup_steps=0,
            final_rate=1.0,
            validate_every=30,
            checkpoint_every=30,
        )
        run.validation = run.rows  # what it has to learn by heart
        run.train()
        learned[rounding] = run.validated[0]["loss"] - run.validated[-1]["loss"]
        changed[rounding] = np.mean([np.mean(matrix.codes != before[name]) for name, matrix in core.experts.items()])
    assert learned["stochastic"] > 0.05 and changed["stochastic"] > 0.2
    assert learned["nearest"] < 0.2 * learned["stochastic"] and changed["nearest"] < 0.02


def test_a_memory_stop_leaves_a_checkpoint_from_which_the_run_goes_on(tmp_path):
    calls = []

    def guard(where):
        calls.append(where)
        if len(calls) == 12:
            raise hardware.MemoryStop("at a test")

    run = a_run(tmp_path / "stopped", guard=guard, checkpoint_every=100)
    with pytest.raises(UserError, match=r"memory stop at a test; .*step_0000\d is complete: lower max_tokens"):
        run.train()
    assert 0 < run.step < 6 and checkpoints(tmp_path / "stopped")[-1].name == f"step_{run.step:05d}"
    end = resumed(tmp_path / "stopped", checkpoint_every=100).train()
    assert weights(end) == weights(a_run(tmp_path / "whole", checkpoint_every=100).train())


def test_the_guard_stops_when_the_process_or_the_machine_is_full():
    with pytest.raises(hardware.MemoryStop, match="the process held"):
        hardware.MemoryGuard(1)("here")
    with pytest.raises(hardware.MemoryStop, match="of the machine's memory were left"):
        hardware.MemoryGuard(2**60, 2**60)("here")


def test_a_full_disk_keeps_the_earlier_checkpoints(tmp_path, monkeypatch, request):
    core = random_cores.random_core("six")
    disk = disks.small(tmp_path / "disk", request, 2 * core.nbytes // 1024)  # one with its optimizer, not two
    monkeypatch.setattr(moe_core, "require_space", lambda folder, count: None)  # it fills up meanwhile
    run = a_run(disk / "work", core)
    run.train(until=2)
    before = weights(disk / "work/step_00002")
    with pytest.raises(
        UserError, match=r"step_00004/.*: cannot be written: the disk is full; .*earlier checkpoints are"
    ):
        run.train()
    assert os.listdir(disk / "work") == ["step_00002"] and weights(disk / "work/step_00002") == before
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("", (), {"free": 100}))
    with pytest.raises(UserError, match="GiB of disk and 0.00 GiB are free"):
        moe_run.require_room(2**30, SETTINGS, 6, tmp_path / "work")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"learning_rate": 1e-3}, "trained with learning_rate 0.003, this run has 0.001"),
        ({"steps": 8}, "trained with steps 6, this run has 8"),
        ({"mode": "grouped"}, "trained with mode 'streamed'"),
        ({"shares": 2}, "trained with shares 1, this run has 2"),
    ],
)
def test_a_changed_config_is_refused_on_resume(changes, message, tmp_path):
    a_run(tmp_path / "work").train(until=2)
    with pytest.raises(UserError, match=message):
        resumed(tmp_path / "work", **changes)
    resumed(tmp_path / "work", checkpoint_every=1)  # decides no weight


def test_a_checkpoint_of_before_there_were_shares_has_one(tmp_path):
    a_run(tmp_path / "work").train(until=2)
    path = tmp_path / "work/step_00002/state.json"
    state = read_json(path)
    del state["settings"]["shares"]
    path.write_text(json.dumps(state))
    with pytest.raises(UserError, match="trained with shares 1, this run has 2"):
        resumed(tmp_path / "work", shares=2)
    end = resumed(tmp_path / "work").train()
    assert weights(end) == weights(a_run(tmp_path / "whole").train())


@pytest.mark.parametrize("content", ["[]", "{}", '{"settings": 7, "identity": {}, "steps": 1}', "{", '{"step": 1}'])
def test_a_damaged_state_is_named_with_the_way_on(tmp_path, content):
    a_run(tmp_path / "work").train(until=2)
    (tmp_path / "work/step_00002/state.json").write_text(content)
    with pytest.raises(UserError, match=r"step_00002/state\.json"):
        resumed(tmp_path / "work")


def test_other_rows_are_refused_on_resume(tmp_path):
    a_run(tmp_path / "work").train(until=2)
    with pytest.raises(UserError, match="trained with train 'rows', this run has 'others'"):
        moe_run.check_same(checkpoints(tmp_path / "work")[-1], SETTINGS, {"train": "others"}, 6)


def test_a_loss_that_is_not_finite_names_row_and_layer(tmp_path):
    core = random_cores.random_core("six")
    run = a_run(tmp_path / "work", core)
    core.plain["model.layers.3.ffn_norm.weight"][:] = 0x7F80  # infinity in BF16
    with pytest.raises(
        UserError,
        match=r"step 1, row \d, \d: the loss is nan; layer 3 is the first whose output is not finite; "
        ".*lower learning_rate",
    ):
        run._steps(1)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mode": "all"}, "mode is 'all'; it takes streamed or grouped"),
        ({"learning_rate": -1}, "learning_rate is -1"),
        ({"batch": 0}, "batch is 0"),
        ({"groups": 4}, "groups is not a setting"),
        ({"blocks": {"rows": 3}}, "blocks"),
        ({"steps": None, "epochs": "3"}, "epochs is '3'"),
        ({"steps": 0}, "steps is 0; it takes a whole number, 1 or more"),
        ({"epochs": 3}, "steps is 6 and epochs is 3; a run is as long as steps or as epochs says: set one of the two"),
        ({"carry_bits": 2}, "carry_bits is 2; it takes 0 or 4 or 8"),
        ({"carry_bits": True}, "carry_bits is True"),
        ({"batch": 3, "shares": 3}, "shares is 3; it takes 1, 2, 4, 8 or another power of two"),
        ({"shares": 4}, "a batch of 2 rows has no 4 shares of as many rows each; set shares to a power of two that"),
        ({"gradient_clip": 1.0, "mode": "grouped"}, "gradient_clip is 1.0 and mode is 'grouped'"),
        ({"steps": None}, "neither is set; a run is as long as steps or as epochs says"),
    ],
)
def test_a_wrong_setting_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        check_settings({**SETTINGS, **changes}, "configs/x.json")


@pytest.mark.parametrize("name", ["tiny-moe", "lfm2.5-8b-a1b-moe"])
def test_a_flag_for_the_length_takes_the_place_of_the_configs(name):
    config = read_json(ROOT / f"configs/{name}.json")
    assert check_settings(overridden(config, {}), "x")["steps"] == config.get("steps")
    for key, other in (("steps", "epochs"), ("epochs", "steps")):
        settings = check_settings(overridden(config, {key: 7}), "x")
        assert (settings[key], settings[other]) == (7, None)
    with pytest.raises(UserError, match="steps is 7 and epochs is 2"):
        check_settings(overridden(config, {"steps": 7, "epochs": 2}), "x")


def test_a_config_that_names_no_shares_has_one():
    config = read_json(ROOT / "configs/tiny-moe.json")
    assert "shares" not in config and check_settings(config, "x")["shares"] == 1


def test_every_row_of_a_batch_is_in_the_share_of_one_process():
    for shares, ranks in ((1, 1), (1, 3), (4, 1), (4, 2), (4, 4)):
        taken = []
        for rank in range(ranks):
            count, own = own_shares({"batch": 12, "shares": shares}, rank, ranks)
            taken += [row for share in own for row in range(12)[share::count]]
        assert sorted(taken) == list(range(12))


@pytest.mark.parametrize(
    "batch, shares, ranks, message",
    [
        (4, 1, 3, "a batch of 4 rows cannot be shared by 3 processes; set batch to a multiple of 3"),
        (12, 4, 3, "4 shares of a batch cannot be shared by 3 processes; start as many as divide them"),
        (8, 2, 4, "2 shares of a batch cannot be shared by 4 processes"),
    ],
)
def test_processes_that_cannot_share_a_batch_are_refused(batch, shares, ranks, message):
    with pytest.raises(UserError, match=message):
        own_shares({"batch": batch, "shares": shares}, 0, ranks)


def test_the_reference_run_is_1746_steps():
    assert steps_of({**SETTINGS, "batch": 1, "epochs": 3, "steps": None}, 582) == 1746


def test_every_row_is_taken_once_per_epoch():
    for epoch in range(3):
        places = [batch_of(epoch * 5 + step, 10, 2, seed=4) for step in range(5)]
        assert {e for e, _ in places} == {epoch} and sorted(sum((p for _, p in places), [])) == list(range(10))


def test_the_learning_rate_rises_to_its_peak_and_falls_to_its_floor():
    rates = [
        learning_rate({**SETTINGS, "warmup_steps": 10, "learning_rate": 1.0, "final_rate": 0.1}, step, 100)
        for step in range(100)
    ]
    assert rates[0] == 0.1 and rates[9] == rates[10] == 1.0 and abs(rates[-1] - 0.1) < 1e-9
    assert all(a <= b for a, b in zip(rates[:10], rates[1:11])) and all(a >= b for a, b in zip(rates[10:], rates[11:]))


# The script itself, as a user runs it.


def test_the_checkpoint_that_a_run_went_on_from_takes_no_tokenizer_along_when_it_is_removed(tmp_path):
    core = random_cores.random_core("six")
    core.tokenizer = {"tokenizer.json": b"{}", "chat_template.jinja": b"{{ messages }}"}
    a_run(tmp_path / "work", core, keep_checkpoints=1, checkpoint_every=1).train(until=2)
    end = resumed(tmp_path / "work", keep_checkpoints=1, checkpoint_every=1).train()
    assert checkpoints(tmp_path / "work") == [end]
    assert (end / "tokenizer.json").read_bytes() == b"{}"
    assert (end / "chat_template.jinja").read_bytes() == b"{{ messages }}"


@pytest.fixture
def prepared(tmp_path):
    core = random_cores.random_core("six")
    core.tokenizer = {"tokenizer.json": b"{}"}
    moe_core.save(tmp_path / "core", core)
    for name, seed in (("train", 1), ("valid", 2)):
        lines = [
            json.dumps({"row": r["row"], "tokens": r["tokens"].tolist(), "scored": [[0, len(r["tokens"])]]})
            for r in some_rows(core, 7, seed)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "config.json").write_text(json.dumps({**SETTINGS, "checkpoint_every": 1, "steps": 12}))

    def command(work, *more):
        return [
            sys.executable,
            str(ROOT / "scripts/moe_train.py"),
            "--core",
            str(tmp_path / "core"),
            "--train",
            str(tmp_path / "train.jsonl"),
            "--valid",
            str(tmp_path / "valid.jsonl"),
            "--config",
            str(tmp_path / "config.json"),
            "--work",
            str(tmp_path / work),
            *more,
        ]

    return command


def ended(command):
    return subprocess.run(command, capture_output=True, text=True, env=blas.child_env())


@pytest.mark.parametrize("storage", STORAGES)
def test_ten_kills_at_random_moments_change_no_bit(storage, prepared, tmp_path):
    """Each run is killed a moment after its first checkpoint: in a step, in a write, while the next one is made."""
    whole = ended(prepared("whole", "--storage", "resident"))
    assert whole.returncode == 0, whole.stderr
    rng, resumed_from = random.Random(0), set()

    def reached():
        return [path.name for path in checkpoints(tmp_path / "killed")][-1:]

    for _ in range(10):
        before = reached()
        process = subprocess.Popen(
            prepared("killed", "--storage", storage),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=blas.child_env(),
        )
        while reached() == before and process.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.08))
        process.kill()
        process.wait()
        resumed_from |= set(reached())
    for path in tmp_path.glob("killed/step_?????/tokenizer.json"):  # as runs of before this was mended left them
        path.unlink()
    assert ended(prepared("killed", "--storage", storage)).returncode == 0
    assert not list(tmp_path.glob("killed/live*"))
    assert (tmp_path / "killed/step_00012_final/tokenizer.json").is_file()
    assert len(resumed_from) > 3, "too few kills hit the middle of the run"
    assert weights(tmp_path / "killed/step_00012_final") == weights(tmp_path / "whole/step_00012_final")
    assert [path.name for path in checkpoints(tmp_path / "killed")] == ["step_00011", "step_00012_final"]


def test_the_report_says_what_happened_and_a_second_call_trains_nothing(prepared, tmp_path):
    first = ended(prepared("work", "--report", str(tmp_path / "report.json"), "--steps", "3"))
    assert first.returncode == 0, first.stderr
    results = read_json(tmp_path / "report.json")["results"]
    assert (
        results["steps"] == 3 and [v["step"] for v in results["validation"]] == [0, 2, 3] and len(results["loss"]) == 3
    )
    assert 0 < results["codes_changed_per_step"] < 1 and 0 < results["peak_rss_gib"] < 1
    before = weights(tmp_path / "work/step_00003_final")
    again = ended(prepared("work", "--steps", "3"))
    assert again.returncode == 0 and "step_00003_final: 3 steps" in again.stdout
    assert weights(tmp_path / "work/step_00003_final") == before


@pytest.mark.parametrize(
    "more, message",
    [
        (["--steps", "3", "--max-tokens", "8"], "tokens exceed max_tokens 8"),
        (["--mode", "grouped", "--group-layers", "9"], "set group_layers to 1..4"),
        (["--batch", "100"], "7 rows fill no batch of 100"),
        (["--distributed"], "found no other processes"),
    ],
)
def test_a_run_that_cannot_be_is_refused_with_one_line(prepared, more, message):
    refused = ended(prepared("work", *more))
    assert refused.returncode == 2 and message in refused.stderr and "Traceback" not in refused.stderr
