"""A checkpoint becomes a core and a core a checkpoint; a hub model is pinned; what does not fit is refused."""

import json
import sys

import numpy as np
import pytest

import moe_build_core
import moe_fetch_base
import moe_materialize
from conftest import ROOT
from helpers import random_cores
from kxl.base.cli import UserError
from kxl.base.files import read_json
from kxl.model import checkpoint
from kxl.moe import core as moe_core
from kxl.moe import int8


@pytest.fixture(scope="module")
def bf16(tmp_path_factory):
    """A plain BF16 checkpoint folder with tokenizer files beside it."""
    folder = tmp_path_factory.mktemp("base")
    moe_core.save(folder / "core", random_cores.random_core("six"))
    core = checkpoint.read(folder / "core")
    checkpoint.save_hf(folder / "bf16", core)
    (folder / "bf16" / "tokenizer.json").write_text("{}")
    return folder / "bf16"


def called(monkeypatch, module, *flags):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, flags)])
    module.main()


def config(tmp_path, group):
    path = tmp_path / "training.json"
    path.write_text(json.dumps({**read_json(ROOT / "configs/tiny-moe.json"), "group_size": group}))
    return path


def test_core_and_back_keeps_all_but_the_experts_bit_for_bit_and_those_within_half_a_step(bf16, tmp_path, monkeypatch):
    called(
        monkeypatch,
        moe_build_core,
        "--model",
        bf16,
        "--config",
        config(tmp_path, 32),
        "--out",
        tmp_path / "core",
        "--report",
        tmp_path / "core.json",
    )
    called(monkeypatch, moe_materialize, "--step", tmp_path / "core", "--out", tmp_path / "again")
    before, core, after = checkpoint.read(bf16), moe_core.load(tmp_path / "core"), checkpoint.read(tmp_path / "again")
    report = read_json(tmp_path / "core.json")["results"]
    assert (
        before.config == {key: value for key, value in after.config.items() if key != "dtype"}
        and (tmp_path / "again/tokenizer.json").exists()
    )
    assert report["bytes"] == core.nbytes and set(report["errors"]) == {
        name for name in before.tensors if moe_core.is_expert(name)
    }
    for name, tensor in before.tensors.items():
        old, new = tensor.read(), after.tensors[name].read()
        if not moe_core.is_expert(name):
            assert np.array_equal(old, new), name
            continue
        step = int8.bf16_to_float32(core.experts[name.removesuffix(".weight")].scales).repeat(32, axis=1)
        assert (np.abs(old - new) <= step / 400 + np.abs(old) / 250).all(), name  # the carry; BF16 rounds the way back
        matrix = core.experts[name.removesuffix(".weight")]
        error = int8.dequantize(int8.Int8Matrix(matrix.codes, matrix.scales, matrix.biases)) - old
        assert (np.abs(error) <= 0.51 * step).all(), name
        assert abs(report["errors"][name]["max"] - np.abs(error).max()) < 1e-6


@pytest.mark.parametrize(
    "change, group, message",
    [
        ({"model_type": "lfm2"}, 32, "model_type 'lfm2' has no experts to train; MODEL must be an LFM2-MoE"),
        ({"model_type": "llama"}, 32, "model_type is 'llama'"),
        ({}, 48, "cannot be quantized in groups of 48; set group_size to 32 or 64"),
        ({}, 128, "hidden_size: its 64 columns cannot be quantized in groups of 128"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_written(bf16, tmp_path, monkeypatch, change, group, message):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in bf16.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "config.json").unlink()
    (folder / "config.json").write_text(json.dumps({**read_json(bf16 / "config.json"), **change}))
    with pytest.raises(UserError, match=message):
        called(
            monkeypatch,
            moe_build_core,
            "--model",
            folder,
            "--config",
            config(tmp_path, group),
            "--out",
            tmp_path / "core",
            "--report",
            tmp_path / "core.json",
        )
    assert not (tmp_path / "core").exists() and not (tmp_path / "core.json").exists()


def test_a_core_without_int8_experts_is_refused(bf16):
    with pytest.raises(UserError, match="does not describe int8 experts; build a core from the checkpoint first"):
        moe_core.load(bf16)


def test_a_plain_checkpoint_is_not_materialized_again(bf16, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="is a plain checkpoint already"):
        called(monkeypatch, moe_materialize, "--step", bf16, "--out", tmp_path / "again")


def test_a_base_folder_is_checked_and_its_files_are_named_by_hash(bf16, tmp_path, monkeypatch, capsys):
    called(
        monkeypatch,
        moe_fetch_base,
        "--model",
        bf16,
        "--out",
        tmp_path / "unused",
        "--group-size",
        32,
        "--report",
        tmp_path / "base.json",
    )
    report = read_json(tmp_path / "base.json")
    assert {entry["path"].rsplit("/", 1)[1] for entry in report["inputs"]} == {path.name for path in bf16.iterdir()}
    assert "headers fit config.json" in capsys.readouterr().out and not (tmp_path / "unused").exists()


class FakeHub:
    """huggingface_hub as fetch_base uses it: `files` by name with their size."""

    def __init__(self, monkeypatch, source):
        import huggingface_hub

        self.source, self.asked = source, []
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)

    def model_info(self, model, revision, files_metadata):
        files = [
            type("", (), {"rfilename": path.name, "size": path.stat().st_size})() for path in self.source.iterdir()
        ]
        return type("", (), {"siblings": files})()

    def snapshot_download(self, model, revision, local_dir, allow_patterns):
        self.asked.append((model, revision))
        local_dir.mkdir(parents=True, exist_ok=True)
        for path in self.source.iterdir():
            (local_dir / path.name).write_bytes(path.read_bytes())


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_hub_model_comes_at_its_pinned_commit(bf16, tmp_path, monkeypatch):
    hub = FakeHub(monkeypatch, bf16)
    called(
        monkeypatch,
        moe_fetch_base,
        "--model",
        "owner/name",
        "--revision",
        COMMIT,
        "--out",
        tmp_path / "base",
        "--group-size",
        32,
        "--report",
        tmp_path / "base.json",
    )
    assert hub.asked == [("owner/name", COMMIT)]
    assert read_json(tmp_path / "base.json")["settings"] == {"model": "owner/name", "revision": COMMIT}


@pytest.mark.parametrize(
    "model, revision, message",
    [
        ("owner/name", "main", "a branch or tag can move"),
        ("owner/name", None, "name the commit"),
        ("no/such/folder", COMMIT, "no such folder, and not OWNER/NAME"),
    ],
)
def test_an_unpinned_or_unknown_model_is_refused(model, revision, message, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=message):
        called(
            monkeypatch,
            moe_fetch_base,
            "--model",
            model,
            *(["--revision", revision] if revision else []),
            "--out",
            tmp_path / "base",
            "--report",
            tmp_path / "base.json",
        )


def test_a_download_that_does_not_fit_the_disk_is_refused_before_it_starts(bf16, tmp_path, monkeypatch):
    hub = FakeHub(monkeypatch, bf16)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("", (), {"free": 1000}))
    with pytest.raises(UserError, match="GiB of disk and 0.00 GiB are free"):
        called(
            monkeypatch,
            moe_fetch_base,
            "--model",
            "owner/name",
            "--revision",
            COMMIT,
            "--out",
            tmp_path / "base",
            "--report",
            tmp_path / "base.json",
        )
    assert hub.asked == []


def test_no_network_says_what_to_do(tmp_path, monkeypatch):
    import huggingface_hub

    def offline():
        raise ConnectionError("name resolution failed")

    monkeypatch.setattr(huggingface_hub, "HfApi", offline)
    with pytest.raises(
        UserError, match="cannot be downloaded .ConnectionError: name resolution failed.; what arrived is kept"
    ):
        called(
            monkeypatch,
            moe_fetch_base,
            "--model",
            "owner/name",
            "--revision",
            COMMIT,
            "--out",
            tmp_path / "base",
            "--report",
            tmp_path / "base.json",
        )
