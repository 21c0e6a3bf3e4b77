"""What is rounded in memory is what llama-quantize writes."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from kxl.base.cli import UserError
from kxl.quant import quantizing
from kxl.search import ggml
from kxl.setup import random_gguf

KINDS = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "IQ4_NL")  # what rows of 64 can be


@pytest.fixture(scope="module")
def made(tmp_path_factory, llama_bin):
    """({kind: {tensor: bytes}} by llama-quantize with an imatrix, weights, importance) of a small random model."""
    folder = tmp_path_factory.mktemp("ggml")
    random_gguf.write(folder / "base.gguf")
    weights = {t.name: np.array(t.data) for t in gguf.GGUFReader(folder / "base.gguf").tensors}
    names = [name for name in weights if name.endswith("attn_q.weight") or name.endswith("ffn_down.weight")]
    draw = np.random.default_rng(5)
    importance = {name: draw.exponential(1.0, weights[name].shape[-1]).astype(np.float32) for name in names}
    writer = gguf.GGUFWriter(folder / "imatrix.gguf", "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["drawn"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    for name, values in importance.items():
        writer.add_tensor(f"{name}.in_sum2", values[None] * 4)
        writer.add_tensor(f"{name}.counts", np.full((1, 1), 4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    files = {}
    for kind in KINDS:
        rules = f"^.*weight$={kind.lower()}\n"
        out = folder / f"{kind}.gguf"
        quantizing.quantize(folder / "base.gguf", out, "Q8_0", folder / "imatrix.gguf", rules, folder / "log")
        files[kind] = {t.name: np.array(t.data) for t in gguf.GGUFReader(out).tensors if t.name in names}
    return files, weights, importance


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_those_that_llama_quantize_writes(made, kind):
    files, weights, importance = made
    assert files[kind]
    for name, written in files[kind].items():
        assert (ggml.quantized(weights[name], Type[kind], importance[name]) == written).all(), name


@pytest.mark.parametrize("kind", ["Q8_0", "Q6_K", "Q5_K", "Q4_K", "IQ4_XS", "Q3_K", "IQ3_S", "Q2_K"])
def test_what_is_read_back_is_what_ggufs_own_reader_makes_of_the_bytes(llama_bin, kind):
    rows = np.random.default_rng(1).normal(0, 0.1, (6, 512)).astype(np.float32)
    found = ggml.rounded(rows, Type[kind])
    assert found == pytest.approx(gguf.quants.dequantize(ggml.quantized(rows, Type[kind]), Type[kind]), abs=1e-6)
    assert 0 < np.abs(found - rows).max() < 0.3


def test_bf16_is_rounded_to_the_nearest_even():
    rows = np.array([[1.0, 1.00390625, 1.01171875, -2.5]], dtype=np.float32)  # two of them halfway
    assert ggml.rounded(rows, Type.BF16).tolist() == [[1.0, 1.0, 1.015625, -2.5]]


def test_rows_that_do_not_fit_the_blocks_are_refused(llama_bin):
    with pytest.raises(UserError, match="multiples of 256"):
        ggml.quantized(np.zeros((2, 64), dtype=np.float32), Type.Q4_K)
