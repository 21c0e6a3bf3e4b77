"""The imatrix: counts that can be trusted, and a refusal that names what the text does not reach."""

import sys

import gguf
import numpy as np
import pytest

import quant_compute_imatrix
from kxl.base.cli import UserError
from kxl.base.files import read_json
from kxl.setup import smoke_test

pytestmark = pytest.mark.minutes

TEXT = "the quick brown fox<|end|> jumps over the lazy dog's back while " * 60
LAYERS, EXPERTS, TOP_K = (1, 2), smoke_test.EXPERTS, 2


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("imatrix") / "bf16.gguf"
    smoke_test.write_model(path)
    return path


def matrices(model):
    """Every block matrix with its expert count, by hand: what llama-quantize can quantize in the smoke-test model."""
    dense = ("shortconv.in_proj", "shortconv.out_proj", "ffn_gate", "ffn_up", "ffn_down")
    attention = ("attn_q", "attn_k", "attn_v", "attn_output")
    experts = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
    names = {f"blk.0.{part}.weight": 1 for part in dense}
    names |= {f"blk.1.{part}.weight": 1 for part in attention} | {f"blk.1.{part}.weight": EXPERTS for part in experts}
    names |= {f"blk.2.{part}.weight": 1 for part in dense[:2]} | {f"blk.2.{part}.weight": EXPERTS for part in experts}
    return names


def write_imatrix(path, counts, sums=None):
    """A GGUF imatrix with these counts, as llama-imatrix writes it; `sums` has the sums of some matrices."""
    writer = gguf.GGUFWriter(path, arch="")
    writer.add_type("imatrix")
    writer.add_uint32("imatrix.chunk_count", 10)
    for name, seen in counts.items():
        writer.add_tensor(f"{name}.in_sum2", (sums or {}).get(name, np.ones((len(seen), 256), dtype=np.float32)))
        writer.add_tensor(f"{name}.counts", np.array(seen, dtype=np.float32).reshape(-1, 1))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def compute(tmp_path, model, monkeypatch):
    """Run the script; `counts` replaces llama-imatrix by a file with these counts."""

    def run(text=TEXT, counts=None, min_tokens=64, perplexity="2.5", sums=None, gguf=model):
        (tmp_path / "calibration.txt").write_text(text)
        if counts is not None:

            def instead(model, text, out, context, log):
                write_imatrix(out, counts, sums)
                return f"Final estimate: PPL = {perplexity} +/- 0.1"

            monkeypatch.setattr(quant_compute_imatrix, "run_imatrix", instead)
        monkeypatch.setattr(
            sys,
            "argv",
            [
                "quant_compute_imatrix.py",
                "--gguf",
                str(gguf),
                "--text",
                str(tmp_path / "calibration.txt"),
                "--out",
                str(tmp_path / "imatrix.gguf"),
                "--report",
                str(tmp_path / "imatrix.json"),
                "--log",
                str(tmp_path / "imatrix.log"),
                "--context",
                "128",
                "--min-tokens",
                str(min_tokens),
            ],
        )
        quant_compute_imatrix.main()
        return tmp_path / "imatrix.gguf", read_json(tmp_path / "imatrix.json")["results"]

    return run


def even(tokens=500):
    return {name: [tokens] * experts for name, experts in matrices(None).items()}


def test_every_token_is_counted_once_per_expert_it_is_routed_to(llama_bin, compute):
    imatrix, results = compute()
    assert [entry["layer"] for entry in results["layers"]] == list(LAYERS)
    for entry in results["layers"]:
        assert len(entry["tokens"]) == EXPERTS
        assert sum(entry["tokens"]) == TOP_K * results["tokens"]
    # The same numbers from the file itself, without the script's reader.
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(imatrix).tensors}
    assert (
        results["layers"][1]["tokens"] == tensors["blk.2.ffn_down_exps.weight.counts"].reshape(-1).astype(int).tolist()
    )
    assert tensors["blk.0.ffn_down.weight.counts"].item() == results["tokens"]


def test_chat_markers_reach_the_model_as_special_tokens(llama_bin, compute):
    with_markers = compute(TEXT)[1]["tokens"]
    as_text = compute(TEXT.replace("<|end|>", "<~end~>"))[1]["tokens"]
    # "<|end|>" is one token of the model, "<~end~>" is seven.
    assert with_markers < as_text


def test_the_imatrix_does_not_carry_paths_of_this_machine(llama_bin, compute, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    imatrix, _ = compute()
    assert str(tmp_path).encode() not in imatrix.read_bytes()


def test_a_text_shorter_than_two_chunks_is_refused_and_leaves_nothing(llama_bin, compute, tmp_path):
    with pytest.raises(UserError, match="llama-imatrix"):
        compute("too short")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calibration.txt", "imatrix.log"]


@pytest.mark.parametrize(
    "name", ["blk.2.ffn_gate_exps.weight", "blk.2.ffn_up_exps.weight", "blk.2.ffn_down_exps.weight"]
)
def test_an_expert_below_the_threshold_is_named_and_no_imatrix_is_left(compute, tmp_path, name):
    counts = even()
    counts[name][3] = 63
    with pytest.raises(UserError, match=r"layer 2 expert 3: 63\b"):
        compute(counts=counts)
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.txt"]


def test_a_model_that_computes_nan_is_refused_and_nothing_is_kept(llama_bin, compute, tmp_path):
    """The sums are finite there: only the last norm overflows, behind every matrix that the imatrix knows."""
    broken = tmp_path / "broken.gguf"
    smoke_test.write_model(broken)
    reader = gguf.GGUFReader(broken, "r+")
    next(tensor for tensor in reader.tensors if tensor.name == "token_embd_norm.weight").data[:] *= 2e38
    reader.data.flush()
    del reader
    with pytest.raises(UserError):
        compute(gguf=broken)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.gguf", "calibration.txt", "imatrix.log"]


@pytest.mark.parametrize("perplexity", ["nan", "-nan", "inf", "-nan(ind)", "1e999", "much"])
def test_a_perplexity_that_is_no_number_leaves_no_imatrix(compute, tmp_path, perplexity):
    with pytest.raises(UserError, match="perplexity"):
        compute(counts=even(), perplexity=perplexity)
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.txt"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -1])
def test_sums_that_are_no_numbers_are_named_by_matrix_and_expert(compute, tmp_path, value):
    sums = np.ones((EXPERTS, 256), dtype=np.float32)
    sums[2, 7] = value
    with pytest.raises(UserError, match=r"blk\.2\.ffn_up_exps\.weight: expert 2: its sums are no finite numbers"):
        compute(counts=even(), sums={"blk.2.ffn_up_exps.weight": sums})
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.txt"]


def test_a_failed_run_leaves_the_imatrix_of_the_last_good_one(compute, tmp_path):
    imatrix, _ = compute(counts=even())
    good = imatrix.read_bytes()
    with pytest.raises(UserError):
        compute(counts=even(), perplexity="nan")
    assert imatrix.read_bytes() == good


def test_exactly_the_threshold_is_enough(compute):
    _, results = compute(counts=even(64))
    assert results["fewest_tokens"]["tokens"] == 64


def test_the_least_used_expert_is_in_the_report(compute):
    counts = even()
    for part in ("gate", "up", "down"):
        counts[f"blk.1.ffn_{part}_exps.weight"][2] = 77
    _, results = compute(counts=counts)
    assert results["fewest_tokens"] == {"layer": 1, "expert": 2, "tokens": 77}


@pytest.mark.parametrize("name", ["blk.0.shortconv.in_proj.weight", "blk.1.attn_v.weight", "blk.0.ffn_down.weight"])
def test_a_matrix_without_entry_is_named(compute, name):
    counts = even()
    del counts[name]
    with pytest.raises(UserError, match=f"no entry for 1 matrices .*{name}"):
        compute(counts=counts)


def test_a_whole_layer_without_entry_is_refused(compute):
    counts = {name: seen for name, seen in even().items() if "blk.2.ffn" not in name}
    with pytest.raises(UserError, match="layer 2 expert 0: 0"):
        compute(counts=counts)


def test_the_matrices_that_need_importance_are_those_that_can_be_quantized(model):
    assert quant_compute_imatrix.needs_importance(model) == matrices(model)


@pytest.fixture
def in_parts(tmp_path, model, monkeypatch):
    """Run the script with parts of two chunks; returns its report's results. `stop` ends it before that part."""

    def run(*flags, stop=None):
        if not (tmp_path / "calibration.txt").exists():
            (tmp_path / "calibration.txt").write_text(TEXT[: len(TEXT) // 3])
        computed = []

        def counting(model, text, out, context, log, chosen=()):
            if stop is not None and len(computed) == stop:
                raise KeyboardInterrupt
            computed.append(chosen)
            return whole(model, text, out, context, log, chosen)

        whole = RUN
        monkeypatch.setattr(quant_compute_imatrix, "run_imatrix", counting)
        paths = {name: str(tmp_path / f"imatrix.{name}") for name in ("gguf", "json", "log")}
        words = ["--gguf", str(model), "--text", str(tmp_path / "calibration.txt"), "--out", paths["gguf"]]
        words += ["--report", paths["json"], "--log", paths["log"], "--context", "128"]
        monkeypatch.setattr(sys, "argv", ["quant_compute_imatrix.py", *words, *flags])
        quant_compute_imatrix.main()
        return read_json(tmp_path / "imatrix.json")["results"], computed

    return run


RUN = quant_compute_imatrix.run_imatrix


def test_a_settled_imatrix_ends_before_the_text_does(llama_bin, in_parts, tmp_path):
    whole, _ = in_parts()
    settled, computed = in_parts("--settled", "0.9")
    assert len(computed) == 2 and settled["parts"] == 2
    assert settled["tokens"] == 4 * 128 < whole["tokens"]
    assert not (tmp_path / "imatrix.gguf.parts").exists()


def test_parts_that_never_settle_are_the_imatrix_of_the_whole_text(llama_bin, in_parts, tmp_path):
    whole, _ = in_parts()
    expected = gguf.GGUFReader(tmp_path / "imatrix.gguf").tensors
    expected = {tensor.name: np.array(tensor.data) for tensor in expected}
    never, computed = in_parts("--settled", "1e-9")
    assert never["tokens"] == 2 * 128 * (len(computed) - 1)  # the last one found that the text ends
    if never["tokens"] == whole["tokens"]:
        for tensor in gguf.GGUFReader(tmp_path / "imatrix.gguf").tensors:
            assert np.allclose(tensor.data, expected[tensor.name], rtol=1e-4), tensor.name
    assert 0 <= whole["tokens"] - never["tokens"] < 2 * 128 + 128


def test_a_killed_run_goes_on_behind_its_last_whole_part(llama_bin, in_parts, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        in_parts("--settled", "1e-9", stop=2)
    assert len(list((tmp_path / "imatrix.gguf.parts").glob("part-*.gguf"))) == 2
    _, computed = in_parts("--settled", "1e-9")
    assert computed[0][:2] == ("--chunk", 4)


def test_parts_of_another_context_are_not_taken(llama_bin, in_parts, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        in_parts("--settled", "1e-9", "--part-chunks", "3", stop=1)
    _, computed = in_parts("--settled", "1e-9")
    assert computed[0][:2] == ("--chunk", 0)


def test_another_imatrix_is_added_with_its_tokens(llama_bin, in_parts, tmp_path):
    alone, _ = in_parts("--settled", "0.9")
    (tmp_path / "imatrix.gguf").rename(tmp_path / "other.gguf")
    both, _ = in_parts("--settled", "0.9", "--with", str(tmp_path / "other.gguf"))
    assert both["fewest_tokens"]["tokens"] == 2 * alone["fewest_tokens"]["tokens"]
