"""The thoughts plugin by itself: a thought goes back to its own session and call, and no answer breaks it."""

import importlib.util
from types import SimpleNamespace

import pytest

from conftest import ROOT


def answered(identity, thought, arguments='{"command": "ls"}'):
    call = SimpleNamespace(id=identity, function=SimpleNamespace(name="terminal", arguments=arguments))
    message = SimpleNamespace(reasoning_content=thought, tool_calls=[call])
    return SimpleNamespace(choices=[SimpleNamespace(message=message)])


def asked(identity, arguments='{"command": "ls"}'):
    call = {"id": identity, "function": {"name": "terminal", "arguments": arguments}}
    return {"messages": [{"role": "user", "content": "go"}, {"role": "assistant", "tool_calls": [call]}]}


@pytest.fixture
def plugin():
    spec = importlib.util.spec_from_file_location("thoughts_plugin", ROOT / "patches/hermes-agent-thoughts/__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def turn(session, request, response):
        sent = []
        got = module.on_llm_execution(request, lambda now: sent.append(now) or response, session_id=session)
        assert got is response
        return sent[0]["messages"][-1].get("reasoning_content")

    return turn


def test_no_session_gets_the_thought_of_another_whose_server_numbers_its_calls_alike(plugin):
    plugin("one", asked("call_7"), answered("call_0", "the password is amber"))
    assert plugin("two", asked("call_0"), answered("call_0", "mine")) is None
    assert plugin("one", asked("call_0", '{"command":"ls"}'), answered("call_1", "")) == "the password is amber"


def test_no_call_gets_the_thought_of_another_with_its_id(plugin):
    plugin("one", asked("call_7"), answered("call_0", "first", '{"command": "pwd"}'))
    assert plugin("one", asked("call_0"), answered("call_0", "second")) is None
    assert plugin("one", asked("call_0", '{"command": "pwd"}'), answered("x", "")) == "first"


@pytest.mark.parametrize("response", [SimpleNamespace(choices={1: 2}), SimpleNamespace(choices=7), None, "text",
    SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(reasoning="a", tool_calls=[SimpleNamespace(
        id="a", function=None)]))])])  # fmt: skip
def test_an_answer_of_any_shape_is_handed_back(plugin, response):
    assert plugin("one", asked("call_0"), response) is None
