"""Forms of JSON: what a config or a report of somebody's may hold at each of its places."""

import math

import pytest

import eval_build_html
import release_card
from conftest import ROOT
from helpers.odd_values import ODD, changed, damaged, places
from kxl.base import config, forms, templates
from kxl.base.errors import UserError
from kxl.base.files import read_json, write_json
from kxl.eval import comparison, scores
from kxl.release import folder, serving, usage
from kxl.release import summary as summaries

REPORT = "evals/tiny/fixed_hermes_43.llama_cpp.q4kxl.json"
COUNT = 250
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
        ({"a": 7}, {"a": {}}, "c.json: a is 7, expected an object"),
        ({"a": 7}, {"a": None}, "c.json: a is 7, expected null"),
        ({"a": []}, {"a": [int, ...]}, "c.json: a is \\[\\], expected one entry or more"),
        ({"a": [1, "x"]}, {"a": [int, ...]}, 'c.json: a.1 is "x", expected a whole number'),
        ({"a": {}}, {"a": {"+": int}}, "c.json: a is {}, expected one entry or more"),
        ({"a": {"b": None}}, {"a": {"+": int}}, "c.json: a.b is null, expected a whole number"),
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


def test_a_release_summary_with_anything_anywhere_is_read_by_all_or_refused(tmp_path):
    """By the card, and by who has only the folder."""
    whole = read_json(ROOT / "release_summary.json")
    whole["artifacts"] = {name: whole["artifacts"][name] for name in ("bf16", "q4kxl", "Q4_K_M")}
    path, refused = tmp_path / "release_summary.json", 0
    settings, reports = config.load(ROOT / "configs/tiny.json"), [ROOT / "reports/tiny/training-2.json"]
    for summary in damaged(whole, COUNT):
        write_json(path, summary)
        try:
            read = summaries.load(path)
            said = release_card.values(settings, read, reports, None)
            said["use"] = usage.text(settings, read, "ORG/NAME", None)
            templates.render(release_card.TEMPLATE, said)
        except UserError as error:
            refused += 1
            assert "release_summary.json: " in str(error) and "again" in str(error)
        try:
            read = folder.read_summary(tmp_path)
            folder.wrong_artifacts(tmp_path, {"README.md": "0" * 64}, read)
            serving.of(tmp_path, read, "q4kxl")
        except UserError as error:
            assert "fetch it" in str(error) or "has no q4kxl" in str(error)
    assert COUNT / 4 < refused < COUNT


def test_a_template_that_misses_a_key_names_the_file_that_lacks_it(tmp_path):
    write_json(tmp_path / "c.json", {"card": {"title": "x"}})
    (tmp_path / "t.jinja").write_text("{{ card.summary }}")
    with pytest.raises(UserError, match="c.json: has no 'summary', which is needed here"):
        templates.render(tmp_path / "t.jinja", read_json(tmp_path / "c.json"))
