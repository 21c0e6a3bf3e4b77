"""Training sees what serving shows, turn by turn, whatever a template does with the thoughts of earlier turns."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import moe_encode_rows
from helpers.strategies import calls
from kxl.chat import loss_mask, rows, thoughts
from kxl.repair import shapes
from kxl.traces import parsers

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ("ours", "ours, preserving", "LFM2.5-8B-A1B", "LFM2.5-8B-A1B, preserving", "LFM2.5-Instruct")
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "", "parameters": {"type": "object"}}}
    for name in ("first", "second")
]

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).map(str.strip)
thought = text.map(lambda words: thoughts.as_words(words, [thoughts.START, thoughts.END, "<|im_end|>"])).filter(len)


@st.composite
def conversations(draw):
    """Three requests, each answered over none to two rounds of calls; thoughts here and there."""
    messages = draw(st.sampled_from([[], [{"role": "system", "content": "You are Hermes Agent."}]])).copy()

    def said(**more):
        thinks = draw(st.none() | thought)
        messages.append({"role": "assistant", **({"reasoning_content": thinks} if thinks else {}), **more})

    for _ in range(3):
        messages.append({"role": "user", "content": draw(text)})
        for _ in range(draw(st.integers(0, 2))):
            made = [{"type": "function", "function": one} for one in draw(calls)]
            said(content=draw(st.just("") | text), tool_calls=made)
            messages.extend({"role": "tool", "content": draw(text)} for _ in made)
        said(content=draw(text.filter(len)))
    return messages


@pytest.fixture(scope="module")
def chats(llama_tree):
    tiny = loss_mask.load(ROOT / "models" / "tiny")
    published = llama_tree / "models" / "templates"
    templates = {"ours": ROOT / "configs" / "templates" / "lfm2.5-tools.jinja"}
    templates |= {name: published / f"{name}.jinja" for name in ("LFM2.5-8B-A1B", "LFM2.5-Instruct")}
    made = {name: replace(tiny, template=path.read_text(encoding="utf-8")) for name, path in templates.items()}
    for name in ("ours", "LFM2.5-8B-A1B"):
        made[f"{name}, preserving"] = replace(made[name], options={"preserve_thinking": True})
    return made


@pytest.mark.parametrize("name", TEMPLATES)
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=conversations())
def test_each_turn_is_trained_behind_exactly_what_the_server_feeds_there(chats, name, messages):
    chat, trained = chats[name], []
    for view in chat.views(messages, TOOLS):
        tokens, mask, _ = loss_mask.encode(chat, view.text, list(view.spans.values()))
        for place in view.spans:
            prompt = chat.render(messages[:place], TOOLS, add_generation_prompt=True)
            fed = chat.tokenizer.encode(prompt, add_special_tokens=False).ids
            assert tokens[: len(fed)].tolist() == fed
            assert mask[len(fed)] and not mask[len(fed) - 1]
            trained.append(place)
    assert sorted(trained) == [place for place, message in enumerate(messages) if message["role"] == "assistant"]


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(messages=conversations(), preserve=st.booleans(), ask=st.booleans())
def test_our_template_writes_thoughts_exactly_as_the_published_one(chats, messages, preserve, ask):
    """Calls apart: ours writes arguments as JSON."""
    kind = ", preserving" if preserve else ""
    plain = [{key: message[key] for key in message if key != "tool_calls"} for message in messages]
    written = {name: chats[name + kind].render(plain, TOOLS, ask) for name in ("ours", "LFM2.5-8B-A1B")}
    assert written["ours"] == written["LFM2.5-8B-A1B"]
    if not any("reasoning_content" in message for message in messages):
        tiny = loss_mask.load(ROOT / "models" / "tiny")
        assert tiny.render(messages, TOOLS, ask) == chats["ours"].render(messages, TOOLS, ask)


def test_the_text_of_an_earlier_turn_is_cut_as_the_published_template_cuts_it(chats):
    messages = [
        {"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>x</think>  b"},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]  # fmt: skip
    for name in ("ours", "LFM2.5-8B-A1B"):
        assert "assistant\nb<|im_end|>" in chats[name].render(messages)
        assert "<think>x</think>  b" in chats[name].render(messages[:2])


def three(thinks=True):
    messages = []
    for number in "123":
        said = {"role": "assistant", "content": f"answer {number}"}
        messages += [{"role": "user", "content": number}, {**said, "reasoning_content": f"thought {number}"}]
    return messages if thinks else [{"role": m["role"], "content": m["content"]} for m in messages]


def said(chat, row):
    return [
        chat.tokenizer.decode(tokens[mask].tolist(), skip_special_tokens=False)
        for tokens, mask in loss_mask.sequences(chat, row)
    ]


def test_a_row_of_three_thoughts_is_three_sequences_and_without_thoughts_one(chats):
    assert said(chats["ours"], {"messages": three()}) == [
        f"<think>thought {number}</think>answer {number}<|im_end|>" for number in "123"
    ]
    assert said(chats["ours"], {"messages": three(thinks=False)}) == [
        "".join(f"answer {number}<|im_end|>" for number in "123")
    ]
    assert len(said(chats["ours, preserving"], {"messages": three()})) == 1
    with pytest.raises(loss_mask.MaskError, match="is 3 sequences"):
        loss_mask.tokens_and_mask(chats["ours"], {"messages": three()})


def test_the_loss_leaves_out_thoughts_when_the_row_says_so(chats):
    row = {"messages": three(), "reasoning_loss": False}
    assert said(chats["ours"], row) == [f"answer {number}<|im_end|>" for number in "123"]
    shown = loss_mask.sequences(chats["ours"], row)[0][0]
    assert "<think>thought 1</think>" in chats["ours"].tokenizer.decode(shown.tolist(), skip_special_tokens=False)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(thinks=thought, answer=text.filter(len))
def test_no_token_of_the_answer_loses_its_loss_with_the_thought(chats, thinks, answer):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer, "reasoning_content": thinks}]
    (written,) = said(chats["ours"], {"messages": messages, "reasoning_loss": False})
    assert written.endswith(f"{answer}<|im_end|>") and len(written) <= len(f">{answer}<|im_end|>")


def test_a_thought_that_no_server_would_carry_is_refused_with_what_to_do(chats):
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "reasoning_content": "x </think>"},
    ]
    with pytest.raises(loss_mask.MaskError, match="message 1: its thought holds </think>, where every server ends it"):
        loss_mask.sequences(chats["ours"], {"messages": messages})


@pytest.mark.parametrize("template, where", [
    ("{{ m.thinking }}", "thinking"), ('{{ m["thinking"] }}', "thinking"), ("{{ m.get('thinking') }}", "thinking"),
    ("{% if preserve_thinking %}{{ m.reasoning_content }}{% endif %}", "reasoning_content"),
    ("{{ m.content.split('</think>')[-1] }}", "content"), ("{{ m.content }}{{ enable_thinking }}", None),
])  # fmt: skip
def test_each_template_gets_thoughts_under_the_name_it_reads(template, where):
    message = {"role": "assistant", "content": "b", "reasoning_content": "a"}
    (made,) = thoughts.for_template([message], template)
    assert made.get("thinking") == ("a" if where == "thinking" else None)
    assert made["content"] == ("<think>a</think>b" if where == "content" else "b")
    assert thoughts.writes_thoughts(template) == (where is not None)


def test_encoded_rows_and_repair_examples_hold_every_sequence(chats, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"messages": three()}) + "\n\n" + json.dumps({"messages": three(thinks=False)}) + "\n")
    encoded, counts = moe_encode_rows.encode(chats["ours"], path, 4096)
    assert [one["row"] for one in encoded] == [1, 1, 1, 3] and counts["rows"] == 4
    read = [row for _, row in rows.read(path)]
    examples = shapes.encode(chats["ours"], read, "structured", 4096)
    for one, example in zip(encoded, examples, strict=True):
        assert one["tokens"] == example.tokens.tolist()
        edges = np.flatnonzero(np.diff(np.concatenate([[0], example.mask.astype(int), [0]]))).reshape(-1, 2)
        assert one["scored"] == edges.tolist()


def test_llama_server_feeds_what_training_saw(chats, llama_bin, tmp_path):
    """Its own template engine, given the history as Hermes sends it: thoughts as reasoning_content."""
    messages = [
        {"role": "system", "content": "You are Hermes Agent."},
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": "", "reasoning_content": "it's \"so\"", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "first", "arguments": {"s": "it's </think>"}}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "found"},
        {"role": "assistant", "content": "Found.", "reasoning_content": "say so"},
        {"role": "user", "content": "and now?"},
        {"role": "assistant", "content": "Nothing.", "reasoning_content": "nothing more"},
    ]  # fmt: skip
    sent = json.loads(json.dumps(messages))
    sent[2]["tool_calls"][0]["function"]["arguments"] = json.dumps({"s": "it's </think>"})
    with parsers.Readers(chats["ours"], tmp_path) as readers:
        server = readers._started("", TOOLS)
        for view in chats["ours"].views(messages, TOOLS):
            for place, (start, _) in view.spans.items():
                body = {"messages": sent[:place], "tools": TOOLS}
                fed = server.http.post(server.url + "/apply-template", json=body, timeout=60).json()["prompt"]
                assert fed.removeprefix("<|startoftext|>") == view.text[:start].removeprefix("<|startoftext|>")
