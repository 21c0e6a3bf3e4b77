"""A text that runs in circles is told from one that only repeats a word."""

import pytest

from conftest import ROOT
from kxl.base.files import read_json
from kxl.eval import repetition, suites, verdicts


@pytest.mark.parametrize(
    "text",
    [
        "I am here to help. I am here to help. I am here to help. I am here to help.",
        "no no no no no no no",
        "The file isaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "one two three one two three one two three one two three",
        " ".join(f"the answer is the answer {i % 3} the answer is" for i in range(12)),
    ],
)
def test_collapse_is_found(text):
    assert repetition.collapse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ok",
        "Hello! What can I do for you?",
        "ha ha ha, very very good",
        "0 0 0 0 0 0 0 0 0 0",
        "name    size\n----------------------------\na.txt   12",
        "src/a.py:1: import os\nsrc/b.py:1: import os\nsrc/c.py:1: import os",
    ],
)
def test_ordinary_text_is_left_alone(text):
    assert repetition.collapse(text) is None


def test_no_committed_answer_runs_in_circles():
    texts = [
        entry["content"]
        for path in (ROOT / "evals").rglob("fixed*.json")
        if path.parent.name != "suites"
        for entry in read_json(path)["results"]["details"]
    ]
    assert texts and not any(map(repetition.collapse, texts))


def test_a_looping_answer_fails_its_case():
    suite = suites.load(ROOT / "evals/suites/generation_smoke.json")
    why = verdicts.judge(suite, suite.cases[0], verdicts.Answer("I can help you. " * 9, [], "stop"))
    assert len(why) == 1 and why[0].startswith("the text runs in circles: 'i can help you' 4 times")
