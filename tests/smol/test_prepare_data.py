"""The rows of the tool-token training: shares, splits that share no tool, and proof of all of it in the manifest."""

import hashlib
import json
import random
import sys
import zipfile
from pathlib import Path

import jsonschema
import pytest

import prepare_data
import repair_fuse
import train_lora
from helpers import random_smol
from kxl.base.cli import UserError
from kxl.base.files import read_json, write_json
from kxl.chat import loss_mask
from kxl.chat.rows import calls_in
from kxl.eval import bfcl
from kxl.lora import epochs as lora_epochs
from kxl.setup import archive as setup_archive
from kxl.smol import mixture, requests
from kxl.smol import rows as smol_rows
from kxl.smol import tokens as smol_tokens

pytestmark = pytest.mark.minutes


def function(i: int) -> dict:
    return {
        "name": f"tool_{i}",
        "description": "Does it.",
        "parameters": {"type": "dict", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
    }


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """60 tools with a question each, and 12 questions that their tool does not answer."""
    path = tmp_path / "bfcl.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for category in bfcl.ANSWERED + bfcl.UNANSWERABLE:
            places = range(60) if category == "simple_python" else range(60, 72) if category == "irrelevance" else []
            archive.writestr(
                f"bfcl_eval/data/BFCL_v4_{category}.json",
                "\n".join(
                    json.dumps(
                        {
                            "id": f"{category}_{i}",
                            "question": [[{"role": "user", "content": f"please do {category} {i}"}]],
                            "function": [function(i)],
                        }
                    )
                    for i in places
                ),
            )
            archive.writestr(
                f"bfcl_eval/data/possible_answer/BFCL_v4_{category}.json",
                "\n".join(
                    json.dumps({"id": f"{category}_{i}", "ground_truth": [{f"tool_{i}": {"x": [i]}}]}) for i in places
                ),
            )
    monkeypatch.setattr(setup_archive, "fetch", lambda lock: path)
    return path


@pytest.fixture
def prepare(tmp_path, wheel, monkeypatch):
    """Run prepare_data.py on a small config; returns its folder."""
    random_smol.smollm2(tmp_path / "model")
    recorded = [
        {"id": f"ordinary/{i}", "prompt": prompt, "answer": "Well."}
        for i, prompt in enumerate(requests.ordinary_prompts()[:20])
    ]
    recorded += [
        {"id": f"bfcl/irrelevance_{i}", "prompt": f"please do irrelevance {i}", "answer": "No tool helps."}
        for i in range(60, 66)
    ]

    def run(*flags, **changes):
        config = read_json(random_smol.SMOLLM2)
        config["data"] |= {
            "rows": {"train": 20, "valid": 10},
            "heldout": {"tool": 8, "ordinary": 6, "near_miss": 4},
            "row_tokens": 2000,
            **changes,
        }
        write_json(tmp_path / "config.json", config)
        (tmp_path / "ordinary.jsonl").write_text("".join(json.dumps(row) + "\n" for row in recorded), encoding="utf-8")
        monkeypatch.setattr(
            sys,
            "argv",
            [
                "prepare_data.py",
                "--config",
                str(tmp_path / "config.json"),
                "--model",
                str(tmp_path / "model"),
                "--ordinary",
                str(tmp_path / "ordinary.jsonl"),
                "--out",
                str(tmp_path / "data"),
                *flags,
            ],
        )
        prepare_data.main()
        return tmp_path / "data"

    return run


def offered(rows):
    return {name for row in rows for name in mixture.names(row)}


def test_every_split_has_its_share_and_no_tool_or_request_of_a_held_out_prompt(prepare):
    folder = prepare()
    train, valid, heldout = (smol_rows.read(folder / f"{split}.jsonl") for split in ("train", "valid", "heldout"))
    assert [sum(row["kind"] == "tool" for row in rows) for rows in (train, valid)] == [14, 7]
    tool = [row for row in heldout if row["kind"] == "tool"]
    assert len(tool) == 8 and not offered(tool) & offered(train + valid)
    asked = {row["messages"][0]["content"] for row in train + valid}
    assert not asked & {row["messages"][0]["content"] for row in heldout}
    assert len({row["id"] for row in train + valid}) == 30
    questions = [{row["messages"][0]["content"] for row in rows} for rows in (train, valid)]
    assert not questions[0] & questions[1]
    for row in tool:
        assert row["messages"][-1]["role"] == "user" and set(row["expected"]) <= mixture.names(row)
    assert {len(row["tools"]) for row in tool} == {1, 2, 3} and {
        bool(row["tools"]) for row in heldout if row["kind"] == "ordinary"
    } == {True, False}


def test_the_manifest_proves_what_training_then_accepts(prepare, tmp_path):
    folder = prepare()
    results = read_json(folder / "manifest.json")["results"]
    chat = loss_mask.load(tmp_path / "model")
    tokens = smol_tokens.resolve(read_json(random_smol.SMOLLM2), chat.tokenizer, "config")
    for split in ("train", "valid"):
        examples = smol_rows.load_proven(folder, split, chat, tokens)
        told = results["splits"][split]
        assert (
            told["rows"] == len(examples)
            and told["loss_tokens"] == sum(int(example.mask.sum()) for example in examples) < told["tokens"]
        )
        assert (
            told["start_tokens"]
            == told["calls"]
            == sum(list(example.tokens).count(tokens.call_start) for example in examples)
        )
    assert results["heldout"] == {"tool": 8, "ordinary": 6, "near_miss": 4}
    assert prepare() == folder and read_json(folder / "manifest.json")["results"] == results  # the same again
    second = tmp_path / "committed.json"
    prepare("--manifest", str(second))
    write_json(second, {**read_json(second), "environment": "another machine"})
    prepare("--manifest", str(second))
    assert read_json(second)["environment"] == "another machine"
    prepare("--manifest", str(second), row_tokens=1900)
    assert (
        read_json(second)["settings"]["data"]["row_tokens"] == 1900
        and read_json(second)["environment"] != "another machine"
    )


def test_training_refuses_rows_that_somebody_edited(prepare, tmp_path, monkeypatch):
    folder = prepare()
    path = folder / "train.jsonl"
    path.write_text(path.read_text().replace("please", "Please", 1))
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "train_lora.py",
            "--config",
            str(tmp_path / "config.json"),
            "--model",
            str(tmp_path / "model"),
            "--data",
            str(folder),
            "--work",
            str(tmp_path / "work"),
            "--adapter",
            str(tmp_path / "adapter"),
            "--report",
            str(tmp_path / "report.json"),
        ],
    )
    with pytest.raises(UserError, match="is not what .* proved"):
        train_lora.main()
    assert not (tmp_path / "work").exists() and not (tmp_path / "adapter").exists()


def test_proven_rows_train_fuse_and_a_second_run_changes_nothing(prepare, tmp_path, monkeypatch, capsys):
    folder = prepare(rows={"train": 10, "valid": 10})

    def run(module, *args):
        monkeypatch.setattr(
            sys,
            "argv",
            [
                f"{module.__name__}.py",
                "--model",
                str(tmp_path / "model"),
                "--adapter",
                str(tmp_path / "adapter"),
                *map(str, args),
            ],
        )
        module.main()

    trained = (
        "--config",
        tmp_path / "config.json",
        "--data",
        folder,
        "--work",
        tmp_path / "work",
        "--report",
        tmp_path / "report.json",
        "--epochs",
        1,
    )
    run(train_lora, *trained)
    assert "epoch 1 kept" in capsys.readouterr().out
    report, weights = read_json(tmp_path / "report.json"), (tmp_path / "adapter" / "adapter.safetensors").read_bytes()
    losses = report["results"]["valid_losses"]
    assert len(losses) == 2 and losses[1] < losses[0] and report["results"]["move"] == "done"
    assert {"config.json", "manifest.json", "train.jsonl", "valid.jsonl", "model.safetensors"} == {
        Path(one["path"]).name for one in report["inputs"]
    }
    run(train_lora, *trained)
    assert (tmp_path / "adapter" / "adapter.safetensors").read_bytes() == weights and read_json(
        tmp_path / "report.json"
    )["results"]["valid_losses"] == losses
    config = read_json(
        tmp_path / "config.json"
    )  # a training that ended may go on, and its first epoch is the one it had
    write_json(tmp_path / "config.json", {**config, "training": {**config["training"], "epochs": 1, "max_epochs": 2}})
    run(train_lora, *trained[:-2])
    assert read_json(tmp_path / "report.json")["results"]["valid_losses"][:2] == losses
    run(train_lora, *trained)
    run(repair_fuse, "--out", tmp_path / "fused")
    assert "of 20 tensors changed" in capsys.readouterr().out
    with pytest.raises(UserError, match="other data, model or settings"):
        run(train_lora, *trained, "--embedding", "token_rows")


@pytest.mark.parametrize(
    "changes, said",
    [
        (
            {"rows": {"train": 200, "valid": 10}},
            "tool rows of at most 2000 tokens where 140 are needed|ordinary rows of at most",
        ),
        ({"row_tokens": 30}, "only 0 different tools with prompts no longer than row_tokens"),
        (
            {"heldout": {"tool": 90, "ordinary": 6, "near_miss": 4}},
            "only 60 different tools with prompts no longer than row_tokens for 90 held-out prompts",
        ),
        ({"rows": {"train": 20, "valid": 1}}, "100.0% of the rows have tool calls, the config asks for 70%"),
    ],
)
def test_what_the_data_cannot_give_is_an_error_with_numbers(prepare, changes, said):
    with pytest.raises(UserError, match=said):
        prepare(**changes)


def test_hermes_function_calling_files_become_rows_and_what_cannot_is_counted(prepare, tmp_path):
    tool = {
        "type": "function",
        "function": {
            "name": "get_stock",
            "description": "Stock.",
            "parameters": {"type": "object", "properties": {"symbol": {"type": "string"}}, "required": ["symbol"]},
        },
    }
    system = (
        f"You are a function calling AI model. You have these tools: <tools>{json.dumps([tool])}</tools> For "
        "each call return JSON"
    )
    system += " as follows:\n<tool_call>\n{'name': <function-name>}\n</tool_call>"
    good = {
        "id": "x",
        "conversations": [
            {"from": "system", "value": system},
            {"from": "human", "value": "stock of ACME?"},
            {
                "from": "gpt",
                "value": "<tool_call>\n{'arguments': {'symbol': 'ACME'}, 'name': 'get_stock'}\n</tool_call>",
            },
            {
                "from": "tool",
                "value": '<tool_response>\n{"name": "get_stock", "content": {"price": 3}}\n</tool_response>',
            },
            {"from": "gpt", "value": "It is 3."},
        ],
    }
    talk = {
        "id": "y",
        "conversations": [
            good["conversations"][0],
            {"from": "human", "value": "hi"},
            {"from": "gpt", "value": "Hello."},
        ],
    }
    (tmp_path / "v1.json").write_text(json.dumps([good, talk, {"id": "z"}]), encoding="utf-8")
    chat, left_out = loss_mask.load(random_smol.smollm2(tmp_path / "other")), prepare_data.Counter()
    tokens = smol_tokens.resolve(read_json(random_smol.SMOLLM2), chat.tokenizer, "config")
    (row,) = prepare_data.traced_rows([("v1.json", tmp_path / "v1.json")], chat, tokens, left_out)
    assert calls_in(row)[0]["arguments"] == {"symbol": "ACME"} and mixture.names(row) == {"get_stock"}
    assert sum(left_out.values()) == 2 and left_out["traces without a call"] == 1
    folder = prepare("--traces", str(tmp_path / "v1.json"))
    assert any("v1.json" in one["path"] for one in read_json(folder / "manifest.json")["inputs"])


def test_a_seed_composes_the_requests_that_smollm2_was_trained_with():
    """Digests of what was drawn before the wordings moved to datasets/smol; another wording is another data set."""
    drawn = [requests.tool_rows(120, 7), requests.ordinary_prompts()]
    digests = [
        hashlib.sha256(json.dumps(rows, sort_keys=True, ensure_ascii=False).encode()).hexdigest() for rows in drawn
    ]
    assert [digest[:16] for digest in digests] == ["7c86ea11271b68f6", "b5fc490720e2fbe7"]


def test_our_requests_are_different_valid_and_half_of_them_go_on():
    rows = requests.tool_rows(240, 7)
    assert rows == requests.tool_rows(240, 7) and len({row["messages"][0]["content"] for row in rows}) == 240
    assert sum(len(row["messages"]) == 4 for row in rows) == 120
    for row in rows:
        (call,), tool = calls_in(row), row["tools"][0]["function"]
        jsonschema.validate(call["arguments"], tool["parameters"])
        assert all("{" not in message["content"] or message["role"] != "assistant" for message in row["messages"])
    with pytest.raises(ValueError, match="different requests, 5000 were asked for"):
        requests.tool_rows(5000, 7)
    prompts = requests.ordinary_prompts()
    assert len(prompts) == len(set(prompts)) >= 300


def test_other_tools_are_offered_once_each_and_never_fewer_than_the_rows_own():
    pool = [{"type": "function", "function": {"name": f"p{i}"}} for i in range(5)]
    row = {"tools": [pool[0], pool[1]]}
    for count in (1, 2, 4):
        names = [tool["function"]["name"] for tool in mixture.offer(row, pool, count, random.Random(count))["tools"]]
        assert len(set(names)) == len(names) == max(count, 2) and {"p0", "p1"} <= set(names)


def test_two_requests_share_a_list_only_where_they_fit_and_no_row_is_lost():
    rows = [
        {
            "id": str(i),
            "messages": [{"role": "user", "content": f"ask {i}"}, {"role": "assistant", "content": f"call {i}"}],
            "tools": [{"type": "function", "function": {"name": f"p{i % 7}"}}],
        }
        for i in range(60)
    ]
    pool = mixture.tool_pool(rows)
    made = list(
        mixture.sessions(
            rows, pool, random.Random(1), lambda row: not any("9" in message["content"] for message in row["messages"])
        )
    )
    asked = [[message["content"] for message in row["messages"] if message["role"] == "user"] for row in made]
    assert sorted(sum(asked, [])) == sorted(f"ask {i}" for i in range(60))
    pairs = [(row, texts) for row, texts in zip(made, asked) if len(texts) == 2]
    assert len(pairs) > 10 and not any("9" in text for _, texts in pairs for text in texts)
    for row, texts in zip(made, asked):
        names = [tool["function"]["name"] for tool in row["tools"]]
        assert {f"p{int(text.split()[1]) % 7}" for text in texts} <= set(names) and len(set(names)) == len(
            names
        ) <= mixture.MOST_TOOLS


@pytest.mark.parametrize(
    "losses,epochs,adapter", [([2.0, 1.0, 1.2], 3, "adapter.failed"), ([2.0, 1.0, 1.2], 1, "adapter")]
)
def test_a_loss_that_rises_fails_the_training_only_in_an_epoch_that_the_config_asked_for(
    prepare, tmp_path, monkeypatch, capsys, losses, epochs, adapter
):
    folder, told = prepare(rows={"train": 10, "valid": 10}), iter(losses)
    config = read_json(tmp_path / "config.json")
    write_json(
        tmp_path / "config.json", {**config, "training": {**config["training"], "epochs": epochs, "max_epochs": 5}}
    )
    monkeypatch.setattr(lora_epochs, "validation_loss", lambda *_: next(told))
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "train_lora.py",
            "--config",
            str(tmp_path / "config.json"),
            "--model",
            str(tmp_path / "model"),
            "--data",
            str(folder),
            "--work",
            str(tmp_path / "work"),
            "--adapter",
            str(tmp_path / "adapter"),
            "--report",
            str(tmp_path / "report.json"),
        ],
    )
    if adapter == "adapter":
        train_lora.main()
        assert "rose by a tenth and the training ended; epoch 1 kept" in capsys.readouterr().out
    else:
        with pytest.raises(
            UserError,
            match=r"rose above 1.1 times its best \(2.000, 1.000, 1.200\); "
            r"the adapter of epoch 1 is in .*adapter.failed",
        ):
            train_lora.main()
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(("adapter", "report"))} == {
        adapter,
        adapter.replace("adapter", "report") + ".json",
    }
