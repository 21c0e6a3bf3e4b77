"""A dense Llama GGUF back into a checkpoint: the inverse of the pinned converter, tokenizer included."""

import ast
import hashlib
import random
import re
import shutil
import subprocess
import sys

import gguf
import numpy as np
import pytest
from tokenizers import Tokenizer

import smol_convert
import smol_fetch_base
from conftest import ROOT
from helpers import mutation, random_smol
from kxl.base.cli import UserError
from kxl.base.files import read_json
from kxl.model import checkpoint, gguf_file, llama_gguf, safetensors_io
from kxl.quant import imatrix, policy


def write(path, pre="smollm", extra=()):
    """A GGUF as llama.cpp's converter lays one out, of 2 layers with 4 heads of 8."""
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in {
        "embedding_length": 32,
        "feed_forward_length": 64,
        "block_count": 1,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "context_length": 128,
        "vocab_size": len(random_smol.SPECIAL2) + 3,
    }.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.rope.freq_base", 100000.0)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([*random_smol.SPECIAL2, "a", "b", "ab"])
    writer.add_token_types([3] * len(random_smol.SPECIAL2) + [1] * 3)
    writer.add_token_merges(["a b"])
    for name, i in (("bos", 1), ("eos", 2), ("padding", 2)):
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", i)
    arrays = {
        "token_embd.weight": (20, 32),
        "output_norm.weight": (32,),
        "blk.0.attn_norm.weight": (32,),
        "blk.0.ffn_norm.weight": (32,),
        "blk.0.attn_q.weight": (32, 32),
        "blk.0.attn_k.weight": (16, 32),
        "blk.0.attn_v.weight": (16, 32),
        "blk.0.attn_output.weight": (32, 32),
        "blk.0.ffn_gate.weight": (64, 32),
        "blk.0.ffn_up.weight": (64, 32),
        "blk.0.ffn_down.weight": (32, 64),
        **dict.fromkeys(extra, (20, 32)),
    }
    arrays = {name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in arrays.items()}
    for name, array in arrays.items():
        if name.startswith("blk.0.ffn_") and array.ndim == 2:
            writer.add_tensor(
                name, gguf.quantize(array, gguf.GGMLQuantizationType.Q4_1), raw_dtype=gguf.GGMLQuantizationType.Q4_1
            )
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return arrays


def test_weights_config_and_tokens_come_back(tmp_path):
    arrays = write(tmp_path / "m.gguf")
    llama_gguf.write_folder(llama_gguf.open_gguf(tmp_path / "m.gguf"), tmp_path)
    stored = safetensors_io.index_folder(tmp_path)
    read = {name: entry.rows(0, int(np.prod(entry.shape[:-1]))).reshape(entry.shape) for name, entry in stored.items()}
    assert len(read) == len(arrays)
    assert np.allclose(read["model.embed_tokens.weight"], arrays["token_embd.weight"], rtol=2**-8)
    up = gguf.dequantize(
        gguf.quantize(arrays["blk.0.ffn_up.weight"], gguf.GGMLQuantizationType.Q4_1), gguf.GGMLQuantizationType.Q4_1
    )
    assert np.allclose(read["model.layers.0.mlp.up_proj.weight"], up, rtol=2**-8, atol=1e-6)
    config = read_json(tmp_path / "config.json")
    assert config["rms_norm_eps"] == 1e-5 and config["rope_theta"] == 100000.0 and config["num_key_value_heads"] == 2
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.encode("ab<issue_start>").ids == [19, 8]


def test_rows_are_put_back_where_the_pinned_converter_took_them_from(tmp_path, llama_tree):
    """Against the source of conversion/llama.py itself, so that a changed pin is noticed."""
    source = (llama_tree / "conversion" / "llama.py").read_text(encoding="utf-8")
    body = re.search(
        r"    def permute\(weights.*?\n    return|    def permute\(weights.*?reshape\(weights\.shape\)\)",
        source,
        re.DOTALL,
    )[0]
    scope = {"Tensor": np.ndarray}
    exec("def permute" + re.sub(r"^    ", "", body, flags=re.MULTILINE).split("def permute", 1)[1], scope)
    weights = np.arange(48 * 5).reshape(48, 5)
    for heads, kv in ((6, None), (6, 3)):
        assert np.array_equal(llama_gguf.unpermute(scope["permute"](weights, heads, kv), kv or heads), weights)


def test_digits_are_single_tokens_and_the_converter_knows_the_hash(llama_tree):
    """llama.cpp knows the real tokenizer by the hash of the ids of one text: SmolLM's entry must be the one."""
    base = ROOT / "runs" / "smollm2-135m" / "base" / "tokenizer.json"
    if not base.is_file():
        pytest.skip("needs `make smol-base`, which downloads 93 MB")
    source = (llama_tree / "conversion" / "base.py").read_text(encoding="utf-8")
    text = ast.literal_eval(re.search(r"chktxt = ('.*')\n", source)[1])
    known = re.search(r'if chkhsh == "([0-9a-f]{64})":\n\s*# ref: .*\n\s*res = "smollm"\n', source)[1]
    ids = Tokenizer.from_file(str(base)).encode(text, add_special_tokens=False).ids
    assert hashlib.sha256(str(ids).encode()).hexdigest() == known


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"pre": "llama-bpe"}, "tokenizer.ggml.pre is 'llama-bpe'"),
        ({"extra": ["output.weight"]}, "only tied embeddings"),
    ],
)
def test_another_kind_of_model_is_refused(tmp_path, changes, said):
    write(tmp_path / "m.gguf", **changes)
    with pytest.raises(UserError, match=said):
        llama_gguf.open_gguf(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda data: data[:10], "10 bytes hold no header"),
        (lambda data: data[:200], "tensors do not fit into 200 bytes"),
        (lambda data: data[:700], "it ends inside"),
        (lambda data: data[:-100], "it ends inside"),
        (lambda data: b"GGML" + data[4:], "it does not begin with GGUF"),
        (lambda data: data[:4] + b"\x09" + data[5:], "its version is 9"),
        (lambda data: data[:8] + b"\xff" * 8 + data[16:], "tensors do not fit into"),
        (lambda data: data[:16] + b"\xff" * 8 + data[24:], "keys and"),
        (lambda data: data.replace(b"general.architecture", b"general.architectur\xff"), "is not UTF-8"),
        (
            lambda data: data.replace(b"llama.context_length", b"llama.block_count\0\0\0"),
            "llama.context_length is missing",
        ),
    ],
)
def test_a_damaged_file_is_refused_with_the_place(tmp_path, spoil, said):
    write(tmp_path / "m.gguf")
    (tmp_path / "m.gguf").write_bytes(spoil((tmp_path / "m.gguf").read_bytes()))
    with pytest.raises(UserError) as error:
        llama_gguf.write_folder(llama_gguf.open_gguf(tmp_path / "m.gguf"), tmp_path)
    assert said in str(error.value) and "m.gguf" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


def test_a_list_that_claims_to_be_endless_is_refused_at_once(tmp_path):
    """GGUFReader itself would go through its 2^60 entries one by one."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_array("llama.layers", [1, 2, 3])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    data = (tmp_path / "m.gguf").read_bytes()
    place = data.index(b"llama.layers") + len("llama.layers") + 8
    (tmp_path / "m.gguf").write_bytes(data[:place] + (2**60).to_bytes(8, "little") + data[place + 8 :])
    with pytest.raises(UserError, match="llama.layers brings its lists to .* entries, over"):
        gguf_file.open_reader(tmp_path / "m.gguf")


def files_survive(seeds, folder) -> None:
    """Mutated files are read whole, or refused by name with nothing written."""
    write(folder / "whole.gguf")
    whole, path = (folder / "whole.gguf").read_bytes(), folder / "m.gguf"
    end = len(whole) - sum(tensor.n_bytes for tensor in gguf.GGUFReader(folder / "whole.gguf").tensors)
    for seed in seeds:
        path.write_bytes(mutation.data(random.Random(seed), whole, within=end))
        made = folder / "made"
        made.mkdir(exist_ok=True)
        try:
            with np.errstate(all="ignore"):
                imatrix.read(path)
        except UserError as error:
            assert str(path) in str(error)
        try:
            reader = llama_gguf.open_gguf(path)
            policy.read_tensors(path)
            with np.errstate(all="ignore"):
                llama_gguf.write_folder(reader, made)
        except UserError as error:
            assert str(error) and not [one for one in made.iterdir() if ".partial" in one.name]
        shutil.rmtree(made)


def test_a_mutated_file_is_read_or_refused_by_name(tmp_path):
    files_survive(range(300), tmp_path)


@pytest.mark.slow
def test_ten_thousand_mutated_files_are_read_or_refused_by_name(tmp_path):
    files_survive(range(300, 10_300), tmp_path)


def test_an_unknown_tensor_is_refused_by_name():
    with pytest.raises(UserError, match=r"blk\.0\.ffn_gate_exps\.weight is no tensor of a dense Llama"):
        llama_gguf.hf_name("blk.0.ffn_gate_exps.weight")


def test_a_checkpoint_of_the_users_is_linked_and_gets_our_template_and_tokens(tmp_path):
    random_smol.smollm2(tmp_path / "mine", renamed=False)
    (tmp_path / "out").mkdir()
    smol_fetch_base.build(read_json(random_smol.SMOLLM2), "config", tmp_path / "mine", tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").resolve() == tmp_path / "mine" / "model.safetensors"
    assert Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).token_to_id("<tool_call>") == 8
    assert "tool_response" in (tmp_path / "out" / "chat_template.jinja").read_text()
    with pytest.raises(UserError, match=r"no wheel has HuggingFaceTB/SmolLM3-3B; name its checkpoint folder"):
        smol_fetch_base.build(read_json(random_smol.SMOLLM3), "config", None, tmp_path / "out")


SMOLLM2_SHAPES = {"hidden": 576, "keys": 192, "inner": 1536, "rows": 49152}
SMOLLM3_SHAPES = {"hidden": 2048, "keys": 512, "inner": 11008, "rows": 128256}


@pytest.mark.parametrize("name, shapes", [("smollm2-135m", SMOLLM2_SHAPES), ("smollm3-3b", SMOLLM3_SHAPES)])
def test_each_dense_policy_fits_its_models_rows(name, shapes):
    hidden, keys, inner = shapes["hidden"], shapes["keys"], shapes["inner"]
    matrices = {
        "attn_q": (hidden, hidden),
        "attn_k": (hidden, keys),
        "attn_v": (hidden, keys),
        "attn_output": (hidden, hidden),
        "ffn_gate": (hidden, inner),
        "ffn_up": (hidden, inner),
        "ffn_down": (inner, hidden),
    }
    bf16, f32 = gguf.GGMLQuantizationType.BF16, gguf.GGMLQuantizationType.F32
    tensors = [
        policy.Tensor("token_embd.weight", (hidden, shapes["rows"]), bf16),
        policy.Tensor("blk.0.attn_norm.weight", (hidden,), f32),
    ]
    tensors += [policy.Tensor(f"blk.0.{kind}.weight", shape, bf16) for kind, shape in matrices.items()]
    plan = ROOT / read_json(ROOT / "configs" / f"{name}.json")["export_plan"]
    for one in policy.read_plan(plan)["policies"]:
        types = policy.assign(policy.load(one, plan), tensors)
        assert types["blk.0.attn_norm.weight"] == f32 and types["blk.0.ffn_up.weight"] != bf16


def test_a_gguf_without_the_tool_tokens_or_our_template_is_not_kept(tmp_path):
    write(tmp_path / "m.gguf")
    with pytest.raises(UserError, match="id 8 is '<issue_start>' of type 3, not the call_start token"):
        smol_convert.check(tmp_path / "m.gguf", read_json(random_smol.SMOLLM2), tmp_path / "m.gguf")


def test_mlx_server_is_given_the_float32_copy_of_the_same_weights(tmp_path):
    folder = random_smol.smollm2(tmp_path / "m")
    checkpoint.float32_copy(folder, tmp_path / "f32")
    one, two = safetensors_io.index_folder(folder), safetensors_io.index_folder(tmp_path / "f32")
    assert {entry.dtype for entry in two.values()} == {"F32"} and read_json(tmp_path / "f32" / "config.json")[
        "dtype"
    ] == "float32"
    for name, entry in one.items():
        rows = int(np.prod(entry.shape[:-1]))
        assert np.array_equal(entry.rows(0, rows), two[name].rows(0, rows))


def test_the_verbs_end_with_one_line_for_a_missing_file(tmp_path):
    ended = subprocess.run(
        [
            sys.executable,
            str(ROOT / "scripts" / "repair_fuse.py"),
            "--model",
            str(tmp_path),
            "--adapter",
            str(tmp_path / "no"),
            "--out",
            str(tmp_path / "out"),
        ],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2 and "no such file" in ended.stderr and "Traceback" not in ended.stderr
