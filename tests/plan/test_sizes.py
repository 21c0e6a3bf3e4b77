"""What shapes say of a model's size: against counts that others made."""

import json

import pytest

from conftest import ROOT
from kxl.base.files import read_json
from kxl.plan import sizes
from kxl.plan.walk import POLICIES

EIGHT = ROOT / "gguf" / "lfm2-8b-a1b.shapes.json"


def test_the_8b_has_the_parameters_that_its_makers_count():
    size = sizes.of(read_json(EIGHT))
    assert round(size.parameters / 1e6, 1) == 8339.9 and round(size.experts / 1e6) == 7751
    assert 1.4e9 < size.active < 1.7e9  # "A1B"


@pytest.mark.parametrize("policy", POLICIES)
def test_a_quants_bytes_are_those_of_llama_quantizes_own_dry_run(policy):
    """reports/lfm2.5-8b-a1b/sizes.json comes from `llama-quantize --dry-run`, its metadata from the same rule."""
    measured = read_json(ROOT / "reports/lfm2.5-8b-a1b/sizes.json")["results"]["lfm2-8b-a1b"]["artifacts"][policy]
    size = sizes.of(read_json(EIGHT), POLICIES)
    assert size.quants[policy] == pytest.approx(measured["bytes"], rel=1e-4)


def test_the_core_is_as_large_as_the_one_that_was_trained():
    proven = read_json(ROOT / "reports/prove-8b/memory.json")["results"]["streamed"]["core_gib"]
    assert sizes.of(read_json(EIGHT)).core / 2**30 == pytest.approx(proven, rel=1e-3)


def test_keys_and_values_of_a_context_by_hand():
    size = sizes.of(read_json(EIGHT))
    # Six attention layers, keys and values, 8 heads of 64 numbers of two bytes.
    assert size.cache(1000) == 6 * 2 * 8 * 64 * 2 * 1000


def test_a_checkpoint_of_random_weights_has_these_bytes(tmp_path):
    from kxl.model import checkpoint
    from kxl.plan import measure, random_model
    from kxl.plan.walk import TEMPLATE

    shapes = read_json(ROOT / "configs" / "walk-shapes.json")["small"]
    random_model.write(tmp_path / "model", shapes, TEMPLATE)
    read = checkpoint.read(tmp_path / "model")
    weights = sum(path.stat().st_size for path in (tmp_path / "model").glob("*.safetensors"))
    assert weights == pytest.approx(sizes.of(shapes).bf16, rel=0.01)
    assert measure.bytes_of(tmp_path / "model") >= weights
    assert read.config["vocab_size"] == shapes["vocab_size"]
    assert abs(read.tensors["model.layers.2.feed_forward.experts.3.w1.weight"].read().std() - 0.02) < 0.001


@pytest.mark.minutes
def test_a_grown_tokenizer_reads_text_as_the_tiny_one_does(tmp_path):
    from kxl.chat import tokenizer_checks
    from kxl.plan import random_model

    random_model.write_tokenizer(tmp_path, 128_000)
    grown, tiny = tokenizer_checks.load(tmp_path), tokenizer_checks.load(ROOT / "models" / "tiny")
    assert grown.get_vocab_size() == 127_992
    for text in ("List the files in /tmp, then open https://example.org!", '{"path": "a b"}', "été 你好"):
        assert grown.encode(text).ids == tiny.encode(text).ids
    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    assert len(set(vocabulary.values())) == len(vocabulary)
