"""SmolLM's: make the rows that teach a model its tool-call tokens, and prove every one of them.

In:  a checkpoint folder (tokenizer and template; no weights are read), BFCL's questions and answers from the
     pinned wheel, our own requests, the recorded ordinary answers; with --traces also Hermes-Function-Calling-V1
     or any other traces that kxl/traces/formats.py reads.
Out: a folder with train.jsonl and valid.jsonl (70 % tool conversations, 30 % ordinary ones, by the config),
     heldout.jsonl (prompts whose tools and requests no training row has), and manifest.json, which names by
     hash what was proven. scripts/train_lora.py refuses anything else.

  .venv/bin/python scripts/prepare_data.py --config configs/smollm2-135m.json --model runs/smollm2-135m/base \\
      --ordinary datasets/smollm2-135m/ordinary.jsonl --out runs/smollm2-135m/data

Rows longer than the config's row_tokens are left out and counted; the held-out tool prompts are no longer than that, too.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from kxl.base import cli, jsonl, report
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, shown, write_json
from kxl.chat import loss_mask
from kxl.chat.rows import calls_in
from kxl.eval import bfcl
from kxl.setup import archive
from kxl.smol import requests
from kxl.smol import rows as smol_rows
from kxl.smol import tokens as smol_tokens
from kxl.smol.rows import Example
from kxl.traces import formats, sources
from kxl.traces.formats import Dropped

BFCL_LOCK = ROOT / "third_party" / "bfcl-eval.lock"
OWN_ROWS = 120  # composed requests, beside BFCL's 1,264 rows
MOST_BYTES = 1 << 24  # of one trace
PAIRED = 0.8  # share of the rows that are tried together with another
MOST_TOOLS = 3  # offered in one row that came with a single one


def names(row: dict) -> set:
    """The tools that a row offers."""
    return {tool["function"]["name"] for tool in row["tools"]}


def traced_rows(files: list, chat, tokens, left_out: Counter) -> list[dict]:
    """Traces with calls as rows; those that cannot be read or whose tokens cannot be proven are counted in `left_out`."""
    rows = []
    for record in sources.records(files, MOST_BYTES):
        try:
            if record.problem:
                raise Dropped(*record.problem)
            data = formats.parse_json(record.data) if isinstance(record.data, bytes) else record.data
            # Python literals are the one thing that to_row offers to mend, and here they may be.
            found = formats.to_row(data, lambda reason, detail, repair: None)
            row = {
                "id": record.where,
                "source": "traces",
                "kind": "tool",
                "messages": found["messages"],
                "tools": found["tools"],
            }
            if not calls_in(row):
                raise Dropped("traces without a call", record.where)
            smol_rows.encode(chat, tokens, row)
            rows.append(row)
        except Dropped as dropped:
            left_out[dropped.reason] += 1
        except UserError:
            left_out["traces whose tokens cannot be proven"] += 1
    return rows


def split_by_tool(
    rows: list[dict], heldout: int, rng: random.Random, fits: Callable[[dict], bool]
) -> tuple[list[dict], list[dict]]:
    """(training candidates, `heldout` rows with one BFCL call whose prompt `fits`): no tool is on both sides, offered or called."""
    shuffled = rng.sample(rows, len(rows))
    chosen = [row for row in shuffled if row["source"] == "bfcl" and len(calls_in(row)) == 1 and len(row["tools"]) == 1]
    held, taken = [], set()
    for row in chosen:
        if len(held) < heldout and not names(row) & taken and fits(row):
            held.append(row)
            taken |= names(row)
    if len(held) < heldout:
        raise UserError(
            f"only {len(held)} different tools with prompts no longer than row_tokens for {heldout} held-out prompts;"
            " lower heldout.tool in the config or raise row_tokens"
        )
    return [row for row in shuffled if not names(row) & taken], held


def offer(row: dict, pool: list[dict], count: int, rng: random.Random) -> dict:
    """The row with `count` tools: its own and others of `pool`, in random order."""
    tools, known = list(row["tools"]), names(row)
    others = [tool for tool in pool if tool["function"]["name"] not in known]
    tools += rng.sample(others, max(0, count - len(tools)))
    return {**row, "tools": rng.sample(tools, len(tools))}


def sessions(rows: list[dict], pool: list[dict], rng: random.Random, fits: Callable[[dict], bool]) -> Iterator[dict]:
    """The rows as conversations that offer one to MOST_TOOLS tools, with two requests where two rows together `fits`.

    Two requests for different tools of one list teach choosing between them, for hardly more tokens than one: the list is
    the longest part of a row.
    """
    rows = iter(rows)
    for row in rows:
        alone = [row]
        if rng.random() < PAIRED and (other := next(rows, None)):
            both = {
                **row,
                "id": f"{row['id']}+{other['id']}",
                "messages": row["messages"] + other["messages"],
                "tools": row["tools"] + other["tools"],
            }
            if not names(row) & names(other) and len(both["tools"]) <= MOST_TOOLS and fits(both):
                yield {**offer(both, [], 0, rng), "kind": "tool"}
                continue
            alone = [row, other]
        for one in alone:
            yield {**offer(one, pool, rng.randint(1, MOST_TOOLS), rng), "kind": "tool"}


def tool_pool(rows: list[dict]) -> list[dict]:
    """Every tool that the rows offer, once, by name."""
    return list(
        {
            tool["function"]["name"]: tool for row in sorted(rows, key=lambda row: row["id"]) for tool in row["tools"]
        }.values()
    )


def ordinary_rows(
    recorded: list[dict], unanswerable: dict, pool: list[dict], twice: bool, rng: random.Random
) -> list[dict]:
    """Recorded answers as rows: each with its question alone or beside tools that do not help, or, with `twice`, as both.

    Beside tools: BFCL's questions beside the tools they came with, ours beside one or two of `pool`.
    """
    rows = []
    for place, one in enumerate(recorded):
        messages = [{"role": "user", "content": one["prompt"]}, {"role": "assistant", "content": one["answer"]}]
        alone = {"id": one["id"], "source": "ordinary", "kind": "ordinary", "messages": messages, "tools": []}
        beside = {**alone, "id": one["id"] + "+tools"}
        beside = (
            {**beside, "tools": unanswerable[one["id"]]["tools"]}
            if one["id"] in unanswerable
            else offer(beside, pool, rng.randint(1, 2), rng)
        )
        rows += [alone, beside] if twice else [beside if place % 2 else alone]
    return rng.sample(rows, len(rows))


def fitting(
    chat, tokens, rows: Iterator[dict], count: int, kind: str, longest: int, left_out: Counter
) -> list[Example]:
    """The next `count` of `rows` with at most `longest` tokens, proven; UserError when there are too few."""
    made = []
    while len(made) < count:
        row = next(rows, None)
        if row is None:
            raise UserError(
                f"{len(made)} {kind} rows of at most {longest} tokens where {count} are needed;"
                " raise row_tokens or lower rows in the config, or record more ordinary answers (scripts/smol_record_ordinary.py)"
            )
        example = smol_rows.encode(chat, tokens, row)
        if len(example.tokens) <= longest:
            made.append(example)
        else:
            left_out[f"{kind} rows of more than {longest} tokens"] += 1
    return made


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


def heldout_rows(
    held: list[dict], unanswerable: list[dict], counts: dict, rng: random.Random, fits: Callable[[dict], bool]
) -> list[dict]:
    """Prompts without answers: tool (with the expected tool), ordinary (half of them beside tools), near_miss.

    Tool prompts offer one to MOST_TOOLS tools, and no more than what `fits`.
    """
    pool = tool_pool(held)
    rows = []
    for place, row in enumerate(held):
        tries = [offer(row, pool, count, rng) for count in range(1 + place % MOST_TOOLS, 0, -1)]
        offered = next(one for one in tries if fits(one))
        rows.append(
            {
                **offered,
                "kind": "tool",
                "messages": row["messages"][:-1],
                "expected": [call["name"] for call in calls_in(row)],
            }
        )
    for place, prompt in enumerate(requests.ordinary_prompts()[-counts["ordinary"] :]):
        row = {
            "id": f"own/heldout-{place}",
            "source": "ordinary",
            "kind": "ordinary",
            "messages": [{"role": "user", "content": prompt}],
            "tools": [],
        }
        rows.append(offer(row, pool, 1 + place // 2 % 2, rng) if place % 2 else row)
    return rows + [{**row, "kind": "near_miss"} for row in unanswerable[-counts["near_miss"] :]]


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
        text = chat.render(row["messages"][:-1], row["tools"], add_generation_prompt=True)
        return len(chat.tokenizer.encode(text, add_special_tokens=False).ids) <= data["row_tokens"]

    candidates, held = split_by_tool(rows, data["heldout"]["tool"], rng, fits)
    heldout = heldout_rows(held, unanswerable, data["heldout"], rng, fits)
    asked = {row["messages"][-1]["content"] for row in heldout}
    candidates = [row for row in candidates if row["messages"][0]["content"] not in asked]
    pool = tool_pool(candidates)
    tool = sessions(candidates, pool, rng, fits)
    recorded = [row for row in read_recorded(args.ordinary) if row["prompt"] not in asked]
    recorded = rng.sample(recorded, len(recorded))
    tools_of = {row["id"]: row for row in unanswerable}

    splits = {}
    for split in ("valid", "train"):  # valid first: its questions must be none of train's
        with_calls = round(data["rows"][split] * data["tool_share"])
        rest = data["rows"][split] - with_calls
        used, recorded = (recorded[:rest], recorded[rest:]) if split == "valid" else (recorded, [])
        ordinary = iter(ordinary_rows(used, tools_of, pool, split == "train", rng))
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
        made = read_json(args.out / "manifest.json")
        known = read_json(args.manifest) if args.manifest.is_file() else {}
        # The same data on another machine is no change to commit.
        if any(made[part] != known.get(part) for part in ("inputs", "settings", "results")):
            write_json(args.manifest, made)
    for split, told in splits.items():
        print(
            f"{split}: {told['tool']} tool and {told['ordinary']} ordinary rows, {told['tokens']:,} tokens, {told['loss_tokens']:,} of them to learn"
        )
    print(f"{shown(args.out)}: every call token proven; left out: {dict(left_out) or 'nothing'}")


def read_recorded(path: Path) -> list[dict]:
    """Rows of scripts/smol_record_ordinary.py, each with id, prompt and answer."""
    return [row for _, row in jsonl.objects(path, "scripts/smol_record_ordinary.py")]


if __name__ == "__main__":
    cli.run(main)
