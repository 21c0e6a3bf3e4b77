"""Thoughts of 5 to 2,000 tokens go through the real Hermes Agent and back into rows; a call in one is never made."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from conftest import ROOT
from kxl.chat import loss_mask
from kxl.live import agent, net, scripted_server
from kxl.setup import llama_cpp
from kxl.traces import filters, formats

pytestmark = [
    pytest.mark.minutes,
    pytest.mark.skipif(
        not (llama_cpp.cache_dir() / "hermes-agent-full-0.19.0" / "complete").is_file(),
        reason="the whole Hermes Agent is not installed here (make hermes-traces installs it)",
    ),
]

CALL = '<tool_call>\n{"name": "terminal", "arguments": {"command": "touch thought-of"}}\n</tool_call>'
THOUGHTS = {  # words of about one token each
    "short": "ls will do. Then stop.",
    "long": 'Perhaps "ls", it\'s é. ' + "so " * 300 + "\nI list.",
    "very long": "well, " * 2000 + "ls",
    "with a call": f"I could do {CALL} but I'd rather list.",
}
ALONE = "short, without the plugins"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{name: (Run, names in its folder, the messages of its last request)}; the home has both plugins."""
    root = tmp_path_factory.mktemp("thoughts")
    asked: dict[str, list] = {}

    def model(body: dict) -> dict:
        name = next(message["content"] for message in body["messages"] if message["role"] == "user")
        asked[name] = body["messages"]
        results = sum(message["role"] == "tool" for message in body["messages"])
        calls = [{"name": "terminal", "arguments": {"command": f"touch step-{results + 1}"}}]
        reasoning = f"{results}: {THOUGHTS.get(name, 'alone')}"
        return {"reasoning": reasoning, **({"tool_calls": calls} if results < 2 else {"content": "Both are made."})}

    with scripted_server.serve([model] * 40, side_answer="A title") as server:

        def play(name: str):
            work, home = root / name.replace(" ", "-"), root / f"home of {name}" / ".hermes"
            work.mkdir()
            home.mkdir(parents=True)
            agent.configure(home, server.url)
            for plugin in (net.NAME, net.THOUGHTS) if name in THOUGHTS else ():
                net.install(home, agent.python().parent / "hermes", plugin)
            run = agent.run(name, server.url, work, toolsets="terminal", home=home, save_trajectory=True)
            return run, sorted(path.name for path in work.iterdir()), asked[name]

        with ThreadPoolExecutor(2) as pool:
            yield dict(zip([*THOUGHTS, ALONE], pool.map(play, [*THOUGHTS, ALONE])))


@pytest.mark.parametrize("name", THOUGHTS)
def test_the_tools_run_the_answer_shows_no_thought_and_no_call_in_a_thought_is_made(runs, name):
    run, files, _ = runs[name]
    assert files == ["step-1", "step-2"], run
    assert run.answer == "Both are made.\n" and run.usage["api_calls"] == 3


@pytest.mark.parametrize("name", THOUGHTS)
def test_the_server_gets_back_every_thought_of_the_request_it_is_at(runs, name):
    turns = [message for message in runs[name][2] if message["role"] == "assistant"]
    assert [turn["reasoning_content"] for turn in turns] == [f"{i}: {THOUGHTS[name]}" for i in range(2)]


def test_hermes_alone_sends_no_thought_back_which_is_why_there_is_a_plugin(runs):
    _, files, sent = runs[ALONE]
    turns = [message for message in sent if message["role"] == "assistant"]
    assert files == ["step-1", "step-2"] and len(turns) == 2
    assert not any("reasoning_content" in turn for turn in turns)


@pytest.mark.parametrize("name", THOUGHTS)
def test_the_recorded_trace_keeps_each_thought_and_trains_what_the_server_fed(runs, name):
    run, _, sent = runs[name]
    policies = {reason: allowed[0] for reason, (_, allowed) in filters.REASONS.items()}
    row = formats.to_row(run.trajectory, filters.Meets(policies))
    kept = [message for message in row["messages"] if message["role"] == "assistant"]
    assert [message["reasoning_content"] for message in kept] == [f"{i}: {THOUGHTS[name]}" for i in range(3)]
    assert [bool(message.get("tool_calls")) for message in kept] == [True, True, False]
    # What a server's template makes of the last request is what stands before the last trained turn.
    chat = loss_mask.load(ROOT / "models/tiny")
    template = (ROOT / "configs/templates/lfm2.5-tools.jinja").read_text()
    chat = loss_mask.Chat(chat.folder, chat.tokenizer, template, chat.special)
    assert sent[0]["role"] == "system"
    told = [{**message, "tool_calls": parsed(message)} if message.get("tool_calls") else message for message in sent]
    fed = chat.render(told[1:], None, add_generation_prompt=True)
    rest = [message for message in row["messages"] if message["role"] != "system"]
    (tokens, mask), *more = loss_mask.sequences(chat, {"messages": rest})
    assert more == []
    last = np.flatnonzero(np.diff(mask.astype(int)) == 1)[-1] + 1
    assert chat.tokenizer.decode(tokens[:last].tolist(), skip_special_tokens=False) == fed


def parsed(message: dict) -> list:
    return [
        {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
        for call in message["tool_calls"]
    ]
