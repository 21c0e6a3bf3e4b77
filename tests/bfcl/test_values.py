"""What of a call's arguments the leaderboard accepts, and the Java and JavaScript that it reads."""

import time

import pytest

from kxl.bfcl import literals, values


def accepted(kind, accepted, value, items=None, language="python", required=()):
    described = {"type": kind, "description": "d", **({"items": {"type": items}} if items else {})}
    function = {"name": "f", "parameters": {"properties": {"a": described}, "required": list(required)}}
    return values.problem(function, {"a": accepted}, {} if value is ... else {"a": value}, language) is None


@pytest.mark.parametrize(
    "kind, items, wanted, value, right",
    [
        ("string", None, ["april 1 2024"], "April 1, 2024", True),
        ("string", None, ["New York", "NYC"], "New_York", True),
        ("string", None, ['it"s'], "it's", True),
        ("string", None, ["Milan"], "Rome", False),
        ("string", None, [5], "5", False),
        ("float", None, [5.0], 5, True),
        ("integer", None, [5], 5.0, False),
        ("integer", None, [5], True, False),
        ("boolean", None, [True], 1, False),
        ("integer", None, ["count"], "count", True),  # the name of a variable, compared as it is
        ("integer", None, ["count"], "Count", False),
        ("array", "string", [["ab", "C"]], ["a b", "c"], True),
        ("array", "string", [["ab", "c"]], ["c", "ab"], False),
        ("array", "integer", [[1, 2, 3]], [1, 2], False),
        ("array", "integer", [[1, 2]], ["1", 2], False),
        ("dict", None, [{"x": [1, 2], "y": ["", 3]}], {"x": 1}, True),
        ("dict", None, [{"x": [1, 2]}], {"x": 4}, False),
        ("dict", None, [{"x": [1]}], {}, False),
        ("dict", None, [{"x": [1]}], {"x": 1, "z": 1}, False),
        ("dict", None, [{"n": ["ab"]}], {"n": "A b"}, True),
        ("array", "dict", [[{"n": ["ab"]}]], [{"n": "A b"}], True),
        ("array", "dict", [[{"n": ["ab"]}]], [{"n": "A b"}, {"n": "ab"}], False),
        ("string", None, ["", "x"], ..., True),
        ("string", None, ["x"], ..., False),
        ("string", None, ["x"], None, False),
    ],
)
def test_an_argument_counts_as_on_the_leaderboard(kind, items, wanted, value, right):
    assert accepted(kind, wanted, value, items) is right


def test_a_required_argument_may_not_be_absent_even_where_absence_is_accepted():
    assert not accepted("string", ["", "x"], ..., required=("a",))


@pytest.mark.parametrize(
    "text, kind, items, language, value",
    [
        ("5", "integer", None, "java", 5),
        ("5L", "long", None, "java", 5),
        ("5", "long", None, "java", "5"),
        ("1.5f", "float", None, "java", 1.5),
        ("1.5", "float", None, "java", "1.5"),
        ("true", "boolean", None, "java", True),
        ("True", "boolean", None, "java", "True"),
        ("new int[]{1, 2}", "Array", "integer", "java", [1, 2]),
        ('new ArrayList<>(Arrays.asList("a", "b"))', "ArrayList", "String", "java", ["a", "b"]),
        ("new ArrayList<>()", "ArrayList", "String", "java", []),
        (
            'new HashMap<String, Object>() {{ put("a", 1); put("b", "x"); }}',
            "HashMap",
            None,
            "java",
            {"a": 1, "b": "x"},
        ),
        ("mine", "HashMap", None, "java", "mine"),
        ("5n", "Bigint", None, "javascript", 5),
        ("'x'", "String", None, "javascript", "x"),
        ("[1, 2]", "array", "integer", "javascript", [1, 2]),
        ("[[1, 2], [3]]", "array", None, "javascript", [[1, 2], [3]]),
        ("{'a': 1, 'b': true}", "dict", None, "javascript", {"a": 1, "b": True}),
        ("list", "array", "integer", "javascript", "list"),
    ],
)
def test_a_literal_is_read_and_anything_else_stays_a_name(text, kind, items, language, value):
    found = literals.read(text, kind, items, language)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "text, kind, language",
    [
        ("[[1]" + ", [1]" * 60, "array", "javascript"),
        ("new Array([1]" + ",[1]" * 60, "array", "javascript"),
        ("new ArrayList<>() {{" + " " * 1900, "ArrayList", "java"),
        ("new HashMap<>() {" + " " * 1900, "HashMap", "java"),
        ("new HashMap<>() {" * 100, "HashMap", "java"),
        ("{" + "a: [1], " * 100_000, "dict", "javascript"),
    ],
)
def test_a_literal_that_does_not_end_costs_no_time(text, kind, language):
    started = time.process_time()
    literals.read(text, kind, None, language)
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    "text, value",
    [
        ("[[1, 2], [3]] and more]", [[1, 2], [3]]),
        ("[[1], [2]", ["[1"]),  # as the wheel: no rows, and of a list all up to the first bracket
        ("new Array([1], ['a'])", [[1], ["a"]]),
        ("[ [1] , [2] ]", [[1], [2]]),
        ("[[1\n], [2]]", "[[1\n], [2]]"),
    ],
)
def test_rows_are_read_as_the_wheels_pattern_reads_them(text, value):
    assert literals.read(text, "array", None, "javascript") == value
