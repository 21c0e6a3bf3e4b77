"""Average the weights of two checkpoints of one training: a point between an earlier and a later stage.

In:  two checkpoint folders with the same config.json, and the second one's share.
Out: a checkpoint folder in MLX's layout, with the first one's tokenizer. Routing biases are averaged, too.

Two points of one training path mostly lie in one valley, and the mean forgets less than the end
(Wortsman et al. 2022, "Model soups", arXiv 2203.05482).

  .venv/bin/python scripts/average_checkpoints.py runs/tiny-train/2 runs/tiny-train/3 --share 0.35 --out models/tiny
"""

from pathlib import Path

import checkpoint
import cli
import report
from cli import UserError
from files import shown


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("first", type=Path, help="checkpoint folder")
    parser.add_argument("second", type=Path, help="checkpoint folder of a later stage")
    parser.add_argument("--share", type=float, required=True, help="weight of the second, 0 to 1")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; may be one of the two")
    parser.add_argument("--report", type=Path, help="report with the hashes of both (JSON)")
    args = parser.parse_args()

    if not 0 <= args.share <= 1:
        raise UserError(f"--share {args.share}: must lie between 0 and 1")
    first, second = checkpoint.read(args.first), checkpoint.read(args.second)
    if first.config != second.config:
        differing = sorted(key for key in first.config.keys() | second.config.keys() if first.config.get(key) != second.config.get(key))
        raise UserError(f"{shown(args.first)} and {shown(args.second)} are different models: {', '.join(differing)} in config.json differ")
    inputs = [report.describe_input(path) for folder in (args.first, args.second) for path in sorted(folder.glob("*.safetensors"))]
    tensors = {name: checkpoint.from_array(name, (1 - args.share) * one.read() + args.share * second.tensors[name].read(), one.dtype)
               for name, one in first.tensors.items()}
    checkpoint.save_mlx(args.out, checkpoint.Checkpoint(args.first, first.config, tensors))
    if args.report:
        report.write(args.report, inputs, {"share": args.share}, {"tensors": len(tensors)})
    print(f"{shown(args.out)}: {1 - args.share:g} of {shown(args.first)} and {args.share:g} of {shown(args.second)}, {len(tensors)} tensors")


if __name__ == "__main__":
    cli.run(main)
