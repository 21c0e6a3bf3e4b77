"""The proof that an adapter of an 8B trains in little memory, on a small model: goes on, cleans up, refuses."""

import json

import pytest

import repair_prove_8b
from kxl.base.cli import UserError
from kxl.base.files import read_json, write_json

pytestmark = pytest.mark.minutes

SHAPES = {
    "model_type": "lfm2_moe",
    "vocab_size": 500,
    "hidden_size": 128,
    "intermediate_size": 256,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_dense_layers": 1,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "conv_L_cache": 3,
    "full_attn_idxs": [1, 3],
    "norm_eps": 1e-5,
    "rope_theta": 1e6,
    "max_position_embeddings": 4096,
}


@pytest.fixture
def prove(tmp_path, monkeypatch):
    """prove(*flags): the results of a proof on SHAPES; it is refused where the memory model is `tolerance` off."""
    write_json(tmp_path / "shapes.json", SHAPES)

    def run(*flags, tolerance: float = 9.0) -> dict:
        command = ["repair_prove_8b.py", "--shapes", tmp_path / "shapes.json", "--vocabulary", 640, "--tokens", 64]
        command += ["--scratch", tmp_path / "scratch", "--report", tmp_path / "lora.json", *flags]
        monkeypatch.setattr("sys.argv", list(map(str, command)))
        monkeypatch.setattr(repair_prove_8b, "TOLERANCE", tolerance)  # of a small model the process is nearly all
        repair_prove_8b.main()
        return read_json(tmp_path / "lora.json")["results"]

    return run


def test_a_step_is_measured_beside_its_prediction_and_nothing_is_left(prove, tmp_path):
    results = prove("--inputs-on-disk")
    assert results["tokens"] == 64 and results["layers"] == 4 and results["loss"] > 1
    assert 0 < results["peak_gib"] < 2 and results["seconds"] > 0
    assert results["predicted_peak_gib"] == pytest.approx(sum(results["predicted_parts_gib"].values()), abs=0.005)
    assert results["predicted_parts_gib"]["inputs"] == 0
    assert not (tmp_path / "scratch").exists()


def test_what_was_written_before_a_kill_is_used_again_and_of_other_shapes_is_not(prove, tmp_path, monkeypatch, capsys):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(repair_prove_8b, "measured", killed)
        with pytest.raises(KeyboardInterrupt):
            prove()
    said = tmp_path / "scratch/core/config.json"
    before = said.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        patch.setattr(repair_prove_8b, "measured", killed)
        with pytest.raises(KeyboardInterrupt):
            prove()
        assert said.stat().st_mtime_ns == before and "goes on with the core" in capsys.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            prove("--layers", 2)
    assert json.loads(said.read_text())["num_hidden_layers"] == 2


def test_a_limit_that_is_missed_is_named_with_the_number(prove, tmp_path):
    with pytest.raises(UserError, match=r"\d\.\d\d GiB, and 0\.01 are the limit.*memory model is"):
        prove("--limit-gib", 0.01, tolerance=0.0)
    assert (tmp_path / "lora.failed.json").is_file() and not (tmp_path / "lora.json").exists()
