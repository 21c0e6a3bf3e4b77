"""How a release is served: flags that the programs take, and the settings that it was judged with."""

import os
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import yaml

from kxl.base.cli import UserError
from kxl.base.files import read_json, write_json
from kxl.release import serving
from kxl.release.folder import read_summary

TEMPLATE = "{{ messages[0]['content'] }}{{ message['thinking'] }}"
SUMMARY = {
    "name": "tiny",
    "run": "mine",
    "serving": {
        "context": 65536,
        "sampling": {"temperature": 0.2, "top_k": 80, "repetition_penalty": 1.05, "seed": 1},
        "thinking_tokens": 4096,
    },
    "artifacts": {"q4kxl": {"file": "Tuned-Q4KXL.gguf", "policy": "gguf/q4kxl.tensor-types", "sha256": "0" * 64}},
}


def folder(tmp_path, template=TEMPLATE, context=128_000, summary=SUMMARY):
    writer = gguf.GGUFWriter(tmp_path / "Tuned-Q4KXL.gguf", "lfm2moe")
    writer.add_name("tiny")
    writer.add_context_length(context)
    if template:
        writer.add_chat_template(template)
    writer.add_tensor("a.weight", np.zeros((8, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write_json(tmp_path / "release_summary.json", summary)
    return serving.of(tmp_path, summary, "q4kxl")


def flags(words):
    return [word for word in words if word.startswith("-")]


def test_llama_server_takes_every_flag_that_is_printed(tmp_path, llama_bin):
    known = subprocess.run([llama_bin / "llama-server", "--help"], capture_output=True, text=True).stdout.split()
    known = {word.strip(",") for word in known}
    assert set(flags(folder(tmp_path).llama_server(8080))) <= known


@pytest.mark.minutes
def test_mlx_server_takes_every_flag_that_is_printed(tmp_path):
    program = [Path(sys.executable).with_name("mlx_lm.server"), "--help"]
    known = subprocess.run(program, capture_output=True, text=True).stdout.replace(",", " ").split()
    assert set(flags(folder(tmp_path).mlx_server(8080))) <= set(known)


def test_a_thinking_model_is_served_as_it_was_judged(tmp_path):
    words = folder(tmp_path).llama_server(8080)
    assert "--no-reasoning-preserve" in words and "--jinja" in words
    for flag, value in {"--temp": "0.2", "--top-k": "80", "--repeat-penalty": "1.05", "-c": "65536"}.items():
        assert words[words.index(flag) + 1] == value
    assert "max_tokens: 6144" in folder(tmp_path).hermes(8080)  # 2,048 for the answer behind a thought of 4,096


def test_a_greedy_model_that_does_not_think(tmp_path):
    plain = {**SUMMARY, "serving": {"context": 65536, "sampling": {}, "thinking_tokens": 0}}
    words = folder(tmp_path, "{{ messages[0]['content'] }}", summary=plain).llama_server(9090)
    assert words[words.index("--temp") + 1] == "0" and "--no-reasoning-preserve" not in words
    assert words[words.index("--port") + 1] == "9090"


def test_no_more_context_is_asked_for_than_the_file_has(tmp_path):
    assert folder(tmp_path, context=32768).context == 32768


def test_a_file_that_has_no_context_at_all_is_not_served(tmp_path):
    folder(tmp_path)
    writer = gguf.GGUFWriter(tmp_path / "Tuned-Q4KXL.gguf", "lfm2moe")
    writer.add_int32("lfm2moe.context_length", -1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match="its context_length is -1; fetch it again"):
        serving.of(tmp_path, SUMMARY, "q4kxl")


def test_an_unknown_quant_or_a_missing_file_is_named(tmp_path):
    folder(tmp_path)
    with pytest.raises(UserError, match="has no q2kxl; it has q4kxl"):
        serving.of(tmp_path, SUMMARY, "q2kxl")
    (tmp_path / "Tuned-Q4KXL.gguf").unlink()
    with pytest.raises(UserError, match="Tuned-Q4KXL.gguf"):
        serving.of(tmp_path, SUMMARY, "q4kxl")


@pytest.mark.parametrize(
    "change",
    [
        {"name": ["tiny"]},
        {"name": "tiny\n  provider: https://elsewhere"},
        {"name": "tiny\x1b[2J"},
        {"serving": [65536]},
        {"serving": {"context": "65536; touch gone"}},
        {"serving": {"context": -1}},
        {"serving": {"context": 1 << 400}},
        {"serving": {"context": 1 << 2000}},
        {"serving": {"sampling": {"temperature": 1 << 2000}}},
        {"serving": {"sampling": {"seed": 1 << 2000}}},
        {"serving": {"thinking_tokens": "many"}},
        {"serving": {"thinking_tokens": True}},
        {"serving": {"sampling": "greedy"}},
        {"serving": {"sampling": {"temperature": "0.2; touch gone"}}},
        {"serving": {"sampling": {"temperature": float("inf")}}},
        {"serving": {"sampling": {"top_k": [80]}}},
        {"artifacts": {"q4kxl": {**SUMMARY["artifacts"]["q4kxl"], "file": "../Tuned-Q4KXL.gguf"}}},
        {"artifacts": {"q4kxl": {**SUMMARY["artifacts"]["q4kxl"], "file": "/etc/passwd"}}},
        {"artifacts": {"q4kxl": {**SUMMARY["artifacts"]["q4kxl"], "file": "a\0b"}}},
        {"artifacts": {"q4kxl": {**SUMMARY["artifacts"]["q4kxl"], "file": ""}}},
    ],
)
def test_a_summary_that_could_not_be_ours_is_refused_by_name(tmp_path, change):
    folder(tmp_path)
    write_json(tmp_path / "release_summary.json", {**SUMMARY, **change})
    with pytest.raises(UserError, match="release_summary.json: .*fetch it again"):
        serving.of(tmp_path, read_summary(tmp_path), "q4kxl")


@pytest.mark.parametrize(
    "name", ["a; touch gone", "$(touch gone)", "`touch gone`", "a' touch gone '", "yes", "a: b #c"]
)
def test_the_printed_lines_say_to_shell_and_yaml_what_is_meant(tmp_path, name):
    page = serving.page(folder(tmp_path, summary={**SUMMARY, "name": name}), 8080)
    line = next(line for line in page.splitlines() if line.startswith("  llama-server"))
    ended = subprocess.run(["sh", "-c", line.replace("llama-server", "printf '%s\\n'", 1)], cwd=tmp_path, text=True,
                           capture_output=True)  # fmt: skip
    words = ended.stdout.splitlines()
    assert words[words.index("--alias") + 1] == name and not (tmp_path / "gone").exists()
    settings = yaml.safe_load("model:" + page.split("model:")[1])
    assert settings["model"]["default"] == name and settings["model"]["provider"] == "custom"


def test_the_page_is_printed_from_the_folder_alone(tmp_path):
    folder(tmp_path)
    script = Path(__file__).resolve().parents[2] / "scripts/release_serve.py"
    environment = {**os.environ, "HERMES_KXL_CACHE": str(tmp_path / "no-build")}
    words = [sys.executable, str(script), "--dir", str(tmp_path), "--quant", "q4kxl"]
    ended = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    for part in ("llama-server -m", "mlx_lm.server --model", "provider: custom", "writes thoughts"):
        assert part in ended.stdout


def test_a_summary_says_how_its_config_was_judged():
    import release_summarize

    root = Path(__file__).resolve().parents[2]
    config = read_json(root / "configs/lfm2.5-8b-a1b.json")
    assert release_summarize.serving(config) == SUMMARY["serving"]
