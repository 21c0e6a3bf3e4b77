"""JSON lines: a line ends at a newline alone, and a bad one is named."""

import io
import json
import subprocess
import sys

import pytest

import prepare_data
import quant_build_calibration
import traces_check_template
from conftest import ROOT
from kxl.base import jsonl
from kxl.base.cli import UserError
from kxl.eval import journal, verdicts
from kxl.repair import rows as repair_rows
from kxl.smol import rows as smol_rows
from kxl.traces import sources as traces_sources

# What str.splitlines takes for the end of a line and JSON for text.
ODD = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg\x1dh\x1ei"


def test_text_that_only_python_takes_for_line_ends_survives(tmp_path):
    rows = [{"a": ODD}, {"b": "second", ODD: 1}]
    jsonl.write(tmp_path / "rows.jsonl", rows)
    assert [row for _, row in jsonl.read(tmp_path / "rows.jsonl")] == rows


def test_lines_of_another_program_are_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes("\ufeff".encode() + json.dumps({"a": 1}).encode() + b"\r\n\r\n\n  \n" + b'{"b": "\xc2\x85"}')
    assert [(where.rsplit(":", 1)[1], row) for where, row in jsonl.read(path)] == [
        ("1", {"a": 1}),
        ("5", {"b": "\x85"}),
    ]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{", "not JSON"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": NaN}', "not JSON: NaN is no JSON value"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, complaint):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"fine": 1}\n' + line + b"\n")
    with pytest.raises(UserError, match=rf"rows\.jsonl:2: {complaint}"):
        list(jsonl.read(path))


def test_a_missing_file_says_what_writes_it(tmp_path):
    with pytest.raises(UserError, match=r"no\.jsonl: no such file; make data writes it"):
        list(jsonl.read(tmp_path / "no.jsonl", "make data"))
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        list(jsonl.read(tmp_path))


def test_a_file_without_newlines_does_not_fill_memory(tmp_path):
    path = tmp_path / "endless.jsonl"
    with open(path, "wb") as file:
        file.truncate(1 << 29)  # sparse
    code = f"""
import resource, sys
sys.path.insert(0, {str(ROOT / "scripts")!r})
resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
from kxl.base import jsonl
list(jsonl.read({str(path)!r}))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "the limit is" in ended.stderr and "MemoryError" not in ended.stderr


def test_what_a_killed_writer_left_costs_its_own_line_alone(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"a": 1}\n{"half\n7\n' + jsonl.line_of({"b": ODD}).encode() + b'{"c": "\xc3')
    assert list(jsonl.survivors(path)) == [{"a": 1}, {"b": ODD}]
    assert list(jsonl.survivors(tmp_path / "none")) == []


def test_half_a_character_is_written_and_read_again():
    value = {"text": "ok \ud83d \u00e4"}
    assert jsonl.parse(jsonl.line_of(value).encode()) == value
    with pytest.raises(ValueError):
        jsonl.line_of(float("nan"))


def test_a_long_line_is_skipped_and_the_next_one_read():
    file = io.BytesIO(b'"short"\n"' + b"x" * 100 + b'"\n"after"\n')
    assert [(number, line) for number, line, _ in jsonl.lines(file, 20)] == [
        (1, b'"short"\n'),
        (2, None),
        (3, b'"after"\n'),
    ]


def _row(text: str) -> dict:
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
    return {"id": "a", "messages": messages, "tools": [], "split": "heldout", "prompt": text, "answer": text}


@pytest.mark.parametrize(
    "reader",
    [
        lambda path: repair_rows.read(path)[0],
        lambda path: smol_rows.read(path)[0],
        lambda path: quant_build_calibration.read_rows([path])["heldout"][0],
        lambda path: prepare_data.read_recorded(path)[0],
        lambda path: jsonl.parse(next(traces_sources.records([("rows.jsonl", path)], 1 << 20)).data),
    ],
)
def test_every_stage_reads_what_another_one_wrote(tmp_path, reader):
    jsonl.write(tmp_path / "rows.jsonl", [_row(ODD)])
    assert reader(tmp_path / "rows.jsonl")["messages"][0]["content"] == ODD


def test_the_template_check_reads_a_call_with_such_text(tmp_path):
    row = _row(ODD)
    call = {"name": "say", "arguments": {"text": ODD}}
    row["messages"][1]["tool_calls"] = [{"type": "function", "function": call}]
    jsonl.write(tmp_path / "rows.jsonl", [row])
    assert traces_check_template.rows(tmp_path / "rows.jsonl")[0]["messages"] == row["messages"]


def test_an_evaluation_remembers_an_answer_with_such_text(tmp_path):
    found = verdicts.Answer(content=ODD + "\ud83d", calls=[], finish_reason="stop")
    first = journal.Journal(tmp_path / "answers.jsonl", {"suite": ODD})
    first.open()
    first.add("case", 0, found, None)
    again = journal.Journal(tmp_path / "answers.jsonl", {"suite": ODD})
    assert again.open() == 1 and again.answers["case", 0] == (found, None)
