"""Whatever stands in a weights file, it is a tensor list or one error that names the file, and that comes soon."""

import json
import os
import random
import struct
import subprocess
import sys
import time

import gguf
import numpy as np
import pytest

from conftest import ROOT
from kxl.base.cli import UserError
from kxl.model import gguf_file, safetensors_io

HUGE = (0, 1, 7, 2**31, 2**40, 2**62, 2**63, 2**64 - 1)


def safetensors(header, data=b"\0" * 24) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(**changes) -> dict:
    return {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24], **changes}}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "truncated, 0 bytes"),
        (struct.pack("<Q", 2**63), "truncated"),
        (safetensors(b"\xff{}"), "not JSON"),
        (safetensors(b"[" * 100_000), "not JSON"),
        (safetensors(b'{"a": 1e999, "b": ' + b"9" * 5000 + b"}"), "not JSON"),
        (safetensors([]), "not a safetensors header"),
        (safetensors(7), "not a safetensors header"),
        (safetensors({"a": 7}), "entry for a is not a safetensors entry"),
        (safetensors(entry(dtype=["F32"])), "entry for a is not a safetensors entry"),
        (safetensors(entry(dtype="F33")), "unknown type F33"),
        (safetensors(entry(shape="23")), "entry for a is not a safetensors entry"),
        (safetensors(entry(shape=[2.0, 3])), "entry for a is not a safetensors entry"),
        (safetensors(entry(shape=[True, 6])), "entry for a is not a safetensors entry"),
        (safetensors(entry(shape=[-2, -3])), "entry for a is not a safetensors entry"),
        (safetensors(entry(shape=[1] * 100_000)), "entry for a is not a safetensors entry"),
        (safetensors(entry(shape=[2**62, 2**62])), "should stand at"),
        (safetensors(entry(data_offsets=[0])), "entry for a is not a safetensors entry"),
        (safetensors(entry(data_offsets=[0, 24, 48])), "entry for a is not a safetensors entry"),
        (safetensors(entry(data_offsets=["0", "24"])), "entry for a is not a safetensors entry"),
        (safetensors(entry(data_offsets=[-8, 16])), "entry for a is not a safetensors entry"),
        (safetensors(entry(data_offsets=None)), "entry for a is not a safetensors entry"),
        (safetensors({**entry(), "b": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}}), "should stand at"),
        (safetensors(b'{"a":{"dtype":"F32","shape":[6],"data_offsets":[0,24]},"a":{}}'), "'a' twice"),
        (safetensors(entry(), b"\0" * 23), "where the header announces"),
    ],
)
def test_a_malformed_safetensors_file_is_one_error_that_names_it(tmp_path, content, complaint):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=rf"model\.safetensors: .*{complaint}"):
        safetensors_io.index_folder(tmp_path)


def test_a_header_that_is_said_to_fill_the_memory_is_not_read(tmp_path):
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", 2**40))
        file.truncate(2**41)  # sparse
    with pytest.raises(UserError, match="the format allows 100,000,000"):
        safetensors_io.index_folder(tmp_path)


@pytest.mark.parametrize("shard", ["../elsewhere/model.safetensors", "/etc/passwd", 7, None, ["a"], "", ".."])
def test_an_index_that_names_no_file_beside_it_is_refused(tmp_path, shard):
    (tmp_path / safetensors_io.INDEX).write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(UserError, match=r"index\.json: a should be in .*, which is no file name of this folder"):
        safetensors_io.index_folder(tmp_path)


@pytest.mark.parametrize("content", ["[]", "7", '{"weight_map": []}', "{", "[" * 100_000])
def test_an_index_that_is_none_is_refused(tmp_path, content):
    (tmp_path / safetensors_io.INDEX).write_text(content)
    with pytest.raises(UserError, match=r"index\.json"):
        safetensors_io.index_folder(tmp_path)


def make_odd(path, kind: str) -> None:
    {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "broken link": lambda: path.symlink_to("nowhere"),
        "link to a folder": lambda: path.symlink_to(path.parent),
        "device": lambda: path.symlink_to("/dev/zero"),
    }[kind]()


ODD = ("folder", "pipe", "broken link", "link to a folder", "device")


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["model.safetensors", "model.gguf"])
def test_what_is_no_file_is_named_at_once(tmp_path, kind, name):
    make_odd(tmp_path / name, kind)
    reader = safetensors_io.read_header if name.endswith("safetensors") else gguf_file.open_reader
    with pytest.raises(UserError, match=f"{name}: (is a|no such file, only a link)"):
        reader(tmp_path / name)
    if name.endswith("safetensors"):
        with pytest.raises(UserError, match=name):
            safetensors_io.index_folder(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small GGUF with every kind of metadata, as bytes."""
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("x")
    writer.add_custom_alignment(32)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b", "c"])
    writer.add_array("tokenizer.ggml.scores", [1.0, 2.0, 3.0])
    writer.add_tensor("a.weight", np.ones((4, 32), np.float32))
    writer.add_tensor("b.weight", np.ones((2, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def mutated(whole: bytes, rng: random.Random) -> bytes:
    content, header = bytearray(whole), whole.index(b"b.weight") + 60
    for _ in range(rng.randint(1, 2)):
        if not content:
            break
        place, kind = rng.randrange(min(len(content), header)), rng.random()
        if kind < 0.4:
            content[place] = rng.randrange(256)
        elif kind < 0.75:
            content[place : place + 8] = struct.pack("<Q", rng.choice(HUGE))
        elif kind < 0.85:
            del content[place:]
        else:
            content[place : place + 4] = struct.pack("<I", rng.randrange(16))
    return bytes(content)


@pytest.mark.minutes
def test_thousands_of_damaged_ggufs_are_read_or_named(whole, tmp_path):
    path, rng, read = tmp_path / "model.gguf", random.Random(0), 0
    for number in range(4000):
        path.write_bytes(content := mutated(whole, rng))
        began = time.process_time()
        try:
            reader = gguf_file.open_reader(path)
            for tensor in reader.tensors:
                assert tensor.data.size and tensor.name
            [field.contents() for field in reader.fields.values() if field.types]
            read += 1
        except UserError as error:
            assert "model.gguf: not a " in str(error) and "GGUF file" in str(error)
        except Exception as error:
            raise AssertionError(f"mutation {number}: {content[:400]!r}") from error
        assert time.process_time() - began < 2
    assert 100 < read < 3000


def test_a_list_that_is_said_to_be_endless_does_not_hang(whole, tmp_path):
    path = tmp_path / "model.gguf"
    place = whole.index(b"tokenizer.ggml.scores") + len("tokenizer.ggml.scores") + 8
    path.write_bytes(whole[:place] + struct.pack("<Q", 2**62) + whole[place + 8 :])
    with pytest.raises(UserError, match=r"tokenizer\.ggml\.scores brings its lists to .* entries, over"):
        gguf_file.open_reader(path)


def command(script: str, gguf, folder) -> list[str]:
    """The command that makes a script read `gguf` first."""
    flags = {
        "quant_quantize.py": ["--gguf", gguf, "--policy", "q4kxl", "--out", folder / "o.gguf", "--log", folder / "l"],
        "quant_lint.py": ["--gguf", gguf, "--policy", "q4kxl"],
        "repair_fuse.py": ["--model", gguf.parent, "--adapter", gguf.parent, "--out", folder / "out"],
        "moe_build_core.py": [
            "--model",
            gguf.parent,
            "--config",
            ROOT / "configs/tiny-moe.json",
            "--out",
            folder / "c",
        ],
    }[script]
    return [str(word) for word in (sys.executable, ROOT / "scripts" / script, *flags)]


@pytest.mark.parametrize("script", ["quant_quantize.py", "quant_lint.py", "repair_fuse.py", "moe_build_core.py"])
def test_the_scripts_end_with_one_line(tmp_path, whole, script):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/model.gguf").write_bytes(whole[:100])
    (tmp_path / "in/model.safetensors").write_bytes(safetensors([]))
    (tmp_path / "in/config.json").write_text("[]")
    (tmp_path / "in/adapter_config.json").write_text("[]")
    ended = subprocess.run(command(script, tmp_path / "in/model.gguf", tmp_path), capture_output=True, text=True)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr, ended.stderr


@pytest.mark.parametrize("kind, size", [(8, 8), (0, 1)])
def test_a_file_whose_lists_would_fill_the_memory_is_refused_at_once(tmp_path, kind, size):
    count = gguf_file.MOST_ENTRIES + 1
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, kind, count)
    path = tmp_path / "bomb.gguf"
    path.write_bytes(head)
    os.truncate(path, len(head) + size * count)  # empty texts
    with pytest.raises(UserError, match="bomb.gguf: .* entries"):
        gguf_file.open_reader(path)
