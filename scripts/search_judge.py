"""Judge searched policies against rivals of equal bytes: KL divergence from BF16, token by token, on held-out text.

In:  the BF16 GGUF, its imatrix, the policies that were chosen (search_choose.py), the reports that they and others are
     predicted from (sensitivity, estimate), the plan of hand-written policies and stock types, and held-out text: not
     the one that chose, and none that a table was made from.
Out: a report. For each budget of the chosen ones:
     the searched policy and its rivals (a mix of two stock types, the hand-written policy, more bits at the edges,
     least weighted error as in --target-bpw, and files that other programs made), each with bytes and divergences in
     nats: mean, 99.9 %, of tokens inside of calls, of prose; how much less ours is, with the 95 % interval of a paired
     bootstrap over runs of tokens; which candidate ours is and what each measured when it was chosen; the policy of the
     same bytes that the estimate alone would have chosen, and how much less it is than each rival (what a model too
     large to be measured can hope for); and how well the tables predicted what was measured (rank correlation, median
     error).

Policies that are measured are kept in --work; an interrupted run goes on.

  .venv/bin/python scripts/search_judge.py --gguf runs/tiny/bf16.gguf --imatrix runs/tiny/imatrix.gguf \\
      --chosen reports/tiny/policy_choice.json --table reports/tiny/sensitivity.json \\
      --estimate reports/tiny/estimate.json --text runs/tiny/heldout.txt \\
      --plan gguf/export_plan.json --work runs/tiny/search --logs logs/tiny --out reports/tiny/policy_search.json
"""

from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from kxl.base import cli, config, report
from kxl.base.cli import UserError
from kxl.base.files import sha256, shown
from kxl.quant import policy
from kxl.search import judged, measuring, rivals
from kxl.search.allocate import Table, solve

EQUAL = 0.005  # rivals count as of equal bytes within this share
# The form of the results of search_choose.py, as far as they are read here.
CHOICE = {"text": str, "budgets": {"+": {"budget": int, "chosen": str, "candidates": {}, "types": {"+": str}}}}


def main() -> None:
    parser = cli.parser(__doc__)
    measuring.add_arguments(parser, "held-out text")
    parser.add_argument("--chosen", type=Path, required=True, metavar="FILE", help="report of search_choose.py: ours")
    parser.add_argument("--estimate", type=Path, required=True, metavar="FILE", help="estimate report, for comparison")
    parser.add_argument(
        "--rival",
        type=cli.pair("--rival", "NAME=FILE", Path),
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="a GGUF of this model that another program made, as a rival at the budget of that name (repeat)",
    )
    args = config.parse(parser, {"context": "kld.context_tokens"})

    table, estimated = Table.of(report.results(args.table), shown(args.table)), report.results(args.estimate)
    choice = report.results(args.chosen, CHOICE)
    for name, file in args.rival:
        if not file.is_file():
            raise UserError(f"--rival {name}={file}: name a budget and a GGUF that is there")
    if unknown := [name for name, _ in args.rival if name not in choice["budgets"]]:
        raise UserError(
            f"--rival {unknown[0]}: {shown(args.chosen)} has no budget of that name; choose one for its bytes"
        )
    if choice["text"] == sha256(args.text):
        raise UserError(
            f"{shown(args.text)}: the policies of {shown(args.chosen)} were chosen on this very text; judge them on "
            f"another, such as the run's heldout.txt"
        )
    with measuring.opened(args) as judge:
        plans = contenders(args, judge.tensors, choice["budgets"], estimated)
        scores, results = {}, {}
        for name, types in plans.items():
            scores[name] = {who: judge.measured(f"{name} {who}", chosen) for who, chosen in types.items()}
            scores[name] |= {who: judge.measured_file(name, file) for who, file in args.rival if who == name}
            results[name] = compared(scores[name], types, judge.kinds())
            results[name] |= {key: choice["budgets"][name][key] for key in ("chosen", "candidates")}
            say(name, results[name])
    settings = {"context": args.context, "scored_tokens": len(next(iter(scores.values()))["ours"][0].kld)}
    report.write(
        args.out,
        [*judge.files(), args.chosen, args.table, args.estimate, args.text, args.plan, *(f for _, f in args.rival)],
        settings,
        {"budgets": results, "prediction": prediction(plans, scores, table, Table.of(estimated))},
    )
    worse = [f"{name} against {rival}" for name, one in results.items() for rival in one["worse_than"]]
    print(
        f"{shown(args.out)}: {len(results)} budgets, {sum(map(len, plans.values()))} policies measured; worse than a "
        f"rival beyond chance: {', '.join(worse) or 'nowhere'}"
    )


def contenders(args, tensors: list, chosen: dict, estimated: dict) -> dict:
    """{budget: {"ours", "estimate" or rival: {tensor: Type}}}, in the order of the report of the chosen ones."""
    if unknown := [name for name in args.only if name not in chosen]:
        raise UserError(f"--only {unknown[0]}: no such budget; there are {', '.join(chosen)}")
    hand = rivals.hand_written(args.plan, tensors)
    known = rivals.stock_types(args.plan, args.gguf, tensors)
    free = {t.name for t in tensors if policy.quantizable(t)}
    guess = Table.of(estimated, shown(args.estimate))
    plans = {}
    for name in args.only or sorted(chosen, key=lambda name: -chosen[name]["budget"]):
        if strange := set(chosen[name]["types"].values()) - set(policy.Type.__members__):
            raise UserError(f"{shown(args.chosen)}: {sorted(strange)[0]!r} is no type of tensors; make search again")
        ours = {tensor: policy.Type[kind] for tensor, kind in chosen[name]["types"].items()}
        if set(ours) != free:
            raise UserError(f"{shown(args.chosen)}: is of another model than {shown(args.gguf)}; make search again")
        plans[name] = {"ours": ours, **rivals.all_of(estimated, known, tensors, chosen[name]["budget"])}
        plans[name]["estimate"] = solve(guess, chosen[name]["budget"])
        if name in hand:
            plans[name]["hand"] = hand[name]
    return plans


def compared(scores: dict, types: dict, kinds: dict) -> dict:
    """One budget's entry of the report. Rivals of other bytes than ours, beyond 0.5 %, are told and not compared."""
    ours, size = scores["ours"]
    guess, guess_size = scores["estimate"]
    entry = {
        "bytes": size,
        "kld": judged.figures(ours, kinds),
        "types": rivals.describe(types["ours"]),
        "rivals": {},
        "worse_than": [],
        "estimate": {"bytes": guess_size, "kld": judged.figures(guess, kinds), "over": {}},
    }
    gains = {}
    for name, (other, other_size) in scores.items():
        if name in ("ours", "estimate"):
            continue
        equal = abs(other_size - size) <= EQUAL * size
        entry["rivals"][name] = {
            "bytes": other_size,
            "equal_bytes": equal,
            "kld": judged.figures(other, kinds),
            **judged.gain(ours, other),
        }
        if abs(other_size - guess_size) <= EQUAL * guess_size:
            entry["estimate"]["over"][name] = judged.gain(guess, other)
        if equal:
            gains[name] = entry["rivals"][name]
            if gains[name]["interval"][1] < 0:
                entry["worse_than"].append(name)
    best = min(gains, key=lambda name: gains[name]["kld"]["mean"], default=None)
    entry["best_rival"] = best
    entry["gain_over_best_rival"] = gains[best]["gain"] if best else None
    entry["interval"] = gains[best]["interval"] if best else None
    entry["gain_over_stock"] = gains["stock"]["gain"] if "stock" in gains else None
    entry["interval_over_stock"] = gains["stock"]["interval"] if "stock" in gains else None
    return entry


def say(name: str, entry: dict) -> None:
    """One line of progress on a budget."""
    others = ", ".join(f"{rival} {one['kld']['mean']:.5f}" for rival, one in entry["rivals"].items())
    guess = entry["estimate"]["kld"]["mean"]
    cli.say(
        f"{name}: {entry['bytes'] / 2**20:.2f} MiB, ours {entry['kld']['mean']:.5f}; by estimate {guess:.5f}; {others}"
    )


def prediction(plans: dict, scores: dict, table: Table, estimated: Table) -> dict:
    """{table: {"policies", "spearman", "median_error"}}: predicted beside measured mean divergences.

    median_error: of |log(measured / predicted)| after one common factor, as a share.
    """
    made = {}
    for name, known in (("sensitivity", table), ("estimate", estimated)):
        pairs = [
            (known.predicted(types), float(scores[budget][who][0].kld.mean()))
            for budget, chosen in plans.items()
            for who, types in chosen.items()
            if known.knows(types)
        ]
        predicted, measured = np.array(sorted(set(pairs))).T
        logs = np.log(measured / np.maximum(predicted, 1e-12))
        made[name] = {
            "policies": len(logs),
            "spearman": round(float(spearmanr(predicted, measured).statistic), 4),
            "factor": round(float(np.exp(np.median(logs))), 4),
            "median_error": round(float(np.exp(np.median(np.abs(logs - np.median(logs)))) - 1), 4),
        }
    return made


if __name__ == "__main__":
    cli.run(main)
