"""The harder suites, written by hand: each case can be passed, by its own answer and by no other's."""

import json

import pytest

from conftest import ROOT
from kxl.eval import filler, suites, verdicts
from kxl.eval.verdicts import Answer

SUITES = ("hard_157", "long_15")
# One correct value for each regex rule, written by hand: a regex does not tell what it accepts.
EXAMPLES = {("two_web_searches", 0): {"query": "rust async book"}, ("two_web_searches", 1): {"query": "Tokio tutorial"}}


@pytest.fixture(scope="module", params=SUITES)
def suite(request):
    return suites.load(ROOT / "evals" / "suites" / f"{request.param}.json")


def correct(case: dict) -> Answer:
    """The answer that a perfect model gives."""
    if case["kind"] != "tool_call":
        rules = case.get("answer", {})
        return Answer("Well: " + " ".join(rules.get("contains", []) + rules.get("any", [])[:1]), [], "stop")
    calls = [
        {
            "name": call["name"],
            "arguments": {
                name: EXAMPLES[case["id"], place][name]
                if "regex" in rule
                else rule.get("exact", rule.get("set", [None])[0])
                for name, rule in call["arguments"].items()
                if not rule.get("optional")
            },
        }
        for place, call in enumerate(case["calls"])
    ]
    return Answer("", calls, "tool_calls")


def test_a_perfect_model_passes_every_case(suite):
    assert [(case["id"], why) for case in suite.cases if (why := verdicts.judge(suite, case, correct(case)))] == []


def test_parallel_calls_may_come_in_any_order_and_all_must_come(suite):
    for case in suite.cases:
        if case["category"] == "parallel":
            answer = correct(case)
            assert verdicts.judge(suite, case, Answer("", answer.calls[::-1], "tool_calls")) == [], case["id"]
            assert verdicts.judge(suite, case, Answer("", answer.calls[1:], "tool_calls")), case["id"]


def test_no_case_passes_for_the_answer_to_another_of_its_kind(suite):
    for case in suite.cases:
        for other in suite.cases:
            # What is asked for without a call is told apart by a person only.
            if (
                case is not other
                and case["category"] == other["category"]
                and case["kind"] == "tool_call"
                and not case["category"].startswith("long")
            ):
                assert verdicts.judge(suite, case, correct(other)), (
                    f"{case['id']} passes with the answer to {other['id']}"
                )


def test_what_is_to_be_copied_stands_in_the_conversation(suite):
    for case in suite.cases:
        said = json.dumps([message["content"] for message in case["messages"]], ensure_ascii=False).casefold()
        for call in case.get("calls", []):
            for name, rule in call["arguments"].items():
                value = rule.get("exact", rule.get("set", [None])[0])
                if (
                    isinstance(value, str)
                    and not rule.get("optional")
                    and name not in ("action", "mode", "target", "output_mode")
                ):
                    written = json.dumps(value, ensure_ascii=False)[1:-1].casefold()
                    # Contents of a JSON tool result are escaped twice; a derived command says so in the request.
                    assert written in said or json.dumps(written)[1:-1] in said or case["id"] in DERIVED, (
                        case["id"],
                        name,
                        value,
                    )


# Commands that a person derives from the conversation: use python3 instead, make it executable, install what is
# missing.
DERIVED = {"fallback_interpreter", "executable_bit", "install_missing", "other_port"}


def test_missing_information_wants_a_question_and_no_guess(suite):
    for case in suite.cases:
        if case["category"] == "missing_information":
            assert verdicts.judge(suite, case, Answer("Which file do you mean?", [], "stop")) == []
            assert verdicts.judge(suite, case, Answer("Done.", [], "stop"))
            guess = {"name": "read_file", "arguments": {"path": "file.txt"}}
            assert verdicts.judge(suite, case, Answer("", [guess], "tool_calls"))


def test_long_cases_fill_each_size_and_hide_the_word_in_the_middle():
    suite = suites.load(ROOT / "evals" / "suites" / "long_15.json")
    assert sorted(case["fill"] for case in suite.cases) == [16384] * 5 + [32768] * 5 + [65536] * 5
    middle = next(case for case in suite.cases if case["id"] == "64k_word_in_the_middle")
    text = filler.fill(middle["messages"], 2001, middle["id"])[-1]["content"]
    assert 0.45 < text.index("heron-lake-52") / len(text) < 0.55 and text.count("\n") > 2000
    assert filler.fill(middle["messages"], 2001, middle["id"])[-1]["content"] == text
    assert filler.lines(10, "a") == filler.lines(20, "a")[:10] != filler.lines(10, "b")


@pytest.mark.parametrize("target", [17, 18, 100, 5000])
def test_the_filler_is_the_longest_that_fits(target):
    lines = filler.most_lines(lambda count: 17 + 11 * count, target)
    assert 17 + 11 * lines <= target < 17 + 11 * (lines + 1)


def test_no_line_of_the_filler_looks_like_a_call():
    from kxl.chat import tool_syntax

    assert tool_syntax.find_leaks("\n".join(filler.lines(3000, "x")), ["storage", "copied"]) == []
