"""What an evaluation must reach, and what a person reads where it does not."""

import pytest

from kxl.base import gates


def results(passed=43, raw=43, leaks=0, false_calls=0):
    return {
        "cases": 43,
        "passed": passed,
        "raw": {"cases": 43, "passed": raw} if raw is not None else None,
        "text_tool_leaks": leaks,
        "no_tool": {"cases": 10, "false_positives": false_calls},
    }


LIMITS = {"threshold": 43, "raw_threshold": 41}


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"passed": 42}, "42 of 43 cases passed, 43 are required"),
        ({"raw": 40}, "40 of 43 passed raw, 41 are required"),
        ({"raw": None}, "no raw answers were taken"),
        ({"leaks": 1}, "1 answers had a tool call in their text, none may"),
        ({"false_calls": 2}, "2 calls where none was wanted, none may be"),
    ],
)
def test_each_gate_is_missed_alone_and_says_its_number(change, sentence):
    assert gates.missed(gates.evaluation(results(**change), LIMITS)) == [sentence]


def test_what_just_reaches_its_gates_passes():
    found = gates.evaluation(results(raw=41), LIMITS, "fixed.llama_cpp.q4kxl")
    assert gates.missed(found) == []
    assert found[0].as_json() == {
        "gate": "fixed.llama_cpp.q4kxl passed",
        "required": "at least 43 of 43",
        "measured": 43,
        "passed": True,
    }


def test_a_suite_without_a_threshold_still_allows_no_leak_and_no_false_call():
    found = gates.evaluation(results(passed=0, leaks=1, false_calls=1), {})
    assert len(gates.missed(found)) == 2
