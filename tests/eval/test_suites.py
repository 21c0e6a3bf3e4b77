"""The verdict on an answer, and what a suite may say."""

import copy
import json
import re
from pathlib import Path

import pytest

from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json
from kxl.eval import suite_files, suites, verdicts
from kxl.eval.verdicts import Answer

FIXED = ROOT / "evals" / "suites" / "fixed_hermes_43.json"
# One correct value for each regex rule, written by hand: a regex does not tell what it accepts.
EXAMPLES = {
    "terminal_casual_list": {"command": "ls -la"},
    "terminal_casual_install": {"command": "pip install requests"},
    "browser_casual_no_scheme": {"url": "https://github.com/torvalds/linux"},
}


@pytest.fixture(scope="module")
def fixed():
    return suites.load(FIXED)


def correct(case: dict) -> Answer:
    """The answer that a perfect model gives."""
    if case["kind"] != "tool_call":
        return Answer("Certainly: " + " ".join(case.get("answer", {}).get("contains", [])), [], "stop")
    calls = [
        {
            "name": call["name"],
            "arguments": {
                name: EXAMPLES[case["id"]][name] if "regex" in rule else rule.get("exact", rule.get("set", [None])[0])
                for name, rule in call["arguments"].items()
                if not rule.get("optional")
            },
        }
        for call in case["calls"]
    ]
    return Answer("", calls, "tool_calls")


def test_fixed_suite_has_28_calls_10_refusals_and_5_finalizations(fixed):
    kinds = [case["kind"] for case in fixed.cases]
    assert [kinds.count(kind) for kind in suites.KINDS] == [28, 10, 5]
    assert {case["category"] for case in fixed.cases} == {
        "browser",
        "terminal",
        "read",
        "search",
        "write",
        "no_tool",
        "finalization",
    }
    assert len(fixed.tools) == 7


def test_a_perfect_model_passes_every_fixed_case(fixed):
    assert [(case["id"], why) for case in fixed.cases if (why := verdicts.judge(fixed, case, correct(case)))] == []


def test_no_fixed_case_passes_for_the_answer_to_another(fixed):
    for case in fixed.cases:
        for other in fixed.cases:
            if case["kind"] != "no_tool" and case is not other:
                assert verdicts.judge(fixed, case, correct(other)), (
                    f"{case['id']} passes with the answer to {other['id']}"
                )


def test_the_arguments_of_fixed_cases_stand_in_their_requests(fixed):
    """What is copied can be checked; only `ls` and the optional rules are a person's own reading."""
    for case in fixed.cases:
        for call in case.get("calls", []):
            for name, rule in call["arguments"].items():
                value = rule.get("exact", rule.get("set", [None])[0])
                if isinstance(value, str) and value != "files" and not rule.get("optional"):
                    assert value.casefold() in case["messages"][-1]["content"].casefold(), (case["id"], name)


TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "",
        "parameters": {
            "type": "object",
            "required": ["what"],
            "properties": {
                "what": {"type": "string"},
                "depth": {"type": "integer", "default": 1},
                "all": {"type": "boolean", "default": False},
                "mode": {"type": "string", "enum": ["near", "far"]},
                "tags": {"type": "array", "items": {"type": "string"}},
                "flag": {},
            },
        },
    },
}
OTHER = {
    "type": "function",
    "function": {"name": "leave", "description": "", "parameters": {"type": "object", "properties": {}}},
}


def suite_of(tmp_path: Path, *cases, **changes) -> Path:
    path = tmp_path / "suite.json"
    path.write_text(
        json.dumps(
            {"name": "s", "tools": [TOOL, OTHER], "system": None, "max_tokens": 10, "cases": list(cases), **changes}
        )
    )
    return path


def call_case(arguments: dict, **changes) -> dict:
    return {
        "id": "one",
        "kind": "tool_call",
        "category": "c",
        "prompt": "p",
        "calls": [{"name": "look", "arguments": arguments}],
        **changes,
    }


def verdict(tmp_path, case, answer) -> list:
    suite = suites.load(suite_of(tmp_path, case))
    return verdicts.judge(suite, suite.cases[0], answer)


def looked(**arguments) -> Answer:
    return Answer("", [{"name": "look", "arguments": arguments}], "tool_calls")


@pytest.mark.parametrize(
    "rule, value, passes",
    [
        ({"exact": "a"}, "a", True),
        ({"exact": "a"}, "A", False),
        ({"exact": "a"}, "a ", False),
        ({"exact": "a"}, " a", False),
        ({"set": ["a", "b"]}, "b", True),
        ({"set": ["a", "b"]}, "c", False),
        ({"regex": "ls( -\\w+)*"}, "ls -la", True),
        ({"regex": "ls( -\\w+)*"}, "ls -la; rm x", False),
        ({"regex": "ls( -\\w+)*"}, "ls\n", False),
    ],
)
def test_each_rule_takes_the_whole_value(tmp_path, rule, value, passes):
    assert (verdict(tmp_path, call_case({"what": rule}), looked(what=value)) == []) == passes


def test_argument_at_its_schema_default_counts_as_left_out(tmp_path):
    asked = call_case({"what": {"exact": "a"}})
    assert verdict(tmp_path, asked, looked(what="a", depth=1, all=False)) == []
    assert verdict(tmp_path, asked, looked(what="a", depth=2)) == ["depth=2 was not asked for"]
    assert verdict(tmp_path, asked, looked(what="a", mode="near")) == ['mode="near" was not asked for']
    assert verdict(tmp_path, call_case({"what": {"exact": "a"}, "depth": {"exact": 1}}), looked(what="a")) == []


def test_optional_argument_may_be_absent_but_not_wrong(tmp_path):
    asked = call_case({"what": {"exact": "a"}, "depth": {"regex": "[2-9]", "optional": True}})
    assert verdict(tmp_path, asked, looked(what="a")) == []
    assert verdict(tmp_path, asked, looked(what="a", depth=3)) == []
    assert verdict(tmp_path, asked, looked(what="a", depth=30)) == ["depth is 30, expected /[2-9]/"]


def test_missing_argument_is_named(tmp_path):
    why = verdict(tmp_path, call_case({"what": {"exact": "a"}}), looked())
    assert "look: invalid by schema: 'what' is a required property" in why and 'what is missing, expected "a"' in why


def test_numbers_booleans_and_strings_are_not_confused(tmp_path):
    asked = call_case({"what": {"exact": "a"}, "depth": {"exact": 2}, "all": {"exact": True}})
    assert verdict(tmp_path, asked, looked(what="a", depth=2, all=True)) == []
    assert verdict(tmp_path, asked, looked(what="a", depth=2.0, all=True)) == []
    assert verdict(tmp_path, asked, looked(what="a", depth="2", all=True))
    assert verdict(tmp_path, asked, looked(what="a", depth=2, all=1))
    assert verdict(tmp_path, asked, looked(what="a", depth=2, all="true"))
    untyped = call_case({"what": {"exact": "a"}, "flag": {"exact": {"deep": [True]}}})  # no schema to catch it
    assert verdict(tmp_path, untyped, looked(what="a", flag={"deep": [True]})) == []
    assert verdict(tmp_path, untyped, looked(what="a", flag={"deep": [1]}))


def test_what_the_schema_refuses_fails_even_where_no_rule_looks(tmp_path):
    why = verdict(
        tmp_path,
        call_case({"what": {"exact": "a"}, "tags": {"regex": ".*", "optional": True}}),
        looked(what="a", tags=[1]),
    )
    assert why == ["look: invalid by schema: 1 is not of type 'string'"]


def test_another_tool_an_unknown_tool_and_a_second_call_fail(tmp_path):
    asked, right = call_case({"what": {"exact": "a"}}), looked(what="a").calls
    assert verdict(tmp_path, asked, Answer("", [{"name": "leave", "arguments": {}}], "tool_calls")) == [
        "called leave, expected look"
    ]
    assert "called jump, which is not among the tools" in verdict(
        tmp_path, asked, Answer("", [{"name": "jump", "arguments": {}}], "tool_calls")
    )
    assert verdict(tmp_path, asked, Answer("", right * 2, "tool_calls")) == ["2 calls, expected 1"]
    assert verdict(tmp_path, asked, Answer("a", [], "stop")) == [
        "finish_reason is stop, expected tool_calls",
        "0 calls, expected 1",
    ]


def test_order_of_calls_counts_unless_the_case_says_otherwise(tmp_path):
    two = [{"name": "look", "arguments": {"what": {"exact": what}}} for what in "ab"]
    swapped = Answer("", [{"name": "look", "arguments": {"what": what}} for what in "ba"], "tool_calls")
    assert verdict(tmp_path, call_case({}, calls=two), swapped)
    assert verdict(tmp_path, call_case({}, calls=two, any_order=True), swapped) == []


def test_a_good_call_with_a_leak_or_cut_off_or_unreadable_fails(tmp_path):
    asked, calls = call_case({"what": {"exact": "a"}}), looked(what="a").calls
    assert verdict(tmp_path, asked, Answer("Looking.", calls, "tool_calls")) == []
    assert verdict(tmp_path, asked, Answer('look(what="a")', calls, "tool_calls")) == [
        'tool call in the text: look(what="a")'
    ]
    assert verdict(tmp_path, asked, Answer("", calls, "length")) == ["finish_reason is length, expected tool_calls"]
    assert verdict(tmp_path, asked, Answer("", calls, "tool_calls", ["broken"])) == ["unreadable call: broken"]


def test_no_tool_wants_words_and_no_call(tmp_path):
    quiet = {"id": "one", "kind": "no_tool", "category": "c", "prompt": "p"}
    assert verdict(tmp_path, quiet, Answer("It lists files.", [], "stop")) == []
    assert verdict(tmp_path, quiet, Answer(" \n", [], "stop")) == ["no text"]
    assert "called look, expected no call" in verdict(tmp_path, quiet, looked(what="a"))
    assert verdict(tmp_path, quiet, Answer('[look(what="a")]', [], "stop")) == [
        'tool call in the text: [look(what="a")]'
    ]


def test_finalization_must_say_what_the_tool_returned(tmp_path):
    final = {
        "id": "one",
        "kind": "finalization",
        "category": "c",
        "answer": {"contains": ["Build OK", "17"]},
        "messages": [{"role": "user", "content": "p"}, {"role": "tool", "content": "{}"}],
    }
    assert verdict(tmp_path, final, Answer("it printed build ok (17)", [], "stop")) == []
    assert verdict(tmp_path, final, Answer("done, build ok", [], "stop")) == ["the text lacks '17'"]


def test_an_answer_may_have_any_of_several_texts(tmp_path):
    asks = {"id": "one", "kind": "no_tool", "category": "c", "prompt": "p", "answer": {"any": ["?", "which"]}}
    assert verdict(tmp_path, asks, Answer("Tell me which file.", [], "stop")) == []
    assert verdict(tmp_path, asks, Answer("Done.", [], "stop")) == ["the text has none of '?', 'which'"]


def test_a_case_with_tools_of_its_own_is_judged_by_them(tmp_path):
    case = {
        "id": "one",
        "kind": "tool_call",
        "category": "c",
        "prompt": "p",
        "tools": {"names": ["write_file", "terminal"], "rename": {"terminal": "run_shell"}},
        "calls": [{"name": "run_shell", "arguments": {"command": {"exact": "ls"}}}],
    }
    suite = suites.load(suite_of(tmp_path, case))
    own = suite.of(suite.cases[0])
    assert [tool["function"]["name"] for tool in own.tools] == ["write_file", "run_shell"] and suite.of(
        {"id": "other"}
    ) is suite
    assert "run_shell(" in json.dumps(own.tools) and "terminal(" not in json.dumps(own.tools)
    call = {"name": "run_shell", "arguments": {"command": "ls"}}
    assert verdicts.judge(suite, suite.cases[0], Answer("", [call], "tool_calls")) == []
    assert "called terminal, which is not among the tools" in verdicts.judge(
        suite, suite.cases[0], Answer("", [{**call, "name": "terminal"}], "tool_calls")
    )


def broken(change) -> dict:
    case = copy.deepcopy(call_case({"what": {"exact": "a"}}))
    change(case)
    return case


@pytest.mark.parametrize(
    "case, complaint",
    [
        (broken(lambda c: c.update(kind="toolcall")), "cases 0 (one) kind: 'toolcall' is not one of"),
        (broken(lambda c: c.pop("calls")), "case one: a tool_call case needs calls"),
        (
            broken(lambda c: c.update(kind="no_tool")),
            "case one: a tool_call case needs calls, and no other may have them",
        ),
        (broken(lambda c: c.update(fill=99)), "case one: fill and a {filler} in its messages go together"),
        (
            broken(lambda c: c.update(tools={"names": ["rm"]})),
            "case one: configs/hermes_tools.json has no tool named rm",
        ),
        (
            broken(lambda c: c.update(tools={"names": ["patch"], "rename": {"terminal": "sh"}})),
            "case one: renames terminal, which is not among its tools",
        ),
        (broken(lambda c: c.pop("prompt")), "case one: needs either a prompt or messages"),
        (
            broken(lambda c: c.update(messages=[{"role": "user", "content": "q"}])),
            "case one: needs either a prompt or messages",
        ),
        (
            broken(lambda c: c.update(typo=1)),
            "cases 0 (one): Additional properties are not allowed ('typo' was unexpected)",
        ),
        (
            broken(lambda c: c["calls"][0]["arguments"]["what"].update(set=["b"])),
            "cases 0 (one) calls 0 arguments what",
        ),
        (
            broken(lambda c: c["calls"][0].update(name="jump")),
            "case one: expects jump, which is not among the suite's tools",
        ),
        (
            broken(lambda c: c["calls"][0]["arguments"].update(where={"exact": "a"})),
            "case one: look has no argument where",
        ),
        (
            broken(lambda c: c["calls"][0]["arguments"].update(what={"regex": "("})),
            "case one: the regex of what does not compile",
        ),
        (
            broken(lambda c: c["calls"][0]["arguments"].update(depth={"exact": "2"})),
            'case one: depth="2" is not valid by the schema of look',
        ),
        (
            broken(lambda c: c["calls"][0].update(arguments={})),
            "case one: look requires what, for which there is no rule",
        ),
        (
            broken(lambda c: (c.pop("prompt"), c.update(messages=[{"role": "assistant", "content": "x"}]))),
            "case one: the last message",
        ),
        (
            broken(
                lambda c: (
                    c.pop("prompt"),
                    c.update(
                        messages=[
                            {
                                "role": "assistant",
                                "content": None,
                                "tool_calls": [{"function": {"name": "look", "arguments": "{what"}}],
                            },
                            {"role": "tool", "content": "x"},
                        ]
                    ),
                )
            ),
            "case one: a tool call in its messages has arguments that are not a JSON object",
        ),
    ],
)
def test_a_wrong_suite_is_refused_by_file_case_and_place(tmp_path, case, complaint):
    path = suite_of(tmp_path, case)
    with pytest.raises(UserError, match=re.escape(f"{path}: {complaint}")):
        suites.load(path)


def test_two_cases_with_one_name_are_refused(tmp_path):
    case = call_case({"what": {"exact": "a"}})
    with pytest.raises(UserError, match="case one: 2 cases have this id"):
        suites.load(suite_of(tmp_path, case, case))


def test_the_system_message_stands_in_front_of_every_case(tmp_path):
    suite = suites.load(suite_of(tmp_path, call_case({"what": {"exact": "a"}}), system="Be brief."))
    assert suite.cases[0]["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "p"}]


def test_the_halves_of_a_suite_share_no_case_and_make_the_whole():
    whole = suites.load(ROOT / "evals/suites/unseen_400.json")
    parts = {}
    for half in suite_files.HALVES:
        suite = suites.load(ROOT / "evals/suites/unseen_400.json")
        suite_files.keep_half(suite, half)
        parts[half] = {case["id"] for case in suite.cases}
    assert parts["development"] == set(read_json(ROOT / "evals/halves/unseen_400.json")["development"])
    assert parts["development"] | parts["test"] == {case["id"] for case in whole.cases}
    assert not parts["development"] & parts["test"] and len(parts["test"]) == 200


def test_a_half_is_refused_of_a_suite_that_has_none_and_where_its_file_names_other_cases(fixed, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="fixed_hermes_43 has no halves .*leave --half out"):
        suite_files.keep_half(copy.deepcopy(fixed), "test")
    halves = tmp_path / "halves.json"
    monkeypatch.setattr(suite_files, "halves_of", lambda name: halves)
    for odd in ({}, {"development": None}, {"development": [["a"]]}, {"development": 7}):
        halves.write_text(json.dumps(odd))
        with pytest.raises(UserError, match=f"{halves.name}: .*development"):
            suite_files.keep_half(copy.deepcopy(fixed), "development")
    halves.write_text(json.dumps({"development": ["no_such_case"]}))
    with pytest.raises(UserError, match="no_such_case is no case of fixed_hermes_43"):
        suite_files.keep_half(copy.deepcopy(fixed), "development")
