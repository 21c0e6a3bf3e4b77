"""The verdict on an answer of one turn, on last words about a memory, and which cases a run takes."""

import json
import re

import pytest

from conftest import ROOT
from helpers.odd_values import damaged
from kxl.base.cli import UserError
from kxl.bfcl import cases, conversation, scores, verdicts
from kxl.smol import sets

AREA = {
    "name": "math.area",
    "parameters": {"properties": {"base": {"type": "integer"}, "unit": {"type": "string"}}, "required": ["base"]},
}


def case(category, truth, functions=(AREA,)):
    return {"id": f"{category}_0", "category": category, "truth": truth, "functions": list(functions)}


def area(base, unit="cm"):
    return {"math.area": {"base": [base], "unit": [unit, ""]}}


@pytest.mark.parametrize(
    "category, truth, answer, right",
    [
        ("simple_python", [area(1)], [{"math_area": '{"base": 1}'}], True),
        ("simple_python", [area(1)], [{"math_area": '{"base": 1, "unit": "CM"}'}], True),
        ("simple_python", [area(1)], [{"math.area": '{"base": 1}'}], False),
        ("simple_python", [area(1)], [{"math_area": '{"base": 2}'}], False),
        ("simple_python", [area(1)], [{"math_area": '{"base": 1'}], False),
        ("simple_python", [area(1)], [{"math_area": "[1]"}], False),
        ("simple_python", [area(1)], [{"math_area": '{"base": 1}'}] * 2, False),
        ("simple_python", [area(1)], "math_area(base=1)", False),
        ("simple_python", [area(1)], "", False),
        ("parallel", [area(1), area(2)], [{"math_area": '{"base": 2}'}, {"math_area": '{"base": 1}'}], True),
        ("parallel", [area(1), area(2)], [{"math_area": '{"base": 2}'}] * 2, False),
        ("irrelevance", None, "I cannot help with that.", True),
        ("irrelevance", None, "", True),
        ("irrelevance", None, [{"math_area": "{}"}], False),
        ("live_irrelevance", None, [{"math_area": "{"}], True),  # as on the leaderboard: nobody can read it as a call
        ("live_relevance", None, [{"anything": "{}"}], True),
        ("live_relevance", None, "No.", False),
    ],
)
def test_an_answer_passes_as_on_the_leaderboard(category, truth, answer, right):
    assert (verdicts.single_turn(case(category, truth), answer) is None) is right


@pytest.mark.parametrize("category", ["simple_python", "simple_java", "simple_javascript", "parallel"])
@pytest.mark.parametrize("kind", ["integer", "float"])
@pytest.mark.parametrize("value", [f'"{"9" * 5000}"', "9" * 400, "[" * 70 + "]" * 70, '{"a":' * 70 + "1" + "}" * 70])
def test_no_argument_ends_the_verdicts(category, kind, value):
    described = {"properties": {"base": {"type": kind}}, "required": ["base"]}
    wanted = case(category, [{"math.area": {"base": [1]}}], [{"name": "math.area", "parameters": described}])
    assert verdicts.single_turn(wanted, [{"math_area": f'{{"base": {value}}}'}]) is not None


def test_arguments_that_are_nested_deeply_are_no_call():
    deep = {"f": '{"a": ' + "[" * 100 + "]" * 100 + "}"}
    assert verdicts.decoded([deep]) == ([], "arguments of f that are nested more than 64 deep")
    assert verdicts.decoded([{"f": '{"a": [[1]]}'}]) == ([{"f": {"a": [[1]]}}], "")
    assert conversation.executed([deep]) == []


@pytest.mark.parametrize(
    "turns, right",
    [
        ([["{'answer': 'New York, NY'}"]], True),
        ([["it is new york ny."]], True),
        ([["New Yorkshire, NY"]], False),
        ([[[{"find": "{}"}], "New York, NY"]], True),
        ([["New York, NY", [{"find": "{}"}]]], True),
        ([[[{"find": "{}"}]]], False),
        ([["New York, NY", "I do not know"]], False),
        ([["New York, NY"], ["New York, NY"]], False),
    ],
)
def test_last_words_count_and_calls_before_or_after_them_do_not(turns, right):
    assert (verdicts.memory({"truth": ["New York, NY"]}, turns) is None) is right


def test_a_smaller_subset_lies_within_a_larger_one_and_another_seed_draws_other_cases():
    found = [{"id": f"multiple_{i}", "category": "multiple", "truth": []} for i in range(100)]
    few, more = ({one["id"] for one in cases.subset(found, most, 1)} for most in (10, 30))
    assert len(few) == 10 and few < more and few != {one["id"] for one in cases.subset(found, 10, 2)}
    assert cases.subset(found, None, 1) == found


def test_a_memory_question_brings_the_conversations_that_fill_the_memory():
    filled = [
        {"id": f"p{i}", "category": "memory_kv", "truth": None, "after": [f"p{j}" for j in range(i)]} for i in (0, 1)
    ]
    asked = [{"id": f"q{i}", "category": "memory_kv", "truth": ["x"], "after": ["p0", "p1"]} for i in range(5)]
    found = cases.subset(filled + asked, 1, 1)
    assert [one["id"] for one in found][:2] == ["p0", "p1"] and len(found) == 3


def test_a_category_that_needs_the_network_is_refused_with_the_reason():
    assert cases.named(["irrelevance"]) == ["irrelevance"] and not set(cases.GROUPS) & set(cases.ALL)
    assert cases.named(["live", "all_irrelevance"])[-2:] == ["irrelevance", "live_irrelevance"]
    with pytest.raises(UserError, match="needs the web"):
        cases.named(["web_search_base"])
    with pytest.raises(UserError, match="no category; there are non_live"):
        cases.named(["simpel"])


def details(**passed):
    return [{"category": name, "passed": i < of[0]} for name, of in passed.items() for i in range(of[1])]


def test_averages_are_the_leaderboards_over_what_was_run():
    run = details(
        simple_python=(8, 10), simple_java=(2, 10), multiple=(10, 10), live_simple=(5, 10), live_multiple=(10, 10),
        multi_turn_base=(0, 10),
    )  # fmt: skip
    whole = {name: 1 for name in cases.ALL} | {"live_simple": 258, "live_multiple": 1053}
    results = scores.count(run, whole)
    averages = results["averages"]
    assert averages["non_live"]["share"] == pytest.approx(((0.8 + 0.2) / 2 + 1) / 2, abs=1e-4)
    assert averages["live"]["share"] == pytest.approx((0.5 * 258 + 1053) / (258 + 1053), abs=1e-4)
    assert averages["non_live"]["missing"] == ["simple_javascript", "parallel", "parallel_multiple"]
    overall = (10 * 0.75 + 10 * averages["live"]["share"] + 30 * 0) / 50
    assert averages["overall"]["share"] == pytest.approx(overall, abs=1e-3)
    assert "all_irrelevance" in averages["overall"]["missing"] and "all_irrelevance" not in averages
    assert results["by_category"]["simple_python"] == {"cases": 10, "passed": 8, "of": 1}
    low, high = results["intervals"]["by_category"]["simple_python"]
    assert (low, high) == (0.4902, 0.9433)  # Wilson's interval of 8 of 10, by hand


def test_smol_is_asked_about_every_category_of_one_turn_that_its_rows_are_not_drawn_from():
    text = (ROOT / "make/bfcl.mk").read_text().replace("\\\n", " ")
    trained, asked = (
        re.search(rf"^{name} *:= (.*)$", text, re.MULTILINE)[1].split() for name in ("BFCL_TRAINED", "BFCL_UNSEEN")
    )
    assert set(trained) == {*sets.ANSWERED, *sets.MORE, *sets.UNANSWERABLE}
    one_turn = {name for name in cases.ALL if not cases.executable(name)}
    assert set(asked) & one_turn == one_turn - set(trained)


FUNCTION = {"name": "f", "parameters": {}}
CASE = {
    "id": "a",
    "category": "multiple",
    "turns": [[{"role": "user", "content": "x"}]],
    "truth": None,
    "tools": [{"function": FUNCTION}],
    "functions": [FUNCTION],
}


def test_a_cases_file_with_anything_anywhere_is_read_or_refused_by_line(tmp_path):
    path, refused = tmp_path / "cases.jsonl", 0
    for odd in damaged(CASE, 120):
        path.write_text(f"{json.dumps(CASE)}\n{json.dumps(odd)}\n")
        try:
            cases.ranks(cases.without_repeats(cases.load(path, ["multiple"]), [CASE]), 1)
        except UserError as error:
            refused += 1
            assert "cases.jsonl:2: " in str(error)
    assert 60 < refused < 120
