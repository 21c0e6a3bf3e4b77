"""What llama-server holds in memory beside the file: KV cache, conv states, compute buffers.

Formulas of the pinned llama.cpp for one request at a time on a CPU with flash attention. They agree with its own log
to the last digit shown for the tiny model (65,536 and 8,192 tokens) and for SmolLM2-135M (8,192).
"""

from dataclasses import dataclass
from pathlib import Path

from kxl.base.cli import UserError
from kxl.base.files import shown
from kxl.model import gguf_file

UBATCH = 512  # tokens that are computed at once
F16, F32 = 2, 4
MOST, MOST_BLOCKS = 1 << 24, 10_000  # beyond what any model has: sizes, and blocks
WIDTHS = 12  # rows of hidden size and float32 that the graph of one token holds at its widest place


@dataclass(frozen=True)
class Sum:
    """Bytes of each part."""

    file: int
    cache: int
    conv: int
    compute: int
    output: int

    @property
    def total(self) -> int:
        return self.file + self.cache + self.conv + self.compute + self.output

    def lines(self) -> list[str]:
        names = {
            "file": "the file",
            "cache": "KV cache (f16)",
            "conv": "conv states",
            "compute": "compute buffers",
            "output": "output buffer",
        }
        return [f"  {text:<16} {getattr(self, key) / 2**20:10,.1f} MiB" for key, text in names.items()] + [
            f"  {'sum':<16} {self.total / 2**20:10,.1f} MiB"
        ]


def needed(shape: dict, context: int, file: int) -> Sum:
    """Memory for a file of `file` bytes at `context` tokens. shape: as `shape_of` reads it."""
    cells = -(-context // 256) * 256
    conv = shape["conv_layers"] * shape["hidden"] * max(0, shape["conv_cache"] - 1) * F32
    return Sum(
        file=file,
        cache=cells * (shape["key_width"] + shape["value_width"]) * F16,
        conv=conv,
        compute=UBATCH * (F16 * cells + F32 * WIDTHS * shape["hidden"]),
        output=shape["vocabulary"] * F32,
    )


def shape_of(path: Path) -> dict:
    """{"hidden", "vocabulary", "key_width", "value_width" (of all layers together), "conv_layers", "conv_cache"}.

    Out of a GGUF's metadata. UserError where a value is missing.
    """
    reader = gguf_file.open_reader(path)

    def value(key: str, least: int, default=None):
        """A whole number, or a list of such, of the metadata."""
        field = reader.get_field(key)
        found = field.contents() if field is not None else default
        if found is None:
            raise UserError(f"{shown(path)}: {key} is missing; make the file again")
        for number in found if isinstance(found, list) else [found]:
            if type(number) is not int or not least <= number <= MOST:
                raise UserError(f"{shown(path)}: {key} has the value {str(number)[:40]!r}; make the file again")
        return found

    arch = reader.get_field("general.architecture")
    arch = arch.contents() if arch is not None else None
    blocks, hidden = value(f"{arch}.block_count", 1), value(f"{arch}.embedding_length", 1)
    if isinstance(blocks, list) or isinstance(hidden, list) or blocks > MOST_BLOCKS:
        raise UserError(f"{shown(path)}: {arch}.block_count and embedding_length are no sizes of a model")
    heads = value(f"{arch}.attention.head_count", 0)
    heads = [heads] * blocks if isinstance(heads, int) else heads
    kv = value(f"{arch}.attention.head_count_kv", 0, heads)
    kv = [kv] * blocks if isinstance(kv, int) else kv
    size = hidden // max([1, *heads])
    embedding = next((t for t in reader.tensors if t.name == "token_embd.weight"), None)
    if embedding is None or len(embedding.shape) != 2:
        raise UserError(f"{shown(path)}: has no token_embd.weight of rows and columns; make the file again")
    lengths = {name: value(f"{arch}.attention.{name}_length", 1, size) for name in ("key", "value")}
    cache = value(f"{arch}.shortconv.l_cache", 0, 1)
    if any(isinstance(number, list) for number in (*lengths.values(), cache)):
        raise UserError(f"{shown(path)}: {arch} has lists where one number stands; make the file again")
    return {
        "hidden": hidden,
        "vocabulary": int(embedding.shape[1]),
        "key_width": sum(kv) * lengths["key"],
        "value_width": sum(kv) * lengths["value"],
        "conv_layers": sum(not count for count in kv),
        "conv_cache": cache,
    }
