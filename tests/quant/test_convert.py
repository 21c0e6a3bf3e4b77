"""From checkpoint to GGUF: the same file from every layout, the logits of MLX, and clear refusals."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from random import Random

import gguf
import numpy as np
import pytest

import quant_check_parity
import quant_convert
from helpers import random_checkpoints
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, require_space
from kxl.chat import tokenizer_checks
from kxl.eval import server as eval_server
from kxl.model import checkpoint

pytestmark = pytest.mark.minutes

PROMPTS = [
    f"<|startoftext|><|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\nIt's {len(text)}: "
    f"{text[::-1]}<|im_end|>\n"
    for text in random_checkpoints.TEXT * 3
]


def run(script: str, *args, code: int = 0) -> str:
    """Run a script as a person does; return what it printed, both streams."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), *map(str, args)], capture_output=True, text=True
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module", params=list(random_checkpoints.SHAPES))
def converted(request, tmp_path_factory, llama_tree):
    """A random checkpoint in the HF layout (sharded) and the MLX layout, and the GGUF of each."""
    folder = tmp_path_factory.mktemp(request.param)
    model = random_checkpoints.save_hf(folder / "hf", request.param, shard="2MB")
    checkpoint.save_mlx(folder / "mlx", checkpoint.read(folder / "hf"))
    for layout in ("hf", "mlx"):
        run("quant_convert.py", "--model", folder / layout, "--out", folder / f"{layout}.gguf", "--name", "test")
    return folder, model


@pytest.fixture(scope="module")
def six(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("six") / "six"
    random_checkpoints.save_hf(folder, "six")
    return folder


@pytest.fixture(scope="module")
def six_gguf(six, tmp_path_factory, llama_tree) -> Path:
    folder = tmp_path_factory.mktemp("six_gguf")
    run(
        "quant_convert.py",
        "--model",
        six,
        "--out",
        folder / "six.gguf",
        "--license",
        "apache-2.0",
        "--base-model",
        "org/base",
        "--log",
        folder / "convert.log",
    )
    return folder / "six.gguf"


def test_a_licence_of_several_words_and_shell_signs_arrives_whole_from_the_config(six, tmp_path):
    config = read_json(ROOT / "configs/lfm2.5-8b-a1b.json")
    config["license"] = {"id": "other", "name": "LFM Open License v1.0; (c) $HOME", "link": "https://example.org/a b"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    run("quant_convert.py", "--model", six, "--config", tmp_path / "config.json", "--out", tmp_path / "six.gguf")
    fields = gguf.GGUFReader(tmp_path / "six.gguf").fields
    assert fields["general.license.name"].contents() == config["license"]["name"]
    assert fields["general.license.link"].contents() == config["license"]["link"]
    assert fields["general.base_model.0.organization"].contents() == "LiquidAI"


def test_both_layouts_give_the_same_file(converted):
    folder, _ = converted
    assert (folder / "hf.gguf").read_bytes() == (folder / "mlx.gguf").read_bytes()


def test_the_gguf_holds_the_weights_that_transformers_has(converted):
    folder, model = converted
    tensors = {entry.name: entry for entry in gguf.GGUFReader(folder / "hf.gguf").tensors}
    state, config = model.state_dict(), model.config
    layer = config.num_dense_layers  # the first MoE layer
    conv = config.layer_types.index("conv")
    prefix = f"model.layers.{layer}.feed_forward"
    gate, up = state[f"{prefix}.experts.gate_up_proj"].chunk(2, dim=1)
    for name, wanted in {
        "token_embd.weight": state["model.embed_tokens.weight"],
        f"blk.{layer}.ffn_gate_exps.weight": gate,
        f"blk.{layer}.ffn_up_exps.weight": up,
        f"blk.{layer}.ffn_down_exps.weight": state[f"{prefix}.experts.down_proj"],
        f"blk.{layer}.ffn_gate_inp.weight": state[f"{prefix}.gate.weight"],
        f"blk.{layer}.exp_probs_b.bias": state[f"{prefix}.expert_bias"],
        f"blk.{conv}.shortconv.conv.weight": state[f"model.layers.{conv}.conv.conv.weight"].squeeze(1),
        "token_embd_norm.weight": state["model.embedding_norm.weight"],
    }.items():
        entry = tensors[name]
        values = gguf.quants.dequantize(entry.data, entry.tensor_type)
        assert np.array_equal(values, wanted.numpy()), name


def test_mlx_and_llama_cpp_agree_on_200_positions(converted, llama_bin, tmp_path):
    folder, _ = converted
    (tmp_path / "prompts.txt").write_text("".join(PROMPTS))
    layout = "hf" if "six" in folder.name else "mlx"
    run(
        "quant_check_parity.py",
        "--model",
        folder / layout,
        "--gguf",
        folder / f"{layout}.gguf",
        "--text",
        tmp_path / "prompts.txt",
        "--report",
        tmp_path / "parity.json",
        "--max-difference",
        "0.0002",
    )
    results = json.loads((tmp_path / "parity.json").read_text())["results"]
    assert results["exact"]["greedy_equal"] == results["positions"] == 200
    assert 0 < results["exact"]["max_difference"] < 2e-4


def test_a_gguf_of_other_weights_fails_parity_and_says_where(six, llama_bin, tmp_path):
    source, name = checkpoint.read(six), "model.layers.2.feed_forward.experts.1.w2.weight"
    swapped = source.tensors["model.layers.2.feed_forward.experts.2.w2.weight"]
    checkpoint.save_hf(
        tmp_path / "other", replace(source, tensors={**source.tensors, name: replace(swapped, name=name)})
    )
    run("quant_convert.py", "--model", tmp_path / "other", "--out", tmp_path / "other.gguf")
    (tmp_path / "prompts.txt").write_text("".join(PROMPTS))
    said = run(
        "quant_check_parity.py",
        "--model",
        six,
        "--gguf",
        tmp_path / "other.gguf",
        "--text",
        tmp_path / "prompts.txt",
        "--report",
        tmp_path / "parity.json",
        "--positions",
        "40",
        code=2,
    )
    assert "differ from MLX" in said
    assert not (tmp_path / "parity.json").exists()
    assert json.loads((tmp_path / "parity.failed.json").read_text())["results"]["exact"]["differing"]


def test_a_gguf_that_splits_text_otherwise_fails_parity(six, six_gguf, llama_bin, tmp_path):
    data = six_gguf.read_bytes()
    length = b"\x04\0\0\0\0\0\0\0"
    assert data.count(length + b"lfm2") == 1  # tokenizer.ggml.pre
    (tmp_path / "six.gguf").write_bytes(data.replace(length + b"lfm2", length + b"olmo"))  # splits as GPT-2 does
    (tmp_path / "prompts.txt").write_text("".join(PROMPTS))
    said = run(
        "quant_check_parity.py",
        "--model",
        six,
        "--gguf",
        tmp_path / "six.gguf",
        "--text",
        tmp_path / "prompts.txt",
        "--report",
        tmp_path / "parity.json",
        "--positions",
        "10",
        code=2,
    )
    assert "tokenizes differently" in said


def test_a_quantized_mlx_checkpoint_becomes_the_bf16_of_its_dequantized_weights(six, llama_tree, tmp_path):
    import mlx.core as mx
    from mlx_lm.utils import dequantize_model, load_model, quantize_model, save_config, save_model

    checkpoint.save_mlx(tmp_path / "mlx", checkpoint.read(six))
    model, config = quantize_model(*load_model(tmp_path / "mlx"), group_size=64, bits=4)
    save_model(tmp_path / "quantized", model)
    save_config(config, tmp_path / "quantized" / "config.json")
    checkpoint.copy_tokenizer(six, tmp_path / "quantized")
    run("quant_convert.py", "--model", tmp_path / "quantized", "--out", tmp_path / "quantized.gguf")

    model.set_dtype(mx.float32)
    dequantize_model(model)
    experts = np.array(
        model.model.layers[1].feed_forward.switch_mlp.up_proj.weight.astype(mx.bfloat16).astype(mx.float32)
    )
    entry = next(
        e for e in gguf.GGUFReader(tmp_path / "quantized.gguf").tensors if e.name == "blk.1.ffn_up_exps.weight"
    )
    found = gguf.quants.dequantize(entry.data, entry.tensor_type)
    assert (found != experts).mean() < 0.001  # one float32 rounding order apart, now and then, before BF16


def test_the_pretokenizer_special_tokens_template_and_license_arrive(six_gguf):
    fields = {key: field.contents() for key, field in gguf.GGUFReader(six_gguf).fields.items()}
    assert fields["tokenizer.ggml.pre"] == "lfm2"
    assert fields["tokenizer.ggml.tokens"][fields["tokenizer.ggml.eos_token_id"]] == "<|im_end|>"
    assert fields["tokenizer.ggml.bos_token_id"] == 1 and fields["tokenizer.ggml.add_bos_token"] is True
    assert fields["tokenizer.chat_template"] == random_checkpoints.TEMPLATE
    assert fields["general.license"] == "apache-2.0" and fields["general.base_model.0.repo_url"].endswith("org/base")
    assert len(fields["tokenizer.ggml.tokens"]) == 1000  # as many as the embedding has rows
    assert str(six_gguf.parent) not in (six_gguf.parent / "convert.log").read_text()


def test_the_license_of_a_model_card_beside_the_checkpoint_arrives(six, llama_tree, tmp_path):
    shutil.copytree(six, tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text(
        "---\nlicense: other\nlicense_name: lfm1.0\nbase_model: org/base\n---\n# A model\n"
    )
    run("quant_convert.py", "--model", tmp_path / "model", "--out", tmp_path / "out.gguf")
    fields = {key: field.contents() for key, field in gguf.GGUFReader(tmp_path / "out.gguf").fields.items()}
    assert fields["general.license"] == "other" and fields["general.license.name"] == "lfm1.0"


def test_converting_a_checkpoint_fifty_times_larger_takes_hardly_more_memory(six, llama_tree, tmp_path):
    config = {
        **random_checkpoints.BASE,
        **random_checkpoints.SHAPES["six"],
        "model_type": "lfm2_moe",
        "num_experts": 32,
        "conv_L_cache": 3,
        "hidden_size": 1024,
        "moe_intermediate_size": 1024,
        "num_attention_heads": 16,
        "vocab_size": 65536,
        "num_hidden_layers": 3,
        "layer_types": ["conv", "full_attention", "conv"],
    }
    random_checkpoints.write_zeros(tmp_path / "large", config)
    checkpoint.copy_tokenizer(six, tmp_path / "large")

    def peak(model: Path) -> int:
        program = (
            "import resource, runpy, sys; sys.argv = sys.argv[1:]; sys.path.insert(0, sys.argv[0].rsplit('/', 1)[0]);"
            "runpy.run_path(sys.argv[0], run_name='__main__');"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024))"
        )
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                program,
                str(ROOT / "scripts" / "quant_convert.py"),
                "--model",
                str(model),
                "--out",
                str(tmp_path / "out.gguf"),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        return int(done.stdout.split()[-1])

    small, large = peak(six), peak(tmp_path / "large")
    assert (tmp_path / "out.gguf").stat().st_size > 500e6
    shutil.rmtree(tmp_path / "large")
    (tmp_path / "out.gguf").unlink()
    assert large - small < 200e6


# What is refused, and that nothing is left behind


@pytest.mark.parametrize(
    "change, said",
    [
        ({"tie_word_embeddings": False}, "lm_head.weight"),
        ({"routed_scaling_factor": 2.5}, "routed_scaling_factor is 2.5"),
        ({"norm_topk_prob": False}, "norm_topk_prob"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}}, "rope type 'yarn'"),
        ({"conv_bias": True}, "conv.bias is missing"),
        ({"use_expert_bias": False}, "expert_bias"),
        ({"num_experts": 5}, "gate.weight has shape [6, 256]"),
        ({"num_dense_layers": 2}, "feed_forward.w1.weight is missing"),
        ({"model_type": "qwen3_moe"}, "model_type is 'qwen3_moe'"),
    ],
)
def test_what_llama_cpp_would_compute_differently_is_refused_by_name(six, tmp_path, change, said):
    shutil.copytree(six, tmp_path / "model")
    config = json.loads((six / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, **change}))
    assert said in run("quant_convert.py", "--model", tmp_path / "model", "--out", tmp_path / "out.gguf", code=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_log_that_would_be_a_pipe_is_refused_at_once(six, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    said = run("quant_convert.py", "--model", six, "--out", tmp_path / "a.gguf", "--log", tmp_path / "pipe", code=2)
    assert "pipe: is a pipe or device" in said and not (tmp_path / "a.gguf").exists()


def test_a_missing_expert_bias_is_named(six, tmp_path):
    source = checkpoint.read(six)
    name = "model.layers.3.feed_forward.expert_bias"
    checkpoint.save_hf(
        tmp_path / "model", replace(source, tensors={k: t for k, t in source.tensors.items() if k != name})
    )
    assert f"{name} is missing" in run(
        "quant_convert.py", "--model", tmp_path / "model", "--out", tmp_path / "out.gguf", code=2
    )


def test_an_lm_head_beside_tied_embeddings_is_refused(six, tmp_path):
    source = checkpoint.read(six)
    head = replace(source.tensors["model.embed_tokens.weight"], name="lm_head.weight")
    checkpoint.save_hf(tmp_path / "model", replace(source, tensors={**source.tensors, head.name: head}))
    assert "lm_head.weight" in run(
        "quant_convert.py", "--model", tmp_path / "model", "--out", tmp_path / "out.gguf", code=2
    )


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda t: t["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\s+|\S+"), "another pattern"),
        (
            lambda t: t["model"].update(ignore_merges=False, merges=t["model"]["merges"][:-1]),
            "into pieces, llama.cpp takes them whole",
        ),
        (
            lambda t: t["added_tokens"].append({**t["added_tokens"][0], "id": 1000, "content": "<|new|>"}),
            "token id 1000",
        ),
    ],
)
def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(six, llama_tree, tmp_path, change, said):
    shutil.copytree(six, tmp_path / "model")
    tokenizer = json.loads((six / "tokenizer.json").read_text())
    change(tokenizer)
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert said in run("quant_convert.py", "--model", tmp_path / "model", "--out", tmp_path / "out.gguf", code=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_tokenizer_that_merges_its_way_to_every_word_is_taken(six, tmp_path):
    """LFM2's own has ignore_merges off."""
    shutil.copytree(six, tmp_path / "model")
    tokenizer = json.loads((six / "tokenizer.json").read_text())
    tokenizer["model"]["ignore_merges"] = False
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(tokenizer))
    tokenizer_checks.refuse_words_in_pieces(tmp_path / "model")


def test_llama_server_cuts_any_text_into_the_tokens_of_tokenizer_json(six, six_gguf, llama_bin, tmp_path):
    tokenizer, random = tokenizer_checks.load(six), Random(0)
    pieces = [
        *"abcxyzABC0123456789   \n\t.,;:'\"!?()[]{}<>|/\\-_=+*&^%$#@~`",
        *"\u00e9\u00df\u6f22\u5b57\u304b\ud55c\u05e2\u0639\u03a9\u0416",
        "\U0001f600",
        "\u200d",
        "\u00a0",
        "\u2003",
        "\ufeff",
        "'s",
        "'LL",
        " don't",
        "\r\n",
        "  \n",
        "12345678",
        *random_checkpoints.SPECIAL,
        *" ".join(random_checkpoints.TEXT).split(),
    ]
    with eval_server.llama_server(six_gguf, tmp_path / "server.log", context=512) as server:
        for _ in range(300):
            text = "".join(random.choice(pieces) for _ in range(random.randint(1, 60)))
            quant_check_parity.check_tokens(server, text, tokenizer.encode(text, add_special_tokens=False).ids, six)


def test_a_nan_found_while_writing_leaves_no_gguf(six, llama_tree, tmp_path):
    source, name = checkpoint.read(six), "model.layers.3.feed_forward.experts.5.w2.weight"
    poisoned = source.tensors[name].read()
    poisoned[0, 0] = np.nan
    tensors = {**source.tensors, name: replace(source.tensors[name], parts=(lambda: poisoned,))}
    checkpoint.save_hf(tmp_path / "model", replace(source, tensors=tensors))
    said = run("quant_convert.py", "--model", tmp_path / "model", "--out", tmp_path / "out.gguf", code=2)
    assert name in said and "Traceback" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


# A checkpoint that was saved through a wrapper, or lies beside another's files


def renamed(six: Path, folder: Path, rename) -> Path:
    """The checkpoint with `rename(name)` for each tensor's name."""
    source = checkpoint.read(six)
    tensors = {rename(name): replace(tensor, name=rename(name)) for name, tensor in source.tensors.items()}
    checkpoint.save_hf(folder, replace(source, tensors=tensors))
    return folder


@pytest.mark.parametrize(
    "rename, said, cure",
    [
        (lambda n: f"base_model.model.{n}", "'base_model.model.'", "merge_and_unload"),
        (lambda n: f"base_model.model.{n.removeprefix('model.')}", "'base_model.model.'", "merge_and_unload"),
        (lambda n: n.replace("q_proj.weight", "q_proj.base_layer.weight"), "'base_layer.'", "merge_and_unload"),
        (lambda n: f"_orig_mod.{n}", "'_orig_mod.'", "model._orig_mod.save_pretrained"),
        (lambda n: n.replace("model.", "model._orig_mod.", 1), "'_orig_mod.'", "torch.compile"),
        (lambda n: f"module.{n}", "'module.'", "model.module.save_pretrained"),
        (lambda n: n.replace(".feed_forward", "._fsdp_wrapped_module.feed_forward"), "'_fsdp_wrapped_module.'", "FSDP"),
        (lambda n: f"language_model.{n}", "'language_model.'", "text and images"),
        (lambda n: f"model.language_model.{n.removeprefix('model.')}", "'language_model.'", "text and images"),
        (lambda n: n.removeprefix("model."), "lack the prefix 'model.'", "Lfm2MoeForCausalLM"),
        (lambda n: f"student.{n}", "begin with 'student.model.' where 'model.' belongs", "rename the tensors"),
    ],
)
def test_a_wrapper_around_the_model_is_named_with_its_cure(six, tmp_path, rename, said, cure):
    model = renamed(six, tmp_path / "model", rename)
    found = run("quant_convert.py", "--model", model, "--out", tmp_path / "out.gguf", code=2)
    assert said in found and cure in found and found.count("\n") == 1, found
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize("named", [["Lfm2MoeModel"], ["PeftModelForCausalLM"], [], "Lfm2MoeForCausalLM", [None], None])
def test_the_architecture_is_what_the_weights_are(six, tmp_path, named):
    shutil.copytree(six, tmp_path / "model")
    config = json.loads((six / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "architectures": named}))
    assert checkpoint.read(tmp_path / "model").config["architectures"] == ["Lfm2MoeForCausalLM"]


def test_an_architecture_that_the_weights_are_not_is_said_and_converted(six, six_gguf, tmp_path):
    shutil.copytree(six, tmp_path / "model")
    config = json.loads((six / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "architectures": ["PeftModelForCausalLM"]}))
    said = run("quant_convert.py", "--model", tmp_path / "model", "--out", tmp_path / "out.gguf", "--name", "six")
    assert "architectures is ['PeftModelForCausalLM']" in said and "Lfm2MoeForCausalLM, so that is what is" in said
    made, right = (gguf.GGUFReader(path).tensors for path in (tmp_path / "out.gguf", six_gguf))
    assert [(one.name, one.data.tobytes()) for one in made] == [(one.name, one.data.tobytes()) for one in right]


@pytest.mark.parametrize("lost", ["tokenizer_config.json", "tokenizer.json"])
def test_a_missing_tokenizer_file_is_named_although_a_template_is_there(six, tmp_path, lost):
    shutil.copytree(six, tmp_path / "model")
    (tmp_path / "model" / lost).unlink()
    found = run("quant_convert.py", "--model", tmp_path / "model", "--out", tmp_path / "out.gguf", code=2)
    assert f"{lost}: missing; without it the GGUF would lose" in found and found.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def with_template(six: Path, folder: Path, kept: str) -> Path:
    """The checkpoint with its chat template kept in one of the places that transformers knows."""
    shutil.copytree(six, folder)
    path, template = folder / "chat_template.jinja", random_checkpoints.TEMPLATE
    if kept != path.name:
        path.unlink()
    if kept == "chat_template.json":
        (folder / kept).write_text(json.dumps({"chat_template": template}))
    if kept.startswith("a "):
        several = [{"name": "default", "template": template}, {"name": "rag", "template": "no"}]
        config = json.loads((six / "tokenizer_config.json").read_text())
        config["chat_template"] = template if kept == "a string" else several
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("kept", ["chat_template.jinja", "chat_template.json", "a string", "a list"])
def test_a_template_is_found_wherever_it_is_kept(six, tmp_path, kept):
    folder = with_template(six, tmp_path / "model", kept)
    assert tokenizer_checks.chat_template(folder) == random_checkpoints.TEMPLATE


@pytest.mark.parametrize("kept", ["chat_template.json", "a list"])
def test_a_template_of_an_older_form_arrives_in_the_gguf(six, llama_tree, tmp_path, kept):
    folder = with_template(six, tmp_path / "model", kept)
    said = run("quant_convert.py", "--model", folder, "--out", tmp_path / "out.gguf")
    fields = gguf.GGUFReader(tmp_path / "out.gguf").fields
    assert fields["tokenizer.chat_template"].contents() == random_checkpoints.TEMPLATE
    assert "has no chat template" not in said


def test_a_folder_without_a_template_is_said_to_have_none(six, llama_tree, tmp_path):
    shutil.copytree(six, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").unlink()
    assert "has no chat template" in run(
        "quant_convert.py", "--model", tmp_path / "model", "--out", tmp_path / "o.gguf"
    )


@pytest.mark.parametrize("change", [{"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}, {"added_tokens": None}])
def test_a_tokenizer_of_another_kind_is_one_clear_line(six, tmp_path, change):
    shutil.copytree(six, tmp_path / "model")
    tokenizer = {**json.loads((six / "tokenizer.json").read_text()), **change}
    (tmp_path / "model" / "tokenizer.json").write_text(json.dumps(tokenizer))
    said = run("quant_convert.py", "--model", tmp_path / "model", "--out", tmp_path / "out.gguf", code=2)
    assert "has no vocabulary of a BPE tokenizer" in said and said.count("\n") == 1


def test_a_header_that_does_not_say_what_the_config_says_is_refused(six, six_gguf):
    source = checkpoint.read(six)
    quant_convert.verify(gguf, six_gguf, source, six_gguf)
    for change in (
        {"rope_parameters": {"rope_theta": 10000.0}},
        {"norm_eps": 1e-6},
        {"num_experts_per_tok": 3},
        {"layer_types": ["full_attention", "conv", "conv", "full_attention"]},
    ):
        with pytest.raises(UserError, match="config.json asks for"):
            quant_convert.verify(gguf, six_gguf, replace(source, config={**source.config, **change}), six_gguf)


def test_a_disk_without_space_is_refused_before_writing(tmp_path):
    with pytest.raises(UserError, match="GiB are free"):
        require_space(tmp_path, shutil.disk_usage(tmp_path).free + 1)
