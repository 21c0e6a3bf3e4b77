"""KL divergence of quants: figures that an independent computation confirms, on the tokens of real use."""

import subprocess
import sys

import gguf
import numpy as np
import pytest

import quant_measure
from kxl.base.cli import UserError
from kxl.base.files import read_json
from kxl.setup import llama_cpp, random_gguf, smoke_test

pytestmark = pytest.mark.minutes

CONTEXT = 64
TEXT = "the quick brown fox<|end|> jumps over the lazy dog's back. " * 50


@pytest.fixture(scope="module")
def models(llama_bin, tmp_path_factory):
    """A random BF16 model and two quants of it."""
    folder = tmp_path_factory.mktemp("models")
    smoke_test.write_model(folder / "bf16.gguf")
    for kind in ("Q8_0", "Q4_K_M"):
        subprocess.run(
            [llama_bin / "llama-quantize", "--pure", folder / "bf16.gguf", folder / f"{kind}.gguf", kind],
            check=True,
            capture_output=True,
        )
    return folder


@pytest.fixture(scope="module")
def shared_work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture
def measure(models, tmp_path, shared_work, monkeypatch):
    """Run the script on the quants; return its report and a list of the llama-perplexity runs it needed."""
    (tmp_path / "heldout.txt").write_text(TEXT)
    runs = []
    real = llama_cpp.run
    monkeypatch.setattr(llama_cpp, "run", lambda name, args, **rest: (runs.append(name), real(name, args, **rest))[1])

    def run(*artifacts, context=CONTEXT, work=shared_work, base=models / "bf16.gguf"):
        runs.clear()
        monkeypatch.setattr(
            sys,
            "argv",
            [
                "quant_measure.py",
                "--base",
                str(base),
                "--text",
                str(tmp_path / "heldout.txt"),
                "--context",
                str(context),
                "--work",
                str(work),
                "--report",
                str(tmp_path / "quants.json"),
                "--logs",
                str(tmp_path / "logs"),
                *(word for artifact in artifacts for word in ("--artifact", artifact)),
            ],
        )
        quant_measure.main()
        return read_json(tmp_path / "quants.json"), list(runs)

    return run


def log_probabilities(path):
    """Log-probabilities [scored, vocabulary] out of a llama-perplexity file, and all its tokens [chunk, context]."""
    raw = path.read_bytes()
    assert raw[:8] == b"_logits_"
    context, vocabulary, chunks = np.frombuffer(raw, "<i4", 3, 8)
    tokens = np.frombuffer(raw, "<i4", context * chunks, 20).reshape(chunks, context)
    padded = vocabulary + vocabulary % 2
    scored = np.dtype([("scale", "<f4"), ("minimum", "<f4"), ("steps", "<u2", padded)])
    rows = np.frombuffer(raw, scored, offset=20 + tokens.nbytes)
    values = rows["scale"][:, None].astype(np.float64) * rows["steps"][:, :vocabulary] + rows["minimum"][:, None]
    return values, tokens


def test_the_divergence_is_the_one_numpy_computes_from_both_models_probabilities(
    llama_bin, models, measure, shared_work, tmp_path
):
    report, _ = measure(f"Q4_K_M={models / 'Q4_K_M.gguf'}")
    base, _ = log_probabilities(shared_work / "base.logits")
    subprocess.run(
        [
            llama_bin / "llama-perplexity",
            "-m",
            models / "Q4_K_M.gguf",
            "-f",
            tmp_path / "heldout.txt",
            "--parse-special",
            "--override-kv",
            "tokenizer.ggml.add_bos_token=bool:false",
            "-c",
            str(CONTEXT),
            "--kl-divergence-base",
            tmp_path / "quant.logits",
        ],
        check=True,
        capture_output=True,
    )
    quant, _ = log_probabilities(tmp_path / "quant.logits")
    divergence = (np.exp(base) * (base - quant)).sum(axis=1)  # KL(P || Q) = sum p (log p - log q)

    figures = report["results"]["Q4_K_M"]
    assert len(divergence) == report["settings"]["scored_tokens"]
    assert figures["kld"]["mean"] == pytest.approx(divergence.mean(), rel=2e-3)
    assert figures["kld"]["mean_error"] == pytest.approx(divergence.std(ddof=1) / np.sqrt(len(divergence)), rel=1e-2)
    for name, fraction in (("median", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)):
        assert figures["kld"][name] == pytest.approx(np.quantile(divergence, fraction), rel=5e-3, abs=1e-5)
    assert figures["same_top_p"] == pytest.approx((base.argmax(1) == quant.argmax(1)).mean(), abs=2e-3)


def test_the_parent_measured_against_itself_has_no_divergence(models, measure):
    report, _ = measure(f"bf16={models / 'bf16.gguf'}")
    figures = report["results"]["bf16"]
    assert abs(figures["kld"]["mean"]) < 1e-5 and figures["kld"]["max"] < 1e-4
    assert figures["same_top_p"] > 0.999 and figures["policy"] == "parent"


def test_fewer_bits_diverge_more(models, measure):
    report, _ = measure(f"Q8_0={models / 'Q8_0.gguf'}", f"Q4_K_M={models / 'Q4_K_M.gguf'}")
    q8, q4 = (report["results"][name] for name in ("Q8_0", "Q4_K_M"))
    assert q8["bytes"] < (models / "bf16.gguf").stat().st_size and q4["bytes"] < q8["bytes"]
    assert q4["kld"]["mean"] > 10 * q8["kld"]["mean"] > 0


def test_chat_markers_are_measured_as_the_special_tokens_they_are(models, measure, shared_work):
    report, _ = measure(f"Q8_0={models / 'Q8_0.gguf'}")
    _, tokens = log_probabilities(shared_work / "base.logits")
    end = gguf.GGUFReader(models / "bf16.gguf").get_field("tokenizer.ggml.bos_token_id").contents()
    assert report["settings"]["control_tokens"] == (tokens == end).sum() > TEXT.count("<|end|>") * 0.9


def test_a_model_that_begins_with_a_special_token_gets_it_once_and_only_where_the_text_has_it(
    llama_bin, measure, monkeypatch, tmp_path
):
    model = random_gguf.write(tmp_path / "adds_bos.gguf")
    text = ("<|startoftext|><|im_start|>user\n" + "this conversation goes on. " * 20) * 8
    (tmp_path / "heldout.txt").write_text(text)
    measure(f"bf16={model}", base=model, work=tmp_path / "work")
    _, tokens = log_probabilities(tmp_path / "work" / "base.logits")
    begin, user = (random_gguf.SPECIAL.index(name) for name in ("<|startoftext|>", "<|im_start|>"))
    tokens = tokens.reshape(-1)
    assert tokens[0] == begin and (tokens == begin).sum() == (tokens == user).sum()
    assert (tokens[np.flatnonzero(tokens == begin) + 1] == user).all()


def test_bits_per_weight_counts_tensor_data_only(models, measure):
    report, _ = measure(f"Q8_0={models / 'Q8_0.gguf'}", f"bf16={models / 'bf16.gguf'}")
    q8, bf16 = (report["results"][name] for name in ("Q8_0", "bf16"))
    # 34 bytes per 32 weights, a little more for the float32 norms and routers that stay.
    assert 8.5 < q8["bpw"] < 8.8 and 16 < bf16["bpw"] < 16.2
    assert q8["parameters"] == bf16["parameters"]


def test_a_second_run_measures_nothing_again(models, measure, tmp_path):
    first, runs = measure(f"Q8_0={models / 'Q8_0.gguf'}", work=tmp_path / "work")
    assert len(runs) == 2
    again, runs = measure(f"Q8_0={models / 'Q8_0.gguf'}", work=tmp_path / "work")
    assert runs == [] and again == first


def test_after_an_interruption_finished_artifacts_are_kept(models, measure, tmp_path):
    work = tmp_path / "work"
    with pytest.raises(UserError, match="missing.gguf"):
        measure(f"Q8_0={models / 'Q8_0.gguf'}", f"Q4_K_M={tmp_path / 'missing.gguf'}", work=work)
    assert not (tmp_path / "quants.json").exists()
    report, runs = measure(f"Q8_0={models / 'Q8_0.gguf'}", f"Q4_K_M={models / 'Q4_K_M.gguf'}", work=work)
    assert len(runs) == 1 and set(report["results"]) == {"Q8_0", "Q4_K_M"}


def test_another_text_or_context_or_quant_is_measured_anew(models, measure, tmp_path):
    name, work = f"Q8_0={models / 'Q8_0.gguf'}", tmp_path / "work"
    measure(name, work=work)
    (tmp_path / "heldout.txt").write_text(TEXT.replace("fox", "cat"))
    assert len(measure(name, work=work)[1]) == 2
    assert len(measure(name, work=work, context=CONTEXT * 2)[1]) == 2
    assert len(measure(f"Q8_0={models / 'Q4_K_M.gguf'}", work=work, context=CONTEXT * 2)[1]) == 1


@pytest.mark.parametrize("text", ["the quick brown fox. " * 3, "the quick brown fox. " * 30])
def test_a_text_too_short_for_the_tail_figures_is_refused(models, measure, tmp_path, text):
    (tmp_path / "heldout.txt").write_text(text)
    with pytest.raises(UserError, match="scored tokens .* are needed: add held-out rows"):
        measure(f"Q8_0={models / 'Q8_0.gguf'}", work=tmp_path / "work")
    assert not (tmp_path / "work" / "base.logits").exists()


def test_log_probabilities_cut_short_by_a_full_disk_are_an_error(models, measure, shared_work, tmp_path):
    measure(f"Q8_0={models / 'Q8_0.gguf'}")
    short = tmp_path / "short.logits"
    short.write_bytes((shared_work / "base.logits").read_bytes()[:-1000])
    with pytest.raises(UserError, match="make room and run again"):
        quant_measure.check_logits(short, models / "bf16.gguf", tmp_path / "heldout.txt", CONTEXT)


def test_damaged_log_probabilities_are_computed_again(models, measure, shared_work):
    name = f"Q8_0={models / 'Q8_0.gguf'}"
    first, _ = measure(name)
    logits = shared_work / "base.logits"
    logits.write_bytes(logits.read_bytes()[:-1000])
    again, runs = measure(name)
    assert len(runs) == 1 and again == first


def test_what_a_killed_run_left_half_written_is_removed(models, measure, tmp_path):
    left = tmp_path / "work" / ".base.logits.partial-4194305-x7"  # above the highest process id
    left.parent.mkdir()
    left.write_bytes(b"half of gigabytes")
    measure(f"Q8_0={models / 'Q8_0.gguf'}", work=tmp_path / "work")
    assert not left.exists()


def test_a_model_that_computes_nan_is_refused_by_name(models, measure, tmp_path):
    # BF16, because a matrix in Q8_0 also rounds its inputs, and NaN does not survive that.
    data = bytearray((models / "bf16.gguf").read_bytes())
    norm = next(
        tensor for tensor in gguf.GGUFReader(models / "bf16.gguf").tensors if tensor.name == "token_embd_norm.weight"
    )
    data[norm.data_offset : norm.data_offset + 4] = np.float32("nan").tobytes()
    (tmp_path / "broken.gguf").write_bytes(data)
    with pytest.raises(UserError, match="kld.Q6_K.log: no finite number"):
        measure(f"Q6_K={tmp_path / 'broken.gguf'}")


def test_output_that_ends_early_is_an_error_not_a_zero():
    with pytest.raises(UserError, match="no finite number"):
        quant_measure.read_figures("Mean    KLD:   0.047617 ±   0.000390\n", "kld.log")


def test_each_artifact_names_the_policy_it_was_made_by(models, measure, tmp_path):
    report, _ = measure(f"q4kxl={models / 'Q4_K_M.gguf'}", f"Q8_0={models / 'Q8_0.gguf'}")
    assert {name: one["policy"] for name, one in report["results"].items()} == {
        "q4kxl": "gguf/q4kxl.tensor-types",
        "Q8_0": "stock",
    }
    with pytest.raises(
        UserError, match="q9kxl: gguf/export_plan.json has no such policy .* it has bf16, q8kxl, .* Q4_K_M"
    ):
        measure(f"q9kxl={models / 'Q4_K_M.gguf'}")
