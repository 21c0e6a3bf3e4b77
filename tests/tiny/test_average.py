"""Averaging two checkpoints: each tensor in between, other models refused."""

import sys

import numpy as np
import pytest

import tiny_average
from conftest import ROOT
from kxl.base.cli import UserError
from kxl.base.files import read_json, sha256, write_json
from kxl.model import checkpoint
from kxl.model.tensors import Checkpoint, from_array


def run(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["tiny_average.py", *map(str, args)])
    tiny_average.main()


@pytest.fixture
def pair(tmp_path):
    """The tiny model, and the same with every weight doubled."""
    one = checkpoint.read(ROOT / "models/tiny")
    double = {name: from_array(name, 2 * t.read(), t.dtype) for name, t in one.tensors.items()}
    checkpoint.save_mlx(tmp_path / "double", Checkpoint(one.folder, one.config, double))
    return ROOT / "models/tiny", tmp_path / "double"


def test_each_weight_lies_between_and_the_tokenizer_comes_along(pair, tmp_path, monkeypatch):
    run(monkeypatch, *pair, "--share", 0.25, "--out", tmp_path / "mean", "--report", tmp_path / "report.json")
    one, mean = checkpoint.read(pair[0]), checkpoint.read(tmp_path / "mean")
    for name, tensor in one.tensors.items():
        np.testing.assert_allclose(
            mean.tensors[name].read(), 1.25 * tensor.read(), rtol=2**-8, atol=1e-30, err_msg=name
        )
    assert (tmp_path / "mean/tokenizer.json").read_bytes() == (pair[0] / "tokenizer.json").read_bytes()
    told = read_json(tmp_path / "report.json")
    assert len(told["inputs"]) == 2
    assert told["results"]["made"]["sha256"] == sha256(tmp_path / "mean/model.safetensors")


def test_some_tensors_may_have_another_share(pair, tmp_path, monkeypatch):
    run(
        monkeypatch,
        *pair,
        "--share",
        1,
        "--but",
        "embed_tokens=0.25",
        "--out",
        tmp_path / "mean",
        "--report",
        tmp_path / "report.json",
    )
    one, mean = checkpoint.read(pair[0]), checkpoint.read(tmp_path / "mean")
    for name, tensor in one.tensors.items():
        factor = 1.25 if name == "model.embed_tokens.weight" else 2
        np.testing.assert_allclose(
            mean.tensors[name].read(), factor * tensor.read(), rtol=2**-8, atol=1e-30, err_msg=name
        )
    assert read_json(tmp_path / "report.json")["results"]["apart"] == ["model.embed_tokens.weight"]


@pytest.mark.parametrize(
    ("but", "why"),
    [("router=0.5", "no tensor of such a name"), ("embed_tokens", "NAME=SHARE"), ("embed_tokens=2", "between 0 and 1")],
)
def test_another_share_that_means_nothing_is_refused(pair, tmp_path, monkeypatch, but, why):
    with pytest.raises(UserError, match=why):
        run(monkeypatch, *pair, "--share", 1, "--but", but, "--out", tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_two_different_models_are_refused_and_nothing_is_written(pair, tmp_path, monkeypatch):
    config = read_json(pair[1] / "config.json")
    write_json(pair[1] / "config.json", {**config, "rope_theta": 5.0})
    with pytest.raises(UserError, match="rope_theta"):
        run(monkeypatch, *pair, "--share", 0.5, "--out", tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_outside_0_to_1_is_refused(pair, tmp_path, monkeypatch, share):
    with pytest.raises(UserError, match="between 0 and 1"):
        run(monkeypatch, *pair, f"--share={share}", "--out", tmp_path / "mean")
