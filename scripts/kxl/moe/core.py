"""The mixed core: an LFM2-MoE whose experts are int8 and whose routers and everything else stay BF16.

On disk a core is a checkpoint folder: one shard per layer, transformers' names, experts as MLX affine
codes (NAME.weight, .scales, .biases), `quantization` in config.json. So checkpoint.read opens a core as
it opens any checkpoint, and that is the way back to BF16. In memory:

    core = load(folder)
    core.experts["model.layers.2.feed_forward.experts.0.w1"]    # Int8Matrix, changed in place by training
    core.weight("model.layers.2.feed_forward.gate.weight")      # float32 mx.array, made when asked for

The arrays are numpy's: 8.8 GiB at LFM2-8B-A1B's shapes, read once, rewritten in place, never held twice. Or they are
views into mapped files (mapped.py), of which a layer at a time need be in memory.

What rounding dropped (int8.py) lies beside the codes: carry-NNNNN files, one per MoE layer, which other readers of a
core need not know: `materialized` adds them.
"""

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import mlx.core as mx
import numpy as np

from kxl.base.cli import UserError
from kxl.base.files import atomic_dir, read_json, require_space, shown, write_json
from kxl.model import checkpoint, safetensors_io
from kxl.model.shapes import expected_shapes, normalize_config
from kxl.model.tensors import Checkpoint, Tensor
from kxl.moe import int8
from kxl.moe.int8 import Int8Matrix
from kxl.moe.mapped import Maps

MATRICES = ("w1", "w3", "w2")  # gate, up, down


@dataclass
class MixedCore:
    """`plain`: name to BF16 bits (uint16) or float32, as stored.

    `tokenizer`: name to content of the files beside the weights; in memory, since the checkpoint that a run went on
    from is removed before the run ends.
    """

    config: dict
    group: int
    tokenizer: dict[str, bytes] = field(default_factory=dict)
    experts: dict[str, Int8Matrix] = field(default_factory=dict)
    plain: dict[str, np.ndarray] = field(default_factory=dict)
    maps: Maps | None = None

    @property
    def carry_bits(self) -> int:
        return next(iter(self.experts.values())).carry_bits

    def set_carry(self, bits: int) -> None:
        """Give every expert matrix a carry of `bits`, which keeps as much of its own as goes into it."""
        for matrix in self.experts.values():
            if matrix.carry_bits != bits:
                matrix.carry = int8.carry_of(int8.carried(matrix), bits)

    def ahead(self, layer: int) -> None:
        """The layer that is worked on next; only mapped files take notice."""
        if self.maps:
            self.maps.ahead(layer)

    def release(self, layer: int, changed: bool = False) -> None:
        """The layer that is through; only mapped files take notice."""
        if self.maps:
            self.maps.release(layer, changed)

    def settle(self, everything: bool = False) -> None:
        """Wait until what was changed in mapped files is on the disk; with `everything`, of files just written, too."""
        if self.maps:
            self.maps.settle(everything)

    @property
    def moe_layers(self) -> range:
        return range(self.config["num_dense_layers"], self.config["num_hidden_layers"])

    @property
    def nbytes(self) -> int:
        return sum(matrix.nbytes for matrix in self.experts.values()) + sum(
            array.nbytes for array in self.plain.values()
        )

    def expert(self, layer: int, expert: int) -> list[Int8Matrix]:
        """Gate, up and down projection of one expert."""
        return [self.experts[expert_name(layer, expert, matrix)] for matrix in MATRICES]

    def expert_weights(self, layer: int, expert: int) -> list[mx.array]:
        """The same as float32, made when asked for."""
        return [int8.dequantize_mlx(matrix) for matrix in self.expert(layer, expert)]

    def weight(self, name: str, rows=slice(None)) -> mx.array:
        """A weight that is not an expert's (or some rows of it) as float32."""
        return as_float32(self.plain[name][rows])


def expert_name(layer: int, expert: int, matrix: str) -> str:
    """The tensor's name in an HF checkpoint of LFM2-MoE; `matrix` is w1, w2 or w3."""
    return f"model.layers.{layer}.feed_forward.experts.{expert}.{matrix}"


def router_name(layer: int) -> str:
    """The router's name in an HF checkpoint."""
    return f"model.layers.{layer}.feed_forward.gate.weight"


def as_float32(stored: np.ndarray) -> mx.array:
    """BF16 bits or float32 to a float32 MLX array."""
    return mx.array(stored).view(mx.bfloat16).astype(mx.float32) if stored.dtype == np.uint16 else mx.array(stored)


def check_config(config: dict, group: int, path: str) -> dict:
    """The normalized config; UserError when it is no LFM2-MoE or the group size does not fit its experts."""
    config = normalize_config(config, path)
    if config["model_type"] != "lfm2_moe":
        raise UserError(
            f"{path}: model_type {config['model_type']!r} has no experts to train; MODEL must be an LFM2-MoE"
        )
    for key in ("hidden_size", "moe_intermediate_size"):
        int8.check_group(f"{path}: {key}", config[key], group)
    return config


def is_expert(name: str) -> bool:
    """Whether a tensor of the checkpoint is an expert's."""
    return ".feed_forward.experts." in name


def layout(config: dict) -> list[list[tuple[str, tuple]]]:
    """[(name, shape)] per shard: everything outside the layers, then each layer."""
    shards = [[] for _ in range(config["num_hidden_layers"] + 1)]
    for name, shape in expected_shapes(config).items():
        layer = re.match(r"model\.layers\.(\d+)\.", name)
        shards[int(layer[1]) + 1 if layer else 0].append((name, shape))
    return shards


def build(folder: Path, source: Checkpoint, group: int, carry_bits: int = 0, say=None) -> dict:
    """Write the core of a checkpoint into `folder`, holding one matrix at a time; return each expert matrix's error.

    {name: {"relative_rms", "max"}}: RMS of the error of the codes over RMS of the weights, and the largest error. A
    carry of `carry_bits` holds most of that error: with 8 bits a core starts where the checkpoint is.
    """
    errors = {}

    @functools.lru_cache(maxsize=1)  # codes, scales and biases of one matrix are written one after another
    def quantized(name: str) -> Int8Matrix:
        values = source.tensors[name].read()
        matrix = int8.quantize(values, group, carry_bits)
        error = int8.dequantize(replace(matrix, carry=None)) - values
        scale = float(np.sqrt(np.mean(np.square(values)))) or 1.0
        errors[name] = {
            "relative_rms": round(float(np.sqrt(np.mean(np.square(error)))) / scale, 6),
            "max": float(np.abs(error).max()),
        }
        return matrix

    def stored_as(name: str, shape: tuple) -> list[Tensor]:
        if is_expert(name):
            return _matrix_tensors(name.removesuffix(".weight"), shape, group, lambda: quantized(name))
        tensor = source.tensors[name]
        dtype = "F32" if tensor.dtype == "F32" and name.endswith("expert_bias") else "BF16"
        return [Tensor(name, shape, dtype, tensor.parts)]

    def carry(base: str, shape: tuple) -> np.ndarray:
        return int8.quantize(source.tensors[f"{base}.weight"].read(), group, carry_bits).carry

    def carries(partial: Path) -> None:
        if carry_bits:
            write_carry(partial, source.config, carry_bits, carry)

    require_space(folder.parent, stored_bytes(source.config, group, carry_bits))
    _write(folder, source.config, group, checkpoint.tokenizer_files(source.folder), stored_as, say, carries)
    return errors


def save(folder: Path, core: MixedCore, also=None) -> None:
    """Write a core atomically; `also(partial folder)` adds files that belong to the same moment."""

    def stored_as(name: str, shape: tuple) -> list[Tensor]:
        if is_expert(name):
            matrix = core.experts[name.removesuffix(".weight")]
            return _matrix_tensors(name.removesuffix(".weight"), shape, core.group, lambda: matrix)
        stored = core.plain[name]
        return [Tensor(name, shape, "BF16" if stored.dtype == np.uint16 else "F32", (lambda: stored,))]

    def beside(partial: Path) -> None:
        if core.carry_bits:
            write_carry(
                partial, core.config, core.carry_bits, lambda base, shape: core.experts[base].carry, core.release
            )
        if also:
            also(partial)

    require_space(folder.parent, core.nbytes + 2**20)
    _write(
        folder, core.config, core.group, core.tokenizer, stored_as, lambda done, count: core.release(done - 2), beside
    )


def write_carry(folder: Path, config: dict, bits: int, carry: Callable, done: Callable = lambda layer: None) -> None:
    """Write the carry files of a core folder. `carry(base, shape of the codes)` gives each matrix's uint8 array."""
    shards = layout(config)
    for index, shard in enumerate(shards):
        experts = [(name.removesuffix(".weight"), shape) for name, shape in shard if is_expert(name)]
        if experts:
            tensors = [_carry_tensor(base, shape, bits, carry) for base, shape in experts]
            safetensors_io.write_file(folder / _shard_name(index, len(shards), "carry"), tensors, {"bits": str(bits)})
            done(index - 1)


def _carry_tensor(base: str, shape: tuple, bits: int, carry: Callable) -> Tensor:
    """A carry as it is stored: its bytes, four as one number."""
    packed = (shape[0], shape[1] * bits // 32)
    return Tensor(f"{base}.carry", packed, "U32", (lambda: carry(base, shape).view(np.uint32),))


def set_carry(folder: Path, bits: int) -> None:
    """Give the matrices of a core folder a carry of `bits`, as MixedCore.set_carry does."""
    files = carry_files(folder)
    stored = {name: entry for path in files for name, entry in safetensors_io.read_header(path).items()}

    def carry(base: str, shape: tuple) -> np.ndarray:
        old = stored.get(f"{base}.carry")
        bytes_ = None if old is None else old.rows(0, shape[0]).view(np.uint8)
        return int8.carry_of(int8.carried(Int8Matrix(np.zeros(shape, np.uint8), None, None, bytes_)), bits)

    config = read_json(folder / "config.json")
    config.pop("quantization", None)
    config = normalize_config(config, shown(folder / "config.json"))
    shapes = expected_shapes(config)
    columns = {name: shapes[f"{name.removesuffix('.carry')}.weight"][1] for name in stored}
    before = {32 * entry.columns // columns[name] for name, entry in stored.items()} or {0}
    if bits and before != {bits}:
        write_carry(folder, config, bits, carry)
    if not bits:
        for path in files:
            path.unlink()


def carry_files(folder: Path) -> list[Path]:
    """The carry files of a core folder, none where nothing is carried."""
    return sorted(Path(folder).glob("carry-*.safetensors"))


def layer_files(config: dict) -> dict[int, list[str]]:
    """{layer: names of its files}; -1 for what belongs to no layer."""
    count = config["num_hidden_layers"] + 1
    return {index - 1: [_shard_name(index, count), _shard_name(index, count, "carry")] for index in range(count)}


def materialized(folder: Path) -> Checkpoint:
    """A core or training checkpoint as a checkpoint of floats; what is carried beside the codes is added."""
    read = checkpoint.read(folder)
    stored = safetensors_io.index_folder(folder)
    tensors = dict(read.tensors)
    for path in carry_files(folder):
        for name, entry in safetensors_io.read_header(path).items():
            base = name.removesuffix(".carry")
            whole = functools.partial(_with_carry, tensors[f"{base}.weight"], stored[f"{base}.scales"], entry)
            tensors[f"{base}.weight"] = replace(tensors[f"{base}.weight"], parts=(whole,))
    return replace(read, tensors=tensors)


def _with_carry(tensor: Tensor, scales: safetensors_io.Stored, carry: safetensors_io.Stored) -> np.ndarray:
    """float32 [rows, columns]: the weights of a matrix and the fraction of a code that each is owed."""
    rows = tensor.shape[0]
    fractions = int8.carried(
        Int8Matrix(np.zeros(tensor.shape, np.uint8), None, None, carry.rows(0, rows).view(np.uint8))
    )
    return tensor.read() + fractions * scales.rows(0, rows).repeat(tensor.shape[1] // scales.columns, axis=1)


def stored_bytes(config: dict, group: int, carry_bits: int = 0) -> int:
    """Bytes of a core's arrays."""
    return sum(
        math.prod(shape) + 4 * math.prod(shape) // group + math.prod(shape) * carry_bits // 8
        if is_expert(name)
        else math.prod(shape) * (4 if name.endswith("expert_bias") else 2)
        for name, shape in expected_shapes(config).items()
    )


def _matrix_tensors(base: str, shape: tuple, group: int, matrix: Callable[[], Int8Matrix]) -> list[Tensor]:
    """Codes, scales and biases of an expert matrix as MLX names and stores them."""
    rows, columns = shape
    return [
        Tensor(f"{base}.weight", (rows, columns // 4), "U32", (lambda: matrix().codes.view(np.uint32),)),
        Tensor(f"{base}.scales", (rows, columns // group), "BF16", (lambda: matrix().scales,)),
        Tensor(f"{base}.biases", (rows, columns // group), "BF16", (lambda: matrix().biases,)),
    ]


def _write(folder: Path, config: dict, group: int, tokenizer: dict[str, bytes], stored_as, say, also=None) -> None:
    """Write a core folder: `stored_as(name, shape)` gives the tensors that a canonical one is stored as."""
    shards = layout(config)
    with atomic_dir(folder) as partial:
        for index, shard in enumerate(shards):
            tensors = [tensor for name, shape in shard for tensor in stored_as(name, shape)]
            safetensors_io.write_file(partial / _shard_name(index, len(shards)), tensors, {"format": "mlx"})
            if say:
                say(index + 1, len(shards))
        write_json(
            partial / "config.json", {**config, "quantization": {"bits": 8, "group_size": group, "mode": "affine"}}
        )
        for name, content in tokenizer.items():
            (partial / name).write_bytes(content)
        if also:
            also(partial)


def _shard_name(index: int, count: int, kind: str = "model") -> str:
    return f"{kind}-{index + 1:05d}-of-{count:05d}.safetensors"


def load(folder: Path, tokenizer_of: Path | None = None, mapped: bool = False) -> MixedCore:
    """Read a core into memory. UserError names the file or tensor that is missing or does not fit.

    tokenizer_of: a folder whose tokenizer it gets instead of its own, such as the core that a checkpoint came from.
    mapped: leave the arrays in the files, which then change where the arrays are changed.
    """
    folder = Path(folder)
    tokenizer = checkpoint.tokenizer_files(tokenizer_of or folder)
    stored = safetensors_io.index_folder(folder)
    config = read_json(folder / "config.json")
    settings = config.pop("quantization", None)
    if not isinstance(settings, dict) or settings.get("bits") != 8 or settings.get("mode") != "affine":
        raise UserError(
            f"{shown(folder)}: config.json does not describe int8 experts; "
            "build a core from the checkpoint first (make core)"
        )
    group = settings["group_size"]
    core = MixedCore(check_config(config, group, shown(folder / "config.json")), group, tokenizer)
    core.maps = Maps(folder, layer_files(core.config)) if mapped else None
    carries = {name: entry for path in carry_files(folder) for name, entry in safetensors_io.read_header(path).items()}
    for name, shape in expected_shapes(core.config).items():
        if is_expert(name):
            base = name.removesuffix(".weight")
            rows, columns = shape
            codes = _bits(folder, stored, name, (rows, columns // 4), ("U32",), core.maps)
            scales, biases = (
                _bits(folder, stored, f"{base}.{kind}", (rows, columns // group), ("BF16",), core.maps)
                for kind in ("scales", "biases")
            )
            core.experts[base] = Int8Matrix(codes.view(np.uint8), scales, biases)
            if carries:
                bits = 32 * carries[f"{base}.carry"].columns // columns if f"{base}.carry" in carries else 4
                packed = (rows, columns * bits // 32)
                carry = _bits(folder, carries, f"{base}.carry", packed, ("U32",), core.maps)
                core.experts[base].carry = carry.view(np.uint8)
        else:
            core.plain[name] = _bits(folder, stored, name, shape, ("BF16", "F32"), core.maps)
    return core


def _bits(folder: Path, stored: dict, name: str, shape: tuple, types: tuple, maps: Maps | None) -> np.ndarray:
    """A tensor's bytes as they are, in memory of its own or in its mapped file."""
    if name not in stored:
        raise UserError(f"{shown(folder)}: {name} is missing; build the core again (make core)")
    entry = stored[name]
    if entry.shape != tuple(shape) or entry.dtype not in types:
        raise UserError(
            f"{shown(entry.file)}: {name} is {entry.dtype} {list(entry.shape)}, a core has {types[0]} {list(shape)} "
            "there; build it again (make core)"
        )
    if maps:
        return maps.array(entry).reshape(shape)
    array = np.fromfile(entry.file, safetensors_io.NUMPY[entry.dtype], math.prod(shape), offset=entry.offset)
    return array.reshape(shape)


def random(config: dict, group: int, seed: int, deviation: float = 0.02) -> MixedCore:
    """A core of random weights, made in place without a BF16 model: for tests and for measuring real shapes."""
    config = check_config(config, group, "random core")
    rng = np.random.default_rng(seed)
    core = MixedCore(config, group)
    for name, shape in expected_shapes(config).items():
        if is_expert(name):
            core.experts[name.removesuffix(".weight")] = _random_matrix(rng, shape, group, deviation)
        else:
            core.plain[name] = _random_plain(rng, name, shape, deviation)
    return core


def write_random(folder: Path, config: dict, group: int, seed: int, carry_bits: int, say=None) -> None:
    """Write a core folder of random weights that holds one matrix at a time, with a carry of `carry_bits`."""
    config = check_config(config, group, "random core")
    rng = np.random.default_rng(seed)

    @functools.lru_cache(maxsize=1)  # codes, scales and biases of one matrix are written one after another
    def matrix(name: str, shape: tuple) -> Int8Matrix:
        return _random_matrix(rng, shape, group, 0.02)

    def stored_as(name: str, shape: tuple) -> list[Tensor]:
        if is_expert(name):
            return _matrix_tensors(name.removesuffix(".weight"), shape, group, lambda: matrix(name, shape))
        kind = "F32" if name.endswith("expert_bias") else "BF16"
        return [Tensor(name, shape, kind, (lambda: _random_plain(rng, name, shape, 0.02),))]

    def carries(partial: Path) -> None:
        if carry_bits:
            write_carry(partial, config, carry_bits, lambda base, shape: int8.no_carry(shape, carry_bits))

    require_space(folder.parent, stored_bytes(config, group, carry_bits) + 2**20)
    _write(folder, config, group, {}, stored_as, say, carries)


def _random_matrix(rng: np.random.Generator, shape: tuple, group: int, deviation: float) -> Int8Matrix:
    # Uniform codes 0..255 have a deviation of 73.9 steps.
    scale = safetensors_io.float32_to_bf16(np.float32([deviation / 73.9]))
    bias = safetensors_io.float32_to_bf16(-127.5 * safetensors_io.bf16_to_float32(scale))
    grid = (shape[0], shape[1] // group)
    return Int8Matrix(rng.integers(0, 256, shape, dtype=np.uint8), np.full(grid, scale), np.full(grid, bias))


def _random_plain(rng: np.random.Generator, name: str, shape: tuple, deviation: float) -> np.ndarray:
    if name.endswith("expert_bias"):
        return 0.01 * rng.standard_normal(shape, dtype=np.float32)
    array = np.empty(shape, np.uint16)
    rows = array.reshape(shape[0], -1)
    spread = shape[-1] ** -0.5 if "conv.conv" in name else deviation
    for start in range(0, len(rows), 4096):  # float32 of a whole embedding would be the largest array of all
        values = rng.standard_normal(rows[start : start + 4096].shape, dtype=np.float32)
        rows[start : start + 4096] = safetensors_io.float32_to_bf16(
            1 + 0.1 * values if "norm" in name else spread * values
        )
    return array
