"""Average the weights of two checkpoints of one training: a point between an earlier and a later stage.

In:  two checkpoint folders with the same config.json, the second one's share, and another one for some tensors.
Out: a checkpoint folder in MLX's layout, with the first one's tokenizer. Routing biases are averaged, too.

Two points of one training path mostly lie in one valley, and the mean forgets less than the end
(Wortsman et al. 2022, "Model soups", arXiv 2203.05482). Of an embedding, whose rows for rare words only drift
in a late stage, --but takes less.

  .venv/bin/python scripts/tiny_average.py runs/tiny-train/2 runs/tiny-train/3 --share 0.35 --out models/tiny
"""

from pathlib import Path

from kxl.base import cli, report
from kxl.base.cli import UserError
from kxl.base.files import shown
from kxl.model import checkpoint
from kxl.model.tensors import Checkpoint, from_array


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("first", type=Path, help="checkpoint folder")
    parser.add_argument("second", type=Path, help="checkpoint folder of a later stage")
    parser.add_argument("--share", type=float, required=True, help="weight of the second, 0 to 1")
    parser.add_argument(
        "--but",
        metavar="NAME=SHARE",
        help="another share for tensors with NAME in their names, such as embed_tokens=0.5",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write; may be one of the two")
    parser.add_argument("--report", type=Path, help="report with the hashes of both (JSON)")
    args = parser.parse_args()

    part, _, text = (args.but or "").partition("=")
    try:
        other = float(text) if part else args.share
    except ValueError:
        raise UserError(f"--but {args.but}: must be NAME=SHARE, such as embed_tokens=0.5") from None
    if not (0 <= args.share <= 1 and 0 <= other <= 1):
        raise UserError(f"--share {args.share}{' --but ' + args.but if part else ''}: must lie between 0 and 1")
    first, second = checkpoint.read(args.first), checkpoint.read(args.second)
    if first.config != second.config:
        differing = sorted(
            key for key in first.config.keys() | second.config.keys() if first.config.get(key) != second.config.get(key)
        )
        raise UserError(
            f"{shown(args.first)} and {shown(args.second)} are different models: "
            f"{', '.join(differing)} in config.json differ"
        )
    apart = [name for name in first.tensors if part and part in name]
    if part and not apart:
        raise UserError(
            f"--but {args.but}: {shown(args.first)} has no tensor of such a name; it has "
            f"{', '.join(list(first.tensors)[:3])}, …"
        )
    inputs = [
        report.describe_input(path)
        for folder in (args.first, args.second)
        for path in sorted(folder.glob("*.safetensors"))
    ]
    tensors = {}
    for name, tensor in first.tensors.items():
        share = other if name in apart else args.share
        mean = (1 - share) * tensor.read() + share * second.tensors[name].read()
        tensors[name] = from_array(name, mean, tensor.dtype)
    checkpoint.save_mlx(args.out, Checkpoint(args.first, first.config, tensors))
    if args.report:
        made = report.describe_input(args.out / "model.safetensors")
        results = {"tensors": len(tensors), "apart": apart, "made": made}
        report.write(args.report, inputs, {"share": args.share, "but": args.but}, results)
    print(
        f"{shown(args.out)}: {1 - args.share:g} of {shown(args.first)} and {args.share:g} of {shown(args.second)}, "
        f"{len(tensors)} tensors" + (f"; {args.but}" if part else "")
    )


if __name__ == "__main__":
    cli.run(main)
