"""Does a fresh llama.cpp build survive quantized models on this CPU?

Some virtual machines advertise CPU features that they do not carry out: everything builds, BF16 runs,
and each quantized model ends with SIGILL or SIGSEGV. So a build counts only after it has quantized a
small random LFM2-MoE to each type our policies use, read a text with it (matrix times matrix) and
generated from it (matrix times vector).
"""

import json
import re
import secrets
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import gguf
import numpy as np

from kxl.base import processes
from kxl.base.cli import UserError
from kxl.setup.llama_cpp import cpu_features, exit_reason, tail
from kxl.setup.random_gguf import byte_tokens

TYPES = ("Q4_K", "Q5_K", "Q6_K", "Q8_0")
HIDDEN, HEADS, KV_HEADS, EXPERTS, KERNEL = 256, 4, 2, 4, 3
LAYERS = ("conv", "attention", "conv")  # the first is dense, the two others mix experts


def write_model(path: Path) -> None:
    """Write a random BF16 LFM2-MoE with every kind of tensor that llama-quantize touches (about 6 MB)."""
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "lfm2moe")
    writer.add_block_count(len(LAYERS))
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(512)
    writer.add_expert_feed_forward_length(HIDDEN)
    writer.add_leading_dense_block_count(1)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(2)
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv([KV_HEADS if kind == "attention" else 0 for kind in LAYERS])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e6)
    writer.add_shortconv_l_cache(KERNEL)
    tokens = [*byte_tokens(), "th", "<|end|>"]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("lfm2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * (len(tokens) - 1) + [gguf.TokenType.CONTROL])
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(len(tokens) - 1)
    writer.add_eos_token_id(len(tokens) - 1)

    def matrix(name: str, *shape: int) -> None:
        values = random.normal(0, 0.05, shape).astype(np.float32)
        writer.add_tensor(
            name, gguf.quants.quantize(values, gguf.GGMLQuantizationType.BF16), raw_dtype=gguf.GGMLQuantizationType.BF16
        )

    def small(name: str, values: np.ndarray) -> None:
        writer.add_tensor(name, values.astype(np.float32))

    matrix("token_embd.weight", len(tokens), HIDDEN)
    small("token_embd_norm.weight", np.ones(HIDDEN))
    for index, kind in enumerate(LAYERS):
        block = f"blk.{index}"
        small(f"{block}.attn_norm.weight", np.ones(HIDDEN))
        small(f"{block}.ffn_norm.weight", np.ones(HIDDEN))
        if kind == "conv":
            small(f"{block}.shortconv.conv.weight", random.normal(0, 0.5, (HIDDEN, KERNEL)))
            matrix(f"{block}.shortconv.in_proj.weight", 3 * HIDDEN, HIDDEN)
            matrix(f"{block}.shortconv.out_proj.weight", HIDDEN, HIDDEN)
        else:
            head = HIDDEN // HEADS
            small(f"{block}.attn_q_norm.weight", np.ones(head))
            small(f"{block}.attn_k_norm.weight", np.ones(head))
            matrix(f"{block}.attn_q.weight", HIDDEN, HIDDEN)
            matrix(f"{block}.attn_k.weight", head * KV_HEADS, HIDDEN)
            matrix(f"{block}.attn_v.weight", head * KV_HEADS, HIDDEN)
            matrix(f"{block}.attn_output.weight", HIDDEN, HIDDEN)
        if index == 0:
            matrix(f"{block}.ffn_gate.weight", 512, HIDDEN)
            matrix(f"{block}.ffn_up.weight", 512, HIDDEN)
            matrix(f"{block}.ffn_down.weight", HIDDEN, 512)
        else:
            small(f"{block}.ffn_gate_inp.weight", random.normal(0, 0.05, (EXPERTS, HIDDEN)))
            small(f"{block}.exp_probs_b.bias", np.zeros(EXPERTS))
            for part in ("gate", "up", "down"):
                matrix(f"{block}.ffn_{part}_exps.weight", EXPERTS, HIDDEN, HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check(bin_dir: Path, scratch: Path) -> None:
    """Quantize, read and generate with the programs in `bin_dir`; files go to `scratch`. UserError names what broke."""
    model, text = scratch / "bf16.gguf", scratch / "text.txt"
    write_model(model)
    text.write_text("The quick brown fox jumps over the lazy dog. " * 20)
    for kind in TYPES:
        quant = scratch / f"{kind}.gguf"
        # --pure gives every matrix this one type, so that a crash names it.
        _run(bin_dir, "llama-quantize", kind, "--pure", model, quant, kind)
        output = _run(bin_dir, "llama-perplexity", kind, "-m", quant, "-f", text, "-c", "128", "-b", "128")
        # A random model guesses among 258 tokens; broken kernels give nan or inf.
        if not (found := re.search(r"Final estimate: PPL = ([\d.]+)", output)) or not 50 < float(found[1]) < 5000:
            raise UserError(
                f"llama-perplexity read a {kind} model but gave no plausible perplexity; its output "
                f"ends:\n{tail(output)}"
            )
        _generate(bin_dir, kind, quant)


def _run(bin_dir: Path, name: str, kind: str, *args) -> str:
    """Run one program of the fresh build and return its output."""
    ended = processes.run([str(bin_dir / name), *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    output = ended.stdout.decode("utf-8", "replace")
    if ended.returncode != 0:
        raise _failure(name, kind, ended.returncode, output)
    return output


def _generate(bin_dir: Path, kind: str, quant: Path) -> None:
    """Start llama-server on a free loopback port, generate eight tokens, stop it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = quant.with_suffix(".server.log")
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/completion",
        headers={"Content-Type": "application/json"},
        data=json.dumps({"prompt": "The quick", "n_predict": 8, "ignore_eos": True}).encode(),
    )
    token = secrets.token_hex(16)  # its name, so that another process on the port is not taken for it
    command = [str(bin_dir / "llama-server"), "-m", quant, "--host", "127.0.0.1", "--port", port]
    command += ["--alias", token, "-c", 512, "--no-warmup"]
    with open(log, "wb") as file, processes.guarded(command, stdout=file, stderr=subprocess.STDOUT) as server:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if server.poll() is not None:
                code = processes.ended_by(server.returncode)
                raise _failure("llama-server", kind, code, log.read_text(errors="replace"))
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    said = json.load(response)
                if said.get("model") == token and said["tokens_predicted"] == 8:
                    return
                if said.get("model") != token:
                    raise UserError(f"another process took port {port} from llama-server; run this again")
                raise UserError(f"llama-server generated fewer than the 8 tokens asked for with a {kind} model")
            except (urllib.error.URLError, ConnectionError):  # not listening yet, still loading (503), or just died
                time.sleep(0.1)
        raise UserError(
            f"llama-server did not answer within 60 s with a {kind} model; its output ends:\n"
            f"{tail(log.read_text(errors='replace'))}"
        )


def _failure(name: str, kind: str, code: int, output: str) -> UserError:
    """The error for a program that failed on a `kind` model; a crash names the CPU features and the way out."""
    message = f"the fresh build does not work here: {exit_reason(name, code)} with a {kind} model"
    if code < 0:
        message += (
            f".\n  It uses {', '.join(cpu_features())} because this CPU advertises them; a virtual machine may "
            f"advertise"
            " what it cannot do.\n  Way out: build for plain AVX2 instead:"
            " export HERMES_KXL_CMAKE='-DGGML_NATIVE=OFF' and run make again"
        )
    return UserError(f"{message}\n{tail(output)}")
