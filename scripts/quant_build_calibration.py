"""Render tool-calling conversations into the texts that the imatrix and the KL divergence are measured on.

In:  chat rows (JSON lines, kxl/chat/rows.py): {"messages": [...], "tools": "fixed_hermes" | [schema, ...] | null},
     and a model folder, whose tokenizer counts and whose chat template renders. A row may say its "kind", for the
     counts, and its "split": "train", "calibration" or "heldout". Rows without a split are dealt out in turn to
     calibration and heldout, rows of one request together.
Out: calibration.txt from the rows of split calibration (for llama-imatrix --parse-special),
     heldout.txt from the rows of split heldout (for KL divergence), and a report with their counts.

A text is sessions: the system message and tool list that some rows share, then the turns of one such row after
the other, as one conversation that the template renders, cut at --session-tokens. A tool list is thousands of
tokens before a call of twenty, so without sharing it would be nearly all of the text; without it the model
would be asked for calls to tools that it was not given. Thoughts of all turns are written, as the model wrote
each when its turn was the last (preserve_thinking, where the template knows it). Give --session-tokens the
chunk size of quant_measure.py: it scores the second half of each chunk, which then holds turns, list in
context.

No request in either text is a prompt of an evaluation suite, and no held-out request occurs in
another split: such rows are left out and counted. Two requests are the same when their words are,
whatever their case, spacing and punctuation.

  python scripts/quant_build_calibration.py --rows runs/tiny/rows.jsonl --model models/tiny \\
      --suite evals/suites/fixed_hermes_43.json \\
      --calibration runs/tiny/calibration.txt --heldout runs/tiny/heldout.txt \\
      --report runs/tiny/results/reports/calibration.json
"""

import hashlib
import json
import random
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from kxl.base import cli, config, report
from kxl.base.cli import UserError
from kxl.base.files import shown, write_text
from kxl.chat import rendering, thoughts
from kxl.chat import rows as chat_rows
from kxl.eval import contamination
from kxl.eval.requests import requests_of

SPLITS = ("train", "calibration", "heldout")
TEXT_SPLITS = ("calibration", "heldout")


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument(
        "--rows", type=Path, action="append", required=True, help="JSON lines; may be given several times"
    )
    parser.add_argument("--model", type=Path, required=True, help="folder with tokenizer.json and chat_template.jinja")
    parser.add_argument(
        "--suite",
        type=Path,
        action="append",
        default=[],
        help="evaluation suite whose prompts are kept out; may be given several times",
    )
    parser.add_argument("--calibration", type=Path, required=True, help="text to write for the imatrix")
    parser.add_argument("--heldout", type=Path, required=True, help="text to write for the KL divergence")
    parser.add_argument("--report", type=Path, required=True, help="report to write (JSON)")
    parser.add_argument("--calibration-tokens", type=int, default=65536, help="stop at this many tokens")
    parser.add_argument("--heldout-tokens", type=int, default=65536, help="stop at this many tokens")
    parser.add_argument("--session-tokens", type=int, default=8192, help="length of a session")
    parser.add_argument("--seed", type=int, default=0, help="order in which the rows are taken")
    parser.add_argument("--imatrix-context", type=int, help="tokens of a chunk of the imatrix; two must be there")
    parser.add_argument("--kld-context", type=int, help="tokens of a chunk of the KL divergence; two must be there")
    args = config.parse(
        parser,
        {
            "session_tokens": "kld.context_tokens",
            "kld_context": "kld.context_tokens",
            "imatrix_context": "imatrix.context_tokens",
        },
    )

    splits = read_rows(args.rows)
    evaluated = contamination.Prompts(args.suite)
    kept, dropped = keep_apart(splits, evaluated)
    for why, where in dropped.items():
        if where:
            cli.say(f"left out {len(where)} rows: {why} (first: {where[0]})")
    render, token_ends = chat_renderer(args.model)

    results = {"left_out": {why: len(where) for why, where in dropped.items()}}
    targets = {"calibration": args.calibration_tokens, "heldout": args.heldout_tokens}
    outputs = {"calibration": args.calibration, "heldout": args.heldout}
    for split in TEXT_SPLITS:
        rows = kept[split]
        if not rows:
            raise UserError(
                f"no rows of split {split!r} are left in {', '.join(map(shown, args.rows))}; add rows with"
                f' "split": "{split}", or rows of several requests without any split'
            )
        random.Random(args.seed).shuffle(rows)
        text, results[split] = build_text(rows, targets[split], args.session_tokens, render, token_ends, split)
        refuse_short(split, results[split], args)
        write_text(outputs[split], text, keep_time=True)
    report.write(
        args.report,
        inputs=[*args.rows, *args.suite, args.model / "tokenizer.json", args.calibration, args.heldout],
        settings={"tokens": targets, "session_tokens": args.session_tokens, "seed": args.seed},
        results=results,
    )
    for split in TEXT_SPLITS:
        made = results[split]
        short = "" if made["tokens"] >= targets[split] else f", all there were (wanted {targets[split]:,})"
        print(
            f"{shown(outputs[split])}: {made['conversations']:,} conversations in {made['sessions']} sessions, "
            f"{made['tokens']:,} tokens{short}"
        )


def refuse_short(split: str, made: dict, args) -> None:
    """UserError for a text of under two chunks: llama.cpp's programs take no less."""
    context, key = (args.imatrix_context, "imatrix") if split == "calibration" else (args.kld_context, "kld")
    if context and made["tokens"] < 2 * context:
        raise UserError(
            f"{', '.join(map(shown, args.rows))}: the {split} text has {made['tokens']:,} tokens in "
            f"{made['conversations']:,} conversations, and {2 * context:,} are needed, two chunks of {context:,}; give "
            f"more rows, or a smaller {key}.context_tokens in the config"
        )


def read_rows(paths: list) -> dict:
    """Rows by split, each with its "where" (file:line). A malformed row is a UserError that names its line."""
    splits, undecided = {split: [] for split in SPLITS}, []
    for path in paths:
        for where, row in chat_rows.read(path):
            if row.get("split") not in (None, *SPLITS):
                raise UserError(
                    f"{where}: split is {row['split']!r}; it must be one of {', '.join(SPLITS)}, or left out everywhere"
                )
            kind = row.get("kind", "unknown")
            row = {**row, "kind": kind if isinstance(kind, str) else "unknown", "where": where}
            (undecided if row.get("split") is None else splits[row["split"]]).append(row)
    by_request = {}
    for row in undecided:
        asked = requests_of(row["messages"])
        by_request.setdefault(min(asked, default=""), []).append(row)
    # Dealt out in the order of hashes, not of the file: neighbours are often of one kind.
    dealt = sorted(by_request, key=lambda asked: hashlib.sha256(asked.encode()).hexdigest())
    for place, asked in enumerate(dealt):
        splits[TEXT_SPLITS[place % len(TEXT_SPLITS)]] += by_request[asked]
    return splits


def keep_apart(splits: dict, evaluated: contamination.Prompts) -> tuple:
    """Drop rows that repeat an evaluated request or leak between splits; return (rows by split, where by reason)."""
    dropped = {"request of an evaluation suite": [], "held-out request that occurs in another split": []}
    seen = {
        request
        for split in ("train", "calibration")
        for row in splits[split]
        for request in requests_of(row["messages"])
    }
    kept = {split: [] for split in TEXT_SPLITS}
    for split in TEXT_SPLITS:
        for row in splits[split]:
            requests = requests_of(row["messages"])
            if evaluated.of_row(row["messages"]):
                dropped["request of an evaluation suite"].append(row["where"])
            elif split == "heldout" and not seen.isdisjoint(requests):
                dropped["held-out request that occurs in another split"].append(row["where"])
            else:
                kept[split].append(row)
    return kept, dropped


def chat_renderer(model: Path) -> tuple:
    """(render(messages, tools) -> text, token_ends(text) -> where each token ends) by the model's template and
    tokenizer.
    """
    if not (model / "tokenizer.json").is_file():
        raise UserError(f"{shown(model)}: no tokenizer.json here; --model names a checkpoint folder")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    if not tokenizer.chat_template:
        raise UserError(f"{shown(model)}: no chat template; put chat_template.jinja beside tokenizer.json")

    def render(messages: list, tools: list | None) -> str:
        messages = thoughts.for_template(messages, tokenizer.chat_template)
        with rendering.limited(str(tokenizer.chat_template), shown(model)):
            return tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, preserve_thinking=True)

    def token_ends(text: str) -> list:
        return [
            end for _, end in tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        ]

    return render, token_ends


def build_text(rows: list, target: int, session_tokens: int, render, token_ends, split: str) -> tuple:
    """Sessions one after the other until `target` tokens; return (text, counts)."""
    pieces, kinds = [], Counter()
    tokens = list_tokens = longest_list = 0
    groups = by_context(rows)
    with tqdm(total=target, desc=f"rendering {split}", unit=" tokens") as progress:
        while tokens < target and groups:
            # The group of the next row in line: groups come up as often as they have rows.
            group = groups[min(groups, key=lambda name: groups[name][0]["place"])]
            text, used, listed = session(group, session_tokens, render, token_ends)
            kinds.update(row["kind"] for row in group[:used])
            del group[:used]
            groups = {name: rest for name, rest in groups.items() if rest}
            size = len(token_ends(text))
            pieces.append(text)
            tokens += size
            list_tokens += listed
            longest_list = max(longest_list, listed)
            progress.update(size)
    if longest_list > session_tokens / 2:
        cli.say(
            f"{split}: a tool list of {longest_list:,} tokens reaches into the second half of a session of "
            f"{session_tokens:,}, "
            f"the half that quant_measure.py scores; raise --session-tokens"
        )
    return "".join(pieces), {
        "conversations": sum(kinds.values()),
        "kinds": dict(kinds),
        "longest_tool_list_tokens": longest_list,
        "sessions": len(pieces),
        "tokens": tokens,
        "tool_list_tokens": list_tokens,
    }


def by_context(rows: list) -> dict:
    """Rows that share system message and tools, in their order; each row gets its "place" in that order."""
    groups = {}
    for place, row in enumerate(rows):
        system = row["messages"][0] if row["messages"][0]["role"] == "system" else None
        name = json.dumps([system, row["tools"]], sort_keys=True)
        groups.setdefault(name, []).append({**row, "system": [system] if system else [], "place": place})
    return groups


def session(group: list, session_tokens: int, render, token_ends) -> tuple:
    """One session of rows of a group: (text, rows used, tokens of the tool list)."""
    tools = chat_rows.tools_of(group[0])
    messages = list(group[0]["system"])
    for used, row in enumerate(group, 1):
        messages += row["messages"][len(row["system"]) :]
        try:
            text = render(messages, tools)
        except rendering.TemplateProblem as problem:
            raise UserError(f"{row['where']}: {problem}") from None
        ends = token_ends(text)
        if used == 1:
            listed = len(ends) - len(token_ends(render(messages, None)))
        if len(ends) >= session_tokens:
            break
    # A row longer than a session keeps as many whole chunks as it fills, so that the next session starts a chunk.
    whole = len(ends) // session_tokens * session_tokens
    return text[: ends[whole - 1]] if whole else text, used, listed


if __name__ == "__main__":
    cli.run(main)
