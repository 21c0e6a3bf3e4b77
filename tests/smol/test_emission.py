"""The verdict on raw tokens, the counting, the gate, and the diagnosis of what went wrong."""

import json
import sys

import pytest

import smol_diagnose
from kxl.base import report
from kxl.base.cli import UserError
from kxl.smol import emission, scores, sets
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


def entry(kind="tool", verdict="call", name="f", probability=0.9, value=1, tools=3, place=0, text="Well."):
    """An entry whose prompt wants f(x=1) or f(x=2)."""
    started = verdict in ("call", "broken_json", "unclosed")
    return {
        "id": f"{kind}/{place}",
        "source": "own",
        "kind": kind,
        "tools": ["f", "g", "h", "i"][:tools],
        "expected": [{"name": "f", "arguments": {"x": [1, 2], "y": ["", "no"]}}]
        if kind in ("tool", "masked")
        else None,
        "verdict": verdict,
        "started": started,
        "calls": [{"name": name, "arguments": {"x": value}}] if verdict == "call" else [],
        "start_probability": probability,
        "text": text,
    }


COUNTS = {"tool": 10, "ordinary": 10, "near_miss": 4, "irrelevance": 4, "live_irrelevance": 4}
THRESHOLDS = {
    "min_right_tool": 0.9,
    "min_right_arguments": 0.7,
    "max_false_calls": 0.05,
    "max_ordinary_calls": 0.05,
    "max_masked_loss": 0.1,
}


def entries(*changed, masked=0):
    """Everything as it should be, but for the `changed` entries, which replace the first ones of their kinds."""
    made = []
    for kind, count in {**COUNTS, "masked": masked}.items():
        first = [one for one in changed if one["kind"] == kind]
        rest = entry(kind, "call" if kind in ("tool", "masked") else "text")
        made += [{**one, "id": f"{kind}/{place}"} for place, one in enumerate(first + [rest] * (count - len(first)))]
    return made


BEFORE = entries(*[entry(verdict="code_dump", probability=1e-6)] * 10)
KLD = {"kld_mean": 0.01, "tokens": 99}


def compare(*changed, masked=0, before=BEFORE):
    return scores.compare(before, entries(*changed, masked=masked), KLD)


def test_the_numbers_of_the_report():
    wrong = [entry(name="g", tools=4), entry(verdict="unclosed"), entry(value=7), entry(value=2)]
    results = compare(*wrong, entry("ordinary"), entry("irrelevance"), entry("masked", name="g"), masked=2)
    test = results["test"]
    assert (test["prompts"], test["start_json_end"], test["right_tool"], test["right_arguments"]) == (10, 9, 8, 7)
    assert test["min_tools"] == 3 and test["by_tools"]["4"]["prompts"] == 1 and test["by_tools"]["4"]["right_tool"] == 0
    assert (results["restraint"]["prompts"], results["restraint"]["false_calls"]) == (12, 1)
    assert results["restraint"]["by_kind"]["irrelevance"] == {"prompts": 4, "false_calls": 1}
    assert (results["ordinary"]["prompts"], results["ordinary"]["false_calls"]) == (10, 1)
    assert (results["masked_names"]["prompts"], results["masked_names"]["right_tool"]) == (2, 1)
    assert results["before"]["test"]["emitting"] == 0 and results["before"]["test"]["right_tool"] == 0
    assert results["median_start_probability_rise"] == pytest.approx(9e5)


@pytest.mark.parametrize(
    "after, good",
    [
        (entry("ordinary", "text", text="Fine, thanks."), True),
        (entry("ordinary", "text", text="word " * 30), False),  # another length
        (entry("ordinary", "text", text="No tool can do that."), False),
        (entry("ordinary", "call"), False),
    ],
)
def test_an_ordinary_answer_stays_good_by_its_length_and_without_tool_words(after, good):
    results = compare(*[after] * 10)
    assert results["forgetting"] == {**KLD, "answers": 10, "as_good": 10 if good else 0}


@pytest.mark.parametrize(
    "call, right",
    [
        ({"x": 1}, True),
        ({"x": 1, "y": "no"}, True),
        ({"x": 1, "y": "yes"}, False),
        ({"x": True}, False),  # true is not 1
        ({}, False),
        ({"x": 1, "z": 0}, False),
    ],
)
def test_arguments_are_right_when_each_is_accepted_and_none_is_missing(call, right):
    expected = {"name": "f", "arguments": {"x": [1, 2], "y": ["", "no"]}}
    assert sets.right_arguments({"name": "f", "arguments": call}, expected) is right
    assert not sets.right_arguments({"name": "g", "arguments": call}, expected)


@pytest.mark.parametrize(
    "changed, masked, before, said",
    [
        ([], 0, BEFORE, []),
        ([entry(name="g")], 10, BEFORE, []),
        (
            [entry(name="g")] * 2,
            0,
            BEFORE,
            ["8 of 10 prompts got a call of the right tool, 90% are required"],
        ),
        (
            [entry(value=9)] * 4,
            0,
            BEFORE,
            ["6 of 10 prompts got the right arguments, too, 70% are required"],
        ),
        (
            [entry("near_miss", "unclosed")],
            0,
            BEFORE,
            ["1 of 12 restraint prompts called a tool, at most 5% may"],
        ),
        ([entry("ordinary")], 0, BEFORE, ["1 of 10 ordinary prompts called a tool, at most 5% may"]),
        (
            [entry("masked", name="g")] * 2,
            10,
            BEFORE,
            ["with random names 8 of 10 get the right tool, 20.0% less; at most 10% are allowed"],
        ),
        (
            [],
            0,
            entries(),
            ["10 prompts got a start token before the training already: nothing was taught"],
        ),
    ],
)
def test_the_gate_names_each_missed_threshold(changed, masked, before, said):
    assert scores.gate(compare(*changed, masked=masked, before=before), THRESHOLDS) == said


FALLING, FLAT = {"valid_losses": [2.0, 0.7, 0.5]}, {"valid_losses": [2.0, 1.95]}


@pytest.mark.parametrize(
    "changed, training, names",
    [
        ([], FALLING, []),
        ([entry(verdict="code_dump", probability=0.3)] * 4, FALLING, ["code_dump", "under_calling"]),
        ([entry(verdict="unclosed")] * 2, FALLING, ["broken_json"]),
        ([entry(name="g")] * 2, FALLING, ["wrong_tool"]),
        ([entry(value=5)] * 2, FALLING, ["wrong_arguments"]),
        ([entry("masked", name="g")] * 2, FALLING, ["names_not_read"]),
        ([entry("ordinary")] * 2, FALLING, ["over_calling"]),
        ([entry("near_miss")], FALLING, ["over_calling"]),
        ([entry(verdict="text", probability=1e-5)] * 10, FALLING, ["embedding_not_adapted", "under_calling"]),
        ([entry(verdict="code_dump", probability=1e-5)] * 10, FLAT, ["flat_loss", "code_dump", "under_calling"]),
        ([entry(verdict="endless_thought")] * 2, FALLING, ["endless_thought", "under_calling"]),
        ([entry(verdict="only_thought")] * 2, FALLING, ["only_thought", "under_calling"]),
    ],
)
def test_each_failure_of_the_plan_is_named(changed, training, names):
    masked = 10 if any(one["kind"] == "masked" for one in changed) else 0
    found = smol_diagnose.diagnose(compare(*changed, masked=masked), training)
    assert [name for name, _, _ in found] == names and all(change for _, _, change in found)


def test_over_calling_is_named_with_its_rate_and_what_to_add():
    (found,) = smol_diagnose.diagnose(compare(entry("near_miss"), entry("near_miss"), entry("irrelevance")), FALLING)
    assert found.seen.startswith("3 of 12 restraint prompts (25.0%) called a tool")
    assert "near_miss 50.0%" in found.seen and "irrelevance 25.0%" in found.seen and "near in datasets" in found.change


def test_the_diagnosis_takes_the_failed_report_when_there_is_no_other(tmp_path, monkeypatch, capsys):
    report.write(tmp_path / "emission.failed.json", [], {}, compare(*[entry("ordinary")] * 5))
    monkeypatch.setattr(sys, "argv", ["smol_diagnose.py", "--emission", str(tmp_path / "emission.json")])
    smol_diagnose.main()
    assert capsys.readouterr().out.startswith("over_calling: 5 of 10 ordinary prompts (50.0%) called a tool")


def test_the_measurement_of_one_model_is_no_comparison(tmp_path, monkeypatch):
    report.write(tmp_path / "before.json", [], {}, scores.one_model(BEFORE))
    monkeypatch.setattr(sys, "argv", ["smol_diagnose.py", "--emission", str(tmp_path / "before.json")])
    with pytest.raises(UserError, match="measurement of one model"):
        smol_diagnose.main()
    assert json.loads((tmp_path / "before.json").read_text())["results"]["test"]["emitting"] == 0
