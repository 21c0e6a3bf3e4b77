"""The texts for imatrix and KL divergence: what a row becomes, and which rows must stay out."""

import json
import shutil
import sys

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import quant_build_calibration
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json
from kxl.eval import suites

SUITE = ROOT / "evals" / "suites" / "fixed_hermes_43.json"
SPECIAL = ["<|startoftext|>", "<|im_start|>", "<|im_end|>", "<|tool_call_start|>", "<|tool_call_end|>"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a byte tokenizer (one token per byte, chat markers one token each) and the project's template."""
    folder = tmp_path_factory.mktemp("model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": "<|startoftext|>",
                "eos_token": "<|im_end|>",
            }
        )
    )
    shutil.copy(ROOT / "configs" / "templates" / "lfm2.5-tools.jinja", folder / "chat_template.jinja")
    return folder


def call_row(request, split, tools=None, command="git status"):
    return {
        "messages": [
            {"role": "user", "content": request},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "terminal", "arguments": {"command": command}},
                    },
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "name": "terminal", "content": "clean"},
            {"role": "assistant", "content": "It is clean."},
        ],
        "tools": tools,
        "kind": "chain",
        "split": split,
    }


@pytest.fixture
def build(tmp_path, model, monkeypatch):
    """Run the script on rows (or raw lines); return (calibration text, held-out text, report)."""

    def run(rows, *flags):
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        out = {name: tmp_path / f"{name}.txt" for name in ("calibration", "heldout")}
        monkeypatch.setattr(
            sys,
            "argv",
            [
                "quant_build_calibration.py",
                "--rows",
                str(tmp_path / "rows.jsonl"),
                "--model",
                str(model),
                "--suite",
                str(SUITE),
                "--calibration",
                str(out["calibration"]),
                "--heldout",
                str(out["heldout"]),
                "--report",
                str(tmp_path / "report.json"),
                *flags,
            ],
        )
        quant_build_calibration.main()
        return *(path.read_text(encoding="utf-8") for path in out.values()), read_json(tmp_path / "report.json")

    return run


def test_a_conversation_is_written_as_the_chat_template_writes_it(build):
    calibration, heldout, _ = build(
        [call_row("is it clean", "calibration"), call_row("show me what changed", "heldout")]
    )
    assert calibration == (
        "<|startoftext|><|im_start|>user\nis it clean<|im_end|>\n"
        '<|im_start|>assistant\n<|tool_call_start|>[terminal(command="git status")]<|tool_call_end|><|im_end|>\n'
        "<|im_start|>tool\nclean<|im_end|>\n<|im_start|>assistant\nIt is clean.<|im_end|>\n"
    )
    assert "show me what changed" in heldout and "is it clean" not in heldout


def test_rows_for_training_never_reach_a_text(build):
    calibration, heldout, _ = build(
        [call_row(f"{split} request", split) for split in ("train", "calibration", "heldout")]
    )
    assert "train request" not in calibration + heldout


def test_a_prompt_of_the_evaluation_stays_out_whatever_its_case_and_punctuation(build):
    prompt = next(case["prompt"] for case in suites.load(SUITE).cases if "prompt" in case)
    disguised = "  " + prompt.upper().replace(" ", "  ").rstrip(".") + "!"
    calibration, heldout, report = build(
        [
            call_row(disguised, "calibration"),
            call_row(disguised, "heldout"),
            call_row("a fresh request", "calibration"),
            call_row("another fresh request", "heldout"),
        ]
    )
    assert disguised not in calibration and disguised not in heldout
    assert report["results"]["left_out"]["request of an evaluation suite"] == 2


def test_no_request_of_any_suite_case_survives(build):
    cases = suites.load(SUITE).cases
    rows = [
        {**call_row("x", "calibration"), "messages": [*case["messages"], {"role": "assistant", "content": "done"}]}
        for case in cases
    ]
    for row in rows:
        for message in row["messages"]:
            for call in message.get("tool_calls", []):
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    calibration, _, report = build([*rows, call_row("fresh", "calibration"), call_row("unheard", "heldout")])
    assert calibration.count("<|im_start|>user") == 1
    assert report["results"]["left_out"]["request of an evaluation suite"] == len(cases) == 43


@pytest.mark.parametrize("other", ["train", "calibration"])
def test_a_heldout_request_seen_in_another_split_is_not_held_out(build, other):
    _, heldout, report = build(
        [
            call_row("what changed here?", other),
            call_row("What changed here", "heldout"),
            call_row("fresh", "calibration"),
            call_row("unheard", "heldout"),
        ]
    )
    assert heldout.count("<|im_start|>user") == 1 and "unheard" in heldout
    assert report["results"]["left_out"]["held-out request that occurs in another split"] == 1


def starts(text, model):
    """Positions, in tokens, at which a conversation begins."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    return [i for i, token in enumerate(ids) if token == tokenizer.token_to_id("<|startoftext|>")], len(ids)


def with_system(row, content):
    return {**row, "messages": [{"role": "system", "content": content}, *row["messages"]]}


TOOL = {
    "type": "function",
    "function": {
        "name": "terminal",
        "description": "Run a command.",
        "parameters": {"type": "object", "properties": {}},
    },
}
OTHER = {
    "type": "function",
    "function": {"name": "clock", "description": "Tell the time.", "parameters": {"type": "object", "properties": {}}},
}


def test_rows_of_one_tool_list_share_it_in_one_session(build):
    calibration, _, report = build(
        [
            *(with_system(call_row(f"request {i}", "calibration", [TOOL]), "Be brief.") for i in range(5)),
            call_row("z", "heldout"),
        ]
    )
    assert (
        calibration.count("List of tools: [")
        == calibration.count("Be brief.")
        == calibration.count("<|startoftext|>")
        == 1
    )
    assert all(f"<|im_start|>user\nrequest {i}<|im_end|>" in calibration for i in range(5))
    assert report["results"]["calibration"]["conversations"] == 5


def test_a_call_is_never_shown_with_the_tool_list_or_system_message_of_another_row(build):
    rows = [
        with_system(call_row(f"{tool['function']['name']} under {system} number {i}", "calibration", [tool]), system)
        for i in range(4)
        for tool in (TOOL, OTHER)
        for system in ("Be brief.", "Be kind.")
    ]
    calibration, _, _ = build([*rows, call_row("z", "heldout")])
    sessions = calibration.split("<|startoftext|>")[1:]
    assert len(sessions) == 4
    for text in sessions:
        tool = "terminal" if '"name": "terminal"' in text else "clock"
        system = "Be brief." if "Be brief.\n" in text else "Be kind."
        assert text.count("<|im_start|>user") == text.count(f"user\n{tool} under {system}") == 4


def test_every_full_session_starts_where_a_chunk_of_its_length_starts(build, model):
    rows = [call_row(f"request number {i} 🙂", "calibration", [TOOL]) for i in range(200)] + [call_row("z", "heldout")]
    calibration, _, report = build(rows, "--session-tokens", "1000", "--calibration-tokens", "8000")
    begin, tokens = starts(calibration, model)
    # A cut inside a character of several tokens may cost a few tokens.
    assert len(begin) == 8 and all(abs(position - 1000 * i) <= 4 * i for i, position in enumerate(begin))
    assert report["results"]["calibration"]["tokens"] == tokens


def test_a_row_longer_than_a_session_keeps_its_whole_chunks(build, model):
    long = call_row("tell me everything", "calibration")
    long["messages"][2]["content"] = "word " * 500
    calibration, _, _ = build([long, call_row("z", "heldout")], "--session-tokens", "1000")
    assert starts(calibration, model) == ([0], 2000)


def test_a_tool_list_that_reaches_into_the_scored_half_is_announced(build, capsys):
    rows = [call_row("x", "calibration", "fixed_hermes"), call_row("z", "heldout")]
    build(rows, "--session-tokens", "8192")
    assert "calibration: a tool list of" in capsys.readouterr().err  # one byte is one token here
    build(rows, "--session-tokens", "80000")
    assert "a tool list of" not in capsys.readouterr().err


def test_token_counts_in_the_report_are_those_of_the_written_text(build, model):
    calibration, _, report = build(
        [*(call_row(f"ünïcode 🙂 {i}", "calibration", "fixed_hermes") for i in range(30)), call_row("y", "heldout")]
    )
    tokens = Tokenizer.from_file(str(model / "tokenizer.json")).encode(calibration, add_special_tokens=False).ids
    assert report["results"]["calibration"]["tokens"] == len(tokens)


def test_the_same_rows_give_the_same_texts_and_another_seed_another_order(build):
    rows = [call_row(f"request {i}", "calibration") for i in range(40)] + [call_row("z", "heldout")]
    first, again, other = (build(rows, "--seed", seed)[0] for seed in ("0", "0", "1"))
    assert first == again != other
    assert sorted(first.split("<|im_start|>user")) == sorted(other.split("<|im_start|>user"))


def test_building_stops_at_the_number_of_tokens_asked_for(build):
    rows = [call_row(f"request {i}", "calibration") for i in range(100)] + [call_row("z", "heldout")]
    _, _, report = build(rows, "--calibration-tokens", "1000", "--session-tokens", "300")
    assert report["results"]["calibration"]["tokens"] == 1200


@pytest.mark.parametrize(
    "line, complaint",
    [
        ('{"messages": [', "not JSON"),
        ("[]", "must be an object"),
        ('{"messages": [{"role": "assistant", "content": "hi"}], "split": "test"}', "split is 'test'"),
        ('{"messages": "hi", "split": "train"}', "messages must be a list"),
        ('{"messages": [{"role": "user", "content": "hi"}], "split": "train"}', "role assistant"),
        ('{"messages": [{"role": "assistant", "content": "hi"}], "tools": "all", "split": "train"}', "tools is 'all'"),
    ],
)
def test_a_malformed_row_is_named_by_file_and_line(build, line, complaint):
    with pytest.raises(UserError, match=rf"rows\.jsonl:2: .*{complaint}"):
        build([call_row("fine", "calibration"), line])


def test_arguments_that_are_no_json_are_named_by_line_and_tool(build):
    broken = call_row("x", "calibration")
    broken["messages"][1]["tool_calls"][0]["function"]["arguments"] = "not an object"
    with pytest.raises(UserError, match=r"rows\.jsonl:1: message 1: call 0: arguments of terminal: not JSON"):
        build([broken, call_row("z", "heldout")])


def test_an_empty_split_is_an_error_that_says_which(build):
    with pytest.raises(UserError, match="no rows of split 'heldout'"):
        build([call_row("x", "calibration")])


def plain_row(request, **said):
    message = {"role": "assistant", "content": f"about {request}", **said}
    return {"messages": [{"role": "user", "content": request}, message], "tools": None}


def test_rows_without_a_split_are_dealt_out_and_no_request_is_in_both_texts(build):
    requests = [f"what is number {number}" for number in range(7)]
    calibration, heldout, report = build([plain_row(request) for request in requests for _ in "ab"])
    in_both = [request for request in requests if request + "<" in calibration and request + "<" in heldout]
    assert in_both == [] and all(request in calibration + heldout for request in requests)
    assert report["results"]["calibration"]["conversations"] == 8 and report["results"]["heldout"]["conversations"] == 6
    assert sum(report["results"]["left_out"].values()) == 0


def test_rows_of_one_request_alone_cannot_be_dealt_out(build):
    with pytest.raises(UserError, match="rows of several requests without any split"):
        build([plain_row("what is it")])


def test_arguments_as_json_text_are_written_as_the_object_that_they_are(build):
    row = call_row("is it clean", "calibration")
    row["messages"][1]["tool_calls"][0]["function"]["arguments"] = '{"command": "git status"}'
    calibration, _, _ = build([row, call_row("show me what changed", "heldout")])
    assert '<|tool_call_start|>[terminal(command="git status")]<|tool_call_end|>' in calibration


def test_thoughts_of_all_rows_of_a_session_are_in_the_text(build):
    rows = [plain_row(f"what is number {number}", reasoning_content=f"so {number}") for number in range(6)]
    calibration, heldout, _ = build(rows)
    assert all(
        f"<think>so {number}</think>about what is number {number}" in calibration + heldout for number in range(6)
    )


def test_too_few_rows_for_two_chunks_are_refused_with_the_numbers_and_what_to_change(build, tmp_path):
    config = {"kld": {"context_tokens": 4096}, "imatrix": {"context_tokens": 8192}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    rows = [call_row(f"look at the folder number {number}", None) for number in range(4)]
    for row in rows:
        del row["split"]
    with pytest.raises(
        UserError, match=r"the calibration text has \d+ tokens in \d+ conversations, and 16,384 are needed"
    ):
        build(rows, "--config", str(tmp_path / "config.json"))
