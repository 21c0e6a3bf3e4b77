"""The tiny model: what it is trained on, its tokenizer, and that its torch twin is the model that is served."""

import json
import random
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

import tiny_generate_suite
import tiny_train
from kxl.base.files import ROOT, read_json
from kxl.chat import hermes_tools
from kxl.eval import contamination
from kxl.eval.requests import requests_of, same_words
from kxl.model import checkpoint
from kxl.tiny import batches, contexts, forms, recorded, requests
from kxl.tiny import rows as tiny_rows
from kxl.tiny import words as tiny_words
from kxl.tiny.model import TinyLfm2Moe

pytestmark = pytest.mark.minutes

MODEL = ROOT / "models/tiny"


@pytest.fixture(scope="module")
def encoder():
    return batches.Encoder(MODEL)


def small_config(**changes) -> dict:
    config = read_json(ROOT / "configs/tiny-train.json")["training"]["model"]
    return {
        **config,
        "vocab_size": 97,
        "hidden_size": 64,
        "intermediate_size": 96,
        "moe_intermediate_size": 32,
        "num_hidden_layers": 4,
        "layer_types": ["conv", "conv", "full_attention", "conv"],
        **changes,
    }


def random_model(**changes) -> TinyLfm2Moe:
    torch.manual_seed(3)
    model = TinyLfm2Moe(small_config(**changes))
    for moe in model.moe_layers():
        moe.expert_bias += torch.randn(moe.count) * 0.2
    return model


@pytest.mark.parametrize("kind", contexts.CONTEXTS)
def test_training_rows_are_what_the_chat_template_writes(encoder, kind):
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    rng = random.Random(11)
    for _ in range(25):
        context = contexts.context(rng, kind)
        row = tiny_rows.row(
            rng, contexts.tool_names(context), shares=tiny_rows.Shares(in_a_row=0.2, introductions=0.05)
        )
        system = [{"role": "system", "content": context["system"]}] if context["system"] else []
        text = tokenizer.apply_chat_template(system + row["messages"], tools=context["tools"], tokenize=False)
        assert (
            encoder.prefix(context) + encoder.row(row["messages"])[0]
            == tokenizer(text, add_special_tokens=False)["input_ids"]
        )


def test_the_loss_is_on_exactly_what_the_assistant_says(encoder):
    rng = random.Random(5)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    for _ in range(200):
        messages = tiny_rows.row(rng, contexts.ALL_TOOLS)["messages"]
        ids, emitted = encoder.row(messages)
        said = tokenizer.decode([i for i, own in zip(ids, emitted) if own])
        expected = ""
        for message in messages:
            if message["role"] == "assistant":
                whole = tokenizer.apply_chat_template([message], tokenize=False)
                expected += whole.removeprefix("<|startoftext|><|im_start|>assistant\n").removesuffix("\n")
        assert said == expected


def test_an_eval_prompt_is_never_trained_on(encoder, tmp_path):
    rng = random.Random("1 0")
    context = contexts.context(rng, "compact")
    state = rng.getstate()
    names = contexts.tool_names(context)
    prompts = {r for _ in range(30) for r in requests_of(tiny_rows.row(rng, names)["messages"])}
    suite = {"name": "seen", "tools": None, "system": None, "max_tokens": 1}
    suite["cases"] = [
        {"id": f"c{i}", "kind": "no_tool", "category": "c", "prompt": text} for i, text in enumerate(sorted(prompts))
    ]
    (tmp_path / "seen.json").write_text(json.dumps(suite))
    seen = contamination.Prompts([tmp_path / "seen.json"])
    rng.setstate(state)
    batch = batches.draw_batch(rng, encoder, context, {"rows": 8, "longest": 400, "max_tokens": 4000}, forbidden=seen)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    for row in batch.ids.tolist():
        for turn in tokenizer.decode(row).split("<|im_start|>user\n")[1:]:
            assert same_words(turn.split("<|im_end|>")[0]) not in prompts


def test_training_arguments_never_hold_a_held_out_word():
    rng = random.Random(2)
    kinds = ("nouns", "adjectives", "names", "verbs")
    listed = {word for kind in kinds for word in forms.load("words")[kind] if tiny_words.is_heldout(word)}
    assert len(listed) > 80
    for tool in requests.SHARES:
        for _ in range(800):
            _, call = requests.request(rng, tool)
            for value in call["arguments"].values():
                words = set("".join(c if c.isalpha() else " " for c in str(value)).split())
                # Words glued together in camelCase cannot be told apart; the others must be training words.
                assert not {w for w in words if w.islower()} & listed - USUAL


# Held-out by their hash, but parts of fixed names that people use all the time (extensions, programs, folders).
FIXED = [text for kind in ("commands", "file_names", "sites", "folders") for text in forms.load("arguments")[kind]]
USUAL = {
    *forms.load("arguments")["extensions"],
    *"def class import function return".split(),
    *(
        word
        for text in (*FIXED, *forms.load("tasks")["without_argument"])
        for word in "".join(letter if letter.isalpha() else " " for letter in text).split()
    ),
}


@pytest.mark.parametrize("kind", contexts.CONTEXTS)
def test_every_generated_call_obeys_the_schema_that_hermes_checks_it_by(kind):
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in hermes_tools.load()}
    rng, limits = random.Random(f"schemas {kind}"), []
    names = contexts.tool_names(contexts.context(rng, kind))
    drawn = [requests.request(rng, name)[1] for name in names if name in requests.SHARES for _ in range(300)]
    for _ in range(400):
        messages = tiny_rows.row(rng, names, shares=tiny_rows.Shares(in_a_row=0.2))["messages"]
        drawn += [call["function"] for message in messages for call in message.get("tool_calls", [])]
    for call in drawn:
        jsonschema.validate(call["arguments"], schemas[call["name"]])
        limits += [call["arguments"]["limit"]] if call["name"] == "read_file" and "limit" in call["arguments"] else []
    assert "read_file" not in names or max(limits) > 1000  # long ones are asked for, and kept to what the tool takes


def test_the_generated_suite_is_the_committed_one_and_new_to_training():
    committed = read_json(ROOT / "evals/suites/generated_200.json")
    assert committed["cases"] == tiny_generate_suite.cases(200, 200)
    for case in committed["cases"]:
        values = [v for rule in case["calls"][0]["arguments"].values() for v in rule.get("set", [rule.get("exact")])]
        words = {w.lower() for v in values for w in "".join(c if c.isalpha() else " " for c in str(v)).split()}
        pieces = {p.lower() for v in values for p in split_camel(str(v))}
        # A command may write a camelCase name in lower case, where its words cannot be told apart any more.
        inside = any(w in str(v).lower() for v in values for w in tiny_words.vocabulary().heldout)
        assert inside or any(tiny_words.is_heldout(w) for w in words | pieces), case["prompt"]


def split_camel(text: str) -> list[str]:
    spaced = "".join(" " + c if c.isupper() else c if c.isalpha() else " " for c in text)
    return spaced.split()


def test_a_word_is_the_same_tokens_after_a_space_a_quote_and_a_slash(encoder):
    for word in ("zorvel", "klumstaird", "hermes"):
        alone = encoder.encode(word)
        for before in (' "', "/", "='", "-", "_"):
            assert encoder.encode(before + word)[-len(alone) :] == alone


@pytest.mark.parametrize("top_k, experts", [(2, 6), (1, 3), (3, 5)])
def test_a_shared_prefix_gives_the_logits_and_gradients_of_whole_sequences(top_k, experts):
    model = random_model(num_experts=experts, num_experts_per_tok=top_k).train()
    prefix, rows = torch.randint(0, 97, (7,)), torch.randint(0, 97, (3, 5))
    weight = torch.randn(3, 5, 97)

    def gradients(hidden):
        model.zero_grad()
        (model.logits(hidden) * weight).sum().backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    _, states = model(prefix[None])
    shared = model(rows, states)[0]
    with_prefix = gradients(shared)
    whole = model(torch.cat([prefix.expand(3, -1), rows], 1))[0][:, 7:]
    torch.testing.assert_close(shared, whole, rtol=1e-4, atol=1e-5)
    for name, expected in gradients(whole).items():
        torch.testing.assert_close(with_prefix[name], expected, rtol=1e-3, atol=1e-4, msg=name)


def test_the_saved_checkpoint_gives_mlx_lm_the_same_logits(tmp_path):
    import mlx.core as mx
    from mlx_lm.utils import load_model

    model = random_model(hidden_size=128, num_attention_heads=4).eval()
    for p in model.parameters():  # what BF16 can hold, so that saving loses nothing
        p.data = p.data.bfloat16().float()
    (tmp_path / "m").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / "m" / name).write_bytes((MODEL / name).read_bytes())
    weights = {name: weight.numpy() for name, weight in model.hf_tensors().items()}
    checkpoint.save_trained(tmp_path / "m", model.config, weights)
    assert checkpoint.read(tmp_path / "m").config["num_experts"] == 6
    twin, _ = load_model(tmp_path / "m")
    twin.set_dtype(mx.float32)
    tokens = torch.randint(0, 97, (2, 23))
    with torch.no_grad():
        expected = model.logits(model(tokens)[0]).numpy()
    got = np.array(twin(mx.array(tokens.numpy())))
    assert np.abs(got - expected).max() < 1e-3 * np.abs(expected).max()
    again = random_model(hidden_size=128, num_attention_heads=4).eval()  # a second stage starts from what was saved
    again.load_hf({name: torch.from_numpy(t.read()) for name, t in checkpoint.read(tmp_path / "m").tensors.items()})
    with torch.no_grad():
        assert np.array_equal(again.logits(again(tokens)[0]).numpy(), expected)


def test_training_resumes_to_the_same_weights(tmp_path, encoder, monkeypatch):
    settings = read_json(ROOT / "configs/tiny-train.json")["training"]
    settings["model"] = small_config(vocab_size=encoder.tokenizer.get_vocab_size())
    settings.update(
        steps=4,
        rows=4,
        eval_every=1,
        warmup=2,
        max_tokens=800,
        early_steps=1,
        contexts_late={"bare": 0.5, "compact": 0.5},
    )
    monkeypatch.setattr(tiny_train, "exact_rows", lambda *args: {})
    whole, _ = tiny_train.train(settings, encoder, make(tmp_path / "whole"))

    def stop(path, model, optimizers, step, history, settings, save=tiny_train.save_state):
        save(path, model, optimizers, step, history, settings)
        if step == 3:  # while the learning rate falls
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tiny_train, "save_state", stop)
        tiny_train.train(settings, encoder, make(tmp_path / "cut"))
    resumed, history = tiny_train.train(settings, encoder, tmp_path / "cut")
    assert [entry["step"] for entry in history] == [1, 2, 3, 4]
    for (name, a), b in zip(whole.state_dict().items(), resumed.state_dict().values()):
        assert torch.equal(a, b), name


def test_a_frozen_part_stays_bit_for_bit_and_the_rest_learns(tmp_path, encoder, monkeypatch):
    settings = read_json(ROOT / "configs/tiny-train.json")["training"]
    settings["model"] = small_config(vocab_size=encoder.tokenizer.get_vocab_size())
    settings.update(
        steps=2,
        rows=4,
        eval_every=9,
        warmup=1,
        max_tokens=800,
        early_steps=0,
        contexts_late={"bare": 1.0},
        frozen=["embed_tokens"],
    )
    monkeypatch.setattr(tiny_train, "exact_rows", lambda *args: {})
    torch.manual_seed(settings["seed"])
    before = TinyLfm2Moe(settings["model"]).state_dict()
    after = tiny_train.train(settings, encoder, make(tmp_path / "work"))[0].state_dict()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert "embed_tokens.weight" in same and not any(
        name.endswith(("q_proj.weight", "gate.weight", "w1.weight")) for name in same
    )


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.mark.parametrize("path", [recorded.RESULTS, recorded.SEQUENCES], ids=lambda path: path.stem)
def test_recorded_tool_results_are_real_hermes_json_and_name_no_machine(path):
    episodes = recorded.read(path)
    assert len(episodes) > 1000
    for step in (s for steps in episodes for s in steps):
        assert isinstance(json.loads(step["result"]), dict)
        assert "hermes-kxl-" not in step["result"]
        assert recorded.answer(step)


@pytest.mark.parametrize("kind", ["bare", "hermes_terminal", "hermes_files"])
def test_a_sequence_is_carried_out_to_its_last_call_and_only_then_answered(kind):
    rng = random.Random(12)
    for _ in range(100):
        names = contexts.tool_names(contexts.context(rng, kind))
        request, *turns = tiny_rows.row(rng, names, shares=tiny_rows.Shares(in_a_row=1))["messages"]
        called = [turn for turn in turns if turn.get("tool_calls")]
        assert [turn["role"] for turn in turns] == ["assistant", "tool"] * len(called) + ["assistant"]
        assert len(called) in (2, 3) and not turns[-1].get("tool_calls")
        values = [
            value
            for turn in called
            for key, value in turn["tool_calls"][0]["function"]["arguments"].items()
            if key not in ("mode", "target")
        ]
        assert all(value in request["content"] for value in values), "the request names all that is called for"


def test_a_sequences_calls_act_on_its_own_files():
    """Recorded ones must not fail for a name that was never there: the model would learn to answer with errors."""
    steps = [step for episode in recorded.read(recorded.SEQUENCES) for step in episode if step["name"] == "terminal"]
    failed = [step for step in steps if json.loads(step["result"])["exit_code"]]
    assert len(failed) < 0.03 * len(steps), failed[:3]


def test_held_out_sequences_are_never_trained_on():
    tools = frozenset(contexts.ALL_TOOLS)
    trained, heldout = ([json.dumps(steps) for steps in recorded.sequences(tools, flag)] for flag in (False, True))
    assert len(heldout) > 200 and not set(trained) & set(heldout)
