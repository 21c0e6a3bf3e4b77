"""`make best` takes the largest policy with which file, cache and buffers fit, and says what is missing otherwise."""

import json
import subprocess
import sys

import gguf
import numpy as np
import pytest

from kxl.base.cli import UserError
from kxl.base.files import ROOT
from kxl.quant import policy
from kxl.search import memory, sizes
from kxl.setup import random_gguf


@pytest.fixture
def model(tmp_path):
    random_gguf.write(tmp_path / "model.gguf")
    policies = {}
    for name in ("q8_0", "q5_1"):
        short = name.replace("_", "")
        (tmp_path / f"{short}.tensor-types").write_text(f"^.*\\.weight$ = {name}\n")
        policies[short] = {"base_type": "Q8_0", "tensor_types": f"{short}.tensor-types"}
    (tmp_path / "plan.json").write_text(json.dumps({"policies": policies, "stock": []}))
    return tmp_path


def best(folder, fit: str, context: int = 1024) -> tuple[int, str, str]:
    command = [sys.executable, str(ROOT / "scripts/search_best.py"), "--gguf", str(folder / "model.gguf"), "--fit", fit]
    command += ["--context", str(context), "--plan", str(folder / "plan.json"), "--print"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_the_larger_policy_is_taken_as_long_as_it_fits(model):
    code, out, said = best(model, "100MiB")
    assert code == 0, said
    assert out.split()[0] == "q80" and "KV cache" in said and "sum" in said
    totals = [float(line.split()[-2]) for line in said.splitlines() if line.startswith("  q")]
    assert totals == sorted(totals, reverse=True)


def test_memory_between_the_two_takes_the_smaller_and_less_says_what_is_needed(model):
    shape = memory.shape_of(model / "model.gguf")
    tensors = policy.read_tensors(model / "model.gguf")
    needed = {}
    for name in ("q80", "q51"):
        types = policy.assign(policy.load(name, model / "plan.json"), tensors)
        file = sizes.header_bytes(model / "model.gguf") + policy.data_bytes(tensors, types)
        needed[name] = memory.needed(shape, 1024, file).total
    assert needed["q51"] < needed["q80"]
    code, out, _ = best(model, f"{needed['q80'] - 1}bytes")
    assert code == 0 and out.split()[0] == "q51"
    code, _, said = best(model, f"{needed['q51'] - 1}bytes")
    assert code == 2 and "nothing fits into" in said and "Lower CONTEXT" in said
    assert shape["conv_layers"] == 2 and shape["key_width"] == 64


def test_of_equal_sizes_the_one_that_was_searched_for_this_model_is_taken(model):
    plan = json.loads((model / "plan.json").read_text())
    made_for = {"name": "own", "fingerprint": policy.fingerprint(policy.read_tensors(model / "model.gguf"))}
    plan["policies"]["own"] = {**plan["policies"]["q80"], "made_for": made_for}
    plan["policies"]["other"] = {**plan["policies"]["q80"], "made_for": {"name": "other", "fingerprint": "0" * 16}}
    (model / "plan.json").write_text(json.dumps(plan))
    code, out, said = best(model, "100MiB")
    assert code == 0 and out.split()[0] == "own"
    assert "other does not fit this model" in said and "was searched for other" in said


def test_a_context_of_nothing_is_refused(model):
    code, _, said = best(model, "1GiB", context=0)
    assert code == 2 and "at least one token" in said


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("lfm2.block_count", 4_000_000_000, "block_count has the value"),
        ("lfm2.block_count", 9_999_999, "no sizes of a model"),
        ("lfm2.embedding_length", 0, "embedding_length has the value"),
        ("lfm2.attention.key_length", 0, "key_length has the value"),
        (None, None, "has no token_embd.weight"),
    ],
)
def test_a_header_that_no_model_has_is_refused_by_its_key(tmp_path, key, value, said):
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "lfm2")
    numbers = {"lfm2.block_count": 2, "lfm2.embedding_length": 64, "lfm2.attention.head_count": 0, key: value}
    for name, number in numbers.items():
        if name:
            writer.add_uint32(name, number)
    writer.add_tensor("a.weight" if key is None else "token_embd.weight", np.zeros((8, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match=said):
        memory.shape_of(tmp_path / "odd.gguf")
