"""The verdict on a model's raw text: thoughts, leaks by the tools on offer, and schemas of any form."""

import json
import random
import time

import pytest

from helpers import mutation
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json
from kxl.chat import schemas
from kxl.eval import client, suites, verdicts
from kxl.eval.suites import Suite
from kxl.eval.verdicts import Answer


def tool(name: str, parameters) -> dict:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TERMINAL = tool("terminal", {"type": "object", "required": ["command"], "properties": {"command": {"type": "string"}}})
CASES = {
    "tool_call": {
        "id": "one",
        "kind": "tool_call",
        "calls": [{"name": "terminal", "arguments": {"command": {"exact": "ls"}}}],
    },
    "no_tool": {"id": "one", "kind": "no_tool"},
}
SUITE = Suite("s", [TERMINAL], 20, list(CASES.values()))
CALL = '<|tool_call_start|>[terminal(command="ls")]<|tool_call_end|>'


def why(kind: str, text: str, cut=False, opened=False) -> list:
    return verdicts.judge(SUITE, CASES[kind], client.read_raw(text, SUITE, cut, opened))


@pytest.mark.parametrize(
    "kind, text",
    [
        ("tool_call", f'<think>I can use terminal(command="ls") for that.</think>\n{CALL}'),
        ("tool_call", f"<think>It ends with </think>, they say: {CALL}\n</think>\n{CALL}"),
        ("tool_call", f"<think></think>{CALL}<|im_end|>"),
        ("no_tool", f"<think>{CALL} would do it.</think>ls lists files."),
        ("no_tool", '<think>{"name": "terminal", "arguments": {}} or not?</think>\n\nls lists files.<|im_end|>'),
        ("no_tool", "A model writes `<think>` before it answers."),
    ],
)
def test_a_thought_is_neither_visible_text_nor_call(kind, text):
    assert why(kind, text) == []


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize(
    "text, cut, opened, verdict",
    [
        ("<think>I should explain what ls does.</think>", False, False, verdicts.THOUGHT_ONLY),
        ("<think>I should explain what ls does.</think>\n \n<|im_end|>", False, False, verdicts.THOUGHT_ONLY),
        ("I should explain what ls does.</think>", False, True, verdicts.THOUGHT_ONLY),
        (f"<think>I should explain {CALL}", False, False, verdicts.NEVER_ENDS),
        ("I should explain", False, True, verdicts.NEVER_ENDS),
        ("<think>I should explain", True, False, verdicts.RAN_OUT),
        ("I should explain", True, True, verdicts.RAN_OUT),
        ("<think>I should explain.</think>", True, False, verdicts.RAN_OUT),
    ],
)
def test_nothing_but_a_thought_fails_with_a_verdict_of_its_own(kind, text, cut, opened, verdict):
    assert why(kind, text, cut, opened) == [verdict]


def test_a_cut_off_answer_behind_its_thought_is_cut_off_and_not_a_thought():
    assert why("no_tool", "<think>hm</think>ls lists", cut=True) == ["finish_reason is length, expected stop"]


@pytest.mark.parametrize(
    "text",
    [
        '<function_calls>\n<invoke name="terminal">\n<parameter name="command" string="true">ls</parameter>\n'
        "</invoke>\n</function_calls>",
        '[terminal("ls -la")]',
        '<think>So.</think>[terminal("ls -la")]',
        '{"type": "function", "name": "terminal", "parameters": {"command": "ls"}}',
    ],
)
def test_a_call_written_as_text_is_a_leak(text):
    assert any(reason.startswith("tool call in the text: ") for reason in why("no_tool", text))


@pytest.mark.parametrize(
    "text",
    [
        "Keyword arguments look like this: `points = [Point(x=1, y=2), Point(x=3, y=4)]`.",
        "[Point(x=1)]",
        '{"name": "Ada", "parameters": {"age": 36}}',
    ],
)
def test_code_that_calls_no_tool_on_offer_is_words(text):
    assert why("no_tool", text) == []


def test_a_tool_of_the_cases_own_is_what_leaks_are_judged_by():
    case = {**CASES["no_tool"], "tools": [tool("Point", {})]}
    assert verdicts.judge(SUITE, case, Answer("[Point(x=1)]", [], "stop")) == ["tool call in the text: [Point(x=1)]"]
    assert verdicts.judge(SUITE, case, Answer('[terminal("ls")]', [], "stop")) == []


# Schemas that somebody else wrote

RULES = {"what": {"type": "string"}}


@pytest.mark.parametrize(
    "parameters, arguments, passes",
    [
        ({"properties": {**RULES, "filter": True}}, {"what": "a"}, True),
        ({"properties": {**RULES, "filter": True}}, {"what": "a", "filter": 1}, False),  # nobody asked for it
        ({"properties": {**RULES, "filter": False}}, {"what": "a", "filter": 1}, False),
        ({"properties": {"what": True}}, {"what": "a"}, True),
        ({"properties": RULES, "additionalProperties": False}, {"what": "a", "b": 1}, False),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "properties": RULES}, {"what": "a"}, True),
        ({"$schema": "https://example.com/my-own", "properties": RULES}, {"what": "a"}, True),
        (
            {"properties": {**RULES, "mode": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}}},
            {"what": "a", "mode": None},
            True,
        ),
        ({"$defs": {"W": {"enum": ["a"]}}, "properties": {"what": {"$ref": "#/$defs/W"}}}, {"what": "a"}, True),
        ({"properties": {"what": {"type": "string", "nullable": True}}}, {"what": "a"}, True),
    ],
)
def test_a_suite_with_any_valid_schema_is_judged(tmp_path, parameters, arguments, passes):
    suite = load(tmp_path, parameters)
    answer = Answer("", [{"name": "look", "arguments": arguments}], "tool_calls")
    assert (verdicts.judge(suite, suite.cases[0], answer) == []) == passes


def load(tmp_path, parameters) -> Suite:
    case = {
        "id": "one",
        "kind": "tool_call",
        "category": "c",
        "prompt": "p",
        "calls": [{"name": "look", "arguments": {"what": {"exact": "a"}}}],
    }
    path = tmp_path / "suite.json"
    look = {"type": "function", "function": {"name": "look", "parameters": parameters}}
    path.write_text(json.dumps({"name": "s", "tools": [look], "system": None, "max_tokens": 9, "cases": [case]}))
    return suites.load(path)


@pytest.mark.parametrize(
    "parameters, said",
    [
        ({"type": "objekt"}, "the parameters of tool look are no JSON Schema that can be applied: type: 'objekt'"),
        ({"properties": []}, "properties: [] is not of type 'object'"),
        ({"properties": {"what": {"pattern": "["}}}, "properties what pattern: '[' is not a 'regex'"),
        ({"properties": {"what": {"$ref": "#/$defs/W"}}}, "it refers to #/$defs/W, which is not in it"),
        ({"properties": {"what": {"$ref": "https://example.com/w"}}}, "it refers to https://example.com/w, which is"),
        ({"$ref": "#"}, "it refers to itself without end"),
        ({"required": "what"}, "required: 'what' is not of type 'array'"),
        ({"properties": {"what": {"default": float("nan")}}}, "holds NaN, which cannot be sent to a server"),
        ({"description": "\ud800"}, "holds half of a surrogate pair"),
    ],
)
def test_a_schema_that_cannot_be_applied_is_named_before_anything_is_asked(tmp_path, parameters, said):
    with pytest.raises(UserError) as error:
        load(tmp_path, parameters)
    assert said in str(error.value) and str(error.value).startswith(str(tmp_path / "suite.json"))


def test_parts_of_a_schema_are_found_and_patterns_end(tmp_path):
    parameters = {
        "type": "object",
        "properties": {"what": {"$ref": "#/$defs/What"}},
        "$defs": {"What": {"type": "string", "pattern": "^(a|a)*$"}},
    }
    suite = load(tmp_path, parameters)  # "a" is valid by the part
    began = time.process_time()
    long = verdicts.Answer("", [{"name": "look", "arguments": {"what": "a" * 5000 + "!"}}], "tool_calls")
    assert any("takes more than 0.1 s" in why for why in verdicts.judge(suite, suite.cases[0], long))
    suite.cases[0]["calls"][0]["arguments"] = {"what": {"regex": "(b|b)*"}}
    slow = verdicts.Answer("", [{"name": "look", "arguments": {"what": "b" * 5000 + "!"}}], "tool_calls")
    assert verdicts.judge(suite, suite.cases[0], slow)
    assert time.process_time() - began < 3


def test_two_tools_of_one_name_and_endless_caps_are_refused(tmp_path):
    data = {"name": "s", "tools": [TERMINAL, TERMINAL], "system": None, "max_tokens": 9}
    data["cases"] = [{"id": "a", "kind": "no_tool", "category": "c", "prompt": "p"}]
    path = tmp_path / "suite.json"
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match="2 tools are called terminal"):
        suites.load(path)
    path.write_text(json.dumps({**data, "tools": None, "max_tokens": 10**12}))
    with pytest.raises(UserError, match="max_tokens: 1000000000000 is greater than the maximum"):
        suites.load(path)


def test_no_schema_makes_a_verdict_raise():
    for schema in ({"$ref": "#"}, {"type": 5}, {"pattern": "["}, {"$ref": 3}, [], None, 7, {"$schema": []}):
        assert all(isinstance(one, str) for one in schemas.problems(schema, {"a": "b"}))


def suites_survive(seeds, tmp_path) -> None:
    whole = read_json(ROOT / "evals" / "suites" / "fixed_hermes_43.json")
    hard = read_json(ROOT / "evals" / "suites" / "hard_157.json")
    kept = [{**data, "cases": data["cases"][a::40], "tools": tools}
            for data in (whole, hard) for a in (0, 3) for tools in (data["tools"], [TERMINAL])]  # fmt: skip
    path = tmp_path / "suite.json"
    for seed in seeds:
        rng = random.Random(seed)
        data = mutation.value(rng, rng.choice(kept))
        text = json.dumps(data, ensure_ascii=rng.random() < 0.5)
        text = mutation.text(rng, text) if rng.random() < 0.3 else text
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            suite = suites.load(path)
        except UserError as error:
            assert str(path) in str(error)
            continue
        for case in suite.cases:
            for call in case.get("calls", [{"name": "terminal"}]):
                arguments = {name: rng.choice(mutation.VALUES) for name in ("command", "path", "url", "")}
                verdicts.judge(
                    suite, case, Answer("hm", [{"name": call["name"], "arguments": arguments}], "tool_calls")
                )


def test_a_mutated_suite_is_loaded_and_judged_or_refused_by_name(tmp_path):
    suites_survive(range(300), tmp_path)


@pytest.mark.slow
def test_ten_thousand_mutated_suites_are_loaded_and_judged_or_refused_by_name(tmp_path):
    suites_survive(range(300, 10_300), tmp_path)
