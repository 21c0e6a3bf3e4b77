"""A GGUF with a model's real shapes and no weights: a sparse file that takes next to no disk.

In:  a config.json, or one of gguf/*.shapes.json with the same keys.
Out: a BF16 GGUF whose tensor data is one hole, good for `llama-quantize --dry-run` and for linting.

  .venv/bin/python scripts/quant_sparse_gguf.py --shapes gguf/lfm2-8b-a1b.shapes.json --out /tmp/sparse.gguf
"""

from pathlib import Path

from kxl.base import cli
from kxl.base.files import shown
from kxl.quant.sparse import read_shapes, write_sparse


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--shapes", type=Path, required=True, metavar="FILE", help="config.json or gguf/*.shapes.json")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="GGUF file to write")
    args = parser.parse_args()
    write_sparse(read_shapes(args.shapes), args.out)
    used = args.out.stat().st_blocks * 512
    print(
        f"{shown(args.out)}: sparse BF16 GGUF, {args.out.stat().st_size / 2**30:.2f} GiB long, "
        f"{used / 2**10:.0f} KiB on disk"
    )


if __name__ == "__main__":
    cli.run(main)
