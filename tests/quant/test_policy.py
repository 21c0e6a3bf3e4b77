"""Policies: each trap of llama-quantize is an error before anything is quantized, and what comes out is what the rules
say.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

import quant_predict_sizes
import quant_quantize
from kxl.base.cli import UserError
from kxl.base.files import ROOT, write_text
from kxl.model.shapes import expected_shapes, normalize_config
from kxl.quant import policy, sparse
from kxl.setup import llama_cpp

pytestmark = pytest.mark.minutes

SHAPES = ROOT / "gguf" / "lfm2-8b-a1b.shapes.json"
TINY = dict(
    model_type="lfm2_moe",
    vocab_size=1000,
    hidden_size=256,
    intermediate_size=512,
    moe_intermediate_size=256,
    num_hidden_layers=8,
    num_dense_layers=2,
    num_experts=6,
    num_experts_per_tok=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    conv_L_cache=3,
    norm_eps=1e-5,
    rope_theta=1e6,
    max_position_embeddings=4096,
    full_attn_idxs=[2, 4, 6],
)


def run(script: str, *args, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), *map(str, args)], capture_output=True, text=True
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def tiny() -> list[policy.Tensor]:
    """The tensors of a small LFM2-MoE as its BF16 GGUF lists them."""
    config = normalize_config(TINY, "TINY")
    return [
        policy.Tensor(name, tuple(reversed(shape)), kind) for name, (shape, kind) in sparse.gguf_tensors(config).items()
    ]


@pytest.fixture(scope="module")
def bf16(tmp_path_factory) -> Path:
    """A BF16 GGUF of the same shapes with random weights and a real imatrix's form beside it."""
    folder = tmp_path_factory.mktemp("bf16")
    config = normalize_config(TINY, "TINY")
    sparse.write_sparse(config, folder / "bf16.gguf")
    random = np.random.default_rng(0)
    reader = gguf.GGUFReader(folder / "bf16.gguf", "r+")
    for entry in reader.tensors:
        values = random.normal(0, 0.05, entry.n_elements).astype(np.float32)
        if entry.tensor_type == Type.BF16:
            entry.data[:] = (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(entry.data.shape)
        else:
            entry.data[:] = values.reshape(entry.data.shape)
    del reader
    write_imatrix(folder / "imatrix.gguf", policy.read_tensors(folder / "bf16.gguf"))
    return folder / "bf16.gguf"


def write_imatrix(path: Path, tensors: list, leave_out: str = "", rows: int = 0, change=None) -> None:
    """As llama-imatrix writes it; `change(name, sums, counts)` may spoil them."""
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["calibration.txt"])
    writer.add_uint32("imatrix.chunk_count", 10)
    writer.add_uint32("imatrix.chunk_size", 512)
    for tensor in tensors:
        if not policy.quantizable(tensor) or tensor.name in ("token_embd.weight", leave_out):
            continue
        experts = tensor.shape[2] if len(tensor.shape) > 2 else 1
        sums = random.random((experts, rows or tensor.shape[0]), dtype=np.float32) + 0.1
        counts = np.full((experts, 1), 100, dtype=np.float32)
        if change:
            change(tensor.name, sums, counts)
        writer.add_tensor(f"{tensor.name}.in_sum2", sums)
        writer.add_tensor(f"{tensor.name}.counts", counts)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def problems(rules: str, tensors: list, tmp_path: Path, base_type: str = "Q4_K_M") -> str:
    """Everything the linter says about these rules, in one text."""
    write_text(tmp_path / "x.tensor-types", rules)
    parsed = policy.parse(tmp_path / "x.tensor-types")
    return "\n".join(policy.lint(policy.Policy("x", base_type, parsed, tmp_path / "x.tensor-types"), tensors))


GOOD = (ROOT / "gguf" / "q4kxl.tensor-types").read_text()


@pytest.mark.parametrize("name", ["q8kxl", "q6kxl", "q5kxl", "q4kxl"])
def test_every_policy_of_the_plan_fits_the_tiny_and_the_8b_shapes(name, tiny):
    big = [
        policy.Tensor(name, tuple(reversed(shape)), kind)
        for name, (shape, kind) in sparse.gguf_tensors(sparse.read_shapes(SHAPES)).items()
    ]
    for tensors in (tiny, big):
        assert policy.lint(policy.load(name), tensors) == []


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda r: r + "^blk\\.\\d+\\.attn_qkv\\.weight$ = q6_k\n", "attn_qkv\\.weight$ matches no tensor"),
        (
            lambda r: r + "^blk\\.\\d+\\.ffn_gate_inp\\.weight$ = q8_0\n",
            "matches only tensors that are never quantized",
        ),
        (lambda r: r + "^blk\\.\\d+\\.attn_q_norm\\.weight$ = q8_0\n", "never quantized"),
        (lambda r: r + "^blk\\.\\d+\\.exp_probs_b\\.bias$ = q8_0\n", "never quantized"),
        (lambda r: r + "^blk\\.\\d+\\.shortconv\\.conv\\.weight$ = q8_0\n", "never quantized"),
        (lambda r: r + "^blk\\.3\\.ffn_down_exps\\.weight$ = q4_k\n", "never applies: line 6"),
        (lambda r: r.replace("= q4_k", "= q4_kk"), "unknown type 'q4_kk'"),
        (lambda r: r.replace("= q8_0", "= q8_k"), "unknown type 'q8_k'"),
        (lambda r: r.replace("\\d+\\.attn", "\\D+\\.attn"), "capital letter"),
        (lambda r: r.replace("^token_embd\\.weight$", "token_embd\\.weight"), "begin with ^ and end with $"),
        (lambda r: r.replace("^token_embd\\.weight$", "^token_embd.weight$"), "write \\. for a dot"),
        (lambda r: r.replace("\\d+\\.attn", "(?!9)\\d+\\.attn"), "are read alike"),
        (lambda r: r.replace("(in|out)", "(in|out"), "no regular expression"),
        (
            lambda r: "\n".join(line for line in r.splitlines() if "token_embd" not in line),
            "no rule for token_embd.weight",
        ),
    ],
)
def test_a_rule_that_llama_quantize_would_silently_misread_is_named_by_file_and_line(tiny, tmp_path, change, said):
    assert problems(GOOD, tiny, tmp_path) == ""
    text = problems(change(GOOD), tiny, tmp_path)
    assert said in text and "x.tensor-types" in text


@pytest.mark.parametrize("base", ["BF16", "F16", "F32", "COPY", "Q4KXL", "q4_k_m"])
def test_a_base_type_under_which_rules_are_ignored_is_refused(tiny, tmp_path, base):
    assert "base type" in problems(GOOD, tiny, tmp_path, base)


def test_rows_that_k_quants_cannot_hold_are_refused_by_tensor(tmp_path):
    config = normalize_config({**TINY, "moe_intermediate_size": 192}, "TINY")
    tensors = [
        policy.Tensor(name, tuple(reversed(shape)), kind) for name, (shape, kind) in sparse.gguf_tensors(config).items()
    ]
    text = problems(GOOD, tensors, tmp_path)
    assert "blk.5.ffn_down_exps.weight has rows of 192, q6_k needs multiples of 256" in text
    assert "blk.4.ffn_down_exps" not in text  # q8_0 holds rows of 192


def test_a_quantized_source_is_refused(tiny, tmp_path):
    tensors = [policy.Tensor(t.name, t.shape, Type.Q8_0 if t.type == Type.BF16 else t.type) for t in tiny]
    assert "quantize from the BF16 GGUF" in problems(GOOD, tensors, tmp_path)


@pytest.mark.parametrize("line", ["attn_q q8_0", "= q8_0", "attn_q =", "attn q = q8_0", "a = b = c"])
def test_a_line_that_is_no_rule_is_named(tmp_path, line):
    write_text(tmp_path / "x.tensor-types", f"# comment\n{line}\n")
    with pytest.raises(UserError, match=r"x\.tensor-types:2"):
        policy.parse(tmp_path / "x.tensor-types")


@pytest.mark.parametrize("pattern", [r"^(([a-z_0-9]+)*\.)*weight$", r"^(blk|[a-z])+\.weight$", "^" + ".*" * 12 + "x$"])
def test_a_pattern_that_would_be_looked_for_without_end_is_refused_by_its_line(tmp_path, pattern):
    (tmp_path / "slow.tensor-types").write_text(f"^none$ = q8_0\n{pattern} = q8_0\n")
    rules = policy.Policy("slow", "Q8_0", policy.parse(tmp_path / "slow.tensor-types"), tmp_path / "slow.tensor-types")
    (said,) = policy.lint(rules, [policy.Tensor("blk.0." + "attn_" * 100 + "x.weights", (256, 256), Type.BF16)])
    assert "slow.tensor-types:2" in said and "Write out what is repeated" in said


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"policies": []},
        {"policies": {"own": "q8.tensor-types"}},
        {"policies": {"own": {"base_type": "Q8_0"}}},
        {"policies": {"own": {"base_type": 8, "tensor_types": "q8.tensor-types"}}},
        {"policies": {"own": {"base_type": "Q8_0", "tensor_types": "q8.tensor-types", "made_for": {"name": "x"}}}},
        {"policies": {}, "stock": "Q8_0"},
    ],
)
def test_a_plan_that_is_none_is_refused_by_what_it_lacks(tmp_path, plan):
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(UserError, match="plan.json: "):
        policy.load("own", tmp_path / "plan.json")


def test_a_policy_is_not_read_from_a_pipe_or_from_bytes(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "bytes").write_bytes(b"\xff = q8_0\n")
    for name, said in (("pipe", "is a pipe or device"), ("bytes", "not UTF-8"), ("none", "no such file")):
        with pytest.raises(UserError, match=said):
            policy.parse(tmp_path / name)


def test_what_llama_quantize_gets_has_no_comment_and_no_space():
    for name in policy.read_plan()["policies"]:
        for line in policy.plain(policy.load(name)).splitlines():
            assert "#" not in line and " " not in line and line.count("=") == 1


def test_all_policies_are_linted_at_once_from_a_config_alone_and_each_problem_names_a_type_that_fits(tmp_path):
    narrow = {**TINY, "hidden_size": 192, "moe_intermediate_size": 192, "rope_parameters": {"rope_theta": 1e6}}
    del narrow["rope_theta"]  # as transformers 5 writes it
    (tmp_path / "config.json").write_text(json.dumps(narrow))
    said = run("quant_lint.py", "--shapes", tmp_path / "config.json", code=2)
    assert "3 of 4 policies do not fit" in said  # Q8_0's blocks do
    for name, line in (("q4kxl", "Write q4_0"), ("q5kxl", "Write q5_0"), ("q6kxl", "Write q8_0")):
        assert any(f"{name}: " in row and line in row and "rows of 192" in row for row in said.splitlines()), name
    assert "make propose" in said


def test_a_rule_for_what_the_model_lacks_says_what_it_has(tiny, tmp_path):
    rules = (
        policy.Rule(r"^blk\.9\.ffn_down\.weight$", "q8_0", 1),
        policy.Rule(r"^blk\.\d+\.ssm_in\.weight$", "q8_0", 2),
    )
    problems = policy.lint(policy.Policy("x", "Q8_0", rules, tmp_path / "x"), tiny)
    assert any("has such tensors, but none in block 9" in line for line in problems)
    assert any("no such kind; its kinds are attn_k, attn_output" in line for line in problems)


# With the real llama-quantize


@pytest.mark.parametrize("name", ["q8kxl", "q6kxl", "q5kxl", "q4kxl"])
def test_llama_quantize_gives_each_tensor_the_type_its_rule_says(name, bf16, llama_bin, tmp_path):
    run(
        "quant_quantize.py",
        "--gguf",
        bf16,
        "--policy",
        name,
        "--imatrix",
        bf16.parent / "imatrix.gguf",
        "--out",
        tmp_path / "out.gguf",
        "--log",
        tmp_path / "out.log",
    )
    found = {entry.name: entry.tensor_type.name for entry in gguf.GGUFReader(tmp_path / "out.gguf").tensors}
    gate = {"q8kxl": "Q8_0", "q6kxl": "Q6_K", "q5kxl": "Q5_K", "q4kxl": "Q4_K"}[name]
    rest = {"q8kxl": "BF16", "q6kxl": "Q8_0", "q5kxl": "Q8_0", "q4kxl": "Q6_K"}[name]
    assert found["blk.3.ffn_gate_exps.weight"] == found["blk.7.ffn_up_exps.weight"] == gate
    assert found["blk.3.ffn_down_exps.weight"] == "Q8_0"
    assert found["blk.2.attn_v.weight"] == found["blk.0.shortconv.in_proj.weight"] == rest
    assert (
        found["blk.3.ffn_gate_inp.weight"]
        == found["blk.3.exp_probs_b.bias"]
        == found["blk.0.shortconv.conv.weight"]
        == "F32"
    )
    assert str(tmp_path) not in (tmp_path / "out.log").read_text().replace(str(tmp_path / "out.gguf"), "")


UP = "blk.3.ffn_up_exps.weight"


def spoil(name: str, **values):
    """A change that sets sums or counts of one expert, or of all (None), in one matrix."""

    def change(found, sums, counts):
        if found == name:
            expert = values.get("expert", slice(None))
            sums[expert] = values.get("sums", sums[expert])
            counts[expert] = values.get("counts", counts[expert])

    return change


@pytest.mark.parametrize(
    "change, said",
    [
        (spoil(UP, expert=4, sums=0, counts=0), f"{UP}: expert 4: no token reached it"),
        (spoil(UP, expert=4, counts=0), f"{UP}: expert 4: no token reached it"),
        (spoil(UP, expert=0, sums=0), f"{UP}: expert 0: no token reached it"),
        (spoil(UP, expert=5, sums=np.nan), f"{UP}: expert 5: its sums are no finite numbers"),
        (spoil("blk.2.attn_q.weight", sums=np.inf), "blk.2.attn_q.weight: its sums are no finite numbers"),
        (spoil("blk.2.attn_q.weight", counts=0), "blk.2.attn_q.weight: no token reached it"),
    ],
)
@pytest.mark.parametrize("how", [{"policy": "q4kxl"}, {"stock": "Q4_K_M"}])
def test_a_given_imatrix_with_what_no_token_reached_is_refused_by_tensor_and_expert(bf16, tmp_path, change, said, how):
    tensors = policy.read_tensors(bf16)
    write_imatrix(tmp_path / "given.gguf", tensors, change=change)
    types = policy.assign(policy.load(how["policy"]), tensors) if "policy" in how else None
    with pytest.raises(UserError) as error:
        quant_quantize.check_imatrix(tmp_path / "given.gguf", tensors, types)
    assert said in str(error.value) and "given.gguf" in str(error.value)


def test_what_no_policy_uses_may_be_missing_from_a_given_imatrix(bf16, tmp_path):
    """Q8_0 does not look at the imatrix."""
    tensors = policy.read_tensors(bf16)
    write_imatrix(tmp_path / "given.gguf", tensors, change=spoil(UP, sums=0, counts=0))
    quant_quantize.check_imatrix(tmp_path / "given.gguf", tensors, policy.assign(policy.load("q8kxl"), tensors))


def test_an_imatrix_without_counts_or_with_those_of_other_experts_is_refused(bf16, tmp_path):
    for counts, said in ((None, "has sums and no counts"), (2, "has sums of 3 experts and counts of 2")):
        writer = gguf.GGUFWriter(tmp_path / "given.gguf", "imatrix")
        writer.add_tensor("blk.0.x.weight.in_sum2", np.ones((3, 32), dtype=np.float32))
        if counts:
            writer.add_tensor("blk.0.x.weight.counts", np.ones((counts, 1), dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with pytest.raises(UserError, match=said):
            quant_quantize.check_imatrix(tmp_path / "given.gguf", policy.read_tensors(bf16), None)
    with pytest.raises(UserError, match="no imatrix in GGUF format"):
        quant_quantize.check_imatrix(bf16, policy.read_tensors(bf16), None)


def test_a_killed_or_failed_quantization_leaves_nothing(bf16, llama_bin, tmp_path):
    write_imatrix(tmp_path / "short.gguf", policy.read_tensors(bf16), leave_out="blk.3.ffn_up_exps.weight")
    said = run(
        "quant_quantize.py",
        "--gguf",
        bf16,
        "--policy",
        "q4kxl",
        "--imatrix",
        tmp_path / "short.gguf",
        "--out",
        tmp_path / "out.gguf",
        "--log",
        tmp_path / "out.log",
        code=2,
    )
    assert "blk.3.ffn_up_exps.weight" in said
    write_imatrix(tmp_path / "other.gguf", policy.read_tensors(bf16), rows=128)
    said = run(
        "quant_quantize.py",
        "--gguf",
        bf16,
        "--policy",
        "q4kxl",
        "--imatrix",
        tmp_path / "other.gguf",
        "--out",
        tmp_path / "out.gguf",
        "--log",
        tmp_path / "out.log",
        code=2,
    )
    assert "belongs to another model" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.gguf", "short.gguf"]


def test_a_process_killed_while_quantizing_leaves_no_file_that_looks_finished(bf16, llama_bin, tmp_path):
    command = [
        sys.executable,
        str(ROOT / "scripts" / "quant_quantize.py"),
        "--gguf",
        str(bf16),
        "--policy",
        "q4kxl",
        "--out",
        str(tmp_path / "out.gguf"),
        "--log",
        str(tmp_path / "out.log"),
    ]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not (started := list(tmp_path.glob(".out.gguf.partial-*"))) and child.poll() is None:
        time.sleep(0.001)
    child.kill()
    child.communicate()
    assert started and not (tmp_path / "out.gguf").exists()
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "out.gguf").is_file()


def test_a_file_whose_types_are_not_the_policys_is_refused(bf16, tmp_path):
    tensors = policy.read_tensors(bf16)
    types = {t.name: t.type for t in tensors}
    assert sum(quant_quantize.verify(bf16, tensors, types).values()) == len(tensors)
    with pytest.raises(UserError, match="blk.3.ffn_up_exps.weight BF16, the policy says Q4_K"):
        quant_quantize.verify(bf16, tensors, {**types, "blk.3.ffn_up_exps.weight": Type.Q4_K})
    with pytest.raises(UserError, match="new.weight as nothing"):
        quant_quantize.verify(bf16, [*tensors, policy.Tensor("new.weight", (256, 256), Type.BF16)], types)


def test_a_truncated_source_is_refused(bf16, llama_bin, tmp_path):
    (tmp_path / "cut.gguf").write_bytes(bf16.read_bytes()[:-1000])
    said = run(
        "quant_quantize.py",
        "--gguf",
        tmp_path / "cut.gguf",
        "--policy",
        "q4kxl",
        "--out",
        tmp_path / "out.gguf",
        "--log",
        tmp_path / "out.log",
        code=2,
    )
    assert "not a whole GGUF file" in said


def test_a_stock_type_of_the_plan_is_made_and_another_refused(bf16, llama_bin, tmp_path):
    said = run(
        "quant_quantize.py",
        "--gguf",
        bf16,
        "--stock",
        "Q4_K_M",
        "--imatrix",
        bf16.parent / "imatrix.gguf",
        "--out",
        tmp_path / "out.gguf",
        "--log",
        tmp_path / "out.log",
    )
    assert "Q4_K_M" in said and (tmp_path / "out.gguf").is_file()
    run(
        "quant_quantize.py",
        "--gguf",
        bf16,
        "--stock",
        "IQ1_S",
        "--out",
        tmp_path / "no.gguf",
        "--log",
        tmp_path / "no.log",
        code=2,
    )


def test_lint_policy_prints_what_each_rule_decides(bf16, tmp_path):
    said = run("quant_lint.py", "--gguf", bf16, "--policy", "q4kxl", "--plain", tmp_path / "plain.txt")
    assert "12 tensors" in said and "every rule applies" in said
    assert (tmp_path / "plain.txt").read_text() == policy.plain(policy.load("q4kxl"))


# Sizes at 8B


def test_the_8b_shapes_have_the_parameters_of_lfm2_8b_a1b():
    config = sparse.read_shapes(SHAPES)
    shapes = expected_shapes(config)
    total = sum(int(np.prod(shape)) for shape in shapes.values())
    experts = sum(int(np.prod(shape)) for name, shape in shapes.items() if ".experts." in name)
    assert round(total / 1e6, 1) == 8339.9 and round(experts / 1e6) == 7751


def test_predicted_8b_sizes_are_within_the_published_budgets(llama_bin, tmp_path):
    run("quant_predict_sizes.py", "--report", tmp_path / "sizes.json")
    artifacts = json.loads((tmp_path / "sizes.json").read_text())["results"]["lfm2-8b-a1b"]["artifacts"]
    assert {name: entry["budget_gib"] for name, entry in artifacts.items() if entry["budget_gib"]} == {
        "q8kxl": 8.6,
        "q6kxl": 7.1,
        "q5kxl": 6.5,
        "q4kxl": 5.7,
    }
    for name, entry in artifacts.items():
        assert (
            entry["budget_gib"] is None or entry["budget_gib"] - 0.06 < entry["bytes"] / 2**30 <= entry["budget_gib"]
        ), name
    # Bits per weight of each block format, by hand: 4.5, 5.5, 6.5625, 8.5
    gate_up, down, rest = 44 * 32 * 1792 * 2048, 22 * 32 * 1792 * 2048, 8339.9e6 - 66 * 32 * 1792 * 2048
    assert abs(artifacts["q5kxl"]["bytes"] - (gate_up * 5.5 + (down + rest) * 8.5) / 8) < 0.01 * 2**30
    assert abs(artifacts["q6kxl"]["bytes"] - (gate_up * 6.5625 + (down + rest) * 8.5) / 8) < 0.01 * 2**30
    assert {name: round(artifacts[name]["gib"], 2) for name in ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M")} == {
        "Q8_0": 8.26,
        "Q6_K": 6.38,
        "Q5_K_M": 5.51,
        "Q4_K_M": 4.7,
    }


def test_a_policy_over_its_budget_is_refused_with_both_numbers(llama_bin, tmp_path):
    plan = json.loads(policy.PLAN.read_text())
    plan["policies"]["q4kxl"]["budget_gib"]["lfm2-8b-a1b"] = 5.0
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    for path in policy.PLAN.parent.glob("*.tensor-types"):
        (tmp_path / path.name).write_text(path.read_text())
    said = run("quant_predict_sizes.py", "--report", tmp_path / "sizes.json", "--plan", tmp_path / "plan.json", code=2)
    assert "over budget: lfm2-8b-a1b q4kxl" in said and "above 5.0" in said


def test_rules_that_the_two_regex_engines_read_differently_are_noticed():
    with pytest.raises(UserError, match="llama-quantize makes it"):
        quant_predict_sizes.check("x", 100, 100 / 2**20, {"a.weight": Type.Q4_K}, {"a.weight": "q6_K"})
    with pytest.raises(UserError, match="predicts"):
        quant_predict_sizes.check("x", 2**20, 1.5, {"a.weight": Type.Q4_K}, {"a.weight": "q4_K"})


def test_a_sparse_gguf_of_15_gib_takes_no_disk(tmp_path):
    sparse.write_sparse(sparse.read_shapes(SHAPES), tmp_path / "sparse.gguf")
    status = (tmp_path / "sparse.gguf").stat()
    assert status.st_size > 15 * 2**30 and status.st_blocks * 512 < 2**20


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not shutil.which("objdump"), reason="reads x86-64 code by objdump"
)
def test_the_quantizer_holds_no_instruction_that_another_processor_lacks():
    """So that one imatrix gives one file on every x86-64: no AVX, no fused multiply-add, in what rounds the weights."""
    folder = llama_cpp.build_path() / "bin"
    if not folder.is_dir():
        pytest.skip("llama.cpp is not built")
    for name in ("libggml-base.so", "libllama.so", "libllama-quantize-impl.so", "llama-quantize"):
        if (folder / name).exists():
            code = subprocess.run(["objdump", "-d", folder / name], capture_output=True, text=True, check=True).stdout
            assert len(code) > 1000 and not re.search(r"%[yz]mm|\tv[a-z0-9]+\s", code), name
