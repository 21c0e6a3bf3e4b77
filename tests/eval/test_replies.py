"""Whatever a server replies is an answer that gets a verdict, or an error that shows what came; never a traceback."""

import json
import random
import subprocess

import pytest

from helpers import mutation
from helpers.scripted_llama import ScriptedLlama, chat
from kxl.base.cli import UserError
from kxl.eval import client as eval_client
from kxl.eval import replies, verdicts
from kxl.eval import server as eval_server
from kxl.eval.suites import Suite
from kxl.setup import hermes_env

SNAPSHOT = {
    "type": "function",
    "function": {
        "name": "browser_snapshot",
        "parameters": {"type": "object", "properties": {"full": {"type": "boolean", "default": False}}},
    },
}
READ = {
    "type": "function",
    "function": {
        "name": "read_file",
        "parameters": {"type": "object", "properties": {"path": {"type": "string"}, "limit": {"type": "integer"}}},
    },
}
CASE = {
    "id": "one",
    "kind": "tool_call",
    "category": "c",
    "messages": [{"role": "user", "content": "look"}],
    "calls": [{"name": "browser_snapshot", "arguments": {}}],
}
QUIET = {"id": "one", "kind": "no_tool", "category": "c", "messages": [{"role": "user", "content": "look"}]}
SUITE = Suite("s", [SNAPSHOT, READ], 20, [CASE])


def reply(finish="tool_calls", calls=None, **message) -> dict:
    """A chat completion as in the wild: `calls` is what stands in tool_calls, `message` the rest."""
    calls = {} if calls is None else {"tool_calls": calls}
    return {
        "id": "x",
        "object": "chat.completion",
        "choices": [
            {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": None, **calls, **message}}
        ],
    }


def function(arguments, name="browser_snapshot") -> list:
    return [{"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}]


def judge(case: dict, given: dict) -> list:
    return verdicts.judge(SUITE, case, replies.read_chat(given, SUITE.names()))


@pytest.fixture
def ask(monkeypatch):
    """ask(status, body, …) -> parsed Answer of a server that sends exactly these replies, one after the other."""
    monkeypatch.setattr(eval_client, "PAUSES", (0, 0))

    def run(*sent, backend="openai"):
        bodies = iter(sent)
        last = sent[-1]
        with ScriptedLlama({"": "hi"}, {"look": lambda: next(bodies, last)}) as server, server.running():
            client = eval_client.Client(eval_server.external(server.url), backend)
            return client.ask(SUITE, CASE)[0], client.stumbles

    return run


# What counts as the call


@pytest.mark.parametrize(
    "given",
    [
        reply(calls=function({})),
        reply(calls=function("")),
        reply(calls=function(" \n")),
        reply(calls=function(None)),
        reply(calls=[{"function": {"name": "browser_snapshot"}}]),
        reply(calls=function("{}")),
        reply(calls=function('{"full": false,}')),
        reply(calls=function('{"full": false')),
        reply(calls=function("{}", name="Browser-Snapshot")),
        reply(calls=function("{}", name="BrowserSnapshotTool")),
        reply(calls=function("{}") * 2),
        reply(calls=function("{}"), finish="stop"),
        reply(calls=function("{}"), finish=None),
        reply(calls=function("{}"), finish="function_call"),
        reply(calls=function("{}"), finish=24),
        reply(calls=function("{}"), content=[{"type": "text", "text": "Looking."}]),
        reply(calls=function("{}"), content={"type": "text", "text": "Looking."}),
        {"choices": [{"message": {"tool_calls": function("{}")}}]},
        {**reply(calls=function("{}")), "usage": None, "object": 3},
        {**reply(calls=function("{}")), "usage": {"prompt_tokens": "many", "prompt_tokens_details": []}},
    ],
)
def test_what_hermes_runs_as_the_call_passes_as_the_call(given):
    assert judge(CASE, given) == []


@pytest.mark.parametrize(
    "given, why",
    [
        (reply(calls=function('{"full": fa')), "unreadable call: arguments of browser_snapshot are not JSON"),
        (reply(calls=function('{"full": "f')), "unreadable call: arguments of browser_snapshot are not JSON"),
        (reply(calls=function([])), "unreadable call: arguments of browser_snapshot are not an object: []"),
        (reply(calls=function("null")), "unreadable call: arguments of browser_snapshot are not an object: null"),
        (reply(calls=function(5)), "unreadable call: arguments of browser_snapshot are not an object: 5"),
        (reply(calls=function("[" * 5000)), "unreadable call: arguments of browser_snapshot are not JSON"),
        (reply(calls=function("9" * 5000)), "unreadable call: arguments of browser_snapshot are not JSON"),
        (reply(calls=[None]), "unreadable call: a call without a name: null"),
        (reply(calls=[{"function": None}]), 'unreadable call: a call without a name: {"function": null}'),
        (reply(calls=function("{}", name=None)), "unreadable call: a call without a name"),
        (reply(calls=function("{}", name="")), "unreadable call: a call without a name"),
        (reply(calls=[{"name": "browser_snapshot", "arguments": {}}]), "unreadable call: a call without a name"),
        (reply(calls={"name": "browser_snapshot"}), "unreadable call: tool_calls is no list"),
        (reply(calls="browser_snapshot()"), "unreadable call: tool_calls is no list"),
        (reply(calls=[]), "unreadable call: finish_reason is tool_calls but there is none"),
        (
            reply(function_call={"name": "browser_snapshot", "arguments": "{}"}, finish="function_call"),
            "unreadable call: it is a legacy function_call, which Hermes does not read",
        ),
        (reply(calls=function("{}"), finish="length"), "finish_reason is length, expected tool_calls"),
        (reply(calls=function("{}"), finish="content_filter"), "finish_reason is content_filter, expected tool_calls"),
        (reply(calls=function("{}", name="jump")), "called jump, which is not among the tools"),
    ],
)
def test_what_hermes_does_not_run_fails_with_what_came(given, why):
    assert judge(CASE, given)[0].startswith(why)


@pytest.mark.parametrize(
    "message, finish",
    [
        ({"content": "Two files."}, "stop"),
        ({"content": "Two files.", "tool_calls": None}, None),
        ({"content": [{"type": "text", "text": "Two "}, {"type": "text", "text": "files."}]}, "stop"),
        ({"content": ["Two files."]}, "eos"),
        ({"content": {"content": "Two files."}}, "end_turn"),
    ],
)
def test_text_in_any_form_is_text(message, finish):
    assert judge(QUIET, reply(finish, **message)) == []


@pytest.mark.parametrize("content", ["", None, [], [{"type": "text"}], [{"type": "text", "text": None}], {}, True])
def test_an_answer_without_text_is_no_answer(content):
    assert judge(QUIET, reply("stop", content=content)) == ["no text"]


def test_a_refusal_in_openais_own_field_is_read_and_fails():
    assert judge(QUIET, reply("stop", refusal="I can't.")) == ["finish_reason is content_filter, expected stop"]


def test_what_was_mended_is_noted():
    notes = replies.read_chat(reply(calls=function({}, name="Browser_Snapshot")), SUITE.names()).notes
    assert notes == [
        "Browser_Snapshot is taken as browser_snapshot",
        "arguments of browser_snapshot came as an object",
    ]


def test_what_no_report_can_hold_is_replaced():
    text = json.dumps(reply(calls=function('{"full": NaN, "s": "\\ud83d"}'), content="half \ud83d"))
    answer = replies.read_chat(replies.read_json(text), SUITE.names())
    assert answer.calls[0]["arguments"] == {"full": "nan", "s": "\ufffd"} and answer.content == "half \ufffd"


PROGRAM = """
import contextlib, io, json, logging, sys
from types import SimpleNamespace
from agent.agent_runtime_helpers import repair_tool_call
from agent.message_sanitization import _repair_tool_call_arguments
from agent.tool_executor import _parse_tool_arguments
logging.disable(logging.CRITICAL)
task = json.load(sys.stdin)

def arguments(text):  # as its streamed path does, chat_completion_helpers.py
    if text.strip():
        try:
            json.loads(text)
        except json.JSONDecodeError:
            text = _repair_tool_call_arguments(text)
            if text == "{}":
                return None
    else:
        text = "{}"
    value, refused = _parse_tool_arguments(text)
    return None if refused else value

agent = SimpleNamespace(valid_tool_names=dict.fromkeys(task["offered"]))
print(json.dumps({
    "arguments": [arguments(text) for text in task["arguments"]],
    "names": [repair_tool_call(agent, name) for name in task["names"]],
}))
"""


def test_arguments_and_names_are_mended_exactly_as_the_pinned_hermes_does():
    rng = random.Random(18)
    whole = ['{"a": 1}', '{"path": "a b", "list": [1, {"b": null}], "deep": {"x": "{"}}', "[1, 2]", '{"a": "x\\ny"}']
    arguments = [*whole, "", " ", "None", "{", "{}", "{,}", "}{", '{"a": "x\ny\tz"}', '{"a": 1,}', '{"a": [1, 2,]}}']
    arguments += [mutation.text(rng, rng.choice(whole)) for _ in range(400)]
    offered = ["terminal", "read_file", "browser_snapshot", "todo", "my-server.search"]
    names = ["Terminal", "read-file", "ReadFile", "Read File", "TodoTool_tool", "todo_tool", "browser_snap", "x", ""]
    names += ['terminal" parameter="command', "<terminal", "my_server.search", "browsersnapshot", "files_read"]
    names += [mutation.text(rng, rng.choice(offered)) for _ in range(200)]
    task = {"offered": offered, "arguments": arguments, "names": names}
    ended = subprocess.run(
        [str(hermes_env.python()), "-I", "-c", PROGRAM],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    theirs = json.loads(ended.stdout)
    for text, value in zip(arguments, theirs["arguments"]):
        mine = replies.read_arguments(text)[0]
        assert mine == (None if value is None else replies.read_json(json.dumps(value))), text
    for name, value in zip(names, theirs["names"]):
        assert name in offered or replies.meant_name(name, offered) == value, name


# What is no answer


@pytest.mark.parametrize(
    "status, body, said",
    [
        (200, {"id": "x", "choices": []}, 'that has no choices: {"id": "x", "choices": []}'),
        (200, {"choices": None}, "that has no choices"),
        (200, {"choices": {}}, "that has no choices"),
        (200, {"choices": ["a"]}, "that has no message"),
        (200, {"choices": [{"message": None, "finish_reason": "stop"}]}, "that has no message"),
        (200, {"choices": [{"message": "hi"}]}, "that has no message"),
        (200, {"error": {"message": "out of memory", "code": 500}}, "that is an error: out of memory"),
        (200, {"error": "overloaded"}, "that is an error: overloaded"),
        (200, [], "that has no choices: []"),
        (200, "null", "that has no choices: null"),
        (200, "<html>Bad gateway</html>", "that is not JSON: <html>Bad gateway</html>"),
        (200, "", "that is not JSON: nothing"),
        (200, b"\xff\xfe{", "that is not JSON"),
        (200, "[" * 100_000, "that is not JSON"),
        (200, 'data: {"choices": []}\n\n', "that is not JSON: data:"),
        (204, "", "that is not JSON: nothing"),
        (502, "<html>Bad gateway</html>", "with HTTP 502: <html>Bad gateway</html>"),
        (500, {"error": "does not match the expected", "x": 1}, "the server could not read it"),
        (400, {"error": {"message": "context too long"}}, "with HTTP 400: context too long"),
        (404, {"detail": "no such model"}, 'with HTTP 404: {"detail": "no such model"}'),
        (403, "no", "with HTTP 403: no; the key for it belongs into the environment variable HERMES_KXL_API_KEY"),
        (307, "", "sends case one on to https://elsewhere.example/v1; give that as --url"),
    ],
)
def test_a_reply_that_is_no_answer_is_one_error_that_shows_it(ask, status, body, said):
    if status == 500:  # llama-server's way of saying that the model's call is broken: an answer
        assert ask((status, body))[0].errors[0].startswith(said)
        return
    with pytest.raises(eval_server.ServerError) as error:
        ask((status, body))
    assert said in str(error.value) and "case one" in str(error.value) and "\n" not in str(error.value)


def test_a_reply_that_is_none_is_asked_for_again_and_noted(ask):
    answer, stumbles = ask((200, "<html>"), (200, {"choices": []}), (200, chat("Hello.")))
    assert answer.content == "Hello." and [one["status"] for one in stumbles] == [200, 200]


def test_servers_that_are_not_what_the_backend_says_are_named(ask):
    with pytest.raises(eval_server.ServerError, match="has no token ids in `logprobs`.*--backend openai"):
        ask((200, reply("stop", content="hi")), backend="mlx")


# Mutations: no exception but a UserError


def replies_survive(seeds) -> None:
    whole = [
        reply(calls=function("{}")),
        reply(calls=function({"full": True}), usage={"prompt_tokens": 3}, reasoning_content="hm"),
        reply("stop", content=[{"type": "text", "text": "<think>a</think>b"}], reasoning=[{"text": "x"}]),
        {**reply("stop", content="hi"), "usage": {"completion_tokens_details": {"reasoning_tokens": 5}}},
    ]
    for seed in seeds:
        rng = random.Random(seed)
        changed = mutation.value(rng, rng.choice(whole))
        try:
            text = json.dumps(changed)
            answer = replies.read_chat(replies.read_json(mutation.text(rng, text) if rng.random() < 0.5 else text),
                                       SUITE.names())  # fmt: skip
        except replies.OddReply as odd:
            assert str(odd)
            continue
        for case in (CASE, QUIET):
            assert all(isinstance(why, str) for why in verdicts.judge(SUITE, case, answer))
        json.dumps(answer.calls, allow_nan=False).encode("utf-8")
        assert all(isinstance(text, str) for text in (answer.content, answer.finish_reason, *answer.errors))


def test_a_mutated_reply_is_judged_or_named():
    replies_survive(range(500))


@pytest.mark.slow
def test_ten_thousand_mutated_replies_are_judged_or_named():
    replies_survive(range(500, 10_500))


def raw_texts_survive(seeds) -> None:
    whole = [
        '<think>Is it read_file(path="a")?</think><|tool_call_start|>[read_file(path="a", limit=3)]<|tool_call_end|>',
        "<think>\nhm</think>\nTwo files.<|im_end|>",
        '<tool_call>{"name": "read_file", "arguments": {"path": "a"}}</tool_call>',
        '{"type": "function", "name": "read_file", "parameters": {"path": "{"}} [read_file("a")]',
        "<function_calls><invoke name=\"read_file\"><parameter name='path'>a</parameter></invoke>",
    ]
    for seed in seeds:
        rng = random.Random(seed)
        text = mutation.text(rng, rng.choice(whole) * rng.randint(1, 3))
        answer = eval_client.read_raw(text, SUITE, cut=rng.random() < 0.3, opened=rng.random() < 0.3)
        for case in (CASE, QUIET):
            assert all(isinstance(why, str) for why in verdicts.judge(SUITE, case, answer))


def test_mutated_model_text_is_judged():
    raw_texts_survive(range(500))


@pytest.mark.slow
def test_ten_thousand_mutated_model_texts_are_judged():
    raw_texts_survive(range(500, 10_500))


def test_a_user_error_is_what_a_server_error_is():
    assert issubclass(eval_server.ServerError, UserError)
