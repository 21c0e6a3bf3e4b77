"""SmolLM's: make the rows that teach a model its tool-call tokens, and prove every one of them.

In:  a checkpoint folder (tokenizer and template; no weights are read), BFCL's questions and answers from the pinned
     wheel, our own domains, the recorded answers of the base model; with --traces also Hermes-Function-Calling-V1 or
     any other traces that kxl/traces/formats.py reads; the judging sets, whose tools and requests stay out.
Out: a folder with train.jsonl and valid.jsonl (70 % rows with calls, 30 % without, by the config), and manifest.json,
     which names by hash what was proven. scripts/train_lora.py refuses anything else.

  .venv/bin/python scripts/prepare_data.py --config configs/smollm2-135m.json --model runs/smollm2-135m/base \\
      --recorded datasets/smollm2-135m/recorded.jsonl --sets datasets/smol --out runs/smollm2-135m/data

Rows longer than the config's row_tokens are left out and counted.
"""

import random
from collections import Counter
from pathlib import Path

from kxl.base import cli, jsonl, report
from kxl.base import config as configs
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, shown, write_json
from kxl.chat import loss_mask
from kxl.chat import schemas as json_schemas
from kxl.chat.rows import calls_in
from kxl.eval import bfcl
from kxl.setup import archive
from kxl.smol import domains, mixture, requests, sets
from kxl.smol import rows as smol_rows
from kxl.smol import tokens as smol_tokens
from kxl.smol.rows import Example
from kxl.traces import formats, sources
from kxl.traces.formats import Dropped

BFCL_LOCK = ROOT / "third_party" / "bfcl-eval.lock"
OWN_ROWS = 120  # composed requests, half of them with the result and the answer that follows
KINDS = ("ordinary", "near", "missing", "absent")  # recorded answers, beside BFCL's
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


def answered(found: list[dict], left_out: Counter) -> list[dict]:
    """BFCL's entries with their calls as rows; an entry whose calls are not valid is left out and counted."""
    rows = []
    for entry in (entry for entry in found if entry["category"] not in sets.UNANSWERABLE):
        calls = []
        for call in entry["truth"] or []:
            ((name, accepted),) = call.items()
            arguments = {key: chosen for key, values in accepted.items() if (chosen := bfcl.pick(values)) is not None}
            calls.append({"name": bfcl.tool_name(name), "arguments": arguments})
        schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in entry["tools"]}
        if not calls or any(
            call["name"] not in schemas or json_schemas.problems(schemas[call["name"]], call["arguments"])
            for call in calls
        ):
            left_out["BFCL entries without a valid call"] += 1
        elif [message["role"] for message in entry["messages"]] != ["user"]:
            left_out["BFCL entries with a system message or several turns"] += 1
        else:
            row = mixture.call_row(entry["id"], "bfcl", entry["messages"][-1]["content"], calls, entry["tools"])
            rows.append(row)
    return rows


def proven(chat, tokens, group: list[dict], longest: int, left_out: Counter) -> list[Example]:
    """The rows of a group with at most `longest` tokens, proven."""
    examples = [smol_rows.encode(chat, tokens, row) for row in group]
    left_out[f"rows of more than {longest} tokens"] += sum(len(example.tokens) > longest for example in examples)
    return [example for example in examples if len(example.tokens) <= longest]


def shared_out(examples: list[Example], alone: list[Example], share: float, rng: random.Random) -> list[Example]:
    """The examples and as many of `alone` (ordinary rows without tools) as make `share` of all of them tool rows.

    Where there are ordinary ones above the share already, some of them go. UserError where `alone` is too few.
    """
    tool = [example for example in examples if example.row["kind"] == "tool"]
    quiet = [example for example in examples if example.row["kind"] != "tool"]
    wanted = round(len(tool) * (1 - share) / share)
    if wanted > len(quiet) + len(alone):
        raise UserError(
            f"{len(tool)} tool rows need {wanted} without a call, there are {len(quiet) + len(alone)};"
            " record more answers (scripts/smol_record_ordinary.py)"
        )
    kept = rng.sample(quiet, min(wanted, len(quiet))) + alone[: max(0, wanted - len(quiet))]
    return tool + kept


def unjudged(rows: list[dict], judged: list[dict], left_out: Counter) -> list[dict]:
    """The rows without those that share a tool or a request with a judged prompt."""
    tools = {name for row in judged for name in sets.names(row)}
    asked = {row["messages"][-1]["content"].strip().lower() for row in judged}
    kept = [
        row
        for row in rows
        if not tools & set(sets.names(row)) and row["messages"][0]["content"].strip().lower() not in asked
    ]
    left_out["rows with a tool or request of the judging sets"] += len(rows) - len(kept)
    return kept


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
        "--recorded",
        type=Path,
        required=True,
        metavar="FILE",
        help="recorded answers of the base model (scripts/smol_record_ordinary.py)",
    )
    parser.add_argument(
        "--sets", type=Path, required=True, metavar="DIR", help="folder of scripts/smol_build_sets.py, to keep out"
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

    config = configs.load(args.config, configs.SMOL)
    data, rng = config["data"], random.Random(config["data"]["seed"])
    chat = loss_mask.load(args.model)
    tokens = smol_tokens.resolve(config, chat.tokenizer, shown(args.config))
    left_out: Counter = Counter()
    judged = [row for split in ("dev", "test") for row in sets.read(args.sets / f"{split}.json")]
    found = sets.parted(sets.entries(archive.fetch(BFCL_LOCK)))["train"]
    files = sources.resolve(args.traces)
    rows = [*answered(found, left_out), *requests.tool_rows(OWN_ROWS, data["seed"])]
    rows = unjudged(rows + traced_rows(files, chat, tokens, left_out), judged, left_out)
    quiet = [entry for entry in found if entry["category"] in sets.UNANSWERABLE]
    recorded = {kind: [] for kind in (*KINDS, *sets.UNANSWERABLE)}
    asked = {row["messages"][-1]["content"] for row in judged}
    for entry in read_recorded(args.recorded):
        if entry["prompt"] not in asked:
            recorded[entry["kind"]].append(entry)

    def told(rows: list[dict]) -> list[dict]:
        return [{**row, "messages": smol_tokens.with_system(row["messages"], config)} for row in rows]

    def fits(row: dict) -> bool:
        return len(smol_tokens.prompt_ids(chat, row["messages"][:1], row["tools"])) < data["row_tokens"]

    few = [row for row in rows if len(row["tools"]) <= sets.MOST_TOOLS and fits(row)]
    groups = [
        proven(chat, tokens, told(group), data["row_tokens"], left_out)
        for group in mixture.groups(few, quiet, recorded, data["own_groups"], data["masked_share"], rng)
    ]
    alone = [mixture.reply(entry, [], "alone") for entry in recorded["ordinary"] + recorded["irrelevance"]]
    alone = proven(chat, tokens, told(rng.sample(alone, len(alone))), data["row_tokens"], left_out)
    cut = {"valid": data["valid_groups"], "train": len(groups)}
    splits, start = {}, 0
    for split, end in cut.items():
        examples = [example for group in groups[start:end] for example in group]
        some = [example for place, example in enumerate(alone) if (place % 20 == 0) == (split == "valid")]
        if not examples:
            raise UserError(
                f"no row of at most {data['row_tokens']} tokens for {split}; raise row_tokens in the config"
            )
        examples = shared_out(examples, some, data["tool_share"], rng)
        check_share(examples, data, split)
        splits[split] = keep(examples, args.out / f"{split}.jsonl", args.model, tokens)
        start = end
    results = {
        "splits": splits,
        "groups": {"valid": cut["valid"], "train": cut["train"] - cut["valid"]},
        "left_out": dict(left_out),
        "tool_tokens": {role: getattr(tokens, role) for role in smol_tokens.ROLES},
    }
    inputs = [
        BFCL_LOCK,
        args.recorded,
        *(args.sets / f"{split}.json" for split in ("dev", "test")),
        *sorted(domains.DATA.glob("*.json")),
        requests.DATA,
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
