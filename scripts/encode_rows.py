"""Tokenize conversations once for MoE training: tokens, and which of them are scored.

In:  conversations (JSON lines, as loss_mask.py says), a checkpoint or core folder with the tokenizer, the token cap.
Out: --out, JSON lines as training_rows.py reads them. Conversations over the cap are cut, those in which
     no scored token is left are left out; both are counted on the last line.

  .venv/bin/python scripts/encode_rows.py --rows datasets/tiny/train.jsonl --model runs/tiny/core \\
      --config configs/tiny-moe.json --out runs/tiny/moe/train.jsonl
"""

from pathlib import Path

import cli
import loss_mask
import training_rows
from cli import UserError
from files import read_json, shown, write_text


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--rows", type=Path, required=True, help="conversations, JSON lines")
    parser.add_argument("--model", type=Path, required=True, help="folder with tokenizer.json and the chat template")
    parser.add_argument("--config", type=Path, required=True, help="training config; its max_tokens is the cap")
    parser.add_argument("--out", type=Path, required=True, help="encoded rows, JSON lines")
    args = parser.parse_args()

    if not args.rows.is_file():
        raise UserError(f"{shown(args.rows)}: no such file; name a file of conversations (docs: data)")
    lines, counts = training_rows.encode(loss_mask.load(args.model), args.rows, read_json(args.config)["max_tokens"])
    if not lines:
        raise UserError(f"{shown(args.rows)}: no conversation has an assistant turn within max_tokens")
    write_text(args.out, "".join(line + "\n" for line in lines))
    print(f"{shown(args.out)}: {counts['rows']} rows, {counts['tokens']:,} tokens, {counts['scored_tokens']:,} of them scored; "
          f"{counts['cut']} cut at the cap, {counts['left_out']} left out")


if __name__ == "__main__":
    cli.run(main)
