"""The verdict on raw tokens, the counting, the gate, and the diagnosis of what went wrong."""

import json
import sys

import pytest

import smol_diagnose
import smol_evaluate
from kxl.base import report
from kxl.base.cli import UserError
from kxl.smol import emission
from kxl.smol.tokens import ToolTokens

TOKENS = ToolTokens(1, 2, 3, 4, {})


def ids(text: str) -> list[int]:
    """S and E are the call tokens, everything else a character above them."""
    return [{"S": 1, "E": 2}.get(letter, ord(letter) + 100) for letter in text]


def decode(tokens: list[int]) -> str:
    return "".join({1: "S", 2: "E"}.get(token) or chr(token - 100) for token in tokens)


CALL = '{"name": "f", "arguments": {"a": 1}}'


@pytest.mark.parametrize(
    "text, kind",
    [
        (f"S\n{CALL}\nE", "call"),
        (f"ok S{CALL}ES{CALL}E", "call"),
        (f"S{CALL}", "unclosed"),
        (f"S{CALL}ES", "unclosed"),
        ('S{"name": "f", "arguments": }E', "broken_json"),
        ('S{"name": "f"}E', "broken_json"),
        ('S["f"]E', "broken_json"),
        (f"{CALL}E", "broken_json"),
        (f"S{CALL}EE", "broken_json"),
        ("```python\nprint(1)\n```", "code_dump"),
        ("import os\nos.remove('x')", "code_dump"),
        (CALL, "code_dump"),
        ("I would write_file('a') now", "code_dump"),
        ("I would write a file now, and import it.", "text"),
        ("", "text"),
        (f"<think>f would do</think>S{CALL}E", "call"),
        (f"<think>perhaps S{CALL}E</think>\nIt is written.", "text"),
        (f"<think>perhaps S{CALL}E, or", "endless_thought"),
        ("<think>well, well</think>", "only_thought"),
        (f"<think>S</think>S{CALL}", "unclosed"),
        ("<think>```python```</think>\nNo.", "text"),
    ],
)
def test_what_was_emitted_is_named(text, kind):
    assert emission.read(ids(text), TOKENS, decode, ["write_file"]).kind == kind


def test_a_start_token_within_a_thought_is_no_call():
    assert not emission.read(ids(f"<think>S{CALL}E</think>No."), TOKENS, decode).started
    found = emission.read(ids(f"<think>S{CALL}E, so be it.</think>S{CALL}E"), TOKENS, decode)
    assert found.started and len(found.calls) == 1


def test_calls_are_read_up_to_the_break():
    found = emission.read(ids(f"S{CALL}ES nonsense E"), TOKENS, decode)
    assert (found.kind, found.calls) == (
        "broken_json",
        [{"name": "f", "arguments": {"a": 1}}],
    ) and "not JSON" in found.problem


def entry(kind="tool", verdict="call", name="f", probability=0.9):
    started = verdict in ("call", "broken_json", "unclosed")
    return {
        "id": "x",
        "kind": kind,
        "expected": ["f"] if kind == "tool" else None,
        "verdict": verdict,
        "started": started,
        "calls": [{"name": name, "arguments": {}}] if verdict == "call" else [],
        "start_probability": probability,
    }


BEFORE = (
    [entry(verdict="code_dump", probability=1e-6)] * 10
    + [entry("ordinary", "text")] * 10
    + [entry("near_miss", "text")] * 4
)
THRESHOLDS = {"min_right_tool": 0.9, "max_false_calls": 0.05}


def after(tool=(), ordinary=()):
    rest = 10 - len(tool)
    return [
        *tool,
        *[entry()] * rest,
        *ordinary,
        *[entry("ordinary", "text")] * (10 - len(ordinary)),
        *[entry("near_miss", "text")] * 4,
    ]


def test_the_numbers_of_the_report():
    results = smol_evaluate.compare(BEFORE, after([entry(name="g"), entry(verdict="unclosed")], [entry("ordinary")]))
    assert results["before"]["prompts"] == 10 and results["before"]["emitting"] == 0
    assert (results["after"]["start_json_end"], results["after"]["right_tool"]) == (9, 8)
    assert results["ordinary"] == {"prompts": 10, "false_calls": 1} and results["near_miss"] == {
        "prompts": 4,
        "false_calls": 0,
    }
    assert results["median_start_probability_rise"] == pytest.approx(9e5)


@pytest.mark.parametrize(
    "before, now, said",
    [
        (BEFORE, after(), []),
        (BEFORE, after([entry(name="g")]), []),
        (
            BEFORE,
            after([entry(name="g")] * 2),
            ["8 of 10 prompts got a whole call of the right tool, 90% are required"],
        ),
        (
            BEFORE,
            after(ordinary=[entry("ordinary", "unclosed")]),
            ["1 of 10 ordinary prompts called a tool, at most 5% may"],
        ),
        (
            [entry(), *BEFORE[1:]],
            after(),
            ["1 prompts got a start token before the training already: nothing was taught"],
        ),
    ],
)
def test_the_gate_names_each_missed_threshold(before, now, said):
    assert smol_evaluate.gate(smol_evaluate.compare(before, now), THRESHOLDS) == said


FALLING, FLAT = {"valid_losses": [2.0, 0.7, 0.5]}, {"valid_losses": [2.0, 1.95]}


@pytest.mark.parametrize(
    "now, training, names",
    [
        (after(), FALLING, []),
        (after([entry(verdict="code_dump", probability=0.3)] * 4), FALLING, ["code_dump"]),
        (after([entry(verdict="unclosed")] * 2), FALLING, ["broken_json"]),
        (after([entry(name="g")] * 2), FALLING, ["wrong_tool"]),
        (after([entry(verdict="endless_thought")] * 2), FALLING, ["endless_thought"]),
        (after([entry(verdict="only_thought")] * 2), FALLING, ["only_thought"]),
        (after(ordinary=[entry("ordinary")] * 2), FALLING, ["over_calling"]),
        (after([entry(verdict="text", probability=1e-5)] * 10), FALLING, ["embedding_not_adapted"]),
        (after([entry(verdict="code_dump", probability=1e-5)] * 10), FLAT, ["flat_loss", "code_dump"]),
    ],
)
def test_each_failure_of_the_plan_is_named(now, training, names):
    found = smol_diagnose.diagnose(smol_evaluate.compare(BEFORE, now), training)
    assert [name for name, _, _ in found] == names and all(change for _, _, change in found)


def test_the_diagnosis_takes_the_failed_report_when_there_is_no_other(tmp_path, monkeypatch, capsys):
    report.write(
        tmp_path / "emission.failed.json",
        [],
        {},
        smol_evaluate.compare(BEFORE, after(ordinary=[entry("ordinary")] * 5)),
    )
    monkeypatch.setattr(sys, "argv", ["smol_diagnose.py", "--emission", str(tmp_path / "emission.json")])
    smol_diagnose.main()
    assert capsys.readouterr().out.startswith("over_calling: 5 of 10 ordinary prompts called a tool")


def test_the_measurement_of_one_model_is_no_comparison(tmp_path, monkeypatch):
    report.write(tmp_path / "before.json", [], {}, smol_evaluate.count(BEFORE))
    monkeypatch.setattr(sys, "argv", ["smol_diagnose.py", "--emission", str(tmp_path / "before.json")])
    with pytest.raises(UserError, match="measurement of one model"):
        smol_diagnose.main()
    assert json.loads((tmp_path / "before.json").read_text())["results"]["tool"]["emitting"] == 0
