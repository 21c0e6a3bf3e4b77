"""Rows for a stranger's own tools: composed from their schemas alone, and into a set that a training takes."""

import json
import random
import time

import pytest

import repair_build_set
from helpers.own_tools import CASES, SUITE, TOOLS
from kxl.base.cli import UserError
from kxl.base.files import read_json, write_json
from kxl.chat import schemas
from kxl.eval import contamination, suites
from kxl.repair import own_tools
from kxl.repair import rows as repair_rows

BY_NAME = {tool["function"]["name"]: tool["function"] for tool in TOOLS}


def failure(wanted, called="text", kind="tool_call"):
    return {"suite": "own", "id": "x", "kind": kind, "wanted": wanted, "called": called}


def calls(row):
    return [call["function"] for message in row["messages"] for call in message.get("tool_calls", [])]


@pytest.mark.parametrize("name", BY_NAME)
def test_every_drawn_call_is_one_that_the_schema_takes_and_whose_words_are_in_the_request(name):
    rng = random.Random(name)
    for _ in range(200):
        [row] = own_tools.draw(rng, "focus", failure(name), TOOLS)
        [call] = calls(row)
        assert call["name"] == name
        assert not schemas.problems(BY_NAME[name]["parameters"], call["arguments"])
        for value in call["arguments"].values():
            assert own_tools.spoken(value) in row["messages"][0]["content"]


def test_requests_for_one_tool_are_worded_in_many_ways():
    rng = random.Random(1)
    rows = [own_tools.draw(rng, "focus", failure("get_weather"), TOOLS)[0] for _ in range(300)]
    assert len({row["messages"][0]["content"] for row in rows}) > 280


def test_a_contrast_is_of_the_wanted_tool_and_the_one_that_was_mistaken_for_it():
    rng = random.Random(2)
    for _ in range(20):
        rows = own_tools.draw(rng, "contrast", failure("get_weather", "book_table"), TOOLS)
        assert [calls(row)[0]["name"] for row in rows] == ["get_weather", "book_table"]
    words, called = own_tools.draw(rng, "contrast", failure("text", "book_table"), TOOLS)
    assert not calls(words) and calls(called)[0]["name"] == "book_table"


def test_a_finished_row_ends_in_words_that_tell_the_result():
    rng = random.Random(3)
    for _ in range(50):
        [row] = own_tools.draw(rng, "focus", failure("text", kind="finalization"), TOOLS)
        result, answer = row["messages"][-2:]
        assert result["role"] == "tool" and answer["role"] == "assistant" and not answer.get("tool_calls")
        assert json.loads(result["content"])["result"] in answer["content"]


def test_a_schema_that_nothing_drawn_fits_is_named_with_what_to_do():
    tool = {"name": "odd", "parameters": {"type": "object", "required": ["x"], "properties": {
        "x": {"type": "string", "pattern": "^zq[0-9]{12}$"}}}}  # fmt: skip
    with pytest.raises(UserError, match="tool odd: no arguments could be drawn.*repair.add"):
        own_tools.some_arguments(random.Random(4), tool)


@pytest.fixture
def failed(tmp_path):
    """A report of an own suite, lying where the user has it, in which every call failed."""
    write_json(tmp_path / "own.json", SUITE)
    details = [
        {
            "id": case["id"],
            "category": case["category"],
            "kind": case["kind"],
            "passed": case["kind"] != "tool_call",
            "leaks": [],
            "why": ["0 calls, expected 1"] if case["kind"] == "tool_call" else [],
            "calls": [],
            "finish_reason": "stop",
            "raw": None,
        }
        for case in suites.load(tmp_path / "own.json").cases
    ]
    write_json(
        tmp_path / "failed.json",
        {
            "inputs": [{"path": str(tmp_path / "own.json")}],
            "settings": {"suite": "own", "artifact": "bf16"},
            "results": {"passed": 1, "details": details},
        },
    )
    return tmp_path / "failed.json"


def test_a_set_for_an_own_suite_offers_its_tools_and_repeats_no_prompt_of_it(failed, tmp_path, monkeypatch):
    flags = ["--eval", failed, "--iteration", "01", "--rows", "120", "--out", tmp_path / "iter01"]
    monkeypatch.setattr("sys.argv", ["repair_build_set.py", *map(str, flags)])
    repair_build_set.main()
    manifest = read_json(tmp_path / "iter01/manifest.json")
    assert manifest["purposes"] == {"focus": 42, "contrast": 24, "negative": 18, "keep": 36}
    prompts = contamination.Prompts([tmp_path / "own.json"])
    rows = list(repair_rows.read(tmp_path / "iter01/train.jsonl"))
    assert rows and all(row["tools"] == TOOLS for row in rows)
    assert not any(prompts.of_row(row["messages"]) for row in rows)
    assert {call["name"] for row in rows for call in calls(row)} == set(BY_NAME)
    assert {case["id"] for case in CASES if case["kind"] == "tool_call"} == {
        answer.split("/")[1] for answer in manifest["answers"]
    }


def test_a_tool_that_leaves_nothing_new_to_ask_ends_with_what_to_do(failed, tmp_path, monkeypatch):
    monkeypatch.setattr(repair_build_set, "MOST_VAIN", 50)
    monkeypatch.setattr(own_tools, "call_row", lambda rng, tool: {"messages": [{"role": "user", "content": "same"}]})
    flags = ["--eval", failed, "--iteration", "01", "--rows", "120", "--out", tmp_path / "iter01"]
    monkeypatch.setattr("sys.argv", ["repair_build_set.py", *map(str, flags)])
    with pytest.raises(UserError, match="50 draws in a row repeat"):
        repair_build_set.main()


WIDE = {str(number): {"$ref": "#"} for number in range(60)}


@pytest.mark.parametrize(
    "parameters",
    [
        {"properties": WIDE, "required": list(WIDE)},
        {"properties": {"a": {"type": "array", "minItems": 10**9}}, "required": ["a"]},
        {"properties": {"a": {"type": "array", "minItems": 10**7, "items": {"enum": [1]}}}, "required": ["a"]},
        {"properties": {"a": {"type": "integer", "minimum": "5"}}, "required": ["a"]},
        {"properties": {"a": {"type": "number", "minimum": float("inf")}}, "required": ["a"]},
        {"properties": {"a": {"type": "array", "minItems": None}}, "required": ["a"]},
        {"properties": {"a": {"$ref": "#/properties/a"}}, "required": ["a"]},
        {"properties": {"a": {"type": {}}}, "required": ["a"]},
        {"properties": {"a": {"type": [[]]}}, "required": ["a"]},
        {"properties": {"a": {"anyOf": [{"$ref": "#"}] * 9}}, "required": ["a"]},
        {"properties": {"a": {"type": "integer", "multipleOf": 1e-320}}, "required": ["a"]},
    ],
)
def test_a_schema_that_asks_for_the_impossible_is_refused_soon_and_by_the_tools_name(parameters):
    tool = {"type": "function", "function": {"name": "odd", "parameters": {"type": "object", **parameters}}}
    begun = time.process_time()
    with pytest.raises(UserError, match="tool odd: no arguments could be drawn"):
        own_tools.draw(random.Random(1), "focus", failure("odd"), [tool])
    assert time.process_time() - begun < 10
