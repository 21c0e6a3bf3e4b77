"""Write a checkpoint of real shapes and random weights: what a rehearsal of the line goes with.

In:  a config.json or gguf/*.shapes.json; --vocabulary replaces its number of tokens.
Out: a checkpoint folder as transformers saves it, with a tokenizer of the vocabulary's size and our chat template.

  .venv/bin/python scripts/plan_write_random.py --shapes gguf/lfm2-8b-a1b.shapes.json --vocabulary 128000 \\
      --out runs/rehearse-8b/checkpoint
"""

from pathlib import Path

from kxl.base import cli
from kxl.base.files import read_json, shown, size
from kxl.plan import measure, random_model
from kxl.plan.walk import TEMPLATE


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--shapes", type=Path, required=True, help="shapes (JSON)")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint folder to write")
    parser.add_argument("--vocabulary", type=int, help="tokens of the vocabulary (default: as the shapes say)")
    parser.add_argument("--template", type=Path, default=TEMPLATE, help="chat template to ship with it")
    parser.add_argument("--seed", type=int, default=0, help="another one draws other weights")
    args = parser.parse_args()

    shapes = read_json(args.shapes)
    if args.vocabulary:
        shapes["vocab_size"] = args.vocabulary
    config = random_model.write(args.out, shapes, args.template, args.seed)
    print(
        f"{shown(args.out)}: random weights, {config['num_hidden_layers']} layers, {config['vocab_size']:,} tokens, "
        f"{size(measure.bytes_of(args.out))}"
    )


if __name__ == "__main__":
    cli.run(main)
