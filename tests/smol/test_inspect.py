"""The inspector and the measurement on a random model: what they say is what the model's own probabilities are."""

import copy
import json
import sys

import mlx.core as mx
import pytest

import smol_check_serving
import smol_evaluate
import smol_inspect
from helpers import random_smol
from kxl.base.cli import UserError
from kxl.base.files import read_json, write_json
from kxl.chat import loss_mask
from kxl.eval import server as eval_server
from kxl.eval import verdicts
from kxl.model import generate
from kxl.smol import sets
from kxl.smol import tokens as smol_tokens


@pytest.fixture
def model(tmp_path):
    return random_smol.smollm2(tmp_path / "model")


def run(module, monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, args)])
    module.main()


def test_two_models_stand_side_by_side_with_ids_pieces_and_probabilities(model, tmp_path, monkeypatch, capsys):
    other = random_smol.smollm2(tmp_path / "other", layers=1)
    run(
        smol_inspect,
        monkeypatch,
        "--config",
        random_smol.SMOLLM2,
        "--model",
        model,
        "--compare",
        other,
        "--max-tokens",
        5,
        "--report",
        tmp_path / "r.json",
    )
    printed = capsys.readouterr().out
    assert printed.count("prompt: ") == len(smol_inspect.PROMPTS) and printed.count(
        "start token at first place"
    ) == 2 * len(smol_inspect.PROMPTS)
    models = read_json(tmp_path / "r.json")["results"]["models"]
    assert len(models) == 2 and all(
        entry["verdict"] == "text" and len(entry["steps"]) <= 5 for entries in models.values() for entry in entries
    )
    chat = loss_mask.load(model)
    name, messages, tools = smol_inspect.requests(None)[0]
    ids = chat.tokenizer.encode(chat.render(messages, tools, add_generation_prompt=True), add_special_tokens=False).ids
    chances = mx.softmax(generate.load(model)(mx.array([ids]))[0, -1])
    first = next(iter(models.values()))[0]
    assert first["prompt"] == name and first["start_probability"] == pytest.approx(chances[8].item(), rel=1e-3)
    assert first["steps"][0]["probability"] == pytest.approx(mx.max(chances).item(), rel=1e-3)
    assert first["steps"][0]["piece"] == chat.tokenizer.decode([first["steps"][0]["id"]], skip_special_tokens=False)


def test_a_gguf_alone_asks_for_its_tokenizer(tmp_path, monkeypatch):
    (tmp_path / "m.gguf").touch()
    with pytest.raises(UserError, match="--tokenizer"):
        run(smol_inspect, monkeypatch, "--config", random_smol.SMOLLM2, "--model", tmp_path / "m.gguf")


EXPECTED = [{"name": "write_file", "arguments": {"path": ["a"]}}]


def judged(folder, count=2):
    """A judging set of tool prompts, ordinary ones and one near miss."""
    rows = [
        {
            **random_smol.tool_row(name=f"t{i}"),
            "messages": [{"role": "user", "content": f"write {i}"}],
            "expected": EXPECTED,
        }
        for i in range(count)
    ]
    rows += [
        {**random_smol.ordinary_row(f"o{i}"), "tools": [], "messages": [{"role": "user", "content": f"hi {i}"}]}
        for i in range(count)
    ]
    rows += [{**random_smol.ordinary_row("n"), "kind": "near_miss", "messages": [{"role": "user", "content": "near"}]}]
    sets.write(folder / "test.json", rows)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_before_and_after_make_the_report_and_a_missed_gate_keeps_it_under_another_name(
    model, tmp_path, monkeypatch, capsys, backend
):
    judged(tmp_path)
    config = read_json(random_smol.SMOLLM2)
    config["emission"]["max_tokens"] = 4
    write_json(tmp_path / "config.json", config)
    paths = {"config": "config.json", "set": "test.json"}
    common = [word for name, path in paths.items() for word in (f"--{name}", tmp_path / path)]
    common += ["--model", model, "--backend", backend]
    compared = ("--before", tmp_path / "before.json", "--out", tmp_path / "emission.json")
    run(smol_evaluate, monkeypatch, *common, "--out", tmp_path / "before.json")
    assert "0 of 2 tool prompts got a start token" in capsys.readouterr().out
    with pytest.raises(UserError, match="0 of 2 prompts got a call of the right tool, 90% are required"):
        run(smol_evaluate, monkeypatch, *common, *compared)
    assert not (tmp_path / "emission.json").exists()
    results = read_json(tmp_path / "emission.failed.json")["results"]
    assert results["before"]["test"]["prompts"] == 2 == results["masked_names"]["prompts"]
    assert results["ordinary"]["false_calls"] == 0 and results["restraint"]["prompts"] == 1
    assert results["forgetting"]["kld_mean"] == pytest.approx(0, abs=1e-6) and results["forgetting"]["tokens"] > 0
    assert results["forgetting"]["as_good"] == 2  # the same model says the same
    kinds = [entry["kind"] for entry in results["details"]["after"]]
    assert kinds == ["tool"] * 2 + ["ordinary"] * 2 + ["near_miss"] + ["masked"] * 2
    chat = loss_mask.load(model)
    ids = smol_tokens.prompt_ids(chat, [{"role": "user", "content": "write 0"}], [random_smol.TOOL])
    chance = mx.softmax(generate.load(model)(mx.array([ids]))[0, -1])[8].item()
    assert results["details"]["after"][0]["start_probability"] == pytest.approx(chance, rel=0.1)  # torch in BF16
    with pytest.raises(UserError, match="rose by a factor of 1.0, 10 is required"):
        run(smol_evaluate, monkeypatch, *common, *compared, "--limit", 2, "--min-rise", 10)
    judged(tmp_path, 3)
    with pytest.raises(UserError, match="measured other prompts"):
        run(smol_evaluate, monkeypatch, *common, *compared)


class Scripted:
    """A client that answers as a server would."""

    def __init__(self, answer):
        self.answer = answer

    def ask(self, suite, case):
        return self.answer, None


@pytest.mark.parametrize(
    "change, structured, right",
    [
        ({}, True, True),
        ({"calls": [{"name": "other", "arguments": {}}]}, True, False),
        ({"finish_reason": "stop"}, False, False),
        ({"calls": []}, False, False),
        ({"errors": ["broken"]}, False, False),
        ({"content": '<tool_call>{"name": "write_file"}'}, False, False),
    ],
)
def test_a_served_answer_counts_only_as_structured_calls_without_a_leak(change, structured, right):
    fields = {
        "content": "",
        "calls": [{"name": "write_file", "arguments": {"path": "a"}}],
        "finish_reason": "tool_calls",
        **change,
    }
    row = {**random_smol.tool_row(), "messages": [{"role": "user", "content": "write"}], "expected": EXPECTED}
    entry = smol_check_serving.ask(Scripted(verdicts.Answer(**fields)), row, 16)
    assert (entry["structured"], entry["right_tool"]) == (structured, right) and json.dumps(entry)


ENUM = {
    "type": "function",
    "function": {
        "name": "set_mode",
        "description": "Set it.",
        "parameters": {
            "type": "object",
            "properties": {"mode": {"type": "string", "enum": ["fast"]}},
            "required": ["mode"],
        },
    },
}


def test_the_pinned_llama_server_reads_our_template_tokens_and_calls(model, tmp_path, llama_bin):
    """A random model, pushed onto the start token: from there on the server's own grammar must lead to a call."""
    chat = loss_mask.load(model)
    gguf = random_smol.smollm2_gguf(model, tmp_path / "m.gguf")
    asked = [{"role": "user", "content": "go"}]
    history = [*random_smol.tool_row()["messages"], *asked]
    with eval_server.llama_server(gguf, tmp_path / "server.log", context=2048, extra=("--threads", "1")) as server:

        def post(path, **body):
            reply = server.http.post(server.url + path, json=body, timeout=120)
            assert reply.status_code == 200, reply.text
            return reply.json()

        as_sent = copy.deepcopy(history)  # on the wire arguments are a string
        call = as_sent[1]["tool_calls"][0]
        call |= {
            "id": "call_1",
            "function": {**call["function"], "arguments": json.dumps(call["function"]["arguments"])},
        }
        as_sent[2]["tool_call_id"] = "call_1"
        prompt = post("/apply-template", messages=as_sent, tools=[random_smol.TOOL])["prompt"]
        assert prompt == chat.render(history, [random_smol.TOOL], add_generation_prompt=True)
        ids = post("/tokenize", content=prompt, parse_special=True, add_special=False)["tokens"]
        assert ids == chat.tokenizer.encode(prompt, add_special_tokens=False).ids
        choice = post(
            "/v1/chat/completions",
            messages=asked,
            tools=[ENUM],
            temperature=0,
            max_tokens=120,
            parallel_tool_calls=False,
            logit_bias=[[8, 100]],
        )["choices"][0]
        (call,) = choice["message"]["tool_calls"]
        assert call["function"]["name"] == "set_mode" and not choice["message"]["content"]

    tokens = smol_tokens.resolve(read_json(random_smol.SMOLLM2), chat.tokenizer, "config")
    # By MLX and, from the GGUF, by llama.cpp: the same tokens with the same probabilities.
    one, two = (
        smol_inspect.inspect(source, None, chat, tokens, smol_inspect.requests(["hello"]), 6, 2)
        for source in (model, gguf)
    )
    for by_mlx, by_llama in zip(one, two):
        assert [step["id"] for step in by_mlx["steps"]] == [step["id"] for step in by_llama["steps"]]
        assert by_mlx["start_probability"] == pytest.approx(by_llama["start_probability"], rel=0.02)
        assert [step["probability"] for step in by_mlx["steps"]] == pytest.approx(
            [step["probability"] for step in by_llama["steps"]], rel=0.02
        )
