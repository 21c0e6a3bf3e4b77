"""From failures to rows: the diagnosis, the balance, and no eval prompt in any set."""

import json
import random

import pytest

import repair_build_set
from conftest import ROOT
from kxl.base.cli import UserError
from kxl.base.files import read_json, sha256, write_json
from kxl.eval import contamination, suites
from kxl.eval.requests import requests_of
from kxl.repair import diagnosis
from kxl.repair import rows as repair_rows

SUITES = sorted((ROOT / "evals/suites").glob("*.json"))
COLLOQUIAL = ROOT / "evals/suites/colloquial_20.json"


def test_the_suites_are_what_the_reference_asked_for():
    cases = suites.load(COLLOQUIAL).cases
    assert [sum(case["kind"] == kind for case in cases) for kind in suites.KINDS] == [13, 4, 3]
    prompts = {case["messages"][-1]["content"] for case in cases}
    assert {
        "run echo hermes-tool-test",
        "pwd in terminal",
        "list files here from shell",
        "search this repo for browser_navigate",
    } <= prompts
    assert [
        len(suites.load(ROOT / f"evals/suites/{name}.json").cases)
        for name in ("structured_6", "structured_12", "generation_smoke")
    ] == [6, 12, 5]


def entry(case, **changes):
    """A report's entry for `case`, by default of a wrong answer in words."""
    return {
        "id": case["id"],
        "kind": case["kind"],
        "category": case["category"],
        "content": "",
        "calls": [],
        "finish_reason": "stop",
        "passed": False,
        "why": ["something"],
        "leaks": [],
        "raw": {"text": "", "calls": [], "passed": False, "why": ["something"]},
        **changes,
    }


CASES = {case["id"]: case for case in suites.load(COLLOQUIAL).cases}
PWD, HI, FINAL = CASES["pwd_in_terminal"], CASES["no_tool_hi"], CASES["final_echo"]


@pytest.mark.parametrize(
    "case, changes, kind",
    [
        (PWD, dict(calls=[{"name": "browser_navigate", "arguments": {"url": "pwd"}}]), "wrong_tool"),
        (PWD, dict(calls=[{"name": "terminal", "arguments": {"command": "ls"}}]), "wrong_argument"),
        (PWD, dict(calls=[{"name": "terminal", "arguments": {"command": "pwd"}}] * 2), "wrong_argument"),
        (PWD, dict(content="I cannot do that."), "refusal"),
        (PWD, dict(content="[terminal(command='pwd')]", leaks=["[terminal("]), "text_leak"),
        (PWD, dict(finish_reason="tool_calls", why=["unreadable call: there is none"]), "malformed"),
        (PWD, dict(raw={"text": "<|tool_call_start|>[terminal(", "passed": False, "why": ["x"]}), "malformed"),
        (PWD, dict(passed=True, why=[]), "malformed"),  # the server read what our strict parser does not
        (HI, dict(calls=[{"name": "terminal", "arguments": {}}]), "false_positive"),
        (FINAL, dict(content="Done."), "wrong_answer"),
        (PWD, dict(passed=True, why=[], raw={"text": "", "passed": True, "why": []}), None),
    ],
)
def test_each_failure_has_its_name(case, changes, kind):
    assert diagnosis.diagnose(case, entry(case, **changes)) == kind
    assert kind is None or kind in diagnosis.KINDS


@pytest.fixture
def report(tmp_path):
    """A report in which casual terminal requests go to the browser and a greeting calls a tool."""
    failing = {"pwd_in_terminal", "run_echo", "no_tool_hi"}
    details = [
        entry(case, calls=[{"name": "browser_navigate", "arguments": {"url": "pwd"}}])
        if case["id"] in failing
        else entry(case, passed=True, why=[], raw={"text": "", "passed": True, "why": []})
        for case in CASES.values()
    ]
    write_json(
        tmp_path / "colloquial.json",
        {"settings": {"suite": "colloquial_20", "artifact": "bf16"}, "results": {"passed": 17, "details": details}},
    )
    return tmp_path / "colloquial.json"


def build(monkeypatch, report, out, *flags):
    monkeypatch.setattr(
        "sys.argv", ["repair_build_set.py", "--eval", str(report), "--out", str(out), "--rows", "160", *flags]
    )
    repair_build_set.main()
    return read_json(out / "manifest.json")


def test_a_set_is_balanced_over_the_failures_and_the_same_each_time(monkeypatch, report, tmp_path):
    manifest = build(monkeypatch, report, tmp_path / "iter01", "--iteration", "01")
    assert manifest["diagnoses"] == {"wrong_tool": 2, "false_positive": 1}
    assert manifest["purposes"] == {"focus": 56, "contrast": 32, "negative": 24, "keep": 48}
    counts = manifest["answers"].values()
    assert len(counts) == 3 and max(counts) - min(counts) <= 4
    assert manifest["files"]["train.jsonl"] == sha256(tmp_path / "iter01" / "train.jsonl")
    assert build(monkeypatch, report, tmp_path / "again", "--iteration", "01")["files"] == manifest["files"]
    assert build(monkeypatch, report, tmp_path / "iter02", "--iteration", "02")["files"] != manifest["files"]


def test_rows_are_structured_and_repeat_no_eval_prompt(monkeypatch, report, tmp_path):
    build(monkeypatch, report, tmp_path / "iter01", "--iteration", "01")
    rows = [row for split in ("train", "valid") for row in repair_rows.read(tmp_path / "iter01" / f"{split}.jsonl")]
    forbidden = {
        words for path in SUITES for case in suites.load(path).cases for words in requests_of(case["messages"])
    }
    for row in rows:
        assert forbidden.isdisjoint(requests_of(row["messages"]))
        offered = {tool["function"]["name"]: tool["function"]["parameters"] for tool in row["tools"]}
        for message in row["messages"]:
            for call in message.get("tool_calls", []):
                assert set(call["function"]["arguments"]) <= set(offered[call["function"]["name"]]["properties"])
    for purpose in ("focus", "contrast"):
        tools = {
            call["function"]["name"]
            for row in rows
            if row["purpose"] == purpose and row["answers"].endswith("pwd_in_terminal")
            for message in row["messages"]
            for call in message.get("tool_calls", [])
        }
        assert tools == ({"terminal"} if purpose == "focus" else {"terminal", "browser_navigate"})


def test_a_contrast_is_about_one_thing():
    for seed in range(40):
        one, other = (
            row["messages"][-1]["tool_calls"][0]["function"]
            for row in repair_rows.pair(random.Random(seed), "terminal", "browser_navigate")
        )
        assert (one["name"], other["name"]) == ("terminal", "browser_navigate")
        thing = other["arguments"]["url"].removeprefix("https://").removesuffix(".com")
        assert thing in one["arguments"]["command"]


FAILURE = {"suite": "mine", "id": "a", "kind": "tool_call", "wanted": "terminal", "called": "browser_navigate"}


def test_a_call_of_a_tool_that_does_not_exist_is_contrasted_with_one_that_does():
    for seed in range(20):
        one, _ = repair_rows.draw(random.Random(seed), "contrast", {**FAILURE, "called": "run_shell"})
        assert one["messages"][-1]["tool_calls"][0]["function"]["name"] == "terminal"


def test_a_wanted_tool_for_which_there_are_no_requests_is_named_with_its_case():
    with pytest.raises(UserError, match="mine, case a: wants web_search"):
        repair_rows.draw(random.Random(1), "focus", {**FAILURE, "wanted": "web_search"})


def test_most_rows_stand_under_the_system_message_that_the_suites_ask_with(monkeypatch, report, tmp_path):
    build(monkeypatch, report, tmp_path / "iter01", "--iteration", "01")
    rows = repair_rows.read(tmp_path / "iter01" / "train.jsonl")
    asked = PWD["messages"][0]["content"]
    assert sum(row["messages"][0]["content"] == asked for row in rows) > len(rows) / 2


PROMPTS = contamination.Prompts(SUITES)


@pytest.mark.parametrize(
    "text",
    [
        "pwd in terminal",
        "PWD, in terminal!",
        "hey, can you please do pwd in the terminal pls",
        "please run echo hermes-tool-test for me",
        "Hi. What is the difference between git merge and git rebase in two lines",
    ],
)
def test_near_copies_are_found(text):
    prompt, where = PROMPTS.overlap(text)
    assert "evals/suites/" in where and "case" in where and prompt


@pytest.mark.parametrize(
    "text",
    [
        "date in terminal",
        "run echo good-morning",
        "Search the project for the string `save_config`.",
        "show me the Dockerfile",
        "thanks",
    ],
)
def test_the_same_wording_about_something_else_is_no_copy(text):
    assert PROMPTS.overlap(text) is None


def test_a_row_of_the_users_that_repeats_a_prompt_stops_the_build_and_both_are_named(monkeypatch, report, tmp_path):
    own = tmp_path / "own.jsonl"
    own.write_text(
        json.dumps(
            {
                "messages": [
                    {"role": "user", "content": "could you do a pwd in the terminal"},
                    {"role": "assistant", "content": "no"},
                ],
                "tools": [],
            }
        )
        + "\n"
    )
    with pytest.raises(
        UserError,
        match=r"own\.jsonl, row 1: 'could you do a pwd in the terminal' repeats the eval prompt 'pwd in terminal' "
        r"\(evals/suites/colloquial_20\.json, case pwd_in_terminal\)",
    ):
        build(monkeypatch, report, tmp_path / "iter01", "--iteration", "01", "--add", str(own))
    assert not (tmp_path / "iter01").exists()


@pytest.mark.parametrize(
    "line, complaint",
    [
        ("{", "own.jsonl:1: not JSON"),
        ('{"rows": 1}', 'own.jsonl:1: needs "messages"'),
        ('{"messages": [{"role": "user", "content": "a"}]}', "own.jsonl:1: no message is from the assistant"),
    ],
)
def test_a_malformed_row_is_named_by_file_and_line(tmp_path, line, complaint):
    (tmp_path / "own.jsonl").write_text(line + "\n")
    with pytest.raises(UserError, match=complaint):
        repair_rows.read(tmp_path / "own.jsonl")


def test_a_report_without_failures_has_nothing_to_repair(monkeypatch, tmp_path):
    details = [entry(case, passed=True, why=[], raw=None) for case in CASES.values()]
    write_json(
        tmp_path / "all.json",
        {"settings": {"suite": "colloquial_20", "artifact": "bf16"}, "results": {"passed": 20, "details": details}},
    )
    with pytest.raises(UserError, match="nothing failed"):
        build(monkeypatch, tmp_path / "all.json", tmp_path / "iter01", "--iteration", "01")
