"""What a served model is refused for: too few structured calls of the right tool, as its server really answers them."""

import json
import sys

import pytest

import smol_check_serving
from helpers import chat_server
from kxl.base.cli import UserError
from kxl.base.files import read_json, write_json

TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks.",
        "parameters": {"type": "object", "required": ["what"], "properties": {"what": {"type": "string"}}},
    },
}
RIGHT = (None, [("look", {"what": "x"})])
OTHER = (None, [("listen", {"what": "x"})])
TWICE = (None, [("look", {"what": "x"}), ("look", {"what": "y"})])
WORDS = ("I would have to look at x.", [])
LEAKED = ('<tool_call>{"name": "look", "arguments": {"what": "x"}}</tool_call>', [])


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Serve one answer per prompt in place of llama-server's; return the report, its path and what was asked."""

    def run(answers, wanted=0.75):
        asked = []
        rows = [
            {
                "id": str(place),
                "kind": "tool",
                "messages": [{"role": "user", "content": f"prompt {place}"}],
                "tools": [TOOL],
                "expected": ["look"],
            }
            for place in range(len(answers))
        ]
        rows.append({**rows[0], "id": "ordinary", "kind": "ordinary", "expected": None})

        def answer(body):
            asked.append(body)
            return answers[int(body["messages"][-1]["content"].split()[-1])]

        write_json(tmp_path / "config.json", {"emission": {"min_right_tool": wanted}})
        (tmp_path / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (tmp_path / "q.gguf").write_bytes(b"GGUF")
        # The one thing that is not real: what stands behind the port.
        monkeypatch.setattr(smol_check_serving.eval_server, "llama_server", lambda *_: chat_server.serving(answer))
        paths = {"config": "config.json", "data": ".", "gguf": "q.gguf", "out": "serving.q.json"}
        flags = [word for name, path in paths.items() for word in (f"--{name}", str(tmp_path / path))]
        monkeypatch.setattr(sys, "argv", ["smol_check_serving.py", *flags])
        smol_check_serving.main()
        return read_json(tmp_path / "serving.q.json")["results"], asked

    run.folder = tmp_path
    return run


def test_only_a_structured_call_of_exactly_the_right_tool_counts(check):
    results, asked = check([RIGHT, RIGHT, OTHER, TWICE, WORDS, LEAKED], wanted=0.3)
    assert [one["right_tool"] for one in results["details"]] == [True, True, False, False, False, False]
    assert [one["structured"] for one in results["details"]] == [True, True, True, True, False, False]
    counts = {key: results[key] for key in ("prompts", "structured", "right_tool", "leaks")}
    assert counts == {"prompts": 6, "structured": 4, "right_tool": 2, "leaks": 1}
    assert len(asked) == 6 and all(body["tools"] == [TOOL] and body["max_tokens"] == 96 for body in asked)


def test_too_few_right_tools_are_refused_and_every_answer_is_kept(check):
    results, _ = check([RIGHT, RIGHT, RIGHT, WORDS])
    assert results["right_tool"] == 3
    with pytest.raises(UserError, match="2 of the right tool, 75% are required"):
        check([RIGHT, RIGHT, WORDS, WORDS])
    assert not (check.folder / "serving.q.json").exists()  # the one that passed is of another model
    kept = read_json(check.folder / "serving.q.failed.json")["results"]["details"]
    assert [one["content"] for one in kept] == ["", "", WORDS[0], WORDS[0]]
