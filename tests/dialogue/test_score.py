"""The scorer of tiny_score.py: it asks as a server does, and its verdicts are those of an evaluation by a server."""

import json

import pytest
import torch
from transformers import AutoTokenizer

import tiny_score
from conftest import ROOT
from kxl.base.files import read_json
from kxl.chat.tool_syntax import render_calls
from kxl.dialogue.contexts import Context
from kxl.dialogue.feed import Encoder
from kxl.eval import replies, verdicts
from kxl.tiny.model import TinyLfm2Moe

pytestmark = pytest.mark.minutes

MODEL = ROOT / "models/tiny"
SUITE = tiny_score.load_suite("fixed_hermes_43")
CALLING = next(case for case in SUITE.cases if case["kind"] == "tool_call" and len(case["calls"]) == 1)
TALKING = next(case for case in SUITE.cases if case["kind"] == "no_tool")


def right_call() -> dict:
    (call,) = CALLING["calls"]
    rules = {name: rule for name, rule in call["arguments"].items() if not rule.get("optional")}
    arguments = {name: rule["exact"] if "exact" in rule else rule["set"][0] for name, rule in rules.items()}
    return {"name": call["name"], "arguments": arguments}


def other_call() -> dict:
    call = right_call()
    return {**call, "arguments": {name: "elsewhere" for name in call["arguments"]}}


def reply(text: str, calls: list, finish: str, thought: str | None) -> dict:
    """What llama-server answers for such a turn."""
    made = [
        {"type": "function", "id": f"c{i}", "function": {**call, "arguments": json.dumps(call["arguments"])}}
        for i, call in enumerate(calls)
    ]
    message = {"role": "assistant", "content": text, "tool_calls": made}
    if thought is not None:
        message["reasoning_content"] = thought
    return {"choices": [{"message": message, "finish_reason": finish}]}


@pytest.mark.parametrize(
    ("case", "text", "calls", "ended", "thought", "passes"),
    [
        (CALLING, "", [right_call()], True, None, True),
        (CALLING, "", [right_call()], True, "The user wants that.", True),
        (CALLING, "", [other_call()], True, "The user wants that.", False),
        (CALLING, "", [right_call(), right_call()], True, None, True),  # Hermes runs the same call once
        (CALLING, "", [right_call(), other_call()], True, None, False),
        (CALLING, "Sure.", [], True, None, False),
        (TALKING, "Hello!", [], True, "A greeting.", True),
        (TALKING, "Hello and", [], False, None, False),
        (TALKING, "", [right_call()], True, None, False),
        (TALKING, "", [], True, "A greeting.", False),
    ],
)
def test_a_turn_gets_the_verdict_that_the_servers_reply_gets(case, text, calls, ended, thought, passes):
    written = ("" if thought is None else f"<think>{thought}</think>") + text
    written += (render_calls(calls) if calls else "") + ("<|im_end|>" if ended else "")
    finish = "length" if not ended else "tool_calls" if calls else "stop"
    names = SUITE.of(case).names()
    found = verdicts.judge(SUITE, case, tiny_score.read_answer(written, names))
    assert sorted(found) == sorted(
        verdicts.judge(SUITE, case, replies.read_chat(reply(text, calls, finish, thought), names))
    )
    assert (found == []) == passes


def test_a_call_that_cannot_be_read_fails():
    answer = tiny_score.read_answer("<|tool_call_start|>[terminal(command=]<|tool_call_end|><|im_end|>", SUITE.names())
    assert any(why.startswith("unreadable call") for why in verdicts.judge(SUITE, CALLING, answer))


def test_a_thought_that_does_not_end_fails():
    answer = tiny_score.read_answer("<think>the user says hello", SUITE.names())
    assert verdicts.judge(SUITE, TALKING, answer) == [verdicts.RAN_OUT]


def test_only_the_development_half_of_a_suite_with_halves_is_asked():
    development = read_json(ROOT / "evals/halves/unseen_400.json")["development"]
    assert {case["id"] for case in tiny_score.load_suite("unseen_400").cases} == set(development)


@pytest.mark.parametrize("name", ["fixed_hermes_43", "unseen_400"])
def test_the_prompt_is_what_the_chat_template_writes(name):
    encoder, template = Encoder(MODEL / "tokenizer.json", "drop"), AutoTokenizer.from_pretrained(MODEL)
    suite = tiny_score.load_suite(name)
    for case in suite.cases[::7]:
        system, messages = tiny_score.parts(case)
        tools = suite.of(case).tools
        ids = encoder.prefix(Context("suite", system, tools)) + tiny_score.prompt(encoder, messages)
        turns = [
            {**m, "tool_calls": [
                {"type": "function", "function": {**c["function"], "arguments": json.loads(c["function"]["arguments"])}}
                for c in m["tool_calls"]
            ]} if m.get("tool_calls") else m
            for m in case["messages"]
        ]  # fmt: skip
        text = template.apply_chat_template(turns, tools=tools or None, add_generation_prompt=True, tokenize=False)
        assert encoder.tokenizer.decode(ids, skip_special_tokens=False) == text, case["id"]


def test_a_model_that_knows_nothing_is_scored(monkeypatch):
    config = read_json(ROOT / "configs/tiny.plan.json")["model"]
    encoder = Encoder(MODEL / "tokenizer.json", "drop")
    torch.manual_seed(1)
    model = TinyLfm2Moe({
        **config, "vocab_size": encoder.tokenizer.get_vocab_size(), "hidden_size": 32, "intermediate_size": 48,
        "moe_intermediate_size": 24, "num_hidden_layers": 3, "layer_types": ["conv", "conv", "full_attention"],
    }).eval()  # fmt: skip
    suite = tiny_score.load_suite("fixed_hermes_43")
    suite.cases, suite.max_tokens = [CALLING, TALKING], 4
    monkeypatch.setattr(tiny_score, "THINKING_ROOM", 0)
    found = tiny_score.score(model, encoder, suite)
    assert found["passed"] == 0 and found["cases"] == 2
    assert [answer["id"] for answer in found["answers"]] == [CALLING["id"], TALKING["id"]]
