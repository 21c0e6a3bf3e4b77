"""Rows that other people wrote come in as the one form that templates get, or are named with their line."""

import json

import pytest

from kxl.base.cli import UserError
from kxl.chat import rows

USER = {"role": "user", "content": "list"}


def of(*messages, **more):
    return rows.row_of({"messages": [USER, *messages], **more}, "rows.jsonl:3")


def assistant(**more):
    return {"role": "assistant", "content": "", **more}


@pytest.mark.parametrize("call", [
    {"id": "c1", "type": "function", "function": {"name": "terminal", "arguments": {"command": "ls"}}},
    {"id": "c1", "type": "function", "function": {"name": "terminal", "arguments": '{"command": "ls"}'}},
    {"name": "terminal", "arguments": '{"command": "ls"}'},
])  # fmt: skip
def test_arguments_are_an_object_however_they_were_written(call):
    for message in (assistant(tool_calls=[call]), assistant(tool_calls=json.dumps([call]))):
        function = of(message)["messages"][1]["tool_calls"][0]["function"]
        assert function == {"name": "terminal", "arguments": {"command": "ls"}}
    assert (
        of(assistant(function_call=call.get("function", call)))["messages"][1]["tool_calls"][0]["function"] == function
    )


@pytest.mark.parametrize("message, complaint", [
    (assistant(tool_calls=[{"function": {"name": "terminal", "arguments": "ls"}}]),
     "message 1: call 0: arguments of terminal: not JSON"),
    (assistant(tool_calls=[{"function": {"name": "terminal", "arguments": "[1]"}}]), "an object, or one as JSON text"),
    (assistant(tool_calls=[{"function": {"name": "terminal"}}]), "arguments of terminal must be an object"),
    (assistant(tool_calls=[{"function": {"arguments": {}}}]), "call 0 must be an object with function.name"),
    (assistant(tool_calls={"a": 1}), "message 1: tool_calls must be a list"),
    (assistant(content=[{"type": "image_url"}]), "message 1: content must be text or text parts"),
    (assistant(content="\ud800"), "half a character"),
    ({"content": "x"}, "message 1 must be an object with a role"),
    ("x", "message 1 must be an object with a role"),
])  # fmt: skip
def test_what_is_no_message_is_named_with_its_line_and_place(message, complaint):
    with pytest.raises(UserError, match="^rows.jsonl:3: ") as error:
        of(message)
    assert complaint in str(error.value)


def test_nulls_and_parts_are_what_they_stand_for():
    row = of(
        {"role": "assistant", "content": None, "tool_calls": None, "reasoning_content": None, "name": None},
        {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        tools=None,
    )
    assert row["messages"][1:] == [assistant(), {"role": "assistant", "content": "ab"}] and row["tools"] is None


@pytest.mark.parametrize("message", [
    assistant(content="b", reasoning_content="a"), assistant(content="b", thinking="a"),
    assistant(content="b", reasoning="a", reasoning_content=""), assistant(content="<think>a</think>b"),
])  # fmt: skip
def test_a_thought_is_one_field_whatever_its_writer_called_it(message):
    assert of(message)["messages"][1] == assistant(content="b", reasoning_content="a")


def test_words_that_look_like_a_thought_stay_words():
    for text in ("Put <think>a</think> first.", "It ends with </think>, I said."):
        assert of(assistant(content=text))["messages"][1] == assistant(content=text)


def test_a_file_is_read_line_by_line_and_says_which_line_is_wrong(tmp_path):
    path = tmp_path / "rows.jsonl"
    good = json.dumps({"messages": [USER, assistant(content="x")]}).encode()
    path.write_bytes(b"\xef\xbb\xbf" + good + b"\n\n" + good + b"\n")
    assert [where.rpartition(":")[2] for where, _ in rows.read(path)] == ["1", "3"]
    for wrong, complaint in (
        (b"{", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b'{"a": NaN}', "NaN"),
        (b"[" * 9999, "nested too"),
    ):
        path.write_bytes(good + b"\n" + wrong + b"\n")
        with pytest.raises(UserError, match=f"rows.jsonl:2: .*{complaint}"):
            list(rows.read(path))
    with pytest.raises(UserError, match="none.jsonl: no such file"):
        list(rows.read(tmp_path / "none.jsonl"))
