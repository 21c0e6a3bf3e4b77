"""Judge what a model emits: the right call among several tools, nothing where none fits, and what it forgot.

In:  a checkpoint folder (or a base and --adapter) and a judging set (scripts/smol_build_sets.py). Greedy, on raw token
     ids, no parser. dev is for tuning; test is asked once per published model.
Out: without --before a measurement to compare with; with it the report:

  results.test          {prompts, min_tools, start_json_end, right_tool, right_arguments, by_tools, by_source}
  results.restraint     {prompts, false_calls, by_kind}: near misses and BFCL's irrelevance and live_irrelevance
  results.ordinary      {prompts, false_calls}: questions in words, half of them beside tools
  results.masked_names  the tool prompts again, with random names for tools and arguments
  results.forgetting    {kld_mean, tokens, answers, as_good}: KL divergence (nats per token) to the base on the base's
                        own ordinary answers; answers that stay as long and without tool words
  results.before        test, restraint and ordinary of the base

  .venv/bin/python scripts/smol_evaluate.py --config configs/smollm2-135m.json --model runs/smollm2-135m/base \\
      --set datasets/smol/test.json --out runs/smollm2-135m/before.json

Below the config's thresholds (emission) the report is NAME.failed.json and the exit code 2.
"""

import random
from pathlib import Path

from tqdm import tqdm

from kxl.base import cli, report
from kxl.base import config as configs
from kxl.base.files import shown
from kxl.chat import loss_mask
from kxl.release import reports
from kxl.smol import backend, emission, masking, scores, sets
from kxl.smol import tokens as smol_tokens


def with_masked(rows: list[dict]) -> list[dict]:
    """The rows, and each tool row again under random names."""
    again = []
    for row in scores.of_kind(rows, "tool"):
        again.append({**masking.masked(row, random.Random(row["id"])), "id": row["id"] + "+masked", "kind": "masked"})
    return rows + again


def measure(model, chat, tokens, rows: list[dict], max_tokens: int) -> list[dict]:
    """One entry per row: verdict, calls, text, probability of the start token at the first place."""

    def decode(ids: list[int]) -> str:
        return chat.tokenizer.decode(ids, skip_special_tokens=False)

    prompts = [smol_tokens.prompt_ids(chat, row["messages"], row["tools"]) for row in rows]
    with tqdm(total=len(rows), desc="judged prompts", unit="prompt") as bar:
        generations = model.generate(
            prompts, max_tokens, chat.tokenizer.token_to_id(chat.end), tokens.call_start, done=bar.update
        )
    entries = []
    for row, generation in zip(rows, generations):
        names = sets.names(row)
        said = emission.behind_thought(generation.ids, decode)
        verdict = emission.read(said, tokens, decode, names)
        entries.append(
            {
                "id": row["id"],
                "source": row["source"],
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


def divergence(base, taught, chat, rows: list[dict], before: list[dict]) -> dict:
    """KL(base ‖ taught) in nats, mean over the tokens of the base's answers to the ordinary questions without tools."""
    import numpy as np

    said, total, count = {entry["id"]: entry["text"] for entry in before}, 0.0, 0
    for row in tqdm([row for row in scores.of_kind(rows, "ordinary") if not row["tools"]], desc="KL", unit="answer"):
        prompt = smol_tokens.prompt_ids(chat, row["messages"])
        ids = prompt + chat.tokenizer.encode(said[row["id"]], add_special_tokens=False).ids
        p, q = (model.log_probabilities(ids)[len(prompt) - 1 :] for model in (base, taught))
        total += float((np.exp(p) * (p - q)).sum())
        count += len(p)
    return {"kld_mean": total / max(1, count), "tokens": count}


def main() -> None:
    args = arguments()
    backend.prepare(args.backend)
    config, chat = configs.load(args.config, configs.SMOL), loss_mask.load(args.model)
    tokens = smol_tokens.resolve(config, chat.tokenizer, shown(args.config))
    rows = [{**row, "messages": smol_tokens.with_system(row["messages"], config)} for row in sets.read(args.set)]
    if args.limit:
        first = {row["id"] for kind in sets.KINDS for row in scores.of_kind(rows, kind)[: args.limit]}
        rows = [row for row in rows if row["id"] in first]
    longest = config["emission"]["max_tokens"]
    settings = {"max_tokens": longest, "limit": args.limit, "temperature": 0, "backend": args.backend}
    inputs = [args.config, args.set, args.model / "model.safetensors", *filter(None, [args.before])]
    if args.adapter:
        inputs += [args.adapter / name for name in ("adapter.json", "adapter.safetensors")]
    inputs = [path for path in inputs if path.exists()]
    model = backend.load(args.backend, args.model, args.adapter)
    entries = measure(model, chat, tokens, with_masked(rows) if args.before else rows, longest)
    if not args.before:
        results = {**scores.one_model(entries), "details": entries}
        report.write(args.out, inputs, settings, results)
        test = results["test"]
        print(f"{shown(args.out)}: {test['emitting']} of {test['prompts']} tool prompts got a start token")
        return
    before = reports.load("measurement", args.before)["results"]["details"]
    if [entry["id"] for entry in before] != [row["id"] for row in rows]:
        raise cli.UserError(
            f"{shown(args.before)}: measured other prompts than {shown(args.set)} has now; measure the base again"
        )
    base = backend.load(args.backend, args.model)
    results = scores.compare(before, entries, divergence(base, model, chat, rows, before))
    failures = [] if args.limit else scores.gate(results, config["emission"])
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


def arguments():
    parser = cli.parser(__doc__)
    parser.add_argument("--config", type=Path, required=True, help="model config (see configs/)")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="checkpoint folder")
    parser.add_argument("--adapter", type=Path, metavar="DIR", help="adapter to attach to it")
    parser.add_argument("--set", type=Path, required=True, metavar="FILE", help="judging set")
    parser.add_argument("--before", type=Path, metavar="FILE", help="measurement of the base model, to compare with")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="measurement or report to write")
    parser.add_argument("--backend", choices=backend.NAMES, default=backend.usual(), help="what computes (%(default)s)")
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
    return parser.parse_args()


def summary(results: dict) -> str:
    """The numbers in words."""
    test, masked, forgot = results["test"], results["masked_names"], results["forgetting"]
    lines = [
        f"before     {results['before']['test']['emitting']} of {test['prompts']} tool prompts got a start token",
        f"after      {test['start_json_end']} of {test['prompts']} a whole call, {test['right_tool']} of the right"
        f" tool, {test['right_arguments']} with the right arguments",
        f"masked     {masked['right_tool']} of {masked['prompts']} of the right tool under random names",
    ]
    for part in ("restraint", "ordinary"):
        said = results[part]
        kinds = ", ".join(f"{kind} {of['false_calls']} of {of['prompts']}" for kind, of in said["by_kind"].items())
        lines.append(f"{part:10} {said['false_calls']} of {said['prompts']} called a tool ({kinds})")
    lines.append(
        f"forgetting {forgot['kld_mean']:.4f} nats per token from the base over {forgot['tokens']} tokens;"
        f" {forgot['as_good']} of {forgot['answers']} ordinary answers stay as good"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
