"""What a served model is refused for: too few structured calls of the right tool, as its server really answers them."""

import sys

import pytest

import smol_check_serving
from helpers import chat_server
from kxl.base import report
from kxl.base.cli import UserError
from kxl.base.files import read_json, write_json
from kxl.smol import sets

TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks.",
        "parameters": {"type": "object", "required": ["what"], "properties": {"what": {"type": "string"}}},
    },
}
RIGHT = (None, [("look", {"what": "x"})])
ELSE = (None, [("look", {"what": "another thing"})])
OTHER = (None, [("listen", {"what": "x"})])
TWICE = (None, [("look", {"what": "x"}), ("look", {"what": "y"})])
WORDS = ("I would have to look at x.", [])
LEAKED = ('<tool_call>{"name": "look", "arguments": {"what": "x"}}</tool_call>', [])


@pytest.fixture
def check(tmp_path, monkeypatch):
    """Serve one answer per prompt in place of llama-server's; return the report, its path and what was asked."""

    def run(answers, raw, allowed=0.25):
        asked = []
        rows = [
            {
                "id": str(place),
                "kind": "tool",
                "messages": [{"role": "user", "content": f"prompt {place}"}],
                "tools": [TOOL],
                "expected": [{"name": "look", "arguments": {"what": ["x"]}}],
            }
            for place in range(len(answers))
        ]
        rows.append({**rows[0], "id": "ordinary", "kind": "ordinary", "expected": None})

        def answer(body):
            asked.append(body)
            return answers[int(body["messages"][-1]["content"].split()[-1])]

        write_json(tmp_path / "config.json", {"emission": {"max_served_loss": allowed}})
        sets.write(tmp_path / "test.json", rows)
        after = [{**row, "verdict": "call" if place < raw else "text"} for place, row in enumerate(rows)]
        report.write(tmp_path / "emission.json", [], {}, {"details": {"after": after}})
        (tmp_path / "q.gguf").write_bytes(b"GGUF")
        # The one thing that is not real: what stands behind the port.
        monkeypatch.setattr(smol_check_serving.eval_server, "llama_server", lambda *_: chat_server.serving(answer))
        paths = {
            "config": "config.json",
            "set": "test.json",
            "raw": "emission.json",
            "gguf": "q.gguf",
            "out": "serving.q.json",
        }
        flags = [word for name, path in paths.items() for word in (f"--{name}", str(tmp_path / path))]
        monkeypatch.setattr(sys, "argv", ["smol_check_serving.py", *flags])
        smol_check_serving.main()
        return read_json(tmp_path / "serving.q.json")["results"], asked

    run.folder = tmp_path
    return run


def test_only_a_structured_call_of_exactly_the_right_tool_counts(check):
    results, asked = check([RIGHT, ELSE, OTHER, TWICE, WORDS, LEAKED], raw=4)
    assert [one["right_tool"] for one in results["details"]] == [True, True, False, False, False, False]
    assert [one["right_arguments"] for one in results["details"]] == [True, False, False, False, False, False]
    assert [one["structured"] for one in results["details"]] == [True, True, True, True, False, False]
    counts = {key: results[key] for key in ("prompts", "structured", "raw", "right_tool", "right_arguments", "leaks")}
    assert counts == {"prompts": 6, "structured": 4, "raw": 4, "right_tool": 2, "right_arguments": 1, "leaks": 1}
    assert len(asked) == 6 and all(body["tools"] == [TOOL] and body["max_tokens"] == 96 for body in asked)


def test_fewer_structured_calls_than_on_raw_tokens_are_refused_and_every_answer_is_kept(check):
    results, _ = check([RIGHT, RIGHT, RIGHT, WORDS], raw=4)
    assert results["structured"] == 3
    with pytest.raises(UserError, match="on raw tokens 4 got a whole call, and at most 25% may be lost"):
        check([RIGHT, RIGHT, WORDS, WORDS], raw=4)
    assert not (check.folder / "serving.q.json").exists()  # the one that passed is of another model
    kept = read_json(check.folder / "serving.q.failed.json")["results"]["details"]
    assert [one["content"] for one in kept] == ["", "", WORDS[0], WORDS[0]]
