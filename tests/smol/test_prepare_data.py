"""The rows of the tool-token training: shares, splits that share no tool, and proof of all of it in the manifest."""

import hashlib
import json
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
from kxl.setup import archive as setup_archive
from kxl.smol import domains, requests, sets, torch_engine
from kxl.smol import rows as smol_rows
from kxl.smol import tokens as smol_tokens

pytestmark = pytest.mark.minutes


def function(name: str) -> dict:
    return {
        "name": name,
        "description": f"Does {name}.",
        "parameters": {"type": "dict", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
    }


def entry(category: str, i: int, name: str) -> dict:
    question = [[{"role": "user", "content": f"please do {category} {i}"}]]
    return {"id": f"{category}_{i}", "question": question, "function": [function(name)]}


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """60 tools with a question each, and 12 questions that their tool does not answer."""
    path = tmp_path / "bfcl.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for category in (*sets.ANSWERED, *sets.MORE, *sets.UNANSWERABLE):
            places = range(60) if category == "simple_python" else range(60, 72) if category == "irrelevance" else []
            entries = [entry(category, i, f"tool_{i}") for i in places]
            truths = [{"id": one["id"], "ground_truth": [{f"tool_{i}": {"x": [i]}}]} for i, one in zip(places, entries)]
            for name, lines in (("", entries), ("possible_answer/", truths)):
                text = "\n".join(map(json.dumps, lines))
                archive.writestr(f"bfcl_eval/data/{name}BFCL_v4_{category}.json", text)
    monkeypatch.setattr(setup_archive, "fetch", lambda lock: path)
    return path


@pytest.fixture
def prepare(tmp_path, wheel, monkeypatch):
    """Run prepare_data.py on a small config; returns its folder."""
    monkeypatch.setattr(prepare_data, "OWN_ROWS", 12)
    random_smol.smollm2(tmp_path / "model", layers=1)
    asked = [
        {"id": f"ordinary/{i}", "kind": "ordinary", "prompt": prompt}
        for i, prompt in enumerate(requests.ordinary_prompts()[:60])
    ]
    asked += [
        {"id": f"bfcl/irrelevance_{i}", "kind": "irrelevance", "prompt": f"please do irrelevance {i}"}
        for i in range(60, 72)
    ]
    asked += domains.unserved(("near", "missing", "absent"), 1, 7)
    of_training = [one for one in sets.parted(sets.entries(wheel))["train"] if one["truth"]]
    row = {"id": "j", "source": "own", "kind": "near_miss", "tools": of_training[0]["tools"]}
    sets.write(tmp_path / "dev.json", [{**row, "messages": of_training[1]["messages"]}])
    sets.write(tmp_path / "test.json", [{**row, "messages": [{"role": "user", "content": "Hello!"}]}])

    def run(*flags, **changes):
        config = read_json(random_smol.SMOLLM2)
        config["data"] |= {"own_groups": 8, "valid_groups": 8, "row_tokens": 6000, "share_tolerance": 0.05, **changes}
        config["training"] |= {"max_tokens": 6000}
        write_json(tmp_path / "config.json", config)
        with open(tmp_path / "recorded.jsonl", "w", encoding="utf-8") as file:
            for one in asked:
                file.write(json.dumps({**one, "answer": "I cannot do that."}) + "\n")
        given = {"config": "config.json", "model": "model", "recorded": "recorded.jsonl", "sets": ".", "out": "data"}
        words = [str(word) for name, path in given.items() for word in (f"--{name}", tmp_path / path)]
        monkeypatch.setattr(sys, "argv", ["prepare_data.py", *words, *flags])
        prepare_data.main()
        return tmp_path / "data"

    run.of_training = of_training
    return run


def test_each_split_has_its_share_and_nothing_that_is_judged(prepare):
    folder = prepare()
    train, valid = (smol_rows.read(folder / f"{split}.jsonl") for split in ("train", "valid"))
    for rows in (train, valid):
        assert sum(row["kind"] == "tool" for row in rows) / len(rows) == pytest.approx(0.7, abs=0.05)
    names = {name for row in train + valid for name in sets.names(row)}
    questions = {row["messages"][0]["content"] for row in train + valid}
    judged, other, *trained = prepare.of_training
    assert not set(sets.names(judged)) & names
    assert not questions & {other["messages"][-1]["content"], "Hello!"}
    assert {one["messages"][-1]["content"] for one in trained} <= questions  # the rest of the training's side is there
    assert {row["source"] for row in train} == {"own", "bfcl", "recorded"}
    quiet = [row for row in train + valid if row["kind"] == "ordinary"]
    assert any(row["tools"] for row in quiet) and all(not calls_in(row) for row in quiet)
    kinds = {row["id"].split("+")[1].split("/")[0] for row in quiet if "+" in row["id"]}
    assert {"near", "ordinary"} <= kinds and {"missing", "absent"} & kinds


def test_rows_of_a_group_share_their_tools_and_differ_in_the_tool_that_they_call(prepare):
    rows = smol_rows.read(prepare() / "train.jsonl")
    groups = {}
    for row in rows:
        if row["source"] == "own" and "/" in row["id"][4:]:
            groups.setdefault(row["id"].rsplit("/", 1)[0], []).append(row)
    groups = [group for group in groups.values() if len(group) >= 5]
    assert groups
    for group in groups:
        assert all(row["tools"] == group[0]["tools"] for row in group) and 3 <= len(group[0]["tools"]) <= 8
        assert len({calls_in(row)[0]["name"] for row in group}) >= 3
        for row in group:
            (call,) = calls_in(row)
            (tool,) = [one["function"] for one in row["tools"] if one["function"]["name"] == call["name"]]
            jsonschema.validate(call["arguments"], tool["parameters"])


def test_a_share_of_the_rows_has_random_names_and_stays_valid(prepare):
    known = {name for domain in domains.data()["domains"].values() for name in domain["tools"]}
    rows = smol_rows.read(prepare(masked_share=1.0) / "train.jsonl")
    calling = [row for row in rows if row["kind"] == "tool"]
    assert calling and not any(name in known or name.startswith("tool_") for row in calling for name in sets.names(row))
    for row in calling:
        for call in calls_in(row):
            (tool,) = [one["function"] for one in row["tools"] if one["function"]["name"] == call["name"]]
            jsonschema.validate(call["arguments"], tool["parameters"])
            assert set(call["arguments"]) <= set(tool["parameters"]["properties"])


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
    assert prepare() == folder and read_json(folder / "manifest.json")["results"] == results  # the same again
    second = tmp_path / "committed.json"
    prepare("--manifest", str(second))
    write_json(second, {**read_json(second), "environment": "another machine"})
    prepare("--manifest", str(second))
    assert read_json(second)["environment"] == "another machine"
    prepare("--manifest", str(second), row_tokens=5900)
    assert (
        read_json(second)["settings"]["data"]["row_tokens"] == 5900
        and read_json(second)["environment"] != "another machine"
    )


def test_training_refuses_rows_that_somebody_edited(prepare, tmp_path, monkeypatch):
    folder = prepare()
    path = folder / "train.jsonl"
    path.write_text(path.read_text().replace("cannot", "can", 1))
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
    folder = prepare(own_groups=1)

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
    assert "of 11 tensors changed" in capsys.readouterr().out
    with pytest.raises(UserError, match="other data, model or settings"):
        run(train_lora, *trained, "--embedding", "token_rows")


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"tool_share": 0.2}, "tool rows need [0-9]+ without a call, there are"),
        ({"row_tokens": 30}, "no row of at most 30 tokens for valid"),
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
    assert calls_in(row)[0]["arguments"] == {"symbol": "ACME"} and sets.names(row) == ["get_stock"]
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


@pytest.mark.parametrize(
    "losses,epochs,adapter", [([2.0, 1.0, 1.2], 3, "adapter.failed"), ([2.0, 1.0, 1.2], 1, "adapter")]
)
def test_a_loss_that_rises_fails_the_training_only_in_an_epoch_that_the_config_asked_for(
    prepare, tmp_path, monkeypatch, capsys, losses, epochs, adapter
):
    folder, told = prepare(own_groups=1), iter(losses)
    config = read_json(tmp_path / "config.json")
    write_json(
        tmp_path / "config.json", {**config, "training": {**config["training"], "epochs": epochs, "max_epochs": 5}}
    )
    monkeypatch.setattr(torch_engine, "validation_loss", lambda *_: next(told))
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
