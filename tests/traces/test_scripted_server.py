"""The scripted server speaks the OpenAI protocol well enough for an agent: streamed or not, in order, with errors."""

import json

import requests

from kxl.live import scripted_server

CALL = {
    "tool_calls": [
        {"name": "terminal", "arguments": {"command": "echo 'ü' \"x\""}},
        {"name": "terminal", "arguments": "{broken"},
    ],
    "reasoning": "let me see",
}
BODY = {"messages": [{"role": "user", "content": "hi"}], "tools": [{"type": "function"}]}


def ask(server, **more):
    session = requests.Session()
    session.trust_env = False
    return session.post(server.url + "/chat/completions", json={**BODY, **more}, timeout=10)


def streamed(reply):
    lines = [line.removeprefix(b"data: ") for line in reply.content.split(b"\n\n") if line]
    assert lines[-1] == b"[DONE]"
    text, reasoning, calls, finish = "", "", {}, None
    for event in map(json.loads, lines[:-1]):
        for choice in event["choices"]:
            finish = choice["finish_reason"] or finish
            text += choice["delta"].get("content") or ""
            reasoning += choice["delta"].get("reasoning_content") or ""
            for call in choice["delta"].get("tool_calls", []):
                known = calls.setdefault(call["index"], {"id": call.get("id"), "name": "", "arguments": ""})
                for key, value in call["function"].items():
                    known[key] += value
    return text, reasoning, list(calls.values()), finish


def test_a_streamed_turn_joins_to_the_same_message_as_one_that_is_not():
    with scripted_server.serve([CALL, CALL]) as server:
        text, reasoning, calls, finish = streamed(ask(server, stream=True))
        whole = ask(server).json()["choices"][0]
    assert (
        (text, reasoning, finish)
        == ("", "let me see", "tool_calls")
        == ("", whole["message"]["reasoning_content"], whole["finish_reason"])
    )
    assert [call["id"] for call in calls] == ["call_1", "call_2"]
    assert [(call["name"], call["arguments"]) for call in calls] == [
        (call["function"]["name"], call["function"]["arguments"]) for call in whole["message"]["tool_calls"]
    ]
    assert json.loads(calls[0]["arguments"]) == {"command": "echo 'ü' \"x\""} and calls[1]["arguments"] == "{broken"


def test_turns_are_taken_in_order_and_one_request_too_many_is_an_error():
    with scripted_server.serve(
        [
            {"content": "one"},
            lambda body: {"content": body["messages"][0]["content"] * 2},
            {"status": 503, "error": "busy"},
        ],
        side_answer="A title",
    ) as server:
        assert ask(server, tools=[]).json()["choices"][0]["message"]["content"] == "A title"
        assert streamed(ask(server, stream=True))[0] == "one"
        assert ask(server).json()["choices"][0]["message"]["content"] == "hihi"
        assert server.left() == 1 and ask(server).status_code == 503
        assert ask(server).status_code == 500
    assert len(server.requests) == 5 and server.left() == 0
