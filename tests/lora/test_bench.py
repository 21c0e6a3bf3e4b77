"""The comparison with stock mlx_lm.lora: both sides really run, and the arithmetic is right."""

import json
import sys

import pytest

import repair_bench_lora
from conftest import ROOT
from helpers import random_checkpoints
from helpers.repair_rows import TOOL, row
from kxl.base.cli import UserError
from kxl.base.files import read_json


def test_the_first_step_is_left_out():
    assert repair_bench_lora.seconds([10.0, 11.0, 13.0], 4) == {
        "seconds_per_step": 1.5,
        "seconds_per_row": 0.375,
        "steps": [1.0, 2.0],
    }


def test_rows_of_one_tool_list_are_picked(tmp_path):
    rows = [row("a"), row("b"), {**row("c"), "tools": []}, row("d")]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    assert [one["messages"][1]["content"] for one in repair_bench_lora.pick(tmp_path / "train.jsonl", 3)] == [
        "look at a",
        "look at b",
        "look at d",
    ]
    with pytest.raises(UserError, match="has 3 rows with one tool list, 4 are needed"):
        repair_bench_lora.pick(tmp_path / "train.jsonl", 4)


def test_both_sides_train_the_same_rows(tmp_path, monkeypatch):
    model = tmp_path / "model"
    random_checkpoints.save_hf(model, hidden_size=64, intermediate_size=128, moe_intermediate_size=64)
    (model / "chat_template.jinja").write_text(
        (ROOT / "configs/templates/lfm2.5-tools.jinja").read_text(encoding="utf-8")
    )
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps({**row(what), "tools": [TOOL]}) + "\n" for what in ("a", "b", "c", "d"))
    )
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "repair_bench_lora.py",
            *map(
                str,
                (
                    "--model",
                    model,
                    "--data",
                    tmp_path,
                    "--report",
                    tmp_path / "speed.json",
                    "--batch-sizes",
                    2,
                    "--steps",
                    1,
                ),
            ),
        ],
    )
    repair_bench_lora.main()
    results = read_json(tmp_path / "speed.json")["results"]
    one = results["batch_sizes"]["2"]
    assert one["ours"]["seconds_per_step"] > 0 and one["stock"]["seconds_per_step"] > 0
    assert results["times_as_fast"]["2"] == pytest.approx(
        one["stock"]["seconds_per_row"] / one["ours"]["seconds_per_row"], rel=0.5
    )
