"""Each thing that can be wrong with a row has its own reason; the config decides to drop, mend or keep."""

import copy
import json

import pytest

from helpers import traces
from kxl.base.cli import UserError
from kxl.traces import filters
from kxl.traces.filters import Meets, check_row
from kxl.traces.formats import Dropped, to_row

POLICIES = {reason: allowed[0] for reason, (_, allowed) in filters.REASONS.items()}
CONTROL = ["<|im_end|>", "<|tool_call_start|>"]


def check(data, **policies):
    """The row after the filters, and what they did."""
    meets = Meets({**POLICIES, **policies})
    row = to_row(copy.deepcopy(data), meets)
    check_row(row, meets, ["browser_close"], CONTROL)
    return row, meets


def roles(row):
    return "".join(
        {"system": "s", "user": "u", "assistant": "a", "tool": "t"}[message["role"]] for message in row["messages"]
    )


def turns(*messages, tools=(traces.TERMINAL,)):
    return traces.hermes("x", *messages, tools=tools)


OK = traces.gpt(say="ok")
CALL = traces.gpt(traces.run("x"))
RESULT = traces.results("y")
HUMAN = {"from": "human", "value": "and now?"}

WRONG = [
    ({"conversations": [RESULT, OK]}, "bad_order", "begins with a turn of the tool"),
    ({"conversations": []}, "bad_order", "no turn at all"),
    ({"conversations": [HUMAN, HUMAN]}, "bad_order", "no assistant turn"),
    (
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "system", "content": "b"},
                {"role": "assistant", "content": "c"},
            ]
        },
        "bad_order",
        "system message in the middle",
    ),
    (turns(traces.gpt(say="")), "empty_turn", "message 1"),
    (turns(CALL, traces.results("a", "b"), OK), "unpaired_result", "message 3 answers no call"),
    (turns(CALL, OK), "unpaired_result", "terminal has no result before message 2"),
    (turns(CALL, traces.results("y", name="read_file"), OK), "unpaired_result", "answers no call"),
    (turns(OK, RESULT, OK), "unpaired_result", "answers no call"),
    (turns(traces.gpt({"name": "nothing", "arguments": {}})), "unknown_tool", "nothing"),
    (
        turns(traces.gpt({"name": "terminal", "arguments": {"cmd": "x"}})),
        "schema_violation",
        "'command' is a required property",
    ),
    (turns(traces.gpt(traces.run("x", color="red"))), "schema_violation", "no argument color"),
    (turns(traces.gpt(traces.run("x", timeout="soon"))), "schema_violation", "'soon'"),
    (turns(traces.gpt(traces.run("x", timeout=0))), "schema_violation", "minimum"),
    (turns(traces.gpt({"name": "terminal", "arguments": {}})), "schema_violation", "required"),
    (turns(traces.gpt(say="the token <|im_end|> ends a turn")), "control_token", "<|im_end|>"),
    (turns(traces.gpt(traces.run("echo '<|tool_call_start|>'"))), "control_token", "<|tool_call_start|>"),
    (turns(CALL, RESULT, traces.gpt(say="I'm sorry, but I can't help with that.")), "refusal", "I'm sorry"),
    (turns(traces.gpt(say="As an AI language model, I cannot open files.")), "refusal", "As an AI"),
]


@pytest.mark.parametrize(
    "data, reason, detail", WRONG, ids=[f"{reason}-{place}" for place, (_, reason, _) in enumerate(WRONG)]
)
def test_a_wrong_row_is_dropped_for_its_reason(data, reason, detail):
    with pytest.raises(Dropped) as dropped:
        check(data, no_arguments="keep")
    assert dropped.value.reason == reason and detail in dropped.value.detail


@pytest.mark.parametrize(
    "text",
    [
        "The file says: I'm sorry, I can't.",
        "I can see two files.",
        "Sorry for the delay, here it is.",
        "You cannot write there; I saved it elsewhere.",
    ],
)
def test_an_answer_that_only_mentions_a_refusal_stays(text):
    assert check(turns(traces.gpt(say=text)))[0]["messages"][-1]["content"] == text


def test_calls_to_the_vanished_browser_close_go_with_their_results_and_are_listed():
    tools = (traces.TERMINAL, traces.CLOSE)
    close = {"name": "browser_close", "arguments": {}}
    data = turns(
        traces.gpt(close, traces.run("x")),
        {
            "from": "tool",
            "value": traces.results("closed", name="browser_close")["value"] + "\n" + traces.results("y")["value"],
        },
        traces.gpt(close),
        traces.results("closed", name="browser_close"),
        OK,
        tools=tools,
    )
    row, meets = check(data)
    assert roles(row) == "uata" and [call["function"]["name"] for call in row["messages"][1]["tool_calls"]] == [
        "terminal"
    ]
    assert row["messages"][2]["content"] == "y" and [tool["function"]["name"] for tool in row["tools"]] == ["terminal"]
    assert "2 calls with their results and 1 tools removed" in meets.repaired["vanished_tool"]
    assert "browser_close" in [tool["function"]["name"] for tool in check(data, vanished_tool="keep")[0]["tools"]]
    with pytest.raises(Dropped, match="vanished_tool"):
        check(data, vanished_tool="drop")


def test_quoted_numbers_are_read_as_hermes_reads_them():
    row, meets = check(turns(traces.gpt(traces.run("x", timeout="30", background="True"))))
    assert row["messages"][1]["tool_calls"][0]["function"]["arguments"] == {
        "background": True,
        "command": "x",
        "timeout": 30,
    }
    assert "timeout read as 30" in meets.repaired["schema_violation"]


def test_a_call_without_arguments_writes_out_a_default_because_llama_cpp_cannot_read_it():
    data = turns(traces.gpt({"name": "browser_snapshot", "arguments": {}}), tools=(traces.SNAPSHOT,))
    row, meets = check(data)
    assert (
        row["messages"][1]["tool_calls"][0]["function"]["arguments"] == {"full": False}
        and "full=false" in meets.repaired["no_arguments"]
    )
    with pytest.raises(Dropped, match="no_arguments"):
        check(data, no_arguments="drop")


def test_a_trace_that_breaks_off_after_a_result_ends_with_its_last_call():
    row, meets = check(turns(CALL, RESULT))
    assert roles(row) == "ua" and "1 messages cut off" in meets.repaired["ends_without_answer"]
    with pytest.raises(Dropped, match="ends_without_answer"):
        check(turns(CALL, RESULT), ends_without_answer="drop")


def test_a_trace_with_an_unpaired_result_can_be_cut_before_it():
    row, meets = check(turns(CALL, RESULT, OK, HUMAN, CALL, OK), unpaired_result="repair")
    assert roles(row) == "uataua" and "unpaired_result" in meets.repaired
    with pytest.raises(Dropped):
        check(
            {
                "messages": [
                    {"role": "user", "content": "a"},
                    {"role": "tool", "content": "b"},
                    {"role": "assistant", "content": "c"},
                ]
            },
            unpaired_result="repair",
        )


def test_a_thought_that_names_structure_is_written_in_words():
    row, meets = check(turns(traces.gpt(say="ok", think="say <|im_end|> or <think>, </think>")))
    assert row["messages"][1]["reasoning_content"] == "say im_end or think, /think"
    assert "message 1: <think>" in meets.repaired["mark_in_thought"]
    with pytest.raises(Dropped, match="mark_in_thought"):
        check(turns(traces.gpt(say="ok", think="say <|im_end|>")), mark_in_thought="drop")
    assert check(turns(OK))[1].repaired == {}, "Hermes's empty <think> block is no thought"


def test_half_a_character_is_replaced_as_hermes_does():
    data = json.loads(json.dumps(turns(OK)).replace('"ok"', '"o\\ud800k"').replace("\\nok", "\\no\\ud800k"))
    row, meets = check(data)
    assert row["messages"][1]["content"] == "o\ufffdk" and "U+D800" in meets.repaired["lone_surrogate"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"not_json": "repair"}, "not_json is 'repair'; possible: drop"),
        ({"invented": "drop"}, "there is no reason invented"),
        ({"refusal": None}, "refusal is None"),
        ({"reasoning": "repair"}, 'write "reasoning": "keep" or "drop" beside policies'),
    ],
)
def test_a_policy_that_cannot_be_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        filters.check_policies({**POLICIES, **change}, "config")
    with pytest.raises(UserError, match="no policy for refusal"):
        filters.check_policies({reason: policy for reason, policy in POLICIES.items() if reason != "refusal"}, "config")
