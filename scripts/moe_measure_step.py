"""One real training step on a random core of given shapes, in a process of its own: seconds and peak memory.

In:  a config.json or gguf/*.shapes.json, a training config, mode and sequence length.
Out: one JSON line: peak_rss_gib (of the whole process), mlx_peak_gib, seconds by part and in all, processor seconds (of all
     threads: what the same step costs on a machine that does other work, too), loss.

A bar on stderr counts the layers, a backward as three forwards.
The core is random int8 experts and random BF16 rest, made in memory, so real shapes need no checkpoint.
--layers takes the first layers only, --passes runs that many groups of a grouped step from the top.

  .venv/bin/python scripts/moe_measure_step.py --shapes gguf/lfm2-8b-a1b.shapes.json --config configs/lfm2.5-8b-a1b-moe.json \\
      --layers 6 --tokens 256 --mode streamed
"""

import json
from pathlib import Path

from kxl.base import cli
from kxl.model import blas
from kxl.moe.measure import measure


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--shapes", type=Path, required=True, help="config.json of the shapes")
    parser.add_argument("--config", type=Path, required=True, help="training config")
    parser.add_argument("--mode", choices=("streamed", "grouped"), default="streamed")
    parser.add_argument("--tokens", type=int, required=True, help="tokens of the one example; all are scored")
    parser.add_argument("--layers", type=int, help="only the first layers")
    parser.add_argument("--group-layers", type=int, help="instead of the config's")
    parser.add_argument("--group-stride", type=int, help="instead of the config's")
    parser.add_argument("--passes", type=int, help="only the first groups, from the top")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    blas.use_fast_blas()
    print(json.dumps(measure(args)))


if __name__ == "__main__":
    cli.run(main)
