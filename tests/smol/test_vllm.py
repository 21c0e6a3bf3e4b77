"""vLLM's own parser on the text that is taught: whole, and as it streams. Skipped where its wheel was never fetched."""

import json
import sys

import pytest

import smol_check_vllm
from helpers import random_smol
from kxl.base import report
from kxl.base.cli import UserError
from kxl.base.files import read_json, sha256
from kxl.chat import loss_mask
from kxl.chat.rows import calls_in
from kxl.setup import llama_cpp
from kxl.smol import rows, vllm_parser
from kxl.smol import tokens as smol_tokens

CALL = {"name": "write_file", "arguments": {"path": "a.txt", "text": 'it\'s a "quote"\n\\d, ümlaut 日本'}}
TEXT = f"<tool_call>{json.dumps(CALL, ensure_ascii=False)}</tool_call>"


@pytest.fixture(scope="module")
def parser():
    pin = read_json(smol_check_vllm.LOCK)
    wheel = llama_cpp.cache_dir() / "downloads" / pin["file"]
    if not wheel.is_file() or sha256(wheel) != pin["sha256"]:
        pytest.skip("vLLM's wheel is not in the cache, so its own parser was not run: `make smol-vllm` fetches it")
    return smol_check_vllm.parser_class()


@pytest.fixture(scope="module", params=["smollm2", "smollm3"])
def chat(request, tmp_path_factory):
    return loss_mask.load(getattr(random_smol, request.param)(tmp_path_factory.mktemp(request.param)))


def test_it_reads_the_calls_that_rows_teach(parser, chat):
    config = random_smol.SMOLLM3 if chat.tokenizer.token_to_id("<think>") else random_smol.SMOLLM2
    tokens = smol_tokens.resolve(read_json(config), chat.tokenizer, "config")
    row = random_smol.tool_row()
    one = row["messages"][1]["tool_calls"][0]
    row["messages"] = [row["messages"][0], {**row["messages"][1], "tool_calls": [one, one]}]
    example = rows.encode(chat, tokens, row)
    text = chat.tokenizer.decode(example.tokens[example.mask].tolist(), skip_special_tokens=False)
    text = text.removesuffix(chat.end)
    assert vllm_parser.calls(parser, text) == calls_in(row)
    assert vllm_parser.streamed_calls(parser, smol_check_vllm.pieces(chat.tokenizer, text)) == calls_in(row)


def test_words_and_broken_calls_are_no_calls(parser):
    for text in ("Hello.", "<tool_call>{broken</tool_call>", ""):
        assert vllm_parser.calls(parser, text) == []
    assert not any(name.split(".")[0] == "vllm" for name in sys.modules)


def test_a_stream_is_the_text_in_the_pieces_of_its_tokens(chat):
    made = smol_check_vllm.pieces(chat.tokenizer, TEXT)
    assert "".join(made) == TEXT and made[0] == "<tool_call>" and len(made) > 20


class Deaf:
    """A parser that finds nothing."""

    def __init__(self, tokenizer):
        pass

    def extract_tool_calls(self, text, request):
        return vllm_parser._Record(tool_calls=[])

    def extract_tool_calls_streaming(self, *given):
        return None


def test_one_difference_fails_the_report(chat, tmp_path, monkeypatch):
    monkeypatch.setattr(smol_check_vllm, "parser_class", lambda: Deaf)
    entries = [{"id": "a", "verdict": "call", "calls": [CALL], "text": TEXT}]
    entries.append({"id": "b", "verdict": "text", "calls": [], "text": "Hi."})
    report.write(tmp_path / "emission.json", [], {}, {"details": {"after": entries}})
    given = ("--raw", tmp_path / "emission.json", "--model", chat.folder, "--out", tmp_path / "out.json")
    monkeypatch.setattr(sys, "argv", ["smol_check_vllm.py", *map(str, given)])
    with pytest.raises(UserError, match="the same calls in 0 of 1 answers with whole calls"):
        smol_check_vllm.main()
    assert not (tmp_path / "out.json").exists()
    assert read_json(tmp_path / "out.failed.json")["results"]["details"][1]["same"]
