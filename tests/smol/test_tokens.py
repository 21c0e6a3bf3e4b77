"""Each tool token is one id, the id that the config expects, or nothing trains."""

import copy

import pytest

from conftest import ROOT
from helpers import random_smol
from helpers.odd_values import damaged
from kxl.base import config as configs
from kxl.base.cli import UserError
from kxl.base.files import read_json, write_json
from kxl.chat import loss_mask
from kxl.smol import scores
from kxl.smol import tokens as smol_tokens

CONFIGS = {"smollm2": (random_smol.SMOLLM2, random_smol.smollm2), "smollm3": (random_smol.SMOLLM3, random_smol.smollm3)}


@pytest.fixture(scope="module", params=CONFIGS)
def case(request, tmp_path_factory):
    config, make = CONFIGS[request.param]
    return read_json(config), loss_mask.load(make(tmp_path_factory.mktemp(request.param)))


def test_the_committed_configs_fit_their_tokenizers_ids(case):
    config, chat = case
    tokens = smol_tokens.resolve(config, chat.tokenizer, "config")
    assert tokens.ids == tuple(entry["id"] for entry in (config["tool_tokens"][role] for role in smol_tokens.ROLES))


def test_smollm3_has_the_ids_of_its_own_vocabulary():
    ids = {role: entry["id"] for role, entry in read_json(random_smol.SMOLLM3)["tool_tokens"].items()}
    assert ids == {"response_start": 128013, "response_end": 128014, "call_start": 128015, "call_end": 128016}


def changed(config, role, **fields):
    config = copy.deepcopy(config)
    config["tool_tokens"][role].update(fields)
    return config


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"id": 5}, "the config expects 5"),
        ({"token": "<no_such>"}, "is not in the vocabulary"),
        ({"token": "a"}, "must be one special token|the config expects"),
        ({"token": 7}, 'needs "token"'),
    ],
)
def test_a_token_that_is_not_the_configs_is_refused(case, fields, said):
    config, chat = case
    with pytest.raises(UserError, match=said):
        smol_tokens.resolve(changed(config, "call_start", **fields), chat.tokenizer, "config")


def test_a_word_of_the_vocabulary_that_is_no_special_token_is_refused(tmp_path):
    """It would be one id alone and several pieces inside a text."""
    chat = loss_mask.load(random_smol.smollm3(tmp_path))
    config = read_json(random_smol.SMOLLM3)
    content = read_json(tmp_path / "tokenizer.json")
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "<tool_call>"]
    write_json(tmp_path / "tokenizer.json", content)
    with pytest.raises(UserError, match="cut into the ids"):
        smol_tokens.resolve(config, loss_mask.load(tmp_path).tokenizer, "config")
    assert chat.tokenizer.token_to_id("<tool_call>") == 128015


def test_a_role_that_is_missing_or_shares_an_id_is_refused(case):
    config, chat = case
    shared = changed(config, "call_end", id=config["tool_tokens"]["call_start"]["id"])
    with pytest.raises(UserError, match="the same id"):
        smol_tokens.resolve(shared, chat.tokenizer, "config")
    missing = copy.deepcopy(config)
    del missing["tool_tokens"]["response_end"]
    with pytest.raises(UserError, match="must have exactly"):
        smol_tokens.resolve(missing, chat.tokenizer, "config")


def test_before_the_renaming_the_error_says_what_to_do(tmp_path):
    chat = loss_mask.load(random_smol.smollm2(tmp_path, renamed=False))
    with pytest.raises(UserError, match=r"rename '<issue_start>' to it first \(make smol-base\)"):
        smol_tokens.resolve(read_json(random_smol.SMOLLM2), chat.tokenizer, "config")


def test_renaming_keeps_every_id_and_is_refused_twice(tmp_path):
    folder = random_smol.smollm2(tmp_path, renamed=False)
    config, before = read_json(random_smol.SMOLLM2), loss_mask.load(folder).tokenizer.get_vocab()
    smol_tokens.rename(config, folder)
    after = loss_mask.load(folder).tokenizer.get_vocab()
    names = {entry["renames"]: entry["token"] for entry in config["tool_tokens"].values()}
    assert after == {names.get(word, word): i for word, i in before.items()}
    with pytest.raises(UserError, match="has '<tool_call>' already"):
        smol_tokens.rename(config, folder)


def test_renaming_a_token_that_has_another_id_is_refused(tmp_path):
    folder = random_smol.smollm2(tmp_path, renamed=False)
    with pytest.raises(UserError, match="'<issue_start>' has id 8, the config expects 9"):
        smol_tokens.rename(changed(read_json(random_smol.SMOLLM2), "call_start", id=9), folder)


GOOD = {
    "before": {"test": {"emitting": 0}},
    "test": {"prompts": 10, "right_tool": 10, "right_arguments": 10},
    "masked_names": {"prompts": 0},
    **{part: {"prompts": 10, "false_calls": 0} for part in ("restraint", "ordinary")},
}


def test_a_config_or_an_adapter_with_anything_anywhere_is_read_or_refused_by_file_and_key(tmp_path):
    """What is taken from the config without a model; each kind of value that a flag could not be, either."""
    whole, path, refused = read_json(ROOT / "configs/smollm2-135m.json"), tmp_path / "odd.json", 0
    adapter = read_json(ROOT / "models/smollm2-135m-tools/adapter.json")
    for odd in damaged(whole, 200):
        write_json(path, odd)
        try:
            config = configs.load(path, configs.SMOL)
            smol_tokens.roles(config, str(path))
            scores.gate(GOOD, config["emission"])
            config["lora"]["alpha"] / config["lora"]["rank"]
            sorted(config["lora"]["modules"])
        except UserError as error:
            refused += 1
            assert "odd.json" in str(error)
    for odd in damaged(adapter, 40):
        write_json(path, odd)
        try:
            configs.load_adapter(path)["lora"]["alpha"]
        except UserError as error:
            refused += 1
            assert "odd.json" in str(error)
    assert 100 < refused < 240
