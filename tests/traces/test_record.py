"""The shipped traces are real, of the pinned Hermes, in its own format; and recording one works where Hermes is
installed.
"""

import contextlib
import json
import re
from pathlib import Path

import pytest

import traces_record
from kxl.base import jsonl
from kxl.base.cli import UserError
from kxl.chat import hermes_tools
from kxl.live import agent, scenarios
from kxl.setup import llama_cpp
from kxl.traces import filters, formats

pytestmark = pytest.mark.minutes

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "datasets" / "hermes" / "traces.jsonl"


@pytest.fixture(scope="module")
def rows():
    return [row for _, row in jsonl.read(SHIPPED)]


def test_the_shipped_traces_are_those_of_the_scenarios_and_name_no_machine(rows):
    wanted = [one["id"] for one in scenarios.written() + scenarios.generated(5, 12)]
    assert [row["id"] for row in rows] == wanted and len(rows) >= 36
    assert not re.search(r"/tmp/|hermes-kxl-|/root/(?!\.)", SHIPPED.read_text(encoding="utf-8"))


def test_their_tools_are_hermes_own_and_their_results_are_real(rows):
    known = {tool["function"]["name"]: tool["function"]["parameters"] for tool in hermes_tools.load()}
    policies = {reason: allowed[0] for reason, (_, allowed) in filters.REASONS.items()}
    texts = {}
    for row in rows:
        made = formats.to_row(row, filters.Meets(policies))
        assert {
            tool["function"]["name"]: tool["function"]["parameters"] for tool in made["tools"]
        }.items() <= known.items()
        texts[row["id"]] = [message["content"] for message in made["messages"]]
        calls = [call for message in made["messages"] for call in message.get("tool_calls", [])]
        assert sum(message["role"] == "tool" for message in made["messages"]) == len(calls)
        if row["id"].startswith("parallel"):
            assert any(len(message.get("tool_calls", [])) > 1 for message in made["messages"])
    assert "AssertionError: -1" in texts["fix-failing-check"][2], "the check really failed"
    assert "SyntaxError" in " ".join(texts["python-syntax-error"]) and '"exit_code": 127' in " ".join(
        texts["command-not-found"]
    )
    assert texts["quotes-and-backslashes"][-1] == 'it\'s "C:\\new\\table"'


HERMES = pytest.mark.skipif(
    not (llama_cpp.cache_dir() / "hermes-agent-full-0.19.0" / "complete").is_file(),
    reason="the whole Hermes Agent is not installed here (make hermes-traces installs it)",
)


@HERMES
def test_recording_runs_the_tools_and_keeps_what_hermes_wrote():
    scenario = scenarios.scenario(
        "one",
        "x",
        "make a.txt",
        {"b.txt": "old"},
        scenarios.act(scenarios.shell("cat b.txt && echo new > a.txt && ls")),
        scenarios.tell("Now: {output}"),
    )
    row = traces_record.record(scenario, agent.TOOLSETS, 120)
    assert (
        row["conversations"][-1]["value"].endswith("Now: olda.txt\nb.txt")
        and row["completed"]
        and row["task"] == "make a.txt"
    )


@HERMES
def test_a_trace_file_that_a_tool_made_a_link_of_is_refused():
    scenario = scenarios.scenario(
        "one",
        "x",
        "make a.txt",
        {"b.txt": "old"},
        scenarios.act(scenarios.shell("mkdir x && ln -s x/kept trajectory_samples.jsonl")),
        scenarios.tell("Done."),
    )
    with pytest.raises(UserError, match="trajectory_samples.jsonl: is no trajectory of Hermes"):
        traces_record.record(scenario, agent.TOOLSETS, 120)


RESULT = '{"output": "a"}'
SEEN = [{"messages": [{"role": "user", "content": "go"}, {"role": "tool", "tool_call_id": "c1", "content": RESULT}]}]


@pytest.mark.parametrize(
    "kept, refused",
    [
        ([{"tool_call_id": "c1", "name": "terminal", "content": {"output": "a"}}], False),
        ([{"tool_call_id": "c1", "name": "terminal", "content": {"output": "b"}}], True),
        ([{"tool_call_id": "c2", "name": "terminal", "content": {"output": "a"}}], True),
        ([], True),
    ],
)
def test_a_trace_with_other_results_than_the_server_saw_is_refused(kept, refused):
    value = "\n".join(f"<tool_response>\n{json.dumps(result)}\n</tool_response>" for result in kept)
    with pytest.raises(UserError, match="other tool results") if refused else contextlib.nullcontext():
        traces_record.check_results("one", [{"from": "tool", "value": value}], SEEN)
