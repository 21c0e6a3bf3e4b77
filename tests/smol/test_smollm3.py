"""SmolLM3 without its weights: its two modes, what is taught in them, and its published template."""

from dataclasses import replace

import pytest

from helpers import random_smol
from kxl.base.files import read_json
from kxl.chat import loss_mask
from kxl.smol import emission, rows
from kxl.smol import tokens as smol_tokens

CONFIG = read_json(random_smol.SMOLLM3)
CALL = '<tool_call>{"name": "write_file", "arguments": {}}</tool_call>'


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return loss_mask.load(random_smol.smollm3(tmp_path_factory.mktemp("smollm3")))


@pytest.fixture(scope="module")
def tokens(chat):
    return smol_tokens.resolve(CONFIG, chat.tokenizer, "config")


def learned(chat, example):
    return chat.tokenizer.decode(example.tokens[example.mask].tolist(), skip_special_tokens=False)


@pytest.mark.parametrize("system", ["/no_think", "/no_think Be short.", "Be short. /think", "Be short."])
def test_without_tools_our_template_writes_what_the_published_one_does(chat, llama_tree, system):
    """Without any instructions the published one adds a long text of its own in /think mode; ours does not."""
    published = (llama_tree / "models/templates/HuggingFaceTB-SmolLM3-3B.jinja").read_text(encoding="utf-8")
    talk = [("system", system), ("user", "Hi"), ("assistant", "Hello."), ("user", "Bye")]
    messages = [{"role": role, "content": content} for role, content in talk]
    theirs = replace(chat, template=published)
    for given in (messages, messages[:2]):
        assert chat.render(given, add_generation_prompt=True) == theirs.render(given, add_generation_prompt=True)


def test_the_config_teaches_calls_at_once_behind_an_empty_thought(chat, tokens):
    row = random_smol.tool_row()
    row["messages"] = smol_tokens.with_system(row["messages"], CONFIG)
    example = rows.encode(chat, tokens, row)
    text = chat.tokenizer.decode(example.tokens.tolist(), skip_special_tokens=False)
    assert "Reasoning Mode: /no_think" in text and "<think>" not in learned(chat, example)
    assert text.count("<|im_start|>assistant\n<think>\n\n</think>\n") == 2
    assert learned(chat, example).startswith("<tool_call>")
    prompt = smol_tokens.prompt_ids(chat, row["messages"][:2], row["tools"])
    assert example.tokens[: len(prompt)].tolist() == prompt  # what serving shows is what training sees


def test_a_system_message_of_the_row_stays_and_other_models_get_none():
    own = [{"role": "system", "content": "/think Be brief."}, {"role": "user", "content": "Hi"}]
    assert smol_tokens.with_system(own, CONFIG) == own
    assert smol_tokens.with_system(own[1:], read_json(random_smol.SMOLLM2)) == own[1:]
    assert smol_tokens.with_system(own[1:], CONFIG)[0] == {"role": "system", "content": "/no_think"}


def test_a_thought_is_learned_in_think_mode_and_gone_without(chat, tokens):
    row = random_smol.ordinary_row()
    row["messages"][1]["reasoning_content"] = "A greeting."
    example = rows.encode(chat, tokens, row)
    assert learned(chat, example) == "<think>A greeting.</think>Hi there.<|im_end|>"
    quiet = {**row, "messages": smol_tokens.with_system(row["messages"], CONFIG)}
    text = chat.render(quiet["messages"], quiet["tools"])
    assert "A greeting." not in text and text.endswith("<think>\n\n</think>\nHi there.<|im_end|>\n")


@pytest.mark.parametrize(
    "text, kind",
    [
        (CALL, "call"),
        (f"<think>I need it.</think>{CALL}", "call"),
        (f"<think>{CALL} would do, but no.</think>Hello.", "text"),
        (f"<think>I write {CALL}", "text"),
    ],
)
def test_a_call_in_a_thought_is_none(chat, tokens, text, kind):
    def decode(ids):
        return chat.tokenizer.decode(ids, skip_special_tokens=False)

    ids = chat.tokenizer.encode(text, add_special_tokens=False).ids
    said = emission.behind_thought(ids, decode)
    assert emission.read(said, tokens, decode).kind == kind
    assert (tokens.call_start in said) is (kind == "call")
