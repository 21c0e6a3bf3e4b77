"""The quick SmolLM training: the start token becomes probable where a tool helps, and nowhere else.

On a small random model it takes seconds and goes through the same scripts; on the real weights, minutes.
"""

import statistics
import subprocess
import sys

import pytest

import smol_evaluate
import train_lora
from conftest import ROOT
from helpers import random_smol
from kxl.base.errors import UserError
from kxl.base.files import read_json, write_json
from kxl.chat import loss_mask
from kxl.smol import rows as smol_rows
from kxl.smol import sets
from kxl.smol import tokens as smol_tokens

pytestmark = pytest.mark.minutes

# At this rate every kernel of OpenBLAS ends within 1e-5 of the same probabilities; at 1e-2 they part.
QUICK = {"learning_rate": 4e-3, "warmup_steps": 2, "epochs": 3, "max_epochs": 3, "batch_tokens": 150}
TOOL = {  # bytes are the tokens here: a short tool makes a short prompt
    "type": "function",
    "function": {"name": "f", "description": "", "parameters": {"type": "object", "properties": {}}},
}
CALL = {"type": "function", "function": {"name": "f", "arguments": {}}}


def rows(count: int, first: int) -> list[dict]:
    """As many tool rows as ordinary ones; ids and requests are other ones for each `first`."""
    numbers = range(first, first + count)
    tool = [
        {
            **{"id": f"tool/{i}", "source": "test", "kind": "tool", "tools": [TOOL]},
            "messages": [
                {"role": "user", "content": f"write {i}"},
                {"role": "assistant", "content": "", "tool_calls": [CALL]},
            ],
        }
        for i in numbers
    ]
    ordinary = [
        {
            **{"id": f"ordinary/{i}", "source": "test", "kind": "ordinary", "tools": []},
            "messages": [{"role": "user", "content": f"Hello {i}!"}, {"role": "assistant", "content": "Hi."}],
        }
        for i in numbers
    ]
    return [row for pair in zip(tool, ordinary) for row in pair]


@pytest.fixture
def prepared(tmp_path):
    """A random model, a config and proven rows, as prepare_data.py leaves them."""
    config = read_json(random_smol.SMOLLM2)
    config["training"] |= QUICK
    config["emission"] |= {"max_tokens": 8}
    write_json(tmp_path / "config.json", config)
    model, data = random_smol.smollm2(tmp_path / "model"), tmp_path / "data"
    tokens = smol_tokens.resolve(config, loss_mask.load(model).tokenizer, "config")
    proofs = {}
    for split, (count, first) in {"train": (20, 0), "valid": (2, 100)}.items():
        smol_rows.write(data / f"{split}.jsonl", rows(count, first))
        proofs[split] = {"proof": smol_rows.digest(data / f"{split}.jsonl", model, tokens)}
    write_json(data / "manifest.json", {"results": {"splits": proofs}})
    expected = {"expected": [{"name": "f", "arguments": {}}]}
    judged = [{**row, "messages": row["messages"][:1], **expected} for row in rows(6, 200)]
    sets.write(tmp_path / "dev.json", judged)
    return tmp_path


def run(script, folder, monkeypatch, **flags):
    """A script's main with the fixture's config, model and data."""
    of = {"data": folder / "data"} if script is train_lora else {"set": folder / "dev.json"}
    given = {"config": folder / "config.json", "model": folder / "model", **of, **flags}
    words = [str(word) for flag, value in given.items() for word in (f"--{flag.replace('_', '-')}", value)]
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *words])
    script.main()


def train_and_measure(folder, monkeypatch, **flags):
    """`make smollora-quick`'s three commands: measure, train, measure again and compare."""
    before, adapter = folder / "before.json", folder / "adapter"
    run(smol_evaluate, folder, monkeypatch, out=before, limit=6)
    paths = {"work": folder / "lora", "adapter": adapter, "report": folder / "training.json"}
    run(train_lora, folder, monkeypatch, **paths, **flags)
    compared = {"adapter": adapter, "before": before, "out": folder / "quick.json"}
    run(smol_evaluate, folder, monkeypatch, **compared, limit=6, min_rise=10)


def check(results: dict, prompts: int) -> None:
    before, after = ({entry["id"]: entry for entry in results["details"][side]} for side in ("before", "after"))
    rises = [
        after[name]["start_probability"] / entry["start_probability"]
        for name, entry in before.items()
        if entry["kind"] == "tool"
    ]
    assert len(rises) == prompts and statistics.median(rises) >= 10
    assert not any(entry["started"] for entry in before.values())
    assert not any(entry["started"] for entry in after.values() if entry["kind"] == "ordinary")


def test_a_few_steps_make_the_start_token_ten_times_as_probable_and_no_ordinary_prompt_calls(prepared, monkeypatch):
    train_and_measure(prepared, monkeypatch)
    check(read_json(prepared / "quick.json")["results"], prompts=6)
    losses = read_json(prepared / "training.json")["results"]["valid_losses"]
    assert losses[-1] < 0.5 * losses[0]


def test_a_training_that_moves_nothing_fails_the_quick_check(prepared, monkeypatch):
    """A rate of zero: the check must not pass by itself."""
    config = read_json(prepared / "config.json")
    config["training"]["learning_rate"] = 0.0
    write_json(prepared / "config.json", config)
    with pytest.raises(UserError, match="rose by a factor of 1.0, 10 is required"):
        train_and_measure(prepared, monkeypatch, steps=1)
    assert (prepared / "quick.failed.json").exists() and not (prepared / "quick.json").exists()


@pytest.mark.slow
@pytest.mark.skipif(
    not (ROOT / "runs/smollm2-135m/data/manifest.json").is_file(), reason="no SmolLM2-135M here: run `make smol-data`"
)
def test_fifteen_steps_on_the_real_weights_do_the_same(tmp_path):
    """`make smollora-quick` into a folder of the test's own: one to six minutes on two idle cores."""
    ended = subprocess.run(
        ["make", "-C", str(ROOT), "smollora-quick", f"QUICK={tmp_path}/quick", f"SMOL_OUT={tmp_path}"],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
    check(read_json(tmp_path / "quick.json")["results"], prompts=6)
    losses = read_json(tmp_path / "quick" / "training.json")["results"]["valid_losses"]
    assert losses[-1] < losses[0]


def test_a_training_that_is_stopped_by_time_says_so_and_goes_on(prepared, monkeypatch, capsys):
    paths = {name: prepared / name for name in ("work", "adapter")} | {"report": prepared / "training.json"}
    stopped = 0
    while not (prepared / "adapter" / "adapter.json").exists():
        assert stopped < 40
        try:
            run(train_lora, prepared, monkeypatch, **paths, epochs=1, minutes=1e-9)
        except SystemExit as ended:
            assert ended.code == 3 and "run it again to go on" in capsys.readouterr().out
            assert not paths["report"].exists()
            stopped += 1
    assert stopped > 2 and read_json(paths["report"])["results"]["move"] == "done"
