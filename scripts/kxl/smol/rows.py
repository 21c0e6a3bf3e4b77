"""Rows for the tool-token training: their kinds, and the proof that their tokens are right.

A row is one JSON line: {"id", "source", "kind": "tool" | "ordinary", "messages": [...], "tools": [...]}, OpenAI
messages with `arguments` as an object. `encode` gives its tokens and loss mask (kxl/chat/loss_mask.py) after proving

  tool      every call of the messages stands in the tokens: start token, valid JSON with that name and those
            arguments, end token, all of it inside the loss-bearing region and in order
  ordinary  none of the call tokens anywhere

A row that fails is a UserError: nothing trains on unproven data. `digest` names the proven files, and training
refuses files whose digest is not the one in the manifest that scripts/prepare_data.py wrote.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kxl.base import jsonl
from kxl.base.cli import UserError
from kxl.base.files import read_json, sha256, shown
from kxl.chat import loss_mask
from kxl.chat.rows import calls_in
from kxl.smol import emission
from kxl.smol.tokens import ToolTokens

KINDS = ("tool", "ordinary")
RULES = 1  # raised when `encode` proves something else, so that older manifests no longer count


@dataclass(frozen=True)
class Example:
    """tokens int32 [N], mask bool [N] (True: the model's to emit), and the row they are from."""

    row: dict
    tokens: np.ndarray
    mask: np.ndarray


def encode(chat: loss_mask.Chat, tokens: ToolTokens, row: dict) -> Example:
    """A row's tokens and mask, proven as its kind demands."""
    where = f"row {row.get('id')!r}"
    if row.get("kind") not in KINDS:
        raise UserError(f"{where}: kind is {row.get('kind')!r}, it must be one of {', '.join(KINDS)}")
    ids, mask = loss_mask.tokens_and_mask(chat, row)
    wanted = calls_in(row)
    if bool(wanted) != (row["kind"] == "tool"):
        raise UserError(f"{where}: a {row['kind']} row with {len(wanted)} calls in its messages")
    listed = ids.tolist()
    markers = [place for place, token in enumerate(listed) if token in (tokens.call_start, tokens.call_end)]
    expected = [tokens.call_start, tokens.call_end] * len(wanted)
    if [listed[place] for place in markers] != expected:
        raise UserError(
            f"{where}: {len(markers)} call tokens where {len(expected)} belong, or in the wrong order;"
            " the template does not write every call between its tokens, or a text holds one"
        )
    for (start, end), call in zip(zip(markers[::2], markers[1::2]), wanted):
        if not mask[start : end + 1].all():
            raise UserError(f"{where}: the call of {call['name']} is not wholly inside the loss-bearing region")
        text = chat.tokenizer.decode(listed[start + 1 : end], skip_special_tokens=False)
        read_back, problem = emission.read_call(text)
        if problem or read_back != call:
            raise UserError(f"{where}: the call of {call['name']} reads back as {problem or read_back}")
    responses = [listed.count(getattr(tokens, role)) for role in ("response_start", "response_end")]
    if responses != [sum(message["role"] == "tool" for message in row["messages"])] * 2:
        raise UserError(f"{where}: its tool results are not each between the response tokens")
    return Example(row, ids, mask)


def counts(examples: list[Example], tokens: ToolTokens) -> dict:
    """What a split holds, for the manifest."""
    per_kind = {kind: [example for example in examples if example.row["kind"] == kind] for kind in KINDS}
    return {
        "rows": len(examples),
        **{kind: len(chosen) for kind, chosen in per_kind.items()},
        "tool_share": round(len(per_kind["tool"]) / len(examples), 4),
        "tokens": sum(len(example.tokens) for example in examples),
        "loss_tokens": int(sum(example.mask.sum() for example in examples)),
        "longest": max(len(example.tokens) for example in examples),
        "calls": sum(len(calls_in(example.row)) for example in examples),
        "start_tokens": sum(int((example.tokens == tokens.call_start).sum()) for example in examples),
        "multi_turn": sum(
            any(message["role"] == "tool" for message in example.row["messages"]) for example in examples
        ),
    }


def write(path: Path, rows: list[dict]) -> None:
    """Rows as JSON lines, atomically."""
    jsonl.write(path, rows)


def read(path: Path) -> list[dict]:
    """The rows of a JSON lines file; UserError names file and line."""
    rows = []
    for where, row in jsonl.objects(path, "scripts/prepare_data.py"):
        if not isinstance(row.get("messages"), list) or not row["messages"]:
            raise UserError(f"{where}: no row with messages")
        rows.append(row)
    return rows


def digest(rows: Path, model: Path, tokens: ToolTokens) -> str:
    """Names what was proven: the file, the tokenizer, the template, the token ids and the rules of `encode`."""
    parts = [
        sha256(rows),
        *(sha256(Path(model) / name) for name in ("tokenizer.json", "chat_template.jinja")),
        list(tokens.ids),
        RULES,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def load_proven(folder: Path, split: str, chat: loss_mask.Chat, tokens: ToolTokens) -> list[Example]:
    """The examples of FOLDER/SPLIT.jsonl, if manifest.json says that exactly this file was proven for this model."""
    path, manifest = Path(folder) / f"{split}.jsonl", Path(folder) / "manifest.json"
    if not manifest.is_file():
        raise UserError(
            f"{shown(folder)}: has no manifest.json, so nothing here was proven; make it with scripts/prepare_data.py"
        )
    rows = read(path)
    known = read_json(manifest)["results"]["splits"].get(split, {}).get("proof")
    if digest(path, chat.folder, tokens) != known:
        raise UserError(
            f"{shown(path)}: is not what {shown(manifest)} proved for this tokenizer and template;"
            " run scripts/prepare_data.py again"
        )
    return [encode(chat, tokens, row) for row in rows]
