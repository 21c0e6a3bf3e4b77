"""Each format comes in as the same chat rows; what cannot be read is named, not guessed."""

import json

import pytest

from helpers import traces
from kxl.traces import filters, formats
from kxl.traces.formats import Dropped, to_row

POLICIES = {reason: allowed[0] for reason, (_, allowed) in filters.REASONS.items()}


def read(data, policies=POLICIES):
    meets = filters.Meets(policies)
    return to_row(data, meets), meets


def said(row):
    """(role, text, calls) of each message."""
    return [
        (
            m["role"],
            m["content"],
            [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in m.get("tool_calls", [])],
        )
        for m in row["messages"]
    ]


def test_a_hermes_trace_becomes_structured_calls_with_paired_results():
    row, _ = read(
        traces.hermes(
            "a",
            traces.gpt(traces.run("b", timeout=3), traces.run("c"), say="Both.", think="hm"),
            traces.results({"output": "ü", "exit_code": 0, "error": None}, "plain"),
            traces.gpt(say="Done."),
        )
    )
    assert said(row) == [
        ("user", "please do the thing called a", []),
        (
            "assistant",
            "Both.",
            [("call_1", "terminal", {"command": "b", "timeout": 3}), ("call_2", "terminal", {"command": "c"})],
        ),
        ("tool", '{"output": "ü", "exit_code": 0, "error": null}', []),
        ("tool", "plain", []),
        ("assistant", "Done.", []),
    ]
    assert [m.get("tool_call_id") for m in row["messages"]] == [None, None, "call_1", "call_2", None]
    assert row["messages"][1]["reasoning_content"] == "hm" and "reasoning_content" not in row["messages"][4]
    assert (
        row["tools"] == [{"type": "function", "function": traces.TERMINAL}]
        and row["id"] == "a"
        and row["task"] == "task a"
    )


def test_arguments_have_the_order_of_hermes_at_run_time():
    row, _ = read(
        traces.hermes(
            "a",
            traces.gpt(
                {"name": "terminal", "arguments": {"z": 1, "command": "x", "a": {"d": 1, "b": [{"y": 1, "x": 2}]}}}
            ),
        )
    )
    assert (
        json.dumps(row["messages"][1]["tool_calls"][0]["function"]["arguments"])
        == '{"a": {"b": [{"x": 2, "y": 1}], "d": 1}, "command": "x", "z": 1}'
    )


def test_a_call_marker_inside_an_argument_does_not_end_the_call():
    row, _ = read(traces.hermes("a", traces.gpt(traces.run("echo '</tool_call>' <tool_call>"))))
    assert row["messages"][1]["tool_calls"][0]["function"]["arguments"] == {
        "command": "echo '</tool_call>' <tool_call>"
    }


def test_tools_of_the_system_message_are_found_behind_the_prose_and_its_text_is_kept_out():
    data = traces.hermes("a", traces.gpt(say="ok"))
    del data["tools"]
    data["conversations"][0]["value"] = "Speak like a pirate.\n\n" + data["conversations"][0]["value"]
    row, _ = read(data)
    assert row["messages"][0] == {"role": "system", "content": "Speak like a pirate."}
    assert row["tools"][0]["function"]["name"] == "terminal"


def test_function_calling_v1_with_python_literals_and_one_tool_a_line_is_read():
    system = traces.PROSE.format(
        tools=json.dumps({"type": "function", "function": traces.TERMINAL})
        + "\n"
        + json.dumps({"type": "function", "function": traces.CLOSE})
    )
    call = "<tool_call>\n{'arguments': {'command': 'ls', 'background': True}, 'name': 'terminal'}\n</tool_call>"
    data = {
        "id": "v1",
        "conversations": [
            {"from": "system", "value": system},
            {"from": "human", "value": "go"},
            {"from": "gpt", "value": call},
            {"from": "tool", "value": "<tool_response>\n{'a': 1}\n</tool_response>"},
            {"from": "gpt", "value": "ok"},
        ],
    }
    row, meets = read(data)
    assert row["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"background": True, "command": "ls"}
    assert row["messages"][2]["content"] == "{'a': 1}" and len(row["tools"]) == 2
    assert "python_literals" in meets.repaired
    with pytest.raises(Dropped, match="python_literals"):
        read(data, {**POLICIES, "python_literals": "drop"})


def test_openai_rows_pair_by_the_ids_of_the_calls():
    row, _ = read(traces.openai("src"))
    assert said(row)[1:3] == [
        ("user", "list src", []),
        (
            "assistant",
            "",
            [
                ("call_1", "terminal", {"command": "ls src", "timeout": 5}),
                ("call_2", "terminal", {"command": "ls src", "timeout": 5}),
            ],
        ),
    ]
    assert [(m["tool_call_id"], m["content"]) for m in row["messages"] if m["role"] == "tool"] == [
        ("call_2", "second"),
        ("call_1", "first"),
    ]


@pytest.mark.parametrize(
    "data, reason, detail",
    [
        ([1], "wrong_columns", "a list, not an object"),
        ({"text": "x"}, "wrong_columns", "has text; needs a list messages or conversations"),
        ({"conversations": None, "id": 1}, "wrong_columns", "conversations is null"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "wrong_columns", "the role 'wizard'"),
        ({"messages": ["x"]}, "wrong_columns", "turn 0 is a str"),
        ({"messages": [{"role": "user", "content": 5}]}, "wrong_columns", "the text of turn 0 is a int"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "wrong_columns", "image_url, only text"),
        ({"messages": [], "tools": "{"}, "bad_tools", "not JSON"),
        ({"messages": [], "tools": [{"description": "x"}]}, "bad_tools", "has no name"),
        ({"messages": [], "tools": [traces.TERMINAL, traces.TERMINAL]}, "bad_tools", "listed twice"),
        (
            {"conversations": [{"from": "gpt", "value": '<tool_call>\n{"name": "t", "arguments": {'}]},
            "broken_call",
            "turn 0",
        ),
        (
            {"conversations": [{"from": "gpt", "value": '<tool_call>\n{"arguments": {}}\n</tool_call>'}]},
            "broken_call",
            "has no name",
        ),
        ({"conversations": [{"from": "gpt", "value": "<think>never ends"}]}, "broken_thought", "does not end"),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"function": {"name": "t", "arguments": '{"a": NaN}'}}]}
                ]
            },
            "broken_call",
            "not JSON",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "t", "arguments": [1]}}]}]},
            "broken_call",
            "are a list",
        ),
    ],
)
def test_what_cannot_be_read_has_a_reason_that_says_what_was_found(data, reason, detail):
    with pytest.raises(Dropped) as dropped:
        read(data)
    assert dropped.value.reason == reason and detail in dropped.value.detail


@pytest.mark.parametrize(
    "text, reason",
    [
        (b'{"a": ', "not_json"),
        (b'{"a": "\xff"}', "not_utf8"),
        (b"[" * 100_000, "not_json"),
        (b'{"a": NaN}', "not_json"),
        (b"1" * 5000, "not_json"),
    ],
)
def test_text_that_is_no_json_is_named_whatever_it_does_to_the_parser(text, reason):
    with pytest.raises(Dropped) as dropped:
        formats.parse_json(text)
    assert dropped.value.reason == reason
