"""Rows as a training step takes them: tokens and the spans that are scored, read from moe_encode_rows.py's file.

One JSON object per line: {"row": line of the source, "tokens": [ids], "scored": [[start, end], ...]}.
The order of training is a permutation per epoch that depends on seed and epoch alone, so a position in the
data is a step number.
"""

from pathlib import Path

import numpy as np

from kxl.base import jsonl
from kxl.base.cli import UserError
from kxl.base.files import shown


def read(path: Path, vocabulary: int, max_tokens: int) -> list[dict]:
    """[{"row": int, "tokens": int32 [N], "mask": bool [N]}]. UserError names the line that does not fit."""
    rows = []
    for where, given in jsonl.objects(path, "scripts/moe_encode_rows.py"):
        try:
            tokens, mask = np.array(given["tokens"], np.int32), np.zeros(len(given["tokens"]), bool)
            for start, end in given["scored"]:
                mask[start:end] = True
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{where}: is no encoded row ({type(error).__name__}: {error}); make the file again with "
                "scripts/moe_encode_rows.py"
            ) from None
        if len(tokens) > max_tokens:
            raise UserError(
                f"{where}: {len(tokens)} tokens exceed max_tokens {max_tokens}; encode the rows again with this config"
            )
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < vocabulary:
            raise UserError(
                f"{where}: token {int(tokens.max())} is not in the model's vocabulary of {vocabulary}; the rows were "
                "encoded for another model"
            )
        if not mask[1:].any():
            raise UserError(
                f"{where}: no scored token; encode the rows again with scripts/moe_encode_rows.py, which leaves such "
                "rows out"
            )
        rows.append({"row": given.get("row", jsonl.number_of(where)), "tokens": tokens, "mask": mask})
    if not rows:
        raise UserError(f"{shown(path)}: holds no row")
    return rows
