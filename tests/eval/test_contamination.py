"""No training row may ask what an evaluation asks: the rule on single texts, and on the live tasks' drawn words."""

import json

import pytest

from conftest import ROOT
from kxl.eval import contamination


@pytest.fixture
def prompts(tmp_path):
    suite = {"name": "s", "tools": None, "system": None, "max_tokens": 9}
    suite["cases"] = [
        {"id": "files", "kind": "no_tool", "category": "c", "prompt": "Please show me the file notes.txt"}
    ]
    (tmp_path / "s.json").write_text(json.dumps(suite))
    task = {"id": "echo", "prompt": "run echo {a} > note.txt in the terminal"}
    (tmp_path / "live.json").write_text(json.dumps({"name": "live", "tasks": [task]}))
    return contamination.Prompts([tmp_path / "s.json", tmp_path / "live.json"])


@pytest.mark.parametrize(
    "text",
    [
        "please show me the file notes.txt",
        "hey, could you just show the file NOTES.TXT now?",
        "run echo lantern > note.txt in the terminal",
        "Please run: echo harbour > note.txt, in the terminal, thanks",
    ],
)
def test_a_near_copy_is_found(prompts, text):
    assert prompts.overlap(text)


@pytest.mark.parametrize(
    "text", ["please show me the file readme.md", "run echo one two > note.txt in the terminal", "file"]
)
def test_another_request_is_none(prompts, text):
    assert prompts.overlap(text) is None


def test_every_prompt_of_this_repository_is_known():
    everything = contamination.everything()
    for path in [*ROOT.glob("evals/suites/*.json"), *ROOT.glob("evals/live/*.json")]:
        for text, _ in contamination.prompts_of(path):
            assert everything.overlap(contamination.DRAWN.sub("lantern", text)), text
