"""No row is lost from the account, whatever is wrong with it; the same traces give the same files."""

import collections
import contextlib
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import traces_prepare
from helpers import traces
from kxl.base import jsonl
from kxl.base.cli import UserError
from kxl.chat import loss_mask
from kxl.traces import filters
from kxl.traces import record as traces_record
from kxl.traces import sources as traces_sources

pytestmark = pytest.mark.minutes

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = traces_prepare.data_settings(ROOT / "configs" / "tiny.json")
SUITE = ROOT / "evals" / "suites" / "fixed_hermes_43.json"


@pytest.fixture(scope="module")
def worker():
    return traces_record.Worker(ROOT / "models" / "tiny", SETTINGS, [SUITE])


def account_of(worker, records, settings=SETTINGS):
    """What prepare_traces makes of records, without its processes; and the lines of the kept rows."""
    account = traces_prepare.Account(settings)
    spool = io.BytesIO()
    for record in records:
        account.add(worker.outcome(record), spool)
    account.split()
    return account, [jsonl.parse(line) for _, line, _ in jsonl.lines(io.BytesIO(spool.getvalue()))]


def records_of(*rows):
    return [
        traces_sources.Record(
            f"t.jsonl:{place}", row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode()
        )
        for place, row in enumerate(rows, 1)
    ]


def tokens_of(worker, count):
    """A text of about `count` tokens."""
    each = len(worker.chat.tokenizer.encode("word " * 100).ids) / 100
    return "word " * int(count / each)


def dropped(account):
    return {reason: [entry["id"] for entry in entries] for reason, entries in account.dropped.items()}


def test_good_rows_of_every_format_come_out_with_proven_masks(worker):
    account, rows = account_of(worker, records_of(traces.good("a"), traces.openai("b"), traces.good("c")))
    assert dropped(account) == {} and [row["id"] for row in rows] == ["a", "b", "c"]
    for row in rows:
        assert list(row) == ["id", "messages", "tools"]
        tokens, mask = loss_mask.tokens_and_mask(worker.chat, row)
        assert len(tokens) > mask.sum() > 10
    assert account.results()["sizes"]["calls"] == 6


def test_duplicates_eval_requests_and_long_rows_are_named(worker):
    asked = json.loads(SUITE.read_text())["cases"][0]["prompt"]
    near = traces.good("a")
    near["conversations"][2]["value"] += " "
    many = traces.hermes("near", traces.gpt(say=" ".join(f"w{i}" for i in range(300))))
    same = traces.hermes(
        "like",
        traces.gpt(say=" ".join(f"w{i}" for i in range(300)) + " and a little more"),
        ask="please do the thing called near",
    )
    long = traces.hermes("long", traces.gpt(say=tokens_of(worker, 13_000)))
    longest = traces.hermes("longest", traces.gpt(say=tokens_of(worker, 20_000) + " end"))
    account, _ = account_of(
        worker,
        records_of(
            traces.good("a"), {**near, "id": "again"}, traces.good("eval", ask=asked), many, same, long, longest
        ),
    )
    found = dropped(account)
    assert (
        found["exact_duplicate"] == ["again"]
        and found["eval_overlap"] == ["eval"]
        and found["near_duplicate"] == ["like"]
    )
    assert found["over_10240_tokens"] == ["long"] and found["over_16384_tokens"] == ["longest"]
    assert "1 over 10,240 tokens" in account.summary() and "1 over 16,384 tokens" in account.summary()
    results = account.results()
    assert sum(results["token_lengths"]["before"]) == 7 and sum(results["token_lengths"]["after"]) == 2
    assert len(results["token_lengths"]["before"]) > 20 >= len(results["token_lengths"]["after"])


def test_a_long_row_can_be_cut_after_the_last_turn_within_the_cap(worker):
    cutting = traces_record.Worker(
        ROOT / "models" / "tiny", {**SETTINGS, "policies": {**SETTINGS["policies"], "too_long": "repair"}}, []
    )
    row = traces.hermes(
        "long",
        traces.gpt(traces.run("x")),
        traces.results("y"),
        traces.gpt(say="short"),
        {"from": "human", "value": "more"},
        traces.gpt(say=tokens_of(worker, 13_000)),
    )
    account, rows = account_of(cutting, records_of(row))
    assert [message["role"] for message in rows[0]["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert account.repaired["over_10240_tokens"][0]["detail"].endswith("cut after message 3 of 6")
    assert account.rows[0][0].tokens < 10240 < account.rows[0][0].measured


def test_half_a_character_in_a_name_or_a_finding_stops_nothing(worker):
    rows = [
        json.dumps({**traces.good(name), "id": "NAME"}).replace("NAME", "x\\ud800" + name).encode()
        for name in ("a", "b")
    ]
    rows.append(
        json.dumps(traces.hermes("c", traces.gpt({"name": "UNKNOWN", "arguments": {}})))
        .replace("UNKNOWN", "\\\\udfffx")
        .encode()
    )
    account, kept = account_of(worker, records_of(*rows))
    assert [row["id"] for row in kept] == ["x\ufffda", "x\ufffdb"] and len(account.dropped) == 1
    json.dumps(account.results(), ensure_ascii=False).encode()


def test_thoughts_that_the_template_leaves_out_are_no_silent_loss():
    keeping = traces_record.Worker(ROOT / "models" / "tiny", {**SETTINGS, "reasoning": "keep"}, [])
    outcome = keeping.outcome(records_of(traces.hermes("t", traces.gpt(say="ok", think="well")))[0])
    assert outcome.reason == "mask_unproven" and "its chat template writes no thoughts" in outcome.detail


# Hypothesis: rows that were right once, with something cut, swapped, doubled or replaced.
GOOD = [
    json.dumps(row, ensure_ascii=False).encode()
    for row in (
        traces.good("m"),
        traces.openai("n"),
        traces.hermes(
            "o", traces.gpt(traces.run("it's"), say="é"), traces.results({"a": [1, None]}), traces.gpt(say="fine")
        ),
    )
]
PIECES = [
    b"",
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b"\\",
    b"\n",
    b"\xff",
    b"\xc3",
    b"null",
    b"NaN",
    b"<tool_call>",
    b"</tool_call>",
    b"<think>",
    b"<|im_end|>",
    b"\\ud800",
    b"\x00",
    b'"from": "tool"',
    b'"role": "user"',
    b"1e999",
    b"'",
    b"browser_close",
    b"\\u0000",
    b" ",
    b"conversations",
]


@st.composite
def mutated(draw):
    line = draw(st.sampled_from(GOOD))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(line)))
        end = min(len(line), start + draw(st.sampled_from([0, 0, 1, 2, 5, 30, 10**6])))
        line = line[:start] + draw(st.sampled_from(PIECES)) + line[end:]
    return line


SEEN = collections.Counter()


@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.lists(mutated(), min_size=30, max_size=60))
def test_thousands_of_mutated_rows_all_stay_in_the_account(worker, lines):
    text = b"\n".join(lines)
    read = [
        traces_sources.Record(f"m:{number}", data, None if data is not None else ("row_too_large", str(size)))
        for number, data, size in jsonl.lines(io.BytesIO(text), 2500)
    ]
    account, rows = account_of(worker, read)
    results = account.results()  # raises when a row is missing
    assert results["rows_in"] == len(read) == sum(1 for line in text.split(b"\n") if line.strip())
    assert results["rows_in"] == sum(results["rows_out"].values()) + sum(results["dropped"].values()) and len(
        rows
    ) == sum(results["rows_out"].values())
    for reason in results["dropped"]:
        assert filters.in_words(reason) and len(results["drops"][reason]["ids"]) == results["dropped"][reason]
    SEEN.update(results["dropped"])
    SEEN["rows"] += results["rows_in"]


def test_the_mutations_reached_many_reasons():
    assert SEEN["rows"] > 2000 and len(SEEN) > 7, SEEN


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the verb in this process: (its last line or its error, the folder it wrote to)."""

    def ran(*sources, out=tmp_path / "out", jobs=1):
        monkeypatch.setattr(
            sys,
            "argv",
            [
                "traces_prepare.py",
                *map(str, sources),
                "--config",
                str(ROOT / "configs/tiny.json"),
                "--model",
                str(ROOT / "models/tiny"),
                "--out",
                str(out),
                "--manifest",
                str(out / "manifest.json"),
                "--report",
                str(out / "dataset.json"),
                "--suite",
                str(SUITE),
                "--jobs",
                str(jobs),
            ],
        )
        try:
            traces_prepare.main()
        except UserError as error:
            return f"error: {error}", out
        ran.said = capsys.readouterr().out.strip().splitlines()
        return ran.said[-1], out

    return ran


def test_a_folder_of_everything_gives_rows_a_report_and_one_last_line(tmp_path, run):
    folder = tmp_path / "mine"
    folder.mkdir()
    traces.write(
        folder / "a.jsonl",
        [traces.good(f"a{i}") for i in range(8)]
        + ['{"id": "cut", "conversations": [{"from": "hum', b'{"id": "\xff\xfe"}', {"text": "no trace"}],
    )
    (folder / "b.json").write_text(json.dumps([traces.openai("b0"), 7, traces.openai("b1")], indent=1))
    table = pyarrow.table(
        {
            "id": ["c0", "c1"],
            "conversations": [traces.good("c0")["conversations"], None],
            "tools": [traces.good("c0")["tools"], None],
        }
    )
    pyarrow.parquet.write_table(table, folder / "c.parquet")
    traces.write(
        folder / "d.jsonl",
        [{"id": "d0", "conversations": [traces.results("x"), traces.gpt(say="y")]}, traces.good("a3")],
    )
    (folder / "notes.txt").write_text("not a trace")
    line, out = run(folder)
    assert line == (
        "9 train, 1 valid, 1 test; 7 dropped: 3 without a conversation in a known format, 1 in an order no agent "
        "makes, 1 exact duplicates,"
        " 1 not JSON, 1 not UTF-8"
    )
    assert run.said[:-1] == [
        "mine/d.jsonl: 2 rows, 0 kept (most of the others: 1 in an order no agent makes)",
        "mine/a.jsonl: 11 rows, 8 kept (most of the others: 1 not JSON)",
        "mine/b.json: 3 rows, 2 kept (most of the others: 1 without a conversation in a known format)",
        "mine/c.parquet: 2 rows, 1 kept (most of the others: 1 without a conversation in a known format)",
        "ignored 1 files of other kinds: mine/notes.txt",
    ]
    report = json.loads((out / "dataset.json").read_text())
    results = report["results"]
    assert results["sources"]["mine/c.parquet"] == {"rows": 2, "kept": 1}
    number = 1 + (folder / "b.json").read_text().split("\n").index(" 7,")
    assert {reason: {example["where"] for example in one["examples"]} for reason, one in results["drops"].items()} == {
        "not_json": {"mine/a.jsonl:9"},
        "not_utf8": {"mine/a.jsonl:10"},
        "wrong_columns": {"mine/a.jsonl:11", f"mine/b.json:{number}", "mine/c.parquet row 2"},
        "bad_order": {"mine/d.jsonl:1"},
        "exact_duplicate": {"mine/d.jsonl:2"},
    }
    assert report["settings"]["ignored_files"] == ["mine/notes.txt"]
    assert {name: sum(1 for _ in open(out / f"{name}.jsonl")) for name in ("train", "valid", "test")} == results[
        "rows_out"
    ]
    manifest = json.loads((out / "manifest.json").read_text())
    assert str(tmp_path) not in (out / "manifest.json").read_text()
    for name, entry in manifest["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == entry["sha256"]


def test_thoughts_that_are_removed_are_told(tmp_path, run):
    thinking = traces.hermes("x", traces.gpt(say="Done.", think="They want it done."), ask="say that it is done")
    run(traces.write(tmp_path / "t.jsonl", [thinking, *(traces.good(f"a{i}") for i in range(5))]))
    assert run.said[:-1] == [
        "t.jsonl: 6 rows, 6 kept",
        "removed 1 turns' thoughts, in 1 rows (data.reasoning is drop)",
    ]


def test_a_run_that_fails_at_its_end_leaves_the_last_rows_as_they_were(tmp_path, run, monkeypatch):
    line, out = run(traces.write(tmp_path / "t.jsonl", [traces.good(f"a{i}") for i in range(5)]))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    traces.write(tmp_path / "t.jsonl", [traces.good(f"b{i}") for i in range(5)])
    monkeypatch.setattr(traces_prepare.report, "write", lambda *_: (_ for _ in ()).throw(UserError("the disk is full")))
    line, out = run(tmp_path / "t.jsonl")
    assert line == "error: the disk is full"
    assert {path.name: path.read_bytes() for path in out.glob("*.jsonl")} == {
        name: data for name, data in before.items() if name.endswith(".jsonl")
    }


def test_the_committed_report_and_manifest_agree_with_each_other():
    results = json.loads((ROOT / "reports" / "tiny" / "dataset.json").read_text())["results"]
    manifest = json.loads((ROOT / "datasets" / "tiny" / "manifest.json").read_text())
    assert results["rows_in"] == sum(results["rows_out"].values()) + sum(results["dropped"].values())
    assert {name.removesuffix(".jsonl"): one["rows"] for name, one in manifest["files"].items()} == results["rows_out"]
    assert sum(one["tokens"] for one in manifest["files"].values()) == results["sizes"]["tokens"]
    assert {"over_10240_tokens", "over_16384_tokens", "exact_duplicate", "eval_overlap", "refusal"} <= set(
        results["dropped"]
    ), "the shipped traces meet these filters"


def test_two_processes_and_another_order_of_files_make_the_same_bytes(tmp_path, run):
    one, two = [traces.good(f"x{i}") for i in range(20)], [traces.good(f"y{i}") for i in range(20)]
    made = {}
    for name, parts, jobs in (("first", (one, two), 1), ("second", (two, one), 2)):
        folder = tmp_path / name
        folder.mkdir()
        sources = [traces.write(folder / f"{place}.jsonl", rows) for place, rows in enumerate(parts)]
        line, out = run(*sources, out=folder / "out", jobs=jobs)
        assert line.startswith("36 train, 2 valid, 2 test; none dropped")
        made[name] = [(out / f"{split}.jsonl").read_bytes() for split in ("train", "valid", "test")]
    assert made["first"] == made["second"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("empty.jsonl", b"", "empty.jsonl: is empty"),
        ("blank.jsonl", b"\n\n", "blank.jsonl: holds no rows"),
        ("none.json", b"[]", "none.json: holds no rows"),
        ("broken.parquet", b"PAR1 this is none PAR1", "broken.parquet: cannot be read as parquet"),
        (
            "bad.jsonl",
            b'{"a": 1}\n{"conv',
            "of 2 rows none is left: 2 dropped: 1 not JSON, 1 without a conversation in a known format; first: "
            "bad.jsonl:1: has a",
        ),
    ],
)
def test_a_source_that_gives_nothing_is_one_clear_error(tmp_path, run, name, content, message):
    (tmp_path / name).write_bytes(content)
    line, out = run(tmp_path / name)
    assert line.startswith("error: ") and message in line and "\n" not in line
    assert not [path for path in out.rglob("*") if path.is_file()], "something half-made was left"


def test_a_line_of_50_megabytes_is_counted_and_skipped_in_flat_memory(tmp_path):
    """16 MiB is the config's limit: this process may hold that, not the line."""
    path = tmp_path / "big.jsonl"
    with open(path, "wb") as file:
        file.write(
            json.dumps(traces.good("a")).encode()
            + b"\n"
            + b'{"id": "'
            + b"x" * 50_000_000
            + b'"}\n'
            + json.dumps(traces.good("b")).encode()
            + b"\n"
        )
    import tracemalloc

    tracemalloc.start()
    records = list(traces_sources.records([("big.jsonl", path)], 16 * 2**20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [record.problem for record in records] == [
        None,
        ("row_too_large", "50,000,011 bytes, the limit is 16,777,216"),
        None,
    ]
    assert records[1].where == "big.jsonl:2" and peak < 40 * 2**20


def test_array_elements_are_cut_right_however_the_file_is_read():
    rows = [{"a": 'x,]"\\'}, [1, {"b": "\\\\"}], "text, with ]", {"c": {"d": [[], {}]}}]
    text = json.dumps(rows, indent=2).encode()
    for chunk in (1, 2, 3, 7, 1 << 18):
        before, traces_sources.CHUNK = traces_sources.CHUNK, chunk
        try:
            pieces = list(traces_sources.elements(io.BytesIO(text), 1000))
            cut = list(traces_sources.elements(io.BytesIO(text[:-4]), 1000))
        finally:
            traces_sources.CHUNK = before
        assert [json.loads(data) for _, data, _ in pieces] == rows
        assert [number for number, _, _ in pieces] == [2, 5, 11, 12]
        assert len(cut) == 4 and cut[-1][1] is not None
        with pytest.raises(ValueError):
            json.loads(cut[-1][1])


def test_a_hub_dataset_comes_from_the_hub_or_says_why_not(monkeypatch, tmp_path):
    import huggingface_hub

    folder = tmp_path / "snapshot"
    folder.mkdir()
    traces.write(folder / "train.jsonl", [traces.good("a")])
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(folder))
    assert traces_sources.resolve(["owner/dataset"]) == [("owner/dataset/train.jsonl", folder / "train.jsonl")]

    def offline(name, **_):
        raise OSError("network is unreachable\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        UserError,
        match="owner/dataset: not on this disk and not to be had from the hub .network is unreachable.; check "
        "the network",
    ):
        traces_sources.resolve(["owner/dataset"])
    with pytest.raises(UserError, match="no such file or folder, and not a dataset id"):
        traces_sources.resolve(["/nowhere/at/all.jsonl"])


def test_a_name_that_was_cut_at_its_spaces_is_told_whole(tmp_path):
    traces.write(tmp_path / "my own traces.jsonl", [traces.good("a")])
    words = f"{tmp_path}/my own traces.jsonl".split(" ")
    with pytest.raises(UserError, match=r"my own traces\.jsonl' is one, so its name was cut at a space"):
        traces_sources.resolve(words)
    assert traces_sources.resolve([" ".join(words)])[0][0] == "my own traces.jsonl"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"caps": []}, "data.caps must be token counts"),
        ({"split": {"train": 1}}, "must say train, valid and test"),
        ({"near_duplicate": 1}, "must be a float"),
        ({"policies": {"x": "drop"}}, "no reason x"),
    ],
)
def test_a_wrong_config_is_one_clear_error(tmp_path, change, message):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"data": {**SETTINGS, **change}}))
    with pytest.raises(UserError, match=message):
        traces_prepare.data_settings(config)
    config.write_text("{}")
    with pytest.raises(UserError, match="has no data section"):
        traces_prepare.data_settings(config)


def test_killing_the_main_process_leaves_no_worker(tmp_path):
    rows = tmp_path / "traces.jsonl"
    rows.write_bytes((ROOT / "datasets/hermes/traces.jsonl").read_bytes() * 40)
    flags = ["--config", ROOT / "configs/tiny.json", "--model", ROOT / "models/tiny", "--out", tmp_path / "out"]
    flags += ["--manifest", tmp_path / "manifest.json", "--report", tmp_path / "report.json", "--jobs", 2]
    main = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts/traces_prepare.py"), str(rows), *map(str, flags)],
        stderr=subprocess.PIPE,
        start_new_session=True,
    )

    def members() -> int:
        return subprocess.run(["pgrep", "-c", "-s", str(main.pid)], capture_output=True, text=True).stdout != "0\n"

    shown = b""
    while not re.search(rb"[1-9]\d* rows", shown):  # the progress bar shows that the workers work
        shown = main.stderr.read1()
        assert shown, "it ended by itself"
    main.kill()
    main.wait()
    deadline = time.monotonic() + 20
    while members() and time.monotonic() < deadline:
        time.sleep(0.1)
    left = members()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(main.pid, signal.SIGKILL)  # those that a failure of this test would leave
    assert not left
