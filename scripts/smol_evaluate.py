"""Count what a model emits on the held-out prompts: real tool calls where a tool helps, none elsewhere.

In:  a checkpoint folder (or a base and --adapter), and heldout.jsonl of scripts/prepare_data.py, whose tools and
     requests no training row has. Greedy, on raw token ids, no parser.
Out: without --before a measurement to compare with; with it the report:

  results.before    {prompts, emitting, ...}: how many of the tool prompts got any start token
  results.after     {prompts, start_json_end, right_tool, ...}: the whole call, and of the expected tool
  results.ordinary  {prompts, false_calls}: questions that need no tool, half of them beside tools
  results.near_miss {prompts, false_calls}: BFCL questions beside tools that look fitting and are not (no gate)

  .venv/bin/python scripts/smol_evaluate.py --config configs/smollm2-135m.json --model runs/smollm2-135m/base \\
      --data runs/smollm2-135m/data --out runs/smollm2-135m/before.json

Below the config's thresholds the report is NAME.failed.json and the exit code 2.
"""

import statistics
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from kxl.base import cli, report
from kxl.base.files import read_json, shown
from kxl.chat import loss_mask
from kxl.model import blas
from kxl.smol import emission
from kxl.smol import rows as smol_rows
from kxl.smol import tokens as smol_tokens


def measure(model, chat, tokens, rows: list[dict], max_tokens: int) -> list[dict]:
    """One entry per held-out row: verdict, calls, text, probability of the start token at the first place."""
    from kxl.model import generate

    def decode(ids: list[int]) -> str:
        return chat.tokenizer.decode(ids, skip_special_tokens=False)

    prompts = [smol_tokens.prompt_ids(chat, row["messages"], row["tools"]) for row in rows]
    with tqdm(total=len(rows), desc="held-out prompts", unit="prompt") as bar:
        generations = generate.generate(
            model, prompts, max_tokens, chat.tokenizer.token_to_id(chat.end), tokens.call_start, done=bar.update
        )
    entries = []
    for row, generation in zip(rows, generations):
        names = [tool["function"]["name"] for tool in row["tools"]]
        verdict = emission.read(generation.ids, tokens, decode, names)
        entries.append(
            {
                "id": row["id"],
                "kind": row["kind"],
                "prompt": row["messages"][-1]["content"],
                "tools": names,
                "expected": row.get("expected"),
                "verdict": verdict.kind,
                "problem": verdict.problem,
                "calls": verdict.calls,
                "ended": generation.ended,
                "start_probability": generation.watched,
                "started": verdict.started,
                "text": decode(generation.ids),
            }
        )
    return entries


def count(entries: list[dict]) -> dict:
    """The numbers of one model from its entries."""
    of = {kind: [entry for entry in entries if entry["kind"] == kind] for kind in ("tool", "ordinary", "near_miss")}
    tool = of["tool"]
    return {
        "tool": {
            "prompts": len(tool),
            "emitting": sum(entry["started"] for entry in tool),
            "start_json_end": sum(entry["verdict"] == "call" for entry in tool),
            "right_tool": sum(right_tool(entry) for entry in tool),
            "verdicts": dict(Counter(entry["verdict"] for entry in tool)),
            "median_start_probability": statistics.median(entry["start_probability"] for entry in tool)
            if tool
            else None,
        },
        **{
            kind: {"prompts": len(of[kind]), "false_calls": sum(entry["started"] for entry in of[kind])}
            for kind in ("ordinary", "near_miss")
        },
    }


def right_tool(entry: dict) -> bool:
    """A whole call, of exactly the expected tools."""
    return entry["verdict"] == "call" and [call["name"] for call in entry["calls"]] == entry["expected"]


def compare(before: list[dict], after: list[dict]) -> dict:
    """The report's results from the entries of both models."""
    first, second = count(before), count(after)
    rise = [
        new["start_probability"] / max(old["start_probability"], 1e-12)
        for old, new in zip(before, after)
        if new["kind"] == "tool"
    ]
    return {
        "before": first["tool"],
        "after": second["tool"],
        "ordinary": second["ordinary"],
        "near_miss": second["near_miss"],
        "ordinary_before": first["ordinary"],
        "median_start_probability_rise": statistics.median(rise),
        "details": {"before": before, "after": after},
    }


def gate(results: dict, thresholds: dict) -> list[str]:
    """Which thresholds the results miss, with numbers."""
    after, ordinary, failures = results["after"], results["ordinary"], []
    if results["before"]["emitting"]:
        failures.append(
            f"{results['before']['emitting']} prompts got a start token before the training already: nothing was taught"
        )
    if after["right_tool"] < thresholds["min_right_tool"] * after["prompts"]:
        failures.append(
            f"{after['right_tool']} of {after['prompts']} prompts got a whole call of the right tool, "
            f"{thresholds['min_right_tool']:.0%} are required"
        )
    if ordinary["false_calls"] > thresholds["max_false_calls"] * ordinary["prompts"]:
        failures.append(
            f"{ordinary['false_calls']} of {ordinary['prompts']} ordinary prompts called a tool, "
            f"at most {thresholds['max_false_calls']:.0%} may"
        )
    return failures


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--config", type=Path, required=True, help="model config (see configs/)")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="checkpoint folder")
    parser.add_argument("--adapter", type=Path, metavar="DIR", help="adapter to attach to it")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder of scripts/prepare_data.py")
    parser.add_argument("--before", type=Path, metavar="FILE", help="measurement of the base model, to compare with")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="measurement or report to write")
    parser.add_argument(
        "--limit",
        type=int,
        metavar="N",
        help="only the first N prompts of each kind, for a trial, which --min-rise alone can fail",
    )
    parser.add_argument(
        "--min-rise",
        type=float,
        metavar="FACTOR",
        help="fail when the start token's probability did not rise by this factor in the median",
    )
    args = parser.parse_args()
    blas.use_fast_blas(keep_memory=True)
    from kxl.lora import adapter
    from kxl.model import generate

    config, chat = read_json(args.config), loss_mask.load(args.model)
    tokens = smol_tokens.resolve(config, chat.tokenizer, shown(args.config))
    rows = smol_rows.read(args.data / "heldout.jsonl")
    if args.limit:
        rows = [
            row
            for kind in ("tool", "ordinary", "near_miss")
            for row in [row for row in rows if row["kind"] == kind][: args.limit]
        ]
    model = generate.load(args.model)
    if args.adapter:
        adapter.load(model, args.adapter)
    entries = measure(model, chat, tokens, rows, config["emission"]["max_tokens"])
    settings = {"max_tokens": config["emission"]["max_tokens"], "limit": args.limit, "temperature": 0}
    inputs = [
        args.config,
        args.data / "heldout.jsonl",
        args.model / "model.safetensors",
        *filter(None, [args.adapter, args.before]),
    ]
    inputs = [path for path in inputs if path.exists()]
    if not args.before:
        results = {**count(entries), "details": entries}
        report.write(args.out, inputs, settings, results)
        print(
            f"{shown(args.out)}: {results['tool']['emitting']} of {results['tool']['prompts']} tool prompts "
            "got a start token"
        )
        return
    before = report.results(args.before)["details"]
    if [entry["id"] for entry in before] != [entry["id"] for entry in entries]:
        raise cli.UserError(
            f"{shown(args.before)}: measured other prompts than {shown(args.data / 'heldout.jsonl')} has now; "
            "measure the base again"
        )
    results = compare(before, entries)
    failures = [] if args.limit else gate(results, config["emission"])
    if args.min_rise and results["median_start_probability_rise"] < args.min_rise:
        failures.append(
            f"the start token's probability rose by a factor of {results['median_start_probability_rise']:.1f}, "
            f"{args.min_rise:g} is required"
        )
    report.write_gated(args.out, not failures, inputs, settings, results)
    print(summary(results))
    if failures:
        raise cli.UserError(
            f"{'; '.join(failures)}. Every prompt is in {shown(report.failed_path(args.out))}; "
            "scripts/smol_diagnose.py says what to change"
        )
    print(f"wrote {shown(args.out)}")


def summary(results: dict) -> str:
    """The numbers in words."""
    before, after, ordinary, near = (results[key] for key in ("before", "after", "ordinary", "near_miss"))
    return "\n".join(
        [
            f"before    {before['emitting']} of {before['prompts']} tool prompts got a start token",
            f"after     {after['start_json_end']} of {after['prompts']} a whole call, "
            f"{after['right_tool']} of the right tool",
            f"ordinary  {ordinary['false_calls']} of {ordinary['prompts']} called a tool",
            f"near miss {near['false_calls']} of {near['prompts']} called a tool that does not fit",
            f"start token's probability, median: {before['median_start_probability']:.2e} before, "
            f"{after['median_start_probability']:.2e} after",
        ]
    )


if __name__ == "__main__":
    cli.run(main)
