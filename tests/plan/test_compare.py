"""The report of a plan: each stage's last time beside its prediction, and how far they lie apart."""

import json

import pytest

import plan_compare
from kxl.base.cli import UserError
from kxl.base.files import read_json, write_json
from kxl.plan import costs

PROFILE = "configs/hardware/profile.json"


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """compare(*runs): the results of a report in a folder whose profile needs no measuring."""
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / PROFILE, {"results": {}})
    monkeypatch.setattr(costs, "load", lambda path: {"walks": []})

    def run(*runs):
        words = [word for name in runs for word in ("--run", name)]
        monkeypatch.setattr("sys.argv", ["plan_compare.py", *words, "--profile", PROFILE, "--report", "plan.json"])
        plan_compare.main()
        return read_json(tmp_path / "plan.json")["results"]

    return run


def noted(run, *stages):
    """Write runs/RUN/plan.jsonl with (stage, predicted seconds, seconds) each."""
    lines = [
        {"stage": name, "outputs": [f"{name}.bin"], "predicted_seconds": predicted, "seconds": seconds, "peak_gib": 1.5}
        for name, predicted, seconds in stages
    ]
    path = costs.Path("runs") / run / "plan.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_each_stage_stands_there_once_with_its_last_time(compare, capsys):
    noted("a", ("gguf", 10.0, 30.0), ("core", 8.0, 10.0), ("gguf", 10.0, 12.0))
    noted("a-tuned", ("gguf", 20.0, 13.0))
    found = compare("a", "a-tuned")
    assert {name: took["seconds"] for name, took in found["stages"].items()} == {
        "a/gguf": 12.0, "a/core": 10.0, "a-tuned/gguf": 13.0,
    }  # fmt: skip
    assert found["seconds_over_predicted"] == {"least": 0.65, "median": 1.2, "most": 1.25}
    assert "a-tuned/gguf, 13 s where 20 were predicted" in capsys.readouterr().out


def test_a_run_without_predicted_times_is_told_to_measure_the_machine(compare, tmp_path):
    noted("a", ("gguf", None, 12.0))
    with pytest.raises(UserError, match=r"runs/a/plan\.jsonl: no stage with a predicted time.*make profile"):
        compare("a")
    with pytest.raises(UserError, match=r"runs/never/plan\.jsonl"):
        compare("never")
    assert not (tmp_path / "plan.json").exists()
