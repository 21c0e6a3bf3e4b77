"""Proof of every row's tokens, in both families' templates; nothing unproven is ever loaded."""

import copy
import json
from dataclasses import replace

import pytest

from helpers import random_smol
from kxl.base import report
from kxl.base.cli import UserError
from kxl.base.files import read_json
from kxl.chat import loss_mask
from kxl.smol import rows
from kxl.smol import tokens as smol_tokens

CONFIGS = {"smollm2": (random_smol.SMOLLM2, random_smol.smollm2), "smollm3": (random_smol.SMOLLM3, random_smol.smollm3)}


@pytest.fixture(scope="module", params=CONFIGS)
def model(request, tmp_path_factory):
    config, make = CONFIGS[request.param]
    chat = loss_mask.load(make(tmp_path_factory.mktemp(request.param)))
    return chat, smol_tokens.resolve(read_json(config), chat.tokenizer, "config")


def learned(chat, example):
    return chat.tokenizer.decode(example.tokens[example.mask].tolist(), skip_special_tokens=False)


def test_the_model_learns_the_call_its_end_and_the_answer_and_nothing_else(model):
    chat, tokens = model
    example = rows.encode(chat, tokens, random_smol.tool_row())
    assert learned(chat, example) == (
        '<tool_call>{"name": "write_file", "arguments": {"path": "a.txt", "text": "it\'s a '
        '\\"quote\\"\\n\\\\d"}}</tool_call>'
        "<|im_end|>Done.<|im_end|>"
    )
    assert list(example.tokens).count(tokens.call_start) == 1 == list(example.tokens).count(tokens.response_end)


def test_two_calls_in_one_turn_are_two_blocks(model):
    chat, tokens = model
    row = random_smol.tool_row()
    row["messages"] = [row["messages"][0], {**row["messages"][1], "tool_calls": row["messages"][1]["tool_calls"] * 2}]
    assert learned(chat, rows.encode(chat, tokens, row)).count("<tool_call>") == 2


def test_an_ordinary_row_beside_tools_shows_no_call_token(model):
    chat, tokens = model
    example = rows.encode(chat, tokens, random_smol.ordinary_row())
    assert not set(tokens.ids) & set(example.tokens.tolist())
    assert learned(chat, example) == "Hi there.<|im_end|>"


@pytest.mark.parametrize("where", [0, 1])
def test_an_ordinary_row_with_a_call_token_in_its_text_is_refused(model, where):
    chat, tokens = model
    row = random_smol.ordinary_row()
    row["messages"][where]["content"] += " <tool_call>"
    with pytest.raises(UserError, match="row 'ordinary/1': 1 call tokens where 0 belong"):
        rows.encode(chat, tokens, row)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda row: row.update(kind="ordinary"), "a ordinary row with 1 calls"),
        (lambda row: row.update(kind="chat"), "kind is 'chat'"),
        (lambda row: row["messages"][1].update(content="<tool_call>"), "3 call tokens where 2 belong"),
        (lambda row: row["messages"][2].update(content="</tool_response>"), "not each between the response tokens"),
        (lambda row: row["messages"][1]["tool_calls"][0]["function"].update(name='a", "b": "c'), "reads back as"),
        (
            lambda row: row["messages"][1]["tool_calls"][0]["function"].update(arguments="{broken"),
            "reads back as not JSON",
        ),
    ],
)
def test_a_row_whose_tokens_are_not_its_messages_is_refused(model, change, said):
    chat, tokens = model
    row = copy.deepcopy(random_smol.tool_row())
    change(row)
    with pytest.raises(UserError, match=said):
        rows.encode(chat, tokens, row)


def test_a_template_that_drops_calls_from_the_history_is_noticed(model):
    """As the stock templates of both families do."""
    chat, tokens = model
    stock = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% generation %}{{ "
        "message['content'] + '<|im_end|>' }}"
        "{% endgeneration %}{% endfor %}"
    ).replace("{% generation %}", "{% if message['role'] == 'assistant' %}{% generation %}")
    stock = stock.replace(
        "{% endgeneration %}", "{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}"
    )
    with pytest.raises(UserError, match="0 call tokens where 2 belong"):
        rows.encode(replace(chat, template=stock), tokens, random_smol.tool_row())


@pytest.fixture
def proven(tmp_path):
    chat = loss_mask.load(random_smol.smollm2(tmp_path / "model"))
    tokens = smol_tokens.resolve(read_json(random_smol.SMOLLM2), chat.tokenizer, "config")
    rows.write(tmp_path / "train.jsonl", [random_smol.tool_row(), random_smol.ordinary_row()])
    report.write(
        tmp_path / "manifest.json",
        [],
        {},
        {"splits": {"train": {"proof": rows.digest(tmp_path / "train.jsonl", chat.folder, tokens)}}},
    )
    return tmp_path, chat, tokens


def test_proven_rows_load(proven):
    folder, chat, tokens = proven
    assert [example.row["kind"] for example in rows.load_proven(folder, "train", chat, tokens)] == ["tool", "ordinary"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: rows.write(folder / "train.jsonl", [random_smol.tool_row("b.txt")]),
        lambda folder: (folder / "model" / "chat_template.jinja").write_text(
            (folder / "model" / "chat_template.jinja").read_text() + " "
        ),
        lambda folder: (folder / "manifest.json").write_text(json.dumps({"results": {"splits": {}}})),
        lambda folder: (folder / "manifest.json").unlink(),
    ],
    ids=["rows", "template", "no proof", "no manifest"],
)
def test_training_never_sees_rows_that_were_changed_after_their_proof(proven, spoil):
    folder, chat, tokens = proven
    spoil(folder)
    with pytest.raises(UserError, match=r"prepare_data\.py"):
        rows.load_proven(folder, "train", chat, tokens)


def test_without_thinking_smollm3_answers_after_an_empty_thought(tmp_path):
    chat = loss_mask.load(random_smol.smollm3(tmp_path))
    messages = [
        {"role": "system", "content": "/no_think Be short."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\nHello."},
    ]
    text = chat.render(messages)
    assert (
        text.endswith("<|im_start|>assistant\n<think>\n\n</think>\nHello.<|im_end|>\n")
        and "Reasoning Mode: /no_think" in text
        and "hm" not in text
    )
    assert chat.render(messages[:2], add_generation_prompt=True).endswith(
        "<|im_start|>assistant\n<think>\n\n</think>\n"
    )
    thinking = chat.render([{"role": "user", "content": "Hi"}, messages[2]])
    assert "Reasoning Mode: /think" in thinking and thinking.endswith(
        "<|im_start|>assistant\n<think>\nhm\n</think>\nHello.<|im_end|>\n"
    )
