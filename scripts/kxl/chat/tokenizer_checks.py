"""Whether llama.cpp will cut text into the tokens that a checkpoint's tokenizer.json cuts it into, and knows thoughts.

In: a checkpoint folder. Out: nothing, or a UserError that says where they differ; `notes` says what may go wrong.
"""

import ast
import hashlib
import json
import re
from pathlib import Path

from kxl.base.cli import UserError
from kxl.base.files import read_json, read_text, shown
from kxl.chat import thoughts
from kxl.setup import llama_cpp

# How the text of tokenizer.json is split by what llama.cpp calls "lfm2" (src/llama-vocab.cpp: the pattern of Llama 3).
SPLIT_PATTERNS = {
    "lfm2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
}
# The tokens of llama.cpp's probe text by LFM2.5-8B-A1B's tokenizer as it was first published: the hash by which
# conversion/base.py knows it. Its makers published another (commit feb5e04), to mend tool calls in llama.cpp.
FIRST_RELEASE = "9e454714343b69b99b71795c1d27a68c2a1d15dab111f4d353109f966af29da7"


def load(folder: Path):
    """tokenizer.json as a tokenizers.Tokenizer."""
    from tokenizers import Tokenizer

    return Tokenizer.from_str(json.dumps(read_json(folder / "tokenizer.json")))


def chat_template(folder: Path) -> str | None:
    """The chat template beside a checkpoint, from where transformers takes it; None without one."""
    folder = Path(folder)
    if (folder / "chat_template.jinja").is_file():
        return read_text(folder / "chat_template.jinja")
    for name in ("chat_template.json", "tokenizer_config.json"):
        content = read_json(folder / name) if (folder / name).is_file() else {}
        found = content.get("chat_template") if isinstance(content, dict) else None
        if isinstance(found, list):  # several, by name
            named = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
            found = named.get("default") or next(iter(named.values()), None)
        if isinstance(found, str) and found:
            return found
    return None


def refuse_lost_files(folder: Path) -> None:
    """Refuse a folder from which upstream would take no template and no special tokens, without saying so."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise UserError(
                f"{shown(folder / name)}: missing; without it the GGUF would lose its "
                f"{'vocabulary' if name == 'tokenizer.json' else 'chat template and special tokens'}. "
                f"Copy the file from the model that this one was trained from"
            )


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
    try:
        largest = max([*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])])
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{shown(path)}: has no vocabulary of a BPE tokenizer; take the tokenizer of an LFM2 model"
        ) from None
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
            f"{shown(folder / 'tokenizer.json')}: cuts {different[0]!r} and {len(different) - 1} more words of "
            f"its vocabulary "
            f"into pieces, llama.cpp takes them whole; set model.ignore_merges to true there, so that both agree"
        )


def mark_tokens(tokenizer, mark: str) -> str:
    """How a tokenizers.Tokenizer writes a mark: "one" token, "several", or "none" that would give it back."""
    ids = tokenizer.encode(mark, add_special_tokens=False).ids
    if tokenizer.decode(ids, skip_special_tokens=False) != mark:
        return "none"
    return "one" if len(ids) == 1 else "several"


def thought_tokens(tokenizer) -> str:
    """Both marks of a thought together: "one" token each, "several", or "none"."""
    found = {mark_tokens(tokenizer, mark) for mark in (thoughts.START, thoughts.END)}
    return next(word for word in ("none", "several", "one") if word in found)


def notes(folder: Path, template: str) -> list[str]:
    """What may go wrong with a checkpoint's tokenizer without being an error, one sentence each."""
    found, tokenizer, path = [], load(folder), shown(Path(folder) / "tokenizer.json")
    if thoughts.writes_thoughts(template):
        written = thought_tokens(tokenizer)
        if written == "none":
            found.append(
                f"{path}: cannot write {thoughts.START} and {thoughts.END}, which the template puts around thoughts;"
                " take the tokenizer that belongs to the template"
            )
        elif written == "several":
            found.append(
                f"{path}: {thoughts.START} is several tokens; llama-server tells thoughts by their text,"
                " mlx_lm.server only by one token and would show them as the answer"
            )
    if probe_hash(tokenizer) == FIRST_RELEASE:
        found.append(
            f"{path}: looks like LFM2.5-8B-A1B's tokenizer as it was first published; its makers mended it for tool"
            " calls in llama.cpp (commit feb5e04), download the tokenizer files again"
        )
    return found


def probe_hash(tokenizer) -> str | None:
    """The hash by which llama.cpp's converter knows a tokenizer (get_vocab_base_pre); None without the pinned tree."""
    try:
        source = (llama_cpp.source_tree() / "conversion" / "base.py").read_text(encoding="utf-8")
    except UserError:
        return None
    probe = re.search(r"^\s*chktxt = ('.*')$", source, re.MULTILINE)
    ids = tokenizer.encode(ast.literal_eval(probe[1])).ids
    return hashlib.sha256(str(ids).encode()).hexdigest()
