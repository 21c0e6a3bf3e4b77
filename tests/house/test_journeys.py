"""What strangers type from the docs, in a clone of this repository: their own checkpoint, traces, tools and server."""

import json
import os
import shutil
import socket
import subprocess
import time

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from conftest import ROOT
from helpers import own_tools, traces
from helpers.scripted_llama import ScriptedLlama
from kxl.base import jsonl
from kxl.base.files import read_json, write_json
from kxl.chat import tool_syntax
from kxl.model import checkpoint, gguf_file

pytestmark = pytest.mark.slow


class Clone:
    """A clone with the environment of this checkout."""

    def __init__(self, folder):
        self.folder = folder
        subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
        (folder / ".venv").symlink_to((ROOT / ".venv").resolve())
        old = time.time() - 86400 * 365  # older than the environment that was made for them
        for name in ("requirements.txt", "constraints.txt"):
            os.utime(folder / name, (old, old))

    def make(self, *words, code=0, **env):
        """What `make WORDS` prints; its exit code is `code`."""
        names = ("RUN", "MODEL", "CONFIG", "TRACES", "ROWS", "MAKEFLAGS", "MAKELEVEL", "HERMES_KXL_HISTORY")
        clean = {name: value for name, value in os.environ.items() if name not in names}
        ended = subprocess.run(
            ["make", *words],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # in the order in which a terminal shows it
            text=True,
            env={**clean, **env},
            errors="replace",
        )
        assert (ended.returncode != 0) == bool(code), ended.stdout[-4000:]
        return ended.stdout

    def git_status(self):
        command = ["git", "status", "--porcelain"]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=True).stdout

    def config(self, name, **changes):
        """configs/NAME.json: the tiny model's with another name, no model of its own, and `changes`."""
        config = read_json(ROOT / "configs/tiny.json")
        write_json(self.folder / f"configs/{name}.json", {**config, "name": name, "model": None, **changes})
        return f"CONFIG=configs/{name}.json"


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path / "clone")


def tensors(path):
    return {tensor.name: np.asarray(tensor.data) for tensor in gguf_file.open_reader(path).tensors}


def as_float(raw):
    """A GGUF's F32 values, or its BF16 bytes, as float32."""
    return raw if raw.dtype == np.float32 else (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def test_the_first_command_leaves_the_tree_clean_and_a_week_later_nothing_is_made_again(clone, llama_bin):
    said = clone.make("q4kxl")
    assert "hermes-kxl-tiny-q4kxl.gguf" in said.splitlines()[-1] and "fixed_hermes_43" in said.splitlines()[-1]
    assert clone.git_status() == ""
    for folder in ("models", "evals", "gguf", "datasets", "configs", "patches", "third_party"):
        for path in (clone.folder / folder).rglob("*"):
            if path.is_file() and not path.is_symlink():
                path.touch()
    assert "everything is up to date" in clone.make("q4kxl")
    said = clone.make("status")
    assert (
        "q4kxl  " in said and [line for line in said.splitlines() if line.startswith("q4kxl")][0].split()[1] == "done"
    )
    # A lowered threshold, and a rule of a suite, judge the answers that are there.
    config = clone.folder / "configs/tiny.json"
    config.write_text(config.read_text().replace('{"threshold": 43, "raw_threshold": 41}', '{"threshold": 40}'))
    began = time.monotonic()
    said = clone.make("q4kxl")
    assert "judged anew and none is asked for" in said and time.monotonic() - began < 60


@pytest.mark.parametrize("form", ["transformers", "mlx", "mlx_4bit"])
def test_an_own_checkpoint_of_any_form_becomes_a_gguf_and_the_run_remembers_it(clone, llama_bin, form, tmp_path):
    own = tmp_path / "my-model"
    if form == "transformers":
        import transformers

        checkpoint.save_hf(tmp_path / "hf", checkpoint.read(ROOT / "models/tiny"))
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype="bfloat16").save_pretrained(own)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(ROOT / "models/tiny" / name, own)
    else:
        from mlx_lm.convert import convert

        convert(str(ROOT / "models/tiny"), str(own), quantize=form == "mlx_4bit", q_group_size=32, q_bits=4)
    clone.make("gguf", f"MODEL={own}", "RUN=mine", clone.config("own"))
    clone.make("gguf")
    ours, theirs = (tensors(clone.folder / f"runs/{run}/hermes-kxl-tiny-bf16.gguf") for run in ("tiny", "mine"))
    assert ours.keys() == theirs.keys()
    for name in ours:
        if form == "mlx_4bit" and not np.array_equal(ours[name], theirs[name]):
            exact, rough = as_float(ours[name]), as_float(theirs[name])
            assert np.linalg.norm(exact - rough) < 0.2 * np.linalg.norm(exact), name
        elif form != "mlx_4bit":
            assert np.array_equal(ours[name], theirs[name]), name
    said = clone.make("status", "RUN=mine")
    assert f"MODEL={own}" in said and "next: make lint RUN=mine" in said or "next: make imatrix RUN=mine" in said
    refused = clone.make("gguf", "RUN=mine", "MODEL=models/tiny", code=2)
    assert f"begun with MODEL={own}" in refused and "make switch RUN=mine MODEL=models/tiny" in refused


def test_own_traces_in_four_forms_are_the_rows_that_are_trained_on(clone, tmp_path):
    folder = tmp_path / "traces"
    folder.mkdir()
    traces.write(folder / "sharegpt.jsonl", [traces.good(f"a{i}") for i in range(12)])
    (folder / "openai.json").write_text(json.dumps([traces.openai(f"b{i}") for i in range(12)], indent=1))
    chats = [traces.openai(f"c{i}") for i in range(12)]
    columns = {key: [json.dumps(chat[key]) for chat in chats] for key in ("messages", "tools")}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "text.parquet")
    session = {**traces.openai("d0"), "system_prompt": "You are an agent."}
    (folder / "session.json").write_text(json.dumps(session, indent=2))
    said = clone.make("data", f"TRACES={folder}", "RUN=b")
    for name, count in (("sharegpt.jsonl", 12), ("openai.json", 12), ("text.parquet", 12), ("session.json", 1)):
        assert f"traces/{name}: {count} rows, {count} kept" in said, said
    rows = (clone.folder / "runs/b/data/train.jsonl").read_bytes()
    trained = clone.make("--dry-run", "train", "RUN=b")
    assert "traces_prepare" not in trained and "--rows runs/b/data/train.jsonl" in trained
    clone.make("core", "RUN=b")
    assert (clone.folder / "runs/b/data/train.jsonl").read_bytes() == rows and clone.git_status() == ""


def test_a_server_of_ones_own_behind_a_key_is_asked_an_own_suite(clone, tmp_path):
    write_json(tmp_path / "own.json", own_tools.SUITE)
    right = {
        case["prompt"]: tool_syntax.render_calls(
            [
                {"name": call["name"], "arguments": {key: rule["exact"] for key, rule in call["arguments"].items()}}
                for call in case["calls"]
            ]
        )
        if "calls" in case
        else "Good evening!"
        for case in own_tools.CASES
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = (f"SUITE={tmp_path / 'own.json'}", f"URL=http://127.0.0.1:{port}/v1", "ARTIFACT=mine")
    assert "connection refused" in clone.make("eval", *flags, code=2)
    with ScriptedLlama(right, port=port, key="a-secret-key") as server, server.running():
        refused = clone.make("eval", *flags, code=2)
        assert "HERMES_KXL_API_KEY" in refused
        said = clone.make("eval", *flags, "EVAL_FLAGS=--temperature 0.2", HERMES_KXL_API_KEY="a-secret-key")
    report = clone.folder / "runs/tiny/results/evals/own.openai.mine.json"
    assert read_json(report)["results"]["passed"] == 5, said
    assert read_json(report)["settings"]["sampling"]["temperature"] == 0.2
    assert "a-secret-key" not in said + report.read_text() and clone.git_status() == ""
    broken = {**own_tools.SUITE, "name": "broken", "cases": [{**own_tools.CASES[0], "calls": []}]}
    write_json(tmp_path / "broken.json", broken)
    refused = clone.make("eval", f"SUITE={tmp_path / 'broken.json'}", "RUN=mine", "MODEL=models/tiny", code=2)
    assert "case" in refused and not (clone.folder / "runs/mine/hermes-kxl-tiny-bf16.gguf").exists()


def test_own_tools_are_repaired_by_rows_of_their_schemas_and_by_requests_of_their_users(clone, tmp_path):
    """Composed rows teach the tools; the wordings come from some requests of each tool, none of them a case's."""
    write_json(tmp_path / "own.json", own_tools.SUITE)
    jsonl.write(tmp_path / "requests.jsonl", own_tools.rows())
    values = {str(value) for _, _, arguments in own_tools.REQUESTS for value in arguments.values()}
    asked = [
        rule["exact"] for case in own_tools.CASES if "calls" in case for rule in case["calls"][0]["arguments"].values()
    ]
    assert not values & {value for value in asked if isinstance(value, str)}
    repair = {
        "suites": {str(tmp_path / "own.json"): 5},
        "add": [str(tmp_path / "requests.jsonl")],
        "iterations": 1,
        "rows": 240,
        "compare_shapes": [],
        "training": {
            "steps": 120,
            "learning_rate": 0.001,
            "batch_size": 16,
            "max_tokens": 2048,
            "warmup": 5,
            "prefix_gradient": 0.25,
            "save_every": 60,
        },
    }
    config = clone.config("tools", repair=repair)
    words = ("repair-loop", "RUN=tools", config, "MODEL=models/tiny")
    ended = subprocess.run(["make", *words], cwd=clone.folder, capture_output=True, text=True, errors="replace")
    story = read_json(clone.folder / "runs/tools/results/reports/repair.json")["results"]
    before, after = story["iterations"][:2]
    assert before["suites"]["own"]["cases"] == after["suites"]["own"]["cases"] == 5
    # What the journey is for: freely worded requests that it failed before, with values that it never saw.
    assert after["suites"]["own"]["passed"] > before["suites"]["own"]["passed"]
    learned = after["training"]
    assert learned["valid_after"] < learned["valid_before"] / 5, (learned, ended.stdout[-3000:] + ended.stderr[-3000:])
    said = (ended.stdout + ended.stderr).splitlines()
    assert ended.returncode == 0 or any("not met: own" in line and "--iterations" in line for line in said)
    rows = (clone.folder / "runs/tools/repair/rows/iter01/train.jsonl").read_text()
    assert "get_weather" in rows and "What is the weather in Lisbon?" not in rows
    assert (clone.folder / "runs/tools/repair/best/config.json").is_file()


def test_a_release_is_verified_elsewhere_and_files_of_another_processor_are_refused_with_what_to_run(clone, llama_bin):
    clone.make("gguf", "imatrix")
    imatrix = clone.folder / "runs/tiny/imatrix.gguf"
    shutil.copy(imatrix, clone.folder / "theirs.gguf")
    quants = {}
    for run, words in (("x", ()), ("y", ("TAKE_IMATRIX=theirs.gguf",))):
        clone.make("runs/" + run + "/hermes-kxl-tiny-q4kxl.gguf", f"RUN={run}", "MODEL=models/tiny", *words)
        quants[run] = tensors(clone.folder / f"runs/{run}/hermes-kxl-tiny-q4kxl.gguf")
    # The same processor and the same text: the same sums. Taken over, nothing is computed.
    assert all(np.array_equal(quants["x"][name], quants["y"][name]) for name in quants["x"])
    assert not (clone.folder / "runs/y/results/reports/imatrix.json").exists()
