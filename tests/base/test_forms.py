"""Forms of JSON: what a config or a report of somebody's may hold at each of its places."""

import copy
import math

import pytest

import eval_build_html
from conftest import ROOT
from kxl.base import config, forms
from kxl.base.errors import UserError
from kxl.base.files import read_json, write_json
from kxl.eval import comparison, scores

ODD = [None, [], {}, "x", -1, 1e999, math.nan, 10**400, True, "\ud800", [["a"]], {"a": {"b": 1}}, [None]]
REPORT = "evals/tiny/fixed_hermes_43.llama_cpp.q4kxl.json"
LIVE = "evals/tiny/hermes_live.llama_cpp.q4kxl.json"


@pytest.mark.parametrize(
    ("value", "form", "said"),
    [
        ({"caps": [1, "x"]}, {"caps": [int]}, 'c.json: caps.1 is "x", expected a whole number'),
        ({"a": {"b": True}}, {"a": {"*": int}}, "c.json: a.b is true, expected a whole number"),
        ({"a": 1e999}, {"a": float}, "c.json: a is Infinity, expected a number"),
        ({"a": math.nan}, {"a": float}, "c.json: a is NaN, expected a number"),
        ({"a": 10**400}, {"a": int}, "c.json: a is 1000"),
        ({"a": "\ud800"}, {"a": str}, "c.json: a is .* expected a text"),
        ({"a": 7}, {"a": ({"b": int}, None)}, "c.json: a is 7, expected an object or null"),
        ({"a": {"b": []}}, {"a": ({"b": int}, None)}, "c.json: a.b is \\[\\], expected a whole number"),
        ({}, {"a": int}, "c.json: holds \\[\\], expected the key a"),
        (None, {}, "c.json: holds null, expected an object"),
    ],
)
def test_the_place_and_what_is_expected_there_are_said(value, form, said):
    with pytest.raises(UserError, match=said):
        forms.check(value, form, "c.json")


@pytest.mark.parametrize(
    ("value", "form"),
    [({}, {"a?": int}), ({"b": []}, {"a?": int}), ({"a": None}, {"a": (int, None)}), ({"a": 1}, {"a": float})],
)
def test_what_the_form_leaves_open_may_be_anything(value, form):
    forms.check(value, form, "c.json")


def places(value, above=()):
    """Every place in a JSON value; of a list the first two alone."""
    yield above
    inside = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, item in inside:
        yield from places(item, (*above, key))


def changed(value, place, other):
    value = copy.deepcopy(value)
    if not place:
        return other
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = other
    return value


def test_shipped_configs_and_reports_have_their_form():
    for path in (ROOT / "configs").glob("*.json"):
        if "artifact_pattern" in read_json(path, object):
            config.load(path)
    for path in (ROOT / "evals/tiny").glob("*.json"):
        assert scores.load(path)["results"]["details"]


@pytest.mark.parametrize("name", [REPORT, LIVE])
def test_a_report_with_anything_anywhere_is_shown_compared_or_refused(name, tmp_path):
    """A traceback is none of these. Of the cases two are kept, of the places each third is tried with each value."""
    whole = read_json(ROOT / name)
    whole["results"]["details"] = whole["results"]["details"][:2]
    whole["inputs"] = whole["inputs"][1:]
    good, path = tmp_path / "good.json", tmp_path / "odd.json"
    write_json(good, whole)
    tried = [(place, odd) for place in places({key: whole[key] for key in ("settings", "results")}) for odd in ODD]
    refused = 0
    for place, odd in tried[::3]:
        write_json(path, changed(whole, place, odd))
        try:
            eval_build_html.build([path, good], "A title")
            comparison.compare(scores.load(path), scores.load(good), raw=False)
        except UserError as error:
            refused += 1
            assert str(error)
    assert 0 < refused < len(tried)
