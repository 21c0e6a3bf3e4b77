"""The loss is on every assistant turn, its end token included, on nothing else; whatever the template and the text."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kxl.base.cli import UserError
from kxl.chat import loss_mask

ROOT = Path(__file__).resolve().parents[2]
CALL = {"type": "function", "function": {"name": "terminal", "arguments": {"command": "echo 'it''s' \\n \"x\" ü🎉"}}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "terminal",
            "description": "Runs a command",
            "parameters": {"type": "object", "properties": {"command": {"type": "string"}}},
        },
    }
]
MESSAGES = [
    {"role": "system", "content": "You are Hermes Agent."},
    {"role": "user", "content": "echo twice"},
    {"role": "assistant", "content": "First:", "tool_calls": [CALL, CALL]},
    {"role": "tool", "content": "assistant said: done<", "tool_call_id": "call_1"},
    {"role": "tool", "content": "b", "tool_call_id": "call_2"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "c", "tool_call_id": "call_3"},
    {"role": "assistant", "content": "Done.\nAll three 🎉"},
    {"role": "user", "content": "thanks"},
    {"role": "assistant", "content": "You are welcome!"},
]


@pytest.fixture(scope="module")
def chat():
    return loss_mask.load(ROOT / "models" / "tiny")


def trained(chat, row):
    """What the masked-in tokens say, run by run; read off the mask itself, not off the spans it was made from."""
    tokens, mask = loss_mask.tokens_and_mask(chat, row)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]])))
    assert chat.tokenizer.decode(tokens.tolist(), skip_special_tokens=False) == chat.render(
        row["messages"], row.get("tools")
    )
    return [
        chat.tokenizer.decode(tokens[a:b].tolist(), skip_special_tokens=False) for a, b in zip(edges[::2], edges[1::2])
    ]


CALL_TEXT = "terminal(command=\"echo 'it''s' \\\\n \\\"x\\\" ü🎉\")"
EMITTED = [
    f"First:<|tool_call_start|>[{CALL_TEXT}, {CALL_TEXT}]<|tool_call_end|><|im_end|>",
    f"<|tool_call_start|>[{CALL_TEXT}]<|tool_call_end|><|im_end|>",
    "Done.\nAll three 🎉<|im_end|>",
    "You are welcome!<|im_end|>",
]


def test_all_turns_of_a_trace_are_trained_with_their_end(chat):
    assert trained(chat, {"messages": MESSAGES, "tools": TOOLS}) == EMITTED


def test_mlx_lm_would_train_the_last_turn_alone(chat):
    """The reason for this module; when this fails, mlx-lm has learned it and the README may say so."""
    from mlx_lm.tuner.datasets import ChatDataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "tiny", local_files_only=True)
    tokens, offset = ChatDataset([{"messages": MESSAGES, "tools": TOOLS}], tokenizer, mask_prompt=True).process(
        {"messages": MESSAGES, "tools": TOOLS}
    )
    assert tokenizer.decode(tokens[offset:]) == "You are welcome!<|im_end|>\n"


@pytest.mark.parametrize(
    "edit",
    [
        lambda t: re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", t),  # no blocks: by prefixes
        lambda t: t.replace(
            '{{- "<|im_end|>" -}}\n        {%- endgeneration -%}', '{%- endgeneration -%}{{- "<|im_end|>" -}}'
        ),  # end outside
        lambda t: t.replace(
            '{{- "<|im_end|>" -}}\n        {%- endgeneration -%}\n        {{- "\\n" -}}',
            '{{- "<|im_end|>\\n" -}}{%- endgeneration -%}',
        ),  # newline inside
    ],
)
def test_templates_that_mark_turns_otherwise_give_the_same_mask(chat, edit):
    other = replace(chat, template=edit(chat.template))
    assert other.template != chat.template
    assert other.render(MESSAGES, TOOLS) == chat.render(MESSAGES, TOOLS)
    for a, b in zip(
        loss_mask.tokens_and_mask(chat, {"messages": MESSAGES, "tools": TOOLS}),
        loss_mask.tokens_and_mask(other, {"messages": MESSAGES, "tools": TOOLS}),
    ):
        assert np.array_equal(a, b)


def test_a_token_never_holds_both_prompt_and_answer(chat):
    """ "\\n" before and after the edge would be one token of a real tokenizer; here they are merged by force."""
    from tokenizers import AddedToken, Tokenizer

    merged = Tokenizer.from_str(chat.tokenizer.to_str())
    merged.add_tokens([AddedToken("\n\nYes", normalized=False)])
    row = {"messages": [{"role": "user", "content": "well?"}, {"role": "assistant", "content": "\nYes"}]}
    assert merged.encode(chat.render(row["messages"]), add_special_tokens=False).tokens.count("\n\nYes") == 1
    assert trained(replace(chat, tokenizer=merged), row) == ["\nYes<|im_end|>"]


def test_a_conversation_whose_turns_cannot_be_proven_is_refused(chat):
    forgetful = replace(
        chat,
        template="{% for m in messages %}{{ m.role }}: {{ 'x' if loop.last else m.content }}<|im_end|>\n{% "
        "endfor %}{% if add_generation_prompt %}assistant: {% endif %}",
    )
    with pytest.raises(loss_mask.MaskError, match="message 2 otherwise once later messages follow"):
        loss_mask.tokens_and_mask(forgetful, {"messages": MESSAGES})
    endless = replace(
        chat,
        template="{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt "
        "%}assistant: {% endif %}",
    )
    with pytest.raises(loss_mask.MaskError, match="does not end with"):
        loss_mask.tokens_and_mask(endless, {"messages": MESSAGES})
    with pytest.raises(loss_mask.MaskError, match="cannot render"):
        loss_mask.tokens_and_mask(
            chat,
            {
                "messages": [
                    {"role": "user", "content": "x"},
                    {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
                ]
            },
        )


def test_tokenizer_and_template_are_those_that_transformers_reads(chat):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(ROOT / "models" / "tiny", local_files_only=True)
    text = chat.render(MESSAGES, TOOLS)
    assert (
        text == theirs.apply_chat_template(MESSAGES, tools=TOOLS, tokenize=False)
        and chat.special == theirs.special_tokens_map
    )
    assert (
        loss_mask.tokens_and_mask(chat, {"messages": MESSAGES, "tools": TOOLS})[0].tolist()
        == theirs(text, add_special_tokens=False)["input_ids"]
    )


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(UserError, match="no tokenizer.json"):
        loss_mask.load(tmp_path)
