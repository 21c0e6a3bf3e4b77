"""KL divergence of quants: figures that an independent computation confirms, on the tokens of real use."""

import re
import subprocess
import sys

import gguf
import numpy as np
import pytest

import quant_measure
from kxl.base.cli import UserError
from kxl.base.files import read_json
from kxl.quant import divergence
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


def printed(pattern, output):
    """The number that llama-perplexity prints behind a name."""
    return float(re.search(pattern, output)[1])


def test_the_divergence_is_the_one_that_llama_perplexity_computes_of_both_models(
    llama_bin, models, measure, shared_work, tmp_path
):
    report, _ = measure(f"Q4_K_M={models / 'Q4_K_M.gguf'}")
    flags = ("--kl-divergence-base", shared_work / "base.logits", "--kl-divergence", "-c", str(CONTEXT))
    as_rendered = ("--parse-special", "--override-kv", "tokenizer.ggml.add_bos_token=bool:false")
    output = subprocess.run(
        [llama_bin / "llama-perplexity", "-m", models / "Q4_K_M.gguf", *as_rendered, *flags],
        check=True,
        capture_output=True,
        text=True,
    )
    output = output.stdout + output.stderr
    figures = report["results"]["Q4_K_M"]
    assert figures["tokens"] == report["settings"]["scored_tokens"]
    for name, pattern in {
        "mean": r"Mean +KLD: +(\S+) ±",
        "median": r"Median +KLD: +(\S+)",
        "p99": r"99\.0% +KLD: +(\S+)",
        "p999": r"99\.9% +KLD: +(\S+)",
        "max": r"Maximum KLD: +(\S+)",
    }.items():
        assert figures["kld"][name] == pytest.approx(printed(pattern, output), rel=2e-3, abs=2e-5)
    assert figures["kld"]["mean_error"] == pytest.approx(printed(r"Mean +KLD: +\S+ ± +(\S+)", output), rel=1e-2)
    assert 100 * figures["same_top_p"] == pytest.approx(printed(r"Same top p: +(\S+)", output), abs=0.1)


TURN = (
    "<|im_start|>user\nwhat is here?<|im_end|>\n<|im_start|>assistant\n<think>ls tells</think>"
    '<|tool_call_start|>[terminal(command="ls")]<|tool_call_end|><|im_end|>\n'
    "<|im_start|>tool\na.txt<|im_end|>\n<|im_start|>assistant\nOne file.<|im_end|>\n"
)


def test_thoughts_calls_and_answers_have_divergences_of_their_own(llama_bin, measure, tmp_path):
    model, quant = random_gguf.write(tmp_path / "bf16.gguf"), tmp_path / "Q8_0.gguf"
    subprocess.run([llama_bin / "llama-quantize", "--pure", model, quant, "Q8_0"], check=True, capture_output=True)
    (tmp_path / "heldout.txt").write_text(TURN * 61)
    report, _ = measure(f"Q8_0={quant}", base=model, work=tmp_path / "work")
    kinds, scored = report["results"]["Q8_0"]["by_kind"], report["settings"]["scored_by_kind"]
    # One token is one byte here, but for the marks that are special tokens and "th".
    one = {"thought": len("<think>ls tells</think>") - 2, "answer": len("One file.") + 1}
    one["call"] = len('[terminal(command="ls")]') + 3
    _, tokens = log_probabilities(tmp_path / "work" / "base.logits")
    in_turn = tokens.size / 61
    for kind, length in one.items():
        assert kinds[kind]["tokens"] == scored[kind]
        assert scored[kind] == pytest.approx(length / in_turn * report["settings"]["scored_tokens"], rel=0.1)
    whole = sum(part["tokens"] * part["kld"]["mean"] for part in kinds.values())
    assert whole == pytest.approx(report["results"]["Q8_0"]["kld"]["mean"] * sum(scored.values()), rel=1e-3)
    assert kinds["thought"]["kld"]["p999"] is None or kinds["thought"]["tokens"] >= 1000


def test_a_text_without_thoughts_has_no_figure_for_them(models, measure):
    report, _ = measure(f"Q8_0={models / 'Q8_0.gguf'}")
    thought = report["results"]["Q8_0"]["by_kind"]["thought"]
    assert thought["tokens"] == 0 and thought["kld"]["mean"] is None


@pytest.mark.parametrize("vocabulary", [5, 6])
def test_the_divergence_of_each_token_is_the_textbook_sum(tmp_path, vocabulary):
    random = np.random.default_rng(3)
    context, chunks = 6, 400
    scored = divergence.scored_tokens(context, chunks)
    tokens = random.integers(0, vocabulary, context * chunks, dtype=np.int32)

    def written(name, logits):
        exact = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        low = np.maximum(exact.min(1), exact.max(1) - 16).astype("<f4")
        scale = ((exact.max(1) - low) / 65535).astype("<f4")
        rows = np.zeros(scored, divergence._row(vocabulary))
        rows["scale"], rows["minimum"] = scale, low
        rows["steps"][:, :vocabulary] = np.clip(np.rint((exact - low[:, None]) / scale[:, None]), 0, 65535)
        head = np.array([(b"_logits_", context, vocabulary, chunks)], divergence.HEADER)
        (tmp_path / name).write_bytes(head.tobytes() + tokens.tobytes() + rows.tobytes())
        return exact, divergence.read(tmp_path / name)

    logits = random.normal(0, 4, (scored, vocabulary))
    p, parent = written("p", logits)
    q, quant = written("q", logits + random.normal(0, 0.3, logits.shape))
    values, same = divergence.per_token(parent, quant)
    np.testing.assert_allclose(values, (np.exp(p) * (p - q)).sum(1), atol=5e-4)
    assert (same == (p.argmax(1) == q.argmax(1))).mean() > 0.999
    # Places 3 and 4 of six predict what stands at 4 and 5.
    assert parent.targets()[:4].tolist() == [4, 5, 10, 11] and len(parent.targets()) == scored
    (tmp_path / "other").write_bytes((tmp_path / "q").read_bytes().replace(tokens.tobytes(), tokens[::-1].tobytes()))
    with pytest.raises(UserError, match="other is of other tokens than"):
        divergence.per_token(parent, divergence.read(tmp_path / "other"))
    (tmp_path / "short").write_bytes((tmp_path / "q").read_bytes()[:-1])
    with pytest.raises(UserError, match=r"short: has .* bytes where its log-probabilities need"):
        divergence.read(tmp_path / "short")


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
    with pytest.raises(UserError, match="kld.Q6_K.log: .* have no finite divergence: .*broken.gguf computes NaN"):
        measure(f"Q6_K={tmp_path / 'broken.gguf'}")


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
