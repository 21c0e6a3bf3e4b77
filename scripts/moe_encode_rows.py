"""Tokenize conversations once for MoE training: tokens, and which of them are scored.

In:  chat rows (JSON lines, as kxl/chat/rows.py says), a checkpoint or core folder with the tokenizer, the token cap.
Out: --out, JSON lines as kxl/moe/rows.py reads them. Where the template leaves out the thoughts of earlier turns, a
     row is several sequences (kxl/chat/loss_mask.py). A sequence over the cap is cut, one in which no scored token
     is left is left out; both are counted on the last line.

  .venv/bin/python scripts/moe_encode_rows.py --rows runs/tiny/data/train.jsonl --model runs/tiny/core \\
      --config configs/tiny-moe.json --out runs/tiny/moe/train.jsonl
"""

from pathlib import Path

import numpy as np

from kxl.base import cli, jsonl
from kxl.base.cli import UserError
from kxl.base.files import read_json, shown
from kxl.chat import loss_mask, rows


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--rows", type=Path, required=True, help="conversations, JSON lines")
    parser.add_argument("--model", type=Path, required=True, help="folder with tokenizer.json and the chat template")
    parser.add_argument("--config", type=Path, required=True, help="training config; its max_tokens is the cap")
    parser.add_argument("--out", type=Path, required=True, help="encoded rows, JSON lines")
    args = parser.parse_args()

    encoded, counts = encode(loss_mask.load(args.model), args.rows, read_json(args.config)["max_tokens"])
    if not encoded:
        raise UserError(f"{shown(args.rows)}: no conversation has an assistant turn within max_tokens")
    jsonl.write(args.out, encoded)
    print(
        f"{shown(args.out)}: {counts['rows']} rows, {counts['tokens']:,} tokens, {counts['scored_tokens']:,} of them"
        f" scored; {counts['cut']} cut at the cap, {counts['left_out']} left out"
    )


def encode(chat, source: Path, max_tokens: int) -> tuple[list[dict], dict]:
    """(encoded rows, counts) of a file of chat rows: {rows, cut, left_out, tokens, scored_tokens}, of sequences.

    A sequence longer than `max_tokens` is cut at its end; one in which nothing scored is left is left out.
    """
    encoded, counts = [], {"rows": 0, "cut": 0, "left_out": 0, "tokens": 0, "scored_tokens": 0}
    for where, row in rows.read(source):
        try:
            made = loss_mask.sequences(chat, {**row, "tools": rows.tools_of(row)})
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        for tokens, mask in made:
            counts["cut"] += len(tokens) > max_tokens
            tokens, mask = tokens[:max_tokens], mask[:max_tokens]
            if not mask[1:].any():
                counts["left_out"] += 1
                continue
            edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
            counts["rows"] += 1
            counts["tokens"] += len(tokens)
            counts["scored_tokens"] += int(mask[1:].sum())
            encoded.append(
                {"row": jsonl.number_of(where), "tokens": tokens.tolist(), "scored": edges.reshape(-1, 2).tolist()}
            )
    return encoded, counts


if __name__ == "__main__":
    cli.run(main)
