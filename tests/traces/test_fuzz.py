"""Whatever a row holds, the reader of traces and the reader of rows name it: nothing else is raised, no row is lost."""

import io
import json
import random
from pathlib import Path

import pytest

import moe_encode_rows
import traces_prepare
from helpers import traces
from helpers.trace_mutation import damaged_line
from kxl.base.cli import UserError
from kxl.chat import loss_mask, rows
from kxl.traces import sources

pytestmark = pytest.mark.minutes

CASES = Path(__file__).parent / "cases"
SEEDS = [
    traces.good("a"),
    traces.openai("b"),
    traces.hermes("c", traces.gpt({"name": "browser_snapshot", "arguments": {}}, say="So.", think="hm"),
                  traces.results({"a": [1]}, name="browser_snapshot"), traces.gpt(say="ok", think="it's so"),
                  tools=[traces.SNAPSHOT, traces.TERMINAL, traces.CLOSE]),
    *(json.loads(path.read_text(encoding="utf-8"))["input"] for path in sorted(CASES.glob("t*.json"))),
    json.loads(json.loads((CASES / "s01_session_file_of_hermes.json").read_text())["input"]),
]  # fmt: skip
FEW = [(seed, 50) for seed in range(6)]
MANY = [pytest.param(100 + seed, 500, marks=pytest.mark.slow) for seed in range(20)]


@pytest.mark.parametrize("seed, count", [*FEW, *MANY])
@pytest.mark.parametrize("which", ["dropping", "keeping"])
def test_a_damaged_trace_is_read_or_dropped_under_a_name(request, which, seed, count):
    worker, rng = request.getfixturevalue(which), random.Random(seed)
    lines = [damaged_line(rng.choice(SEEDS), rng) for _ in range(count)]
    account, spool = traces_prepare.Account(worker.settings), io.BytesIO()
    for number, line in enumerate(lines):
        outcome = worker.outcome(sources.Record(f"t:{number}", line))
        assert outcome.reason != "check_failed", (outcome.detail, line)
        if outcome.reason is None:
            loss_mask.sequences(worker.chat, rows.row_of(json.loads(outcome.line), "kept"))
        account.add(outcome, spool)
    if account.rows:
        account.split()
        results = account.results()
        assert results["rows_in"] == count == sum(results["rows_out"].values()) + sum(results["dropped"].values())


@pytest.mark.parametrize("seed, count", [*FEW, *MANY])
def test_a_damaged_file_is_read_record_by_record(tmp_path, seed, count):
    """Line breaks anywhere, too: whatever kind of file it seems to be, each record is one that can be accounted for."""
    rng = random.Random(seed)
    for number in range(count // 50):
        kind = rng.choice([".json", ".jsonl", ".ndjson"])
        objects = [json.dumps(rng.choice(SEEDS), indent=rng.choice([None, 1, 2])) for _ in range(5)]
        text = rng.choice(["\n", "\n\n", ",\n"]).join(objects)
        data = bytearray((f"[{text}]" if rng.random() < 0.3 else text).encode())
        for _ in range(rng.randint(0, 4)):
            cut = rng.randrange(len(data))
            data[cut : cut + rng.randint(0, 9)] = rng.choice([b"", b"{", b"}", b"[", b"]", b'"', b"\\", b"\n", b"\xff"])
        path = tmp_path / f"{number}{kind}"
        path.write_bytes(data)
        for record in sources.records([(path.name, path)], 1 << 20):
            assert record.where.startswith(f"{number}{kind}:") and (record.data is None) == bool(record.problem)


ROWS = [
    {"messages": traces.openai("b")["messages"], "tools": "fixed_hermes", "split": "train"},
    {"messages": [{"role": "user", "content": "a"},
                  {"role": "assistant", "content": "b", "reasoning_content": "c"}] * 2},
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>x</think>b",
      "tool_calls": [{"function": {"name": "f", "arguments": {"a": [1, {"b": None}]}}}]}], "tools": [], "kind": "x"},
]  # fmt: skip


@pytest.mark.parametrize("seed, count", [*FEW, *MANY])
def test_a_damaged_row_is_encoded_or_named_with_its_line(request, tmp_path, seed, count):
    chat, rng = request.getfixturevalue("keeping").chat, random.Random(seed)
    path = tmp_path / "rows.jsonl"
    for _ in range(count):
        path.write_bytes(json.dumps(ROWS[1]).encode() + b"\n" + damaged_line(rng.choice(ROWS), rng) + b"\n")
        try:
            lines, counts = moe_encode_rows.encode(chat, path, 512)
            assert counts["rows"] == len(lines) >= 1
        except UserError as error:
            assert "rows.jsonl:2: " in str(error)
