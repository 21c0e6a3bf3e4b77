"""The comparison with stock mlx_lm.lora: same rows, batch and BLAS on both sides, and the arithmetic is right."""

import json
import subprocess
import sys
import time

import pytest

import repair_bench_lora
from conftest import ROOT
from helpers import random_checkpoints
from helpers.repair_rows import TOOL, row
from kxl.base.cli import UserError
from kxl.base.files import read_json
from kxl.model import blas

pytestmark = pytest.mark.minutes


def test_the_first_step_is_left_out():
    assert repair_bench_lora.timed([10.0, 11.0, 13.0]) == [1.0, 2.0]


def test_stock_is_compared_at_equal_blas_first_and_as_it_is_installed_second():
    results = repair_bench_lora.compare({"ours": [1.5, 2.5], "stock": [4, 5, 6], "stock as installed": [21, 19]})
    assert results["equal_blas"] == {"ours_seconds": 2.0, "stock_seconds": 5.0, "ratio": 2.5}
    assert results["as_installed"] == {"stock_seconds": 20.0, "ratio": 10.0}
    assert repair_bench_lora.compare({"ours": [2], "stock": [1]})["as_installed"] is None


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


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Run the comparison on a small random model; return its results and what was started, with seconds."""
    model, started = tmp_path / "model", []
    random_checkpoints.save_hf(model, hidden_size=64, intermediate_size=128, moe_intermediate_size=64)
    (model / "chat_template.jinja").write_text(
        (ROOT / "configs/templates/lfm2.5-tools.jinja").read_text(encoding="utf-8")
    )
    rows = [json.dumps({**row(what), "tools": [TOOL]}) for what in "abcdef"]
    (tmp_path / "train.jsonl").write_text("".join(line + "\n" for line in rows))

    class Noted(subprocess.Popen):
        """A real process, noted with its environment, the rows that it reads and how long it ran."""

        def __init__(self, command, **options):
            self.began = time.monotonic()
            super().__init__(command, **options)
            self.noted = {}
            if "--data" not in command:
                return
            path = f"{command[command.index('--data') + 1]}/train.jsonl"
            with open(path, encoding="utf-8") as file:
                self.noted = {"command": command, "rows": file.read(), "blas": options["env"].get("LD_PRELOAD")}
            started.append(self.noted)

        def wait(self, timeout=None):
            ended = super().wait(timeout)
            self.noted["seconds"] = time.monotonic() - self.began
            return ended

    def run(*flags):
        monkeypatch.setattr(subprocess, "Popen", Noted)  # the guard of each is one of these
        report = tmp_path / "speed.json"
        paths = ("--model", str(model), "--data", str(tmp_path), "--report", str(report))
        monkeypatch.setattr(sys, "argv", ["repair_bench_lora.py", *paths, "--batch-size", "2", "--steps", "2", *flags])
        repair_bench_lora.main()
        return read_json(report)["results"], started

    return run


def test_both_sides_train_the_same_rows_with_the_same_batch_and_blas(bench):
    results, (ours, *stock) = bench("--busy")
    assert any(word.endswith("repair_train.py") for word in ours["command"]) and all(
        "mlx_lm" in one["command"] for one in stock
    )
    assert len({one["rows"] for one in (ours, *stock)}) == 1 and ours["rows"].count("\n") == 6
    for one in (ours, *stock):
        assert one["command"][one["command"].index("--batch-size") + 1] == "2"
    assert ours["blas"] == stock[0]["blas"] and (ours["blas"] or "").startswith(blas.fast_blas() or "")
    for one in stock[1:]:
        assert one["blas"] is None
    # The steps that are reported are a part of what the processes took.
    equal = results["equal_blas"]
    assert 0 < 2 * equal["ours_seconds"] < ours["seconds"] and 0 < 2 * equal["stock_seconds"] < stock[0]["seconds"]
    assert equal["ratio"] == pytest.approx(equal["stock_seconds"] / equal["ours_seconds"], rel=0.05)


def test_cores_at_work_are_refused(bench, monkeypatch):
    monkeypatch.setattr(repair_bench_lora.psutil, "cpu_percent", lambda interval: 87.0)
    with pytest.raises(UserError, match="the cores are 87 % at work"):
        bench()
