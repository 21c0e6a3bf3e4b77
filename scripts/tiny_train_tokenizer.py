"""Train the tiny model's byte-level BPE tokenizer, shaped so that copying is easy.

In:  Hermes's tool schemas and system prompt, generated requests, the chat template.
Out: DIR/tokenizer.json, tokenizer_config.json, chat_template.jinja, with LFM2's pre-tokenizer and LFM2's
     special tokens at LFM2's ids.

A call repeats words of the request behind other characters: ` echo` becomes `"echo`. An ordinary BPE
splits the two differently and the model would have to spell. Here no merge joins a letter to what
stands before it, so a word is the same tokens wherever it stands; only the commonest words of the
tool schemas get a second token with the space in front. Digits stay single.

    .venv/bin/python scripts/tiny_train_tokenizer.py --out models/tiny

With --plan it is the tokenizer of a plan (configs/tiny.plan.json): its own rows, and <think> and </think> as tokens.
"""

import json
import random
import re
from collections import Counter
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from kxl.base import cli
from kxl.base.files import ROOT, read_json, write_json, write_text
from kxl.chat.tokenizer_checks import SPLIT_PATTERNS
from kxl.dialogue.contexts import draw_context
from kxl.dialogue.dialogues import KINDS, Dialogue
from kxl.tiny import contexts
from kxl.tiny import rows as tiny_rows

# LFM2's first fourteen ids; the rest of its special tokens has no use here.
SPECIAL = [
    "<|pad|>",
    "<|startoftext|>",
    "<|endoftext|>",
    "<|fim_pre|>",
    "<|fim_mid|>",
    "<|fim_suf|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|tool_list_start|>",
    "<|tool_list_end|>",
    "<|tool_call_start|>",
    "<|tool_call_end|>",
    "<|tool_response_start|>",
    "<|tool_response_end|>",
]
THINKING = ["<think>", "</think>"]
# Runs of punctuation that the call syntax and JSON write all the time. `\n` comes first: in a JSON
# string a newline is a backslash and an n, which would otherwise glue to the next word's letters.
JOINS = [
    ("Ġ", '"'),
    ("Ġ", "("),
    ("Ġ", "{"),
    ("Ġ", "["),
    ("Ġ", "'"),
    ("Ġ", "`"),
    ("\\", "n"),
    ("\\", '"'),
    ("=", '"'),
    ('"', ")"),
    ('")', "]"),
    ("(", "{"),
    ('"', ":"),
    (":", "/"),
    (":/", "/"),
    ('"', ","),
    ("}", ","),
    ('"', "}"),
]


def corpus(rows: int, seed: int) -> tuple[list[str], list[str]]:
    """(fixed texts: schemas and prompts; generated requests and answers)."""
    rng = random.Random(seed)
    fixed = contexts.fixed_texts()
    generated = [
        m["content"] for _ in range(rows) for m in tiny_rows.row(rng, contexts.ALL_TOOLS)["messages"] if m["content"]
    ]
    return fixed, generated


def plan_corpus(rows: int, seed: int) -> tuple[list[str], list[str]]:
    """The same for a plan: the texts of about `rows` conversations with thoughts."""
    rng, generated = random.Random(seed), []
    for i in range(rows // 20):
        with_tools = i % 4 == 0
        context = draw_context(rng, "surface" if with_tools else "bare")
        dialogue = Dialogue(rng, context, rough=0.1)
        kinds = KINDS if with_tools else ("call", "chat", "asking", "refusing")
        for _ in range(20):
            for message in dialogue.row(dict.fromkeys(kinds, 1.0))["messages"]:
                generated += [text for text in (message["content"], message.get("reasoning_content")) if text]
    return contexts.fixed_texts(), generated


def train(vocab_size: int, spaced: int, rows: int, seed: int, thinking: bool = False) -> Tokenizer:
    """A Tokenizer of exactly `vocab_size` tokens, `spaced` of them words with a space in front.

    thinking: it is a plan's, with THINKING among its special tokens.
    """
    fixed, generated = plan_corpus(rows, seed) if thinking else corpus(rows, seed)
    special = SPECIAL + (THINKING if thinking else [])
    letters = Tokenizer(models.BPE())
    letters.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{L}+|[^\p{L}]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    size = vocab_size - len(special) - len(JOINS) - spaced
    trainer = trainers.BpeTrainer(
        vocab_size=size, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    # The schemas stand in front of every request: their words should be single tokens.
    letters.train_from_iterator(fixed * 40 + generated, trainer)
    model = json.loads(letters.to_str())["model"]
    merges = [tuple(m) for m in model["merges"]]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    known = set(tokens)
    words = Counter(word for text in fixed for word in re.findall(r" ([A-Za-z]+)", text))
    chosen = [w for w, _ in sorted(words.items(), key=lambda kv: (-kv[1], kv[0])) if w in known and len(w) > 1][:spaced]
    vocab = {token: i for i, token in enumerate(special + tokens)}
    for left, right in JOINS + [("Ġ", w) for w in chosen]:
        vocab.setdefault(left + right, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab, JOINS + merges + [("Ġ", w) for w in chosen], ignore_merges=True))
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERNS["lfm2"]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A", special_tokens=[("<|startoftext|>", 1)]
    )
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Write the three files a tokenizer folder needs."""
    write_text(folder / "tokenizer.json", tokenizer.to_str(pretty=True) + "\n")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|pad|>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 128000,
        "tool_parser_type": "pythonic",
    }
    write_json(folder / "tokenizer_config.json", config)
    write_text(folder / "chat_template.jinja", (ROOT / "configs/templates/lfm2.5-tools.jinja").read_text())


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--config", type=Path, default=ROOT / "configs/tiny-train.json", help="training settings of the tiny model"
    )
    parser.add_argument("--plan", type=Path, help="plan of a model that thinks, instead of --config")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tokenizer files")
    args = parser.parse_args()
    settings = read_json(args.plan or args.config)["tokenizer"]
    tokenizer = train(**settings, thinking=args.plan is not None)
    args.out.mkdir(parents=True, exist_ok=True)
    save(tokenizer, args.out)
    print(f"tokenizer: {tokenizer.get_vocab_size()} tokens in {args.out}")


if __name__ == "__main__":
    cli.run(main)
