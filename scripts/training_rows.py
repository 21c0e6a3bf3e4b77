"""Rows as a training step takes them: tokens and the spans that are scored, read from encode_rows.py's file.

One JSON object per line: {"row": line of the source, "tokens": [ids], "scored": [[start, end], ...]}.
The order of training is a permutation per epoch that depends on seed and epoch alone, so a position in the
data is a step number.
"""

import json
from pathlib import Path

import numpy as np

from cli import UserError
from files import shown


def read(path: Path, vocabulary: int, max_tokens: int) -> list[dict]:
    """[{"row": int, "tokens": int32 [N], "mask": bool [N]}]. UserError names the line that does not fit."""
    rows = []
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{shown(path)}: no such file; scripts/encode_rows.py writes it") from None
    for number, line in enumerate(lines, 1):
        where = f"{shown(path)}:{number}"
        try:
            given = json.loads(line)
            tokens, mask = np.array(given["tokens"], np.int32), np.zeros(len(given["tokens"]), bool)
            for start, end in given["scored"]:
                mask[start:end] = True
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{where}: is no encoded row ({type(error).__name__}: {error}); make the file again with scripts/encode_rows.py") from None
        if len(tokens) > max_tokens:
            raise UserError(f"{where}: {len(tokens)} tokens exceed max_tokens {max_tokens}; encode the rows again with this config")
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < vocabulary:
            raise UserError(f"{where}: token {int(tokens.max())} is not in the model's vocabulary of {vocabulary}; the rows were encoded for another model")
        if not mask[1:].any():
            raise UserError(f"{where}: no scored token; encode the rows again with scripts/encode_rows.py, which leaves such rows out")
        rows.append({"row": given.get("row", number), "tokens": tokens, "mask": mask})
    if not rows:
        raise UserError(f"{shown(path)}: holds no row")
    return rows


def batch_of(step: int, count: int, size: int, seed: int) -> tuple[int, list[int]]:
    """(epoch, places of the rows) of a step. Rows that fill no batch at an epoch's end wait for another epoch's order."""
    epoch, place = divmod(step, count // size)
    order = np.random.default_rng((seed, epoch)).permutation(count)
    return epoch, order[place * size : (place + 1) * size].tolist()


def encode(chat, source: Path, max_tokens: int) -> tuple[list[str], dict]:
    """(lines, counts) of a file of conversations: {rows, cut, left_out, tokens, scored_tokens}.

    A conversation longer than `max_tokens` is cut at its end; one in which nothing scored is left is left out.
    """
    import loss_mask

    lines, counts = [], {"rows": 0, "cut": 0, "left_out": 0, "tokens": 0, "scored_tokens": 0}
    with open(source, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                tokens, mask = loss_mask.tokens_and_mask(chat, json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{shown(source)}:{number}: no conversation ({type(error).__name__}: {error})") from None
            except UserError as error:
                raise UserError(f"{shown(source)}:{number}: {error}") from None
            counts["cut"] += len(tokens) > max_tokens
            tokens, mask = tokens[:max_tokens], mask[:max_tokens]
            if not mask[1:].any():
                counts["left_out"] += 1
                continue
            edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
            counts["rows"] += 1
            counts["tokens"] += len(tokens)
            counts["scored_tokens"] += int(mask[1:].sum())
            lines.append(json.dumps({"row": number, "tokens": tokens.tolist(), "scored": edges.reshape(-1, 2).tolist()}))
    return lines, counts
