"""What the server saw of a task is what counts: its calls, the results that answer them, its own count of tokens."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kxl.chat import tool_syntax
from kxl.live import scripted_server
from kxl.live.transcript import MOST_TEXT, Answer, Transcript

CALLS = [{"name": "terminal", "arguments": {"command": "ls 'ü'"}}, {"name": "read_file", "arguments": "{broken"}]
USAGE = {"prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 90}}


def answer(content="", calls=(), reasoning="", stream=True, first=1) -> Answer:
    """The Answer to a scripted turn, joined from its pieces."""
    made = [
        {"id": f"call_{number}", "type": "function", "function": {**call, "arguments": as_text(call["arguments"])}}
        for number, call in enumerate(calls, first)
    ]
    turn = {"content": content, "reasoning": reasoning, "tool_calls": made}
    turn["finish_reason"] = "tool_calls" if made else "stop"
    joined = Answer(stream)
    if stream:
        events = [{"choices": [{"delta": delta, "finish_reason": None}]} for delta in scripted_server.deltas(turn, 3)]
        events += [{"choices": [{"delta": {}, "finish_reason": turn["finish_reason"]}]}]
        events += [{"choices": [], "usage": USAGE}]
        wire = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events) + b"data: [DONE]\n\n"
    else:
        wire = json.dumps({**scripted_server.completion(turn), "usage": USAGE}).encode()
    for start in range(0, len(wire), 11):  # cut anywhere
        joined.feed(wire[start : start + 11])
    joined.end()
    return joined


def as_text(arguments) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def tool(identity: str, text, name="terminal") -> dict:
    return {"role": "tool", "tool_call_id": identity, "name": name, "content": text}


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_in_pieces_is_the_same_as_one_in_one(stream):
    joined = answer("Look:", CALLS, "Let me see.", stream)
    assert joined.finish == "tool_calls" and joined.usage == USAGE
    assert joined.message() == {
        "content": "Look:",
        "reasoning_content": "Let me see.",
        "tool_calls": [{"id": f"call_{number}", **call} for number, call in enumerate(CALLS, 1)],
    }


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("names", [("reasoning",), ("reasoning", "reasoning_content")])
def test_a_thought_is_kept_once_under_whichever_name_a_server_sends_it(stream, names):
    part = dict.fromkeys(names, "Let me see.")
    joined = Answer(stream)
    choice = {"delta" if stream else "message": part, "finish_reason": "stop"}
    wire = json.dumps({"choices": [choice]}).encode()
    joined.feed(b"data: " + wire + b"\n\n" if stream else wire)
    joined.end()
    assert joined.message()["reasoning_content"] == "Let me see."


def test_a_call_within_a_thought_is_nobodys_call():
    written = tool_syntax.render_calls([{"name": "terminal", "arguments": {"command": "ls"}}])
    seen = Transcript(net=True)
    seen.answered(["terminal"], answer(f"<think>Perhaps {written}</think>I wait."))
    made = {"id": "net-1", "function": {"name": "terminal", "arguments": '{"command":"ls"}'}}
    seen.asked([{"role": "assistant", "tool_calls": [made]}, tool("net-1", "listed")])
    assert seen.called() == [] and seen.results() == []


def test_a_conversation_is_told_as_hermes_writes_it():
    seen = Transcript()
    seen.answered(["terminal"], answer("", CALLS[:1], "Let me see."))
    seen.asked([{"role": "user", "content": "go"}, tool("call_1", '{"output": "a.txt"}')])
    seen.answered(["terminal"], answer("One file."))
    seen.answered([], answer("A title"))
    assert (seen.steps, seen.called(), seen.results()) == (2, ["terminal"], ['{"output": "a.txt"}'])
    assert seen.tokens() == {"input": 20, "cached": 180, "output": 14}
    assert seen.turns("go") == [
        {"from": "human", "value": "go"},
        {
            "from": "gpt",
            "value": "<think>\nLet me see.\n</think>\n<tool_call>\n"
            '{"name": "terminal", "arguments": {"command": "ls \'ü\'"}}\n</tool_call>',
        },
        {
            "from": "tool",
            "value": '<tool_response>\n{"tool_call_id": "call_1", "name": "terminal", "content": {"output": "a.txt"}}\n'
            "</tool_response>",
        },
        {"from": "gpt", "value": "<think>\n</think>\nOne file."},
    ]


def test_a_result_counts_once_and_only_for_a_call_that_was_made():
    seen = Transcript()
    seen.asked([tool("call_1", "too early")])
    seen.answered(["terminal"], answer(calls=CALLS))
    seen.asked([tool("call_1", "first"), tool("call_9", "never called")])
    seen.asked([tool("call_1", "again"), tool("call_2", [{"type": "text", "text": "parts"}])])
    assert seen.results() == ["first", "parts"]
    seen.close()
    seen.answered(["terminal"], answer(calls=CALLS, first=3))
    seen.asked([tool("call_3", "after the end")])
    assert seen.steps == 1 and seen.results() == ["first", "parts"]


def test_a_server_that_uses_an_id_again_gets_each_result_once():
    seen = Transcript()
    for text in ("one", "two"):
        seen.answered(["terminal"], answer(calls=CALLS[:1]))
        history = [tool("call_1", said) for said in ("one", "two")[: 1 + (text == "two")]]
        seen.asked(history)
    assert seen.results() == ["one", "two"]


def test_the_nets_call_of_the_servers_text_is_the_servers_own_and_another_is_not():
    written = [{"name": "terminal", "arguments": {"command": "ls"}}]
    in_history = {"id": "net-1", "function": {"name": "terminal", "arguments": '{"command":"ls"}'}}
    other = {"id": "net-2", "function": {"name": "terminal", "arguments": '{"command":"rm"}'}}
    for net, results in ((True, ["listed"]), (False, [])):
        seen = Transcript(net)
        seen.answered(["terminal"], answer(tool_syntax.render_calls(written)))
        seen.asked([{"role": "assistant", "tool_calls": [in_history, other]}])
        seen.asked([tool("net-1", "listed"), tool("net-2", "removed")])
        assert seen.results() == results and seen.called() == ["terminal"] * net


def test_a_history_of_many_made_up_calls_takes_no_long_time():
    seen = Transcript(net=True)
    for number in range(400):
        made = [{"name": "terminal", "arguments": {"command": f"ls {number}"}}]
        seen.answered(["terminal"], answer(tool_syntax.render_calls(made)))
    calls = [{"id": f"a{number}", "function": {"name": "terminal", "arguments": "{}"}} for number in range(60_000)]
    begun = time.process_time()
    seen.asked([{"role": "assistant", "tool_calls": calls}])
    assert time.process_time() - begun < 2 and seen.called() == []


def test_requests_and_their_bytes_are_bounded_and_a_long_result_is_cut_in_the_report():
    seen = Transcript()
    assert [seen.admit(1) for _ in range(501)] == [True] * 500 + [False]
    seen = Transcript()
    assert [seen.admit(40 << 20), seen.admit(40 << 20)] == [True, False]
    seen = Transcript()
    seen.answered(["terminal"], answer(calls=CALLS[:1]))
    seen.asked([tool("call_1", "x" * (MOST_TEXT + 9))])
    assert len(seen.results()[0]) == MOST_TEXT + 9 and "and 9 characters more" in seen.turns("go")[-1]["value"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "message", "tool_calls", "function", "index", "id", "name", "arguments", "usage"]
                + ["content", "role", "tool_call_id", "finish_reason", "prompt_tokens", "prompt_tokens_details", "text"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.lists(JSON, max_size=4), st.booleans(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_no_answer_or_request_breaks_it(values, stream, net):
    joined = Answer(stream)
    for value in values:
        joined.feed(b"data: " * stream + json.dumps(value).encode() + b"\n")
    joined.end()
    seen = Transcript(net)
    seen.answered(["terminal"], joined)
    seen.asked([value for value in values if isinstance(value, dict)])
    seen.results(), seen.tokens(), seen.called()
    json.dumps(seen.turns("go"))


def test_the_last_words_are_those_after_the_last_call():
    seen = Transcript()
    assert seen.answer() == ""
    seen.answered(["terminal"], answer("Let me look.", CALLS[:1]))
    assert seen.answer() == "", "it ended with a call: nothing was said after it"
    seen.answered(["terminal"], answer("Which one do you mean?", reasoning="Two of them."))
    assert seen.answer() == "Which one do you mean?"
    seen.answered([], answer("A title"))
    assert seen.answer() == "Which one do you mean?", "a title is no answer"


def test_arguments_that_could_just_be_read_end_no_report():
    """The report is written with other programs' frames on the stack than the answer was read with."""
    seen = Transcript()
    seen.answered(["terminal"], answer("", [{"name": "terminal", "arguments": "[" * 800 + "]" * 800}], stream=False))

    def below(frames):
        return below(frames - 1) if frames else seen.turns("go")

    assert "nested too deeply to be written" in below(300)[1]["value"]
