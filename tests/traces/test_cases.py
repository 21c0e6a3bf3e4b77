"""Traces that went wrong once, and others of their kinds: what a user expects of each, after all checks of a row."""

import json
import time
from pathlib import Path

import pytest

from helpers import traces
from kxl.chat import loss_mask
from kxl.traces import sources

CASES = Path(__file__).parent / "cases"
OFFERED = [traces.TERMINAL, traces.SNAPSHOT, {
    "name": "write_file", "description": "Writes a file.", "parameters": {"type": "object", "properties": {
        "path": {"type": "string"}, "content": {"type": "string"}}, "required": ["path", "content"]}}]  # fmt: skip


def of(worker, data):
    """(outcome, row or None) of one trace."""
    line = data if isinstance(data, bytes) else json.dumps(data, ensure_ascii=False).encode()
    outcome = worker.outcome(sources.Record("t:1", line))
    return outcome, json.loads(outcome.line) if outcome.reason is None else None


def case(name):
    return json.loads(next(CASES.glob(f"{name}*")).read_text(encoding="utf-8"))["input"]


def trained(worker, row):
    """What the model is trained to write, turn by turn, and all that it is shown."""
    said, shown = [], ""
    for tokens, mask in loss_mask.sequences(worker.chat, row):
        said.append(worker.chat.tokenizer.decode(tokens[mask].tolist(), skip_special_tokens=False))
        shown += worker.chat.tokenizer.decode(tokens.tolist(), skip_special_tokens=False)
    return "".join(said), shown


def gpt(text):
    return {"from": "gpt", "value": text}


def sharegpt(*turns):
    human = {"from": "human", "value": "please see to it"}
    return {"conversations": [human, *turns], "tools": json.dumps(OFFERED)}


def openai(*messages, **more):
    wrapped = [{"type": "function", "function": tool} for tool in OFFERED]
    return {"messages": [{"role": "user", "content": "please see to it"}, *messages], "tools": wrapped, **more}


def call(name, arguments, number=1):
    return {"id": f"c{number}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def block(value):
    return f"<tool_call>\n{json.dumps(value)}\n</tool_call>"


LIST = {"name": "terminal", "arguments": {"command": "ls"}}
WRITE = {"name": "write_file", "arguments": {"path": "a", "content": "</think>"}}

# Kind 1: marks of a thought.


@pytest.mark.parametrize("name, text", [
    ("t01", "Put <think>a plan</think> before the answer."), ("t02", "Put <think>a plan</think> first.")])  # fmt: skip
def test_a_file_that_is_written_keeps_its_think_words(dropping, keeping, name, text):
    for worker in (dropping, keeping):
        _, row = of(worker, case(name))
        assert row["messages"][1]["tool_calls"][0]["function"]["arguments"]["content"] == text
        assert text in trained(worker, row)[0]


def test_a_thought_whose_beginning_the_template_wrote_is_a_thought(dropping, keeping):
    _, row = of(dropping, case("t03"))
    said, shown = trained(dropping, row)
    assert "There is one file, a.txt." in said and "person wants" not in shown and "</think>" not in shown
    _, row = of(keeping, case("t03"))
    thoughts = [message.get("reasoning_content") for message in row["messages"] if message["role"] == "assistant"]
    assert thoughts == ["The person wants a listing, so ls it is.", "One file was found, say so."]
    assert "<think>One file was found, say so.</think>There is one file, a.txt." in trained(keeping, row)[0]


def test_nothing_of_a_thought_that_names_its_end_is_an_answer(dropping, keeping):
    _, row = of(dropping, case("t26"))
    assert trained(dropping, row)[0] == "A closing tag does.<|im_end|>"
    outcome, row = of(keeping, case("t26"))
    assert trained(keeping, row)[0] == "<think>The tag /think closes it, I say so.</think>A closing tag does.<|im_end|>"
    assert "mark_in_thought" in outcome.repaired


@pytest.mark.parametrize("text, said", [
    (f"<think>so</think>\n{block(WRITE)}", '"</think>"'),
    ("<think>\nperhaps <tool_call> first\n</think>\nHello.", "Hello.<|im_end|>"),
    (f"<think>no {block(LIST)} now</think>\nHello.", "Hello.<|im_end|>"),
    ("</think>\n\nHello.", "Hello.<|im_end|>"),
    ("<think>a</think>\n<think>b</think>\nHello.", "Hello.<|im_end|>"),
    ("It ends with `</think>`, no more.", "It ends with `</think>`, no more.<|im_end|>"),
    ("Like so:\n```\n<think>hm</think>\n```", "Like so:\n```\n<think>hm</think>\n```<|im_end|>"),
])  # fmt: skip
def test_a_mark_ends_a_thought_only_where_a_reader_would_say_so(dropping, text, said):
    turns = [gpt(text)]
    if "write_file" in text:
        turns += [traces.results("ok", name="write_file"), gpt("Done.")]
    written = trained(dropping, of(dropping, sharegpt(*turns))[1])[0]
    assert said in written and "perhaps" not in written and "ls" not in written


@pytest.mark.parametrize("text, reason", [
    ("<think>and so on", "broken_thought"),
    ("<think>the tag </think> closes it.</think>A tag does.", "broken_thought"),
    ("The tag </think> closes it.", "broken_thought"),
    ("Let me see.\n<think>hm</think>\nTwo.", "thought_marks"),
    ("<think>only a thought</think>", "empty_turn"),
])  # fmt: skip
def test_a_thought_that_cannot_be_told_from_the_answer_is_dropped_by_name(dropping, text, reason):
    for data in (sharegpt(gpt(text)), openai({"role": "assistant", "content": text})):
        assert of(dropping, data)[0].reason == reason


def test_thoughts_in_fields_and_in_the_text_are_one_field(keeping):
    for message in (
        {"content": "Hello.", "reasoning_content": " why not "},
        {"content": "Hello.", "reasoning": "why not", "reasoning_content": "why not"},
        {"content": "Hello.", "thinking": "why not", "reasoning": None},
        {"content": "<think>\nwhy not\n</think>\n\nHello."},
        {"content": "Hello.", "reasoning_content": "<think>why not</think>"},
    ):
        _, row = of(keeping, openai({"role": "assistant", **message}))
        assert row["messages"][1] == {"role": "assistant", "content": "Hello.", "reasoning_content": "why not"}


# Kind 2: a call without `arguments`.


def test_arguments_under_another_name_are_read(dropping):
    assert of(dropping, case("t04"))[1]["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"full": True}
    for key in ("parameters", "args", "input"):
        for value in ({"full": True}, '{"full": true}'):
            made = {"name": "browser_snapshot", key: value, "arguments": None}
            _, row = of(
                dropping, sharegpt(gpt(block(made)), traces.results("x", name="browser_snapshot"), gpt("Done."))
            )
            assert row["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"full": True}


@pytest.mark.parametrize("value, reason", [
    ({"name": "browser_snapshot"}, "missing_arguments"),
    ({"name": "browser_snapshot", "full": True}, "missing_arguments"),
    ({"name": "browser_snapshot", "arguments": None}, "missing_arguments"),
    ({"name": "browser_snapshot", "arguments": {}, "parameters": {"full": True}}, "broken_call"),
    ({"name": "browser_snapshot", "arguments": "full"}, "broken_call"),
    ({"name": "browser_snapshot", "parameters": traces.SNAPSHOT["parameters"]}, "schema_violation"),
])  # fmt: skip
def test_a_call_that_nobody_made_is_not_trained(dropping, value, reason):
    for data in (sharegpt(gpt(block(value))), openai({"role": "assistant", "tool_calls": [{"function": value}]})):
        assert of(dropping, data)[0].reason == reason


def test_a_tool_that_takes_nothing_needs_no_arguments(dropping):
    data = openai({"role": "assistant", "tool_calls": [{"function": {"name": "back"}}]})
    data["tools"].append({"type": "function", "function": {"name": "back", "parameters": {"type": "object"}}})
    assert of(dropping, data)[1]["messages"][1]["tool_calls"][0]["function"]["arguments"] == {}


# Kind 3: the text of an OpenAI row is literal.


def test_a_result_is_shown_whole_whatever_it_quotes(dropping):
    _, row = of(dropping, case("t08"))
    assert row["messages"][2]["content"] == case("t08")["messages"][2]["content"]
    assert "line 2 <tool_response>{{ m.content }}</tool_response>\nline 3" in trained(dropping, row)[1]
    shown = '<tool_response>\n{"content": "x"}\n</tool_response> and <tools>[]</tools>'
    messages = [{"role": "assistant", "tool_calls": [call("terminal", {"command": "cat"})]}]
    messages += [{"role": "tool", "tool_call_id": "c1", "content": shown}, {"role": "assistant", "content": "Done."}]
    assert of(dropping, openai(*messages))[1]["messages"][2]["content"] == shown


def test_an_answer_that_shows_a_call_makes_none(dropping):
    _, row = of(dropping, case("t09"))
    assert "tool_calls" not in row["messages"][1] and row["messages"][1]["content"].count("<tool_call>") == 1
    for text in (f"Write {block({'name': 'terminal', 'arguments': {'command': 'ls'}})}.", "a <tool_call> begins it"):
        outcome, row = of(dropping, openai({"role": "assistant", "content": text}))
        assert row["messages"][1] == {"role": "assistant", "content": text}
        assert ("call_in_text" in outcome.kept) == text.startswith("Write")


def test_openai_turns_under_a_system_message_that_explains_the_markup_are_in_the_markup(dropping):
    system = {"role": "system", "content": traces.PROSE.format(tools=json.dumps(OFFERED))}
    said = {"role": "assistant", "content": block({"name": "terminal", "arguments": {"command": "ls"}})}
    data = {"messages": [system, {"role": "user", "content": "list"}, said]}
    assert of(dropping, data)[1]["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"command": "ls"}


def test_the_older_function_call_is_a_call(dropping):
    _, row = of(dropping, case("t06"))
    assert row["messages"][1]["tool_calls"][0]["function"] == {
        "name": "terminal",
        "arguments": {"command": "pytest blue"},
    }
    messages = [
        {"role": "assistant", "content": None, "function_call": {"name": "terminal", "arguments": '{"command": "ls"}'}},
        {"role": "function", "name": "terminal", "content": "a.txt"},
        {"role": "assistant", "content": "One file.", "function_call": None},
    ]
    data = openai(*messages)
    data["functions"] = [tool["function"] for tool in data.pop("tools")]
    _, row = of(dropping, data)
    assert [message["role"] for message in row["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert row["messages"][2]["tool_call_id"] == row["messages"][1]["tool_calls"][0]["id"]
    assert {tool["function"]["name"] for tool in row["tools"]} == {tool["name"] for tool in OFFERED}


def test_calls_as_json_text_are_read(dropping):
    assert of(dropping, case("t20"))[1]["messages"][1]["tool_calls"][0]["function"]["arguments"] == {
        "command": "ls eta"
    }
    for wrong, said in (("[{", "not JSON"), ("[1]", "has no name"), ("7", "not a list")):
        outcome, _ = of(dropping, openai({"role": "assistant", "content": "x", "tool_calls": wrong}))
        assert outcome.reason == "broken_call" and said in outcome.detail


def test_calls_that_a_turn_says_in_both_ways_are_made_once(dropping):
    said = {"from": "gpt", "value": block({"name": "terminal", "arguments": {"command": "ls"}})}
    _, row = of(dropping, sharegpt({**said, "tool_calls": [call("terminal", {"command": "ls"})]}))
    assert len(row["messages"][1]["tool_calls"]) == 1


# Kind 4: no record raises.


def test_a_boolean_subschema_takes_anything_and_ends_no_run(dropping):
    lines = case("s04").encode().splitlines()
    outcomes = [of(dropping, line) for line in lines]
    assert outcomes[0][1]["id"] == "ok"
    arguments = outcomes[1][1]["messages"][1]["tool_calls"][0]["function"]["arguments"]
    assert arguments == {"filter": "orders", "limit": 5}


SCHEMA = {"type": "object", "properties": {"command": {"type": "string"}}}


@pytest.mark.parametrize("data, reasons", [
    (openai({"role": ["assistant"], "content": "x"}), {"wrong_columns"}),
    (openai({"role": {"a": 1}, "content": "x"}), {"wrong_columns"}),
    (openai({"role": True, "content": "x"}), {"wrong_columns"}),
    (openai({"role": "assistant", "content": {"text": "x"}}), {"wrong_columns"}),
    (openai({"role": "assistant", "content": ["x"]}), {"wrong_columns"}),
    (openai({"role": "assistant", "content": "x", "tool_calls": 5}), {"broken_call"}),
    (openai({"role": "assistant", "content": "x", "tool_calls": [None]}), {"broken_call"}),
    (openai({"role": "assistant", "content": "x", "tool_calls": [[]]}), {"broken_call"}),
    (openai({"role": "assistant", "content": "x", "function_call": 5}), {"broken_call"}),
    (openai({"role": "user", "content": "x", "tool_calls": [call("terminal", {})]}), {"wrong_columns"}),
    ({**openai({"role": "assistant", "content": "x"}), "tools": True}, {"bad_tools"}),
    ({**openai({"role": "assistant", "content": "x"}), "tools": {"a": 1}}, {"bad_tools"}),
    ({**openai({"role": "assistant", "content": "x"}), "tools": [{"name": "t", "parameters": True}]}, {"bad_tools"}),
    ({**openai({"role": "assistant", "content": "x"}), "tools": [{"name": ["t"]}]}, {"bad_tools"}),
    ({"messages": "not a list"}, {"wrong_columns"}),
    ({"messages": "[not json"}, {"wrong_columns"}),
    ([], {"wrong_columns"}),
])  # fmt: skip
def test_a_row_of_any_shape_is_dropped_under_a_name(dropping, data, reasons):
    outcome, _ = of(dropping, data)
    assert outcome.reason in reasons, outcome.detail


@pytest.mark.parametrize("schema", [
    {"type": "object", "properties": {"command": False}},
    {"type": "object", "properties": {"command": {"type": ["string", 5]}}},
    {"type": "object", "properties": {"command": {"$ref": "#/nowhere"}}}, {"type": "object", "required": True},
    {"type": "object", "properties": {"command": {"$ref": "http://127.0.0.1:9/schema"}}},
    {"type": "object", "properties": {"command": {"pattern": "("}}}, {"$ref": "#"}, {"type": "object", "required": [5]},
    {"type": "object", "properties": {"command": {"allOf": [True, {"type": "integer"}]}}},
])  # fmt: skip
def test_a_schema_that_cannot_be_applied_drops_its_row_by_name(dropping, schema):
    data = openai({"role": "assistant", "tool_calls": [call("odd", {"command": "ls"})]})
    data["tools"].append({"type": "function", "function": {"name": "odd", "parameters": schema}})
    assert of(dropping, data)[0].reason == "schema_violation"


@pytest.mark.parametrize("pattern, value", [("^(a|a)*$", "a" * 5000 + "!"), ("(x+x+)+y", "x" * 5000)])
def test_a_pattern_that_never_ends_costs_its_own_rows_alone(dropping, pattern, value):
    data = openai({"role": "assistant", "tool_calls": [call("odd", {"command": value})]})
    schema = {"type": "object", "properties": {"command": {"pattern": pattern}}}
    data["tools"].append({"type": "function", "function": {"name": "odd", "parameters": schema}})
    began = time.process_time()
    for _ in range(50):
        outcome, _ = of(dropping, data)
        assert outcome.reason == "schema_violation" and "takes more than 0.1 s" in outcome.detail
    assert time.process_time() - began < 5


@pytest.mark.parametrize("place", ["$defs", "definitions"])
def test_ordinary_references_within_a_schema_are_followed(dropping, place):
    schema = {"type": "object", "properties": {"command": {"$ref": f"#/{place}/Command"}},
              place: {"Command": {"type": "string", "pattern": "^ls"}}}  # fmt: skip
    for command, reason in (("ls -l", None), ("rm", "schema_violation")):
        data = openai({"role": "assistant", "tool_calls": [call("odd", {"command": command})]},
                      {"role": "tool", "tool_call_id": "c1", "content": "a"},
                      {"role": "assistant", "content": "Done."})  # fmt: skip
        data["tools"].append({"type": "function", "function": {"name": "odd", "parameters": schema}})
        assert of(dropping, data)[0].reason == reason


def test_a_schema_deeper_than_python_reads_ends_no_run(dropping):
    data = json.dumps(openai({"role": "assistant", "content": "x"})).encode()
    for deep in (b"[" * 900 + b"]" * 900, b'{"a":' * 900 + b"1" + b"}" * 900):
        line = data.replace(b'"tools": [', b'"tools": [' + deep + b", ", 1)
        assert of(dropping, line)[0].reason in ("bad_tools", "not_json")


# Keys that are null.


def test_no_null_of_arrow_reaches_a_prompt(dropping):
    _, row = of(dropping, case("t15"))
    assert row["tools"][0]["function"]["parameters"]["properties"] == {"command": {"type": "string"}}
    assert "null" not in trained(dropping, row)[1]


def test_what_arrow_fills_with_null_is_what_the_row_lacks(dropping):
    nothing = dict.fromkeys(("role", "content", "tool_calls", "tool_call_id", "name", "function_call", "from", "value"))
    made = call("terminal", {"command": "ls", "timeout": None, "path": None})
    messages = [
        {**nothing, "role": "assistant", "tool_calls": [{**made, "index": None}]},
        {**nothing, "role": "tool", "tool_call_id": "c1", "content": "a.txt"},
        {**nothing, "role": "assistant", "content": "One."},
    ]
    outcome, row = of(dropping, openai(*messages, conversations=None, system=None, id=None))
    assert row["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"command": "ls"}
    assert "null left out" in outcome.repaired["schema_violation"]
    turns = [{**nothing, **turn} for turn in (gpt("Hello."),)]
    assert of(dropping, {**sharegpt(*turns), "messages": None})[1]["messages"][1]["content"] == "Hello."


# Session files.


def records(path):
    return list(sources.records([(path.name, path)], 1 << 20))


def test_a_session_file_of_hermes_is_one_row_with_its_system_prompt(dropping, tmp_path):
    path = tmp_path / "session.json"
    path.write_text(case("s01"))
    (record,) = records(path)
    _, row = of(dropping, record.data)
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant", "tool", "assistant"]
    assert row["messages"][0]["content"] == "You are a careful agent named Blue."
    assert row["id"] == "20260101_000000_aaaaaa" and row["messages"][3]["name"] == "terminal"


def test_several_objects_over_many_lines_are_several_rows_whatever_the_file_is_called(tmp_path):
    rows = [traces.good("a"), {"text": "with } and { in it"}, traces.openai("b")]
    for name in ("sessions.json", "sessions.jsonl", "sessions.txt"):
        path = tmp_path / name
        path.write_text("\n".join(json.dumps(row, indent=2) for row in rows))
        assert [json.loads(record.data) for record in records(path)] == rows


def test_an_object_over_many_lines_that_breaks_off_is_one_row_that_is_no_json(dropping, tmp_path):
    path = tmp_path / "session.json"
    path.write_text(case("s01")[:-40])
    (record,) = records(path)
    assert of(dropping, record.data)[0].reason == "not_json"


def test_a_broken_first_line_makes_no_one_object_of_the_lines_behind_it(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "a", "messages": [\n' + json.dumps(traces.good("b")) + "\n" + json.dumps(traces.good("c")))
    assert len(records(path)) == 3


# What the config chooses.


def test_rows_say_themselves_that_thoughts_are_shown_without_loss(keeping):
    data = openai({"role": "assistant", "content": "Hello.", "reasoning_content": "why not"})
    shown = type(keeping)(keeping.chat.folder, {**keeping.settings, "reasoning_loss": False}, [])
    row = of(shown, data)[1]
    assert row["reasoning_loss"] is False and trained(shown, row)[0] == "Hello.<|im_end|>"
    assert "<think>why not</think>Hello." in trained(shown, row)[1]
    assert "reasoning_loss" not in of(keeping, data)[1]
    assert "reasoning_loss" not in of(shown, openai({"role": "assistant", "content": "Hello."}))[1]


def test_a_row_of_several_requests_counts_its_sequences_and_the_longest_meets_the_cap(keeping):
    turns = [
        {"role": "assistant", "content": "Hello.", "reasoning_content": "why not"},
        {"role": "user", "content": "x"},
    ]
    outcome, row = of(keeping, openai(*turns, *turns, turns[0]))
    lengths = [len(tokens) for tokens, _ in loss_mask.sequences(keeping.chat, row)]
    assert outcome.sequences == 3 and outcome.thoughts == 3
    assert outcome.tokens == outcome.measured == max(lengths) and outcome.sequence_tokens == sum(lengths)
