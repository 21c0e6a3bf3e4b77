"""Whether llama.cpp will cut text into the tokens that a checkpoint's tokenizer.json cuts it into.

In: a checkpoint folder. Out: nothing, or a UserError that says where they differ.
"""

import json
import re
from pathlib import Path

from kxl.base.cli import UserError
from kxl.base.files import read_json, shown

# How the text of tokenizer.json is split by what llama.cpp calls "lfm2" (src/llama-vocab.cpp: the pattern of Llama 3).
SPLIT_PATTERNS = {
    "lfm2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
}


def load(folder: Path):
    """tokenizer.json as a tokenizers.Tokenizer."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str(json.dumps(read_json(folder / "tokenizer.json")))


def refuse_other_pattern(folder: Path, pre_tokenizer: str) -> None:
    """Refuse a tokenizer.json that splits text otherwise than llama.cpp's `pre_tokenizer` would."""
    path = folder / "tokenizer.json"
    found = json.dumps(read_json(path).get("pre_tokenizer"), ensure_ascii=False)
    patterns = [json.loads(pattern) for pattern in re.findall(r'"Regex": ("(?:[^"\\]|\\.)*")', found)]
    if patterns != [SPLIT_PATTERNS[pre_tokenizer]]:
        raise UserError(
            f"{shown(path)}: its pre_tokenizer splits text by another pattern than llama.cpp's {pre_tokenizer!r}; "
            f"the GGUF would tokenize differently"
        )


def refuse_large_ids(folder: Path, vocab_size: int) -> None:
    """Refuse a tokenizer with ids that the embedding has no row for."""
    path = folder / "tokenizer.json"
    tokenizer = read_json(path)
    largest = max([*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])])
    if largest >= vocab_size:
        raise UserError(f"{shown(path)}: has token id {largest}, but model.embed_tokens.weight has {vocab_size} rows")


def refuse_words_in_pieces(folder: Path) -> None:
    """Refuse a tokenizer.json that cuts a word of its own vocabulary into pieces.

    llama.cpp's "lfm2" looks a word up before it merges, which tokenizer.json calls ignore_merges. Where
    that is off and the merges do not lead to a word that the vocabulary has, the two differ.
    """
    from tokenizers import Tokenizer

    content = read_json(folder / "tokenizer.json")
    if content["model"].get("ignore_merges"):
        return
    content["model"]["ignore_merges"] = True
    merging, whole = load(folder), Tokenizer.from_str(json.dumps(content))
    words = [
        merging.decode([i], skip_special_tokens=False)
        for i in sorted(merging.get_vocab(with_added_tokens=False).values())
    ]
    pairs = zip(
        merging.encode_batch_fast(words, add_special_tokens=False),
        whole.encode_batch_fast(words, add_special_tokens=False),
    )
    if different := [word for word, (one, other) in zip(words, pairs) if one.ids != other.ids]:
        raise UserError(
            f"{shown(folder / 'tokenizer.json')}: cuts {different[0]!r} and {len(different) - 1} more words of its vocabulary "
            f"into pieces, llama.cpp takes them whole; set model.ignore_merges to true there, so that both agree"
        )
