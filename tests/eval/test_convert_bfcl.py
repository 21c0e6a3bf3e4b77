"""Berkeley Function Calling data as a suite: what counts as a match, and what cannot be a case."""

import json
import zipfile

import pytest

import eval_convert_bfcl
from kxl.eval import suites, verdicts
from kxl.eval.bfcl_match import matches
from kxl.eval.verdicts import Answer


@pytest.mark.parametrize(
    "value, accepted, same",
    [
        ("April 1, 2024", ["april 1 2024"], True),
        ("New_York", ["New York", "NYC"], True),
        ("it's", ['it"s'], True),
        ("Rome", ["Milan"], False),
        (5.0, [5], True),
        (5, [5.0], True),
        ("5", [5], False),
        (True, [1], False),
        (1, [True], False),
        (False, [False], True),
        (["a b", "c"], [["ab", "C"]], True),
        (["c", "ab"], [["ab", "c"]], False),
        ([1, 2], [[1, 2, 3]], False),
        ({"x": 1}, [{"x": [1, 2], "y": ["", 3]}], True),
        ({"x": 4}, [{"x": [1, 2]}], False),
        ({}, [{"x": [1]}], False),
        ({"x": 1, "z": 1}, [{"x": [1]}], False),
        ([{"n": "A b"}], [[{"n": ["ab"]}]], True),
        ({"p": {"q": "R"}}, [{"p": [{"q": ["r"]}]}], True),
    ],
)
def test_a_match_is_the_leaderboards(value, accepted, same):
    assert matches(value, accepted) is same


FUNCTION = {
    "name": "math.area",
    "description": "d",
    "parameters": {
        "type": "dict",
        "required": ["base"],
        "properties": {"base": {"type": "integer", "description": "d"}, "unit": {"type": "string", "description": "d"}},
    },
}


@pytest.fixture
def wheel(tmp_path):
    """A wheel in bfcl-eval's form with an entry or two of each category."""

    def entry(name, **more):
        return {"id": name, "question": [[{"role": "user", "content": f"area {name}"}]], "function": [FUNCTION], **more}

    answer = [{"math.area": {"base": [10], "unit": ["cm", ""]}}]
    files = {
        "BFCL_v4_simple_python": [entry("simple_0"), entry("simple_1"), entry("simple_2")],
        "possible_answer/BFCL_v4_simple_python": [
            {"id": "simple_0", "ground_truth": answer},
            {"id": "simple_1", "ground_truth": [{"math.area": {"base": ["ten"]}}]},
            {"id": "simple_2", "ground_truth": [{"math.area": {"height": [1], "base": [1]}}]},
        ],
        "BFCL_v4_multiple": [entry("multiple_0")],
        "possible_answer/BFCL_v4_multiple": [{"id": "multiple_0", "ground_truth": answer}],
        "BFCL_v4_parallel": [entry("parallel_0"), entry("parallel_1")],
        "possible_answer/BFCL_v4_parallel": [
            {"id": "parallel_0", "ground_truth": answer + [{"math.area": {"base": [20], "unit": [""]}}]},
            {"id": "parallel_1", "ground_truth": answer * 7},
        ],
        "BFCL_v4_irrelevance": [entry("irrelevance_0")],
    }
    path = tmp_path / "bfcl.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, entries in files.items():
            archive.writestr(f"bfcl_eval/data/{name}.json", "\n".join(map(json.dumps, entries)))
    return path


def test_each_category_becomes_cases_and_what_cannot_be_one_is_counted(wheel, tmp_path):
    suite, left_out = eval_convert_bfcl.convert(wheel, None)
    assert [case["id"] for case in suite["cases"]] == ["simple_0", "multiple_0", "parallel_0", "irrelevance_0"]
    assert sorted(left_out) == [
        "math_area has no argument height",
        "more than 6 calls",
        "the accepted answer is not valid by the tool's schema",
    ]
    (tmp_path / "suite.json").write_text(json.dumps(suite))
    loaded = suites.load(tmp_path / "suite.json")
    simple, _, parallel, irrelevant = loaded.cases

    def judge(case, *calls):
        return verdicts.judge(
            loaded,
            case,
            Answer("", [{"name": "math_area", "arguments": arguments} for arguments in calls], "tool_calls"),
        )

    assert (
        judge(simple, {"base": 10}) == judge(simple, {"base": 10, "unit": "CM"}) == []
        and judge(simple, {"base": 11})
        and judge(simple, {"base": 10, "unit": "m"})
    )
    assert judge(parallel, {"base": 20}, {"base": 10}) == [] and judge(parallel, {"base": 20}, {"base": 20})
    assert verdicts.judge(loaded, irrelevant, Answer("No tool fits.", [], "stop")) == [] and judge(
        irrelevant, {"base": 10}
    )


def test_a_limit_is_per_category(wheel):
    assert (
        len(eval_convert_bfcl.convert(wheel, 1)[0]["cases"]) == 4
        and len(eval_convert_bfcl.convert(wheel, 0)[0]["cases"]) == 0
    )
