"""Make a BF16 checkpoint out of a core or of a training checkpoint (step_NNNNN, step_NNNNN_final).

In:  --step, a core folder: int8 experts, BF16 rest; what training carries beside the codes is added to them.
Out: --out, a checkpoint folder as transformers loads it, one matrix in memory at a time; with --mlx in
     mlx-lm's names. quant_convert.py takes either.

  .venv/bin/python scripts/moe_materialize.py --step runs/tiny/moe/streamed/step_00100_final --out runs/tiny/moe/bf16
"""

import math
from dataclasses import replace
from pathlib import Path

from kxl.base import cli
from kxl.base.cli import UserError
from kxl.base.files import read_json, require_space, shown
from kxl.model import checkpoint
from kxl.moe.core import materialized


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--step", type=Path, required=True, help="core or training checkpoint")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--mlx", action="store_true", help="mlx-lm's names instead of transformers'")
    args = parser.parse_args()

    core = materialized(args.step)
    if "quantization" not in core.config:
        raise UserError(f"{shown(args.step)}: has no int8 experts, it is a plain checkpoint already")
    count = sum(math.prod(tensor.shape) for tensor in core.tensors.values())
    require_space(args.out.parent, 2 * count)
    save = checkpoint.save_mlx if args.mlx else checkpoint.save_hf
    save(args.out, replace(core, config={**core.config, "dtype": "bfloat16"}))
    state = args.step / "state.json"
    trained = f" after {read_json(state).get('step')} steps" if state.is_file() else ""
    print(f"{shown(args.out)}: BF16 of {shown(args.step)}{trained}, {count / 1e6:,.1f} M parameters")


if __name__ == "__main__":
    cli.run(main)
