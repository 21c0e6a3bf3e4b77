"""`make status`: what a person sees after a week away."""

import contextlib
import io
import json
import os
import subprocess
import sys

import pytest

import status as show_status
from conftest import ROOT
from kxl.base import history, report
from kxl.base.errors import UserError
from kxl.base.files import sha256, write_json, write_text


@pytest.fixture
def status(tmp_path, monkeypatch, capsys):
    def run(*stages, dry_run=None):
        flags = [] if dry_run is None else ["--pending"]
        monkeypatch.setattr(sys, "stdin", io.StringIO(dry_run or ""))
        monkeypatch.setattr(
            sys,
            "argv",
            ["status.py", "--history", str(tmp_path / "history.jsonl"), *flags]
            + [word for stage in stages for word in ("--stage", stage)],
        )
        show_status.main()
        return capsys.readouterr().out

    return run


def made(path, source):
    report.write(path, [source], {}, {"passed": 42, "cases": 43})


def test_done_stale_and_missing_stages_and_what_comes_next(status, tmp_path):
    source, one, two, three = (tmp_path / name for name in ("rows", "one.json", "two.json", "three.json"))
    write_text(source, "first")
    made(one, source)
    out = status(f"one={one}", f"two={two}")
    assert "one  done" in out and "42/43" in out and out.splitlines()[-1] == "next: make two"
    write_text(source, "other")
    made(two, source)
    out = status(f"one={one}", f"two={two}", f"three={three}")
    assert "one    stale" in out and "rows changed after" in out and out.splitlines()[-1] == "next: make one"
    write_text(source, "first")
    assert "stale" in status(f"two={two}") and "one  done" in status(f"one={one}")


def test_an_input_that_was_cleaned_away_is_said_not_guessed(status, tmp_path):
    write_text(tmp_path / "rows", "first")
    made(tmp_path / "one.json", tmp_path / "rows")
    (tmp_path / "rows").unlink()
    assert "rows is not here, so not compared" in status(f"one={tmp_path / 'one.json'}")


def test_what_the_plan_said_stands_beside_what_a_stage_took(status, tmp_path):
    source, one = tmp_path / "rows", tmp_path / "one.json"
    write_text(source, "first")
    made(one, source)
    noted = {"stage": "one", "outputs": [str(one)], "predicted_seconds": 185.0, "peak_gib": 1.23}
    write_text(tmp_path / "plan.jsonl", json.dumps(noted) + "\n")
    write_text(
        tmp_path / "history.jsonl",
        json.dumps({"pid": 1, "argv": ["x.py", "--report", str(one)], "event": "done", "at": 1, "seconds": 200.0})
        + "\n",
    )
    out = status(f"one={one}")
    assert "3:20 min" in out and "(plan: 3:05 min, took 1.2 GiB)" in out


def test_a_failed_evaluation_shows_its_score(status, tmp_path):
    write_json(tmp_path / "fixed.q4kxl.failed.json", {"results": {"passed": 37, "cases": 43}})
    assert "failed" in (out := status(f"q4kxl={tmp_path / 'fixed.q4kxl.json'}")) and "37/43" in out


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": []},
        {"seconds": 1e999},
        {"seconds": "x"},
        {"pid": 10**12, "event": "start"},
        {"argv": []},
        {"event": 7},
    ]
    + [{"pid": -1, "event": "start"}],
)
def test_a_line_of_the_history_that_is_none_is_passed_over(status, tmp_path, change):
    write_text(tmp_path / "rows", "first")
    made(tmp_path / "one.json", tmp_path / "rows")
    entry = {"pid": 1, "argv": ["x.py", "--report", str(tmp_path / "one.json")], "event": "done", "seconds": 1.0}
    write_text(tmp_path / "history.jsonl", json.dumps({**entry, **change}) + "\n")
    assert "one  done" in status(f"one={tmp_path / 'one.json'}")


@pytest.mark.parametrize(
    "change",
    [{"outputs": 7}, {"outputs": [[]]}, {"predicted_seconds": "x"}, {"predicted_seconds": 1e999}, {"peak_gib": None}],
)
def test_a_line_of_the_plan_that_is_none_is_passed_over(status, tmp_path, change):
    write_text(tmp_path / "rows", "first")
    made(tmp_path / "one.json", tmp_path / "rows")
    noted = {"stage": "one", "outputs": [str(tmp_path / "one.json")], "predicted_seconds": 1.0, "peak_gib": 1.0}
    write_text(tmp_path / "plan.jsonl", json.dumps({**noted, **change}) + "\n")
    assert "plan:" not in status(f"one={tmp_path / 'one.json'}")


SCRIPT = """
import sys, time
sys.path.insert(0, {scripts!r})
from kxl.base import cli
def main():
    print('started', flush=True)
    {body}
cli.run(main)
"""


def command(tmp_path, body, **popen):
    script = tmp_path / "verb.py"
    script.write_text(SCRIPT.format(scripts=str(ROOT / "scripts"), body=body))
    return subprocess.Popen(
        [sys.executable, str(script), "--out", "x.json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, history.VARIABLE: str(tmp_path / "history.jsonl")},
        **popen,
    )


@pytest.mark.parametrize(
    "body, event",
    [
        ("pass", "done"),
        ("raise cli.UserError('no')", "failed"),
        ("1 / 0", "failed"),
        ("raise KeyboardInterrupt", "interrupted"),
    ],
)
def test_the_history_tells_how_a_command_ended(tmp_path, body, event):
    command(tmp_path, body).communicate()
    entry = history.last(tmp_path / "history.jsonl")["x.json"]
    assert entry["event"] == event and entry["seconds"] >= 0 and entry["argv"][0] == "verb.py"


def test_a_running_command_is_seen_and_a_killed_one_is_not_taken_for_running(tmp_path):
    child = command(tmp_path, "time.sleep(60)")
    child.stdout.readline()
    assert history.last(tmp_path / "history.jsonl")["x.json"]["event"] == "running"
    child.kill()
    child.communicate()
    assert history.last(tmp_path / "history.jsonl")["x.json"]["event"] == "interrupted"


def test_a_command_that_reads_a_file_does_not_pass_for_the_one_that_made_it(tmp_path, monkeypatch):
    monkeypatch.setenv(history.VARIABLE, str(tmp_path / "history.jsonl"))
    for argv in (["made.py", "--out", "x.json"], ["read.py", "--eval", "x.json", "--out", "y.json"]):
        with history.recorded(argv):
            pass
    assert history.last(tmp_path / "history.jsonl")["x.json"]["argv"][0] == "made.py"


def test_a_command_called_by_hand_records_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv(history.VARIABLE, raising=False)
    with history.recorded(["verb.py"]):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_summary_and_a_release_folder_are_stale_when_a_report_changed(status, tmp_path):
    report_file, summary, release = tmp_path / "one.json", tmp_path / "release_summary.json", tmp_path / "release"
    write_json(report_file, {"results": {}})
    write_json(summary, {"reports": {str(report_file): sha256(report_file)}})
    release.mkdir()
    write_text(release / "release_summary.json", summary.read_text())
    assert status(f"summary={summary}", f"release={release}").count("done") == 2
    write_json(report_file, {"results": {"passed": 1}})
    out = status(f"summary={summary}", f"release={release}")
    assert out.count("stale") == 2 and "one.json changed after" in out


def test_a_process_that_has_the_number_of_a_killed_one_is_not_taken_for_it(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text(
        json.dumps({"pid": os.getpid(), "argv": ["long_gone.py", "--out", "x.json"], "event": "start", "at": 0})
        + '\n{"pid": 1, "ar'
    )
    if sys.platform == "linux":
        assert history.last(path)["x.json"]["event"] == "interrupted"


def test_history_lines_are_whole_json(tmp_path):
    command(tmp_path, "pass").communicate()
    assert [json.loads(line)["event"] for line in (tmp_path / "history.jsonl").read_text().splitlines()] == [
        "start",
        "done",
    ]


def recorded(path, monkeypatch, outcome, *argv):
    monkeypatch.setenv(history.VARIABLE, str(path / "history.jsonl"))
    with contextlib.suppress(outcome), history.recorded(list(argv)):
        raise outcome


def test_what_make_would_make_again_is_stale_with_the_reason(status, tmp_path):
    one = tmp_path / "one.json"
    made(one, write(tmp_path / "rows", "first"))
    assert "one  done" in status(f"one={one}", dry_run="")
    dry_run = (
        f"make/x.mk:3: update target '{one}' due to: runs/code/x runs/mine/settings/model.json\nx.py --report {one}\n"
    )
    out = status(f"one={one}", dry_run=dry_run)
    assert "one  stale" in out and "MODEL or a file of it changed" in out and "next: make one" in out
    behind = f"make/x.mk:4: update target '{one}' due to: runs/x.gguf\n"
    assert "runs/x.gguf is newer" in status(f"one={one}", dry_run=behind)
    first = "make/x.mk:2: update target 'runs/x.gguf' due to: runs/content/gguf/a.json\n"
    assert "runs/x.gguf is made again" in status(f"one={one}", dry_run=first + behind)
    without_reason = status(f"one={one}", dry_run=f"x.py --report {one} --config x\n")
    assert "one  stale" in without_reason and "something that it is made from" in without_reason


def write(path, text):
    write_text(path, text)
    return path


def test_an_interrupted_training_is_listed_and_one_that_nobody_began_is_not(status, tmp_path, monkeypatch):
    train = tmp_path / "moe.json"
    assert "train  " not in status(f"train?={train}", f"gguf={tmp_path / 'x.gguf'}")
    recorded(tmp_path, monkeypatch, KeyboardInterrupt, "moe_train.py", "--report", str(train))
    out = status(f"train?={train}", f"gguf={tmp_path / 'x.gguf'}")
    assert "train  interrupted" in out and out.splitlines()[-1] == "next: make train"


def test_a_refused_command_over_an_older_result_is_failed_and_has_no_time(status, tmp_path, monkeypatch):
    one = tmp_path / "one.json"
    made(one, write(tmp_path / "rows", "first"))
    recorded(tmp_path, monkeypatch, UserError, "x.py", "--report", str(one))
    out = status(f"one={one}", dry_run=f"x.py --report {one}\n")
    assert "one  failed" in out and "is of an earlier one" in out and " s " not in out
