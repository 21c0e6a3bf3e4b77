"""The float32 copy for serving: found again, also after a kill, used by several, and never one too many."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from conftest import ROOT
from kxl.base.cli import UserError
from kxl.model import checkpoint, float32

HOLDER = """
import sys, time
from pathlib import Path
from kxl.model import float32
def write(model, target):
    target.mkdir()
    (target / "heavy").write_text("x")
    print("writing", flush=True)
    time.sleep(float(sys.argv[3]))
with float32.copy(Path(sys.argv[1]), write, Path(sys.argv[2])) as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_text("weights")
    return folder


def light(model, target):
    target.mkdir()
    (target / "of").write_text(str(model))


def refuse(*_):
    raise AssertionError("it is there already")


def holder(model, store, seconds):
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(model), str(store), str(seconds)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
        stdout=subprocess.PIPE,
        text=True,
    )


def copies(store) -> list[str]:
    return sorted(path.name for path in store.iterdir() if path.name != ".lock")


def test_the_weights_are_the_same_in_float32(tmp_path):
    with float32.copy(ROOT / "models/tiny", store=tmp_path) as folder:
        original, copied = checkpoint.read(ROOT / "models/tiny"), checkpoint.read(folder)
        name = next(iter(original.tensors))
        assert {tensor.dtype for tensor in copied.tensors.values()} == {"F32"}
        assert np.array_equal(original.tensors[name].read(), copied.tensors[name].read())
        assert (folder / "tokenizer.json").is_file()


def test_a_copy_is_used_again_until_the_checkpoint_changes(model, tmp_path):
    store = tmp_path / "store"
    with float32.copy(model, light, store) as first:
        with float32.copy(model, refuse, store) as second:
            assert first == second
    with float32.copy(model, refuse, store):
        pass
    (model / "model.safetensors").write_text("others!")
    with float32.copy(model, light, store) as third:
        assert third != first
    assert copies(store) == [third.parent.name], "the old one is gone"


def test_a_copy_in_use_stays_when_another_is_made(model, tmp_path):
    store, other = tmp_path / "store", tmp_path / "other"
    shutil.copytree(model, other)
    user = holder(model, store, 0)
    assert user.stdout.readline() == "writing\n"
    used = user.stdout.readline().strip()
    with float32.copy(other, light, store):
        assert os.path.exists(used)
    user.kill()
    user.wait()
    assert len(copies(store)) == 2
    (other / "more").write_text("x")
    with float32.copy(other, light, store):
        assert len(copies(store)) == 1, "both old ones are gone"


def test_what_was_killed_while_it_was_written_is_never_served_and_goes(model, tmp_path):
    store = tmp_path / "store"
    killed = holder(model, store, 600)
    assert killed.stdout.readline() == "writing\n"
    killed.kill()
    killed.wait()
    assert len(copies(store)) == 1
    with float32.copy(model, light, store) as folder:
        assert not (folder / "heavy").exists()
    assert copies(store) == [folder.parent.name]


def test_what_was_killed_goes_also_where_nothing_new_is_made(model, tmp_path):
    store, other = tmp_path / "store", tmp_path / "other"
    shutil.copytree(model, other)
    with float32.copy(other, light, store) as folder:
        killed = holder(model, store, 600)
        assert killed.stdout.readline() == "writing\n"
        killed.kill()
        killed.wait()
        assert len(copies(store)) == 2
        with float32.copy(other, refuse, store):
            assert copies(store) == [folder.parent.name]


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(float32.files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match="needs .* of disk"), float32.copy(ROOT / "models/tiny", store=tmp_path):
        raise AssertionError("not reached")
    assert copies(tmp_path) == []
