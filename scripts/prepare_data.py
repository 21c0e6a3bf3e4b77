"""SmolLM's: make the rows that teach a model its tool-call tokens, and prove every one of them.

In:  a checkpoint folder (tokenizer and template; no weights are read), BFCL's questions and answers from the
     pinned wheel, our own requests, the recorded ordinary answers; with --traces also Hermes-Function-Calling-V1
     or any other traces that kxl/traces/formats.py reads.
Out: a folder with train.jsonl and valid.jsonl (70 % tool conversations, 30 % ordinary ones, by the config),
     heldout.jsonl (prompts whose tools and requests no training row has), and manifest.json, which names by
     hash what was proven. scripts/train_lora.py refuses anything else.

  .venv/bin/python scripts/prepare_data.py --config configs/smollm2-135m.json --model runs/smollm2-135m/base \\
      --ordinary datasets/smollm2-135m/ordinary.jsonl --out runs/smollm2-135m/data

Rows longer than the config's row_tokens are left out and counted; no held-out tool prompt is longer, either.
"""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from kxl.base import cli, jsonl, report
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, shown, write_json
from kxl.chat import loss_mask
from kxl.chat.rows import calls_in
from kxl.eval import bfcl
from kxl.setup import archive
from kxl.smol import mixture, requests
from kxl.smol import rows as smol_rows
from kxl.smol import tokens as smol_tokens
from kxl.smol.rows import Example
from kxl.traces import formats, sources
from kxl.traces.formats import Dropped

BFCL_LOCK = ROOT / "third_party" / "bfcl-eval.lock"
OWN_ROWS = 120  # composed requests, beside BFCL's 1,264 rows
MOST_BYTES = 1 << 24  # of one trace


def traced_rows(files: list, chat, tokens, left_out: Counter) -> list[dict]:
    """Traces with calls as rows; what cannot be read, or whose tokens cannot be proven, is counted in `left_out`."""
    rows = []
    for record in sources.records(files, MOST_BYTES):
        try:
            if record.problem:
                raise Dropped(*record.problem)
            data = formats.parse_json(record.data) if isinstance(record.data, bytes) else record.data
            # Python literals are the one thing that to_row offers to mend, and here they may be.
            trace = formats.to_row(data, lambda reason, detail, repair: None)
            row = {"id": record.where, "source": "traces", "kind": "tool"}
            row |= {"messages": trace["messages"], "tools": trace["tools"]}
            if not calls_in(row):
                raise Dropped("traces without a call", record.where)
            smol_rows.encode(chat, tokens, row)
            rows.append(row)
        except Dropped as dropped:
            left_out[dropped.reason] += 1
        except UserError:
            left_out["traces whose tokens cannot be proven"] += 1
    return rows


def fitting(
    chat, tokens, rows: Iterator[dict], count: int, kind: str, longest: int, left_out: Counter
) -> list[Example]:
    """The next `count` of `rows` with at most `longest` tokens, proven; UserError when there are too few."""
    proven = []
    while len(proven) < count:
        row = next(rows, None)
        if row is None:
            raise UserError(
                f"{len(proven)} {kind} rows of at most {longest} tokens where {count} are needed;"
                " raise row_tokens or lower rows in the config, or record more ordinary answers "
                "(scripts/smol_record_ordinary.py)"
            )
        example = smol_rows.encode(chat, tokens, row)
        if len(example.tokens) <= longest:
            proven.append(example)
        else:
            left_out[f"{kind} rows of more than {longest} tokens"] += 1
    return proven


def check_share(examples: list[Example], data: dict, split: str) -> None:
    """Refuse a split whose share of tool rows is not the config's."""
    share = sum(example.row["kind"] == "tool" for example in examples) / len(examples)
    if abs(share - data["tool_share"]) > data["share_tolerance"]:
        raise UserError(
            f"{split}: {share:.1%} of the rows have tool calls, the config asks for {data['tool_share']:.0%}"
            f" within {data['share_tolerance']:.0%}"
        )


def keep(examples: list[Example], path: Path, model: Path, tokens) -> dict:
    """Write a proven split; what the manifest says of it, its proof among that."""
    smol_rows.write(path, [example.row for example in examples])
    return {
        **smol_rows.counts(examples, tokens),
        "sources": dict(Counter(example.row["source"] for example in examples)),
        "proof": smol_rows.digest(path, model, tokens),
    }


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--config", type=Path, required=True, help="model config (see configs/)")
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="DIR",
        help="checkpoint folder; only its tokenizer and template are read",
    )
    parser.add_argument(
        "--ordinary",
        type=Path,
        required=True,
        metavar="FILE",
        help="recorded ordinary answers (scripts/smol_record_ordinary.py)",
    )
    parser.add_argument(
        "--traces",
        action="append",
        default=[],
        metavar="SOURCE",
        help="more tool rows: a file or folder of traces, or a hub id; may be given several times",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--manifest", type=Path, metavar="FILE", help="second copy of the manifest, to be committed")
    args = parser.parse_args()

    config = read_json(args.config)
    data, rng = config["data"], random.Random(config["data"]["seed"])
    chat = loss_mask.load(args.model)
    tokens = smol_tokens.resolve(config, chat.tokenizer, shown(args.config))
    wheel = archive.fetch(BFCL_LOCK)
    rows, left_out = bfcl.answered(wheel)
    rows += requests.tool_rows(OWN_ROWS, data["seed"])
    files = sources.resolve(args.traces)
    rows += traced_rows(files, chat, tokens, left_out)
    unanswerable = bfcl.unanswerable(wheel)

    def fits(row: dict) -> bool:
        """Whether the prompt of the row's last answer is no longer than a training row may be."""
        return len(smol_tokens.prompt_ids(chat, row["messages"][:-1], row["tools"])) <= data["row_tokens"]

    candidates, held = mixture.split_by_tool(rows, data["heldout"]["tool"], rng, fits)
    heldout = mixture.heldout_rows(held, unanswerable, data["heldout"], rng, fits)
    asked = {row["messages"][-1]["content"] for row in heldout}
    candidates = [row for row in candidates if row["messages"][0]["content"] not in asked]
    pool = mixture.tool_pool(candidates)
    tool = mixture.sessions(candidates, pool, rng, fits)
    recorded = [row for row in read_recorded(args.ordinary) if row["prompt"] not in asked]
    recorded = rng.sample(recorded, len(recorded))
    tools_of = {row["id"]: row for row in unanswerable}

    splits = {}
    for split in ("valid", "train"):  # valid first: its questions must be none of train's
        with_calls = round(data["rows"][split] * data["tool_share"])
        rest = data["rows"][split] - with_calls
        used, recorded = (recorded[:rest], recorded[rest:]) if split == "valid" else (recorded, [])
        ordinary = iter(mixture.ordinary_rows(used, tools_of, pool, split == "train", rng))
        examples = fitting(chat, tokens, tool, with_calls, "tool", data["row_tokens"], left_out)
        examples += fitting(chat, tokens, ordinary, rest, "ordinary", data["row_tokens"], left_out)
        check_share(examples, data, split)
        splits[split] = keep(examples, args.out / f"{split}.jsonl", args.model, tokens)
    smol_rows.write(args.out / "heldout.jsonl", heldout)
    results = {
        "splits": splits,
        "heldout": dict(Counter(row["kind"] for row in heldout)),
        "left_out": dict(left_out),
        "tool_tokens": {role: getattr(tokens, role) for role in smol_tokens.ROLES},
    }
    inputs = [
        BFCL_LOCK,
        args.ordinary,
        *(path for _, path in files),
        args.model / "tokenizer.json",
        args.model / "chat_template.jinja",
    ]
    report.write(args.out / "manifest.json", inputs, {"config": shown(args.config), "data": data}, results)
    if args.manifest:
        manifest = read_json(args.out / "manifest.json")
        known = read_json(args.manifest) if args.manifest.is_file() else {}
        # The same data on another machine is no change to commit.
        if any(manifest[part] != known.get(part) for part in ("inputs", "settings", "results")):
            write_json(args.manifest, manifest)
    for split, counted in splits.items():
        print(
            f"{split}: {counted['tool']} tool and {counted['ordinary']} ordinary rows, {counted['tokens']:,} tokens, "
            f"{counted['loss_tokens']:,} of them to learn"
        )
    print(f"{shown(args.out)}: every call token proven; left out: {dict(left_out) or 'nothing'}")


def read_recorded(path: Path) -> list[dict]:
    """Rows of scripts/smol_record_ordinary.py, each with id, prompt and answer."""
    return [row for _, row in jsonl.objects(path, "scripts/smol_record_ordinary.py")]


if __name__ == "__main__":
    cli.run(main)
