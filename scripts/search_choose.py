"""Choose a policy for each budget: the table's, the hand-written one, or steps from it, by whole policies measured.

In:  the BF16 GGUF, its imatrix, a sensitivity report, the text that the search may see, and the plan of hand-written
     policies and stock types, whose bytes are the budgets (and --budget NAME=SIZE).
Out: a report. For each budget: the types that were chosen and every candidate, with bytes, predicted and measured KL
     divergence in nats on that text, and the paired interval against the one that it was to replace
     (kxl/search/candidates.py says which candidates there are and what it takes to be chosen).
     With --write also NAMEsearch.tensor-types for each budget NAMEkxl, with the candidates in its comments.

A budget without a hand-written policy has one candidate, the table's, and nothing is measured for it. Policies that
are measured are kept in --work; an interrupted run goes on. The text that judges is another: search_judge.py.

  .venv/bin/python scripts/search_choose.py --gguf runs/tiny/bf16.gguf --imatrix runs/tiny/imatrix.gguf \\
      --table reports/tiny/sensitivity.json --text runs/tiny/calibration.txt --plan gguf/export_plan.json \\
      --work runs/tiny/choice --logs logs/tiny --out reports/tiny/policy_choice.json
"""

import sys
from pathlib import Path

from tqdm import tqdm

from kxl.base import cli, config, report
from kxl.base.cli import UserError
from kxl.base.files import sha256, shown
from kxl.quant import policy
from kxl.search import candidates, judged, measuring, rivals, sizes, written
from kxl.search.allocate import Table, solve
from kxl.search.table import rounded


def main() -> None:
    parser = cli.parser(__doc__)
    measuring.add_arguments(parser, "text that the search may see")
    parser.add_argument(
        "--budget",
        type=cli.pair("--budget", "NAME=SIZE"),
        action="append",
        default=[],
        metavar="NAME=SIZE",
        help="another budget, as 3.9bpw",
    )
    parser.add_argument(
        "--steps", type=int, default=candidates.STEPS, help="steps that are measured at a budget at most (0 = none)"
    )
    parser.add_argument(
        "--write", type=Path, metavar="PLAN", help="write the choice at the bytes of NAMEkxl there, as NAMEsearch"
    )
    parser.add_argument("--model-name", default="this model", metavar="NAME", help="who those policies are for")
    args = config.parse(parser, {"context": "kld.context_tokens"})
    if args.steps < 0:
        raise UserError(f"--steps {args.steps}: zero or more")

    table = Table.of(report.results(args.table), shown(args.table))
    with measuring.opened(args) as judge:
        table.refuse_other(judge.tensors, args.table)
        hand = rivals.hand_written(args.plan, judge.tensors)
        budgets = budgets_of(args, judge.tensors, hand)
        named_by_budget = {}
        for name, budget in budgets.items():
            own = {"hand": hand[name]} if name in hand else {}
            named_by_budget[name] = {**own, "table": solve(table, budget)}
        choices = chosen(named_by_budget, budgets, table, judge, args.steps)
        results = {name: entry(choice, budgets[name], table, judge) for name, choice in choices.items()}
    for name in hand if args.write else ():
        if name in choices:
            write(args, name, choices[name], budgets[name], judge.tensors, table)
    scored = max(scored_tokens(choice) for choice in choices.values())
    report.write(
        args.out,
        [*judge.files(), args.table, args.text, args.plan],
        {"context": args.context, "scored_tokens": scored, "steps": args.steps},
        {"budgets": results, "text": sha256(args.text)},
    )
    taken = ", ".join(f"{name} {choice.name}" for name, choice in choices.items() if choice.measured())
    print(f"{shown(args.out)}: {len(results)} budgets; chosen by measurement: {taken or 'none'}")


def budgets_of(args, tensors: list, hand: dict) -> dict[str, int]:
    """{budget: bytes of tensor data}, largest first, or in the order of --only."""
    shapes = {t.name: t.shape for t in tensors}
    stock = rivals.stock_types(args.plan, args.gguf, tensors)
    budgets = {name: rivals.size_of(types, shapes) for name, types in [*hand.items(), *stock.items()]}
    header, kept = sizes.header_bytes(args.gguf), sizes.kept_bytes(tensors)
    parameters = sum(policy.nbytes(t.shape, policy.Type.I8) for t in tensors)
    for name, size in args.budget:
        budgets[name] = written.budget_bytes(size, parameters, header) - header - kept
    if unknown := [name for name in args.only if name not in budgets]:
        raise UserError(f"--only {unknown[0]}: no such budget; there are {', '.join(budgets)}")
    return {name: budgets[name] for name in args.only or sorted(budgets, key=lambda name: -budgets[name])}


def chosen(named_by_budget: dict, budgets: dict, table: Table, judge, steps: int) -> dict[str, candidates.Choice]:
    """{budget: what is chosen there}, with one bar over all measurements and the time that is left at most."""
    shapes = {t.name: t.shape for t in judge.tensors}
    choices = {}
    most = {name: candidates.most(each, steps) for name, each in named_by_budget.items()}
    with tqdm(total=sum(most.values()), desc="candidates", unit="policy") as bar:
        for name, each in named_by_budget.items():

            def measure(who: str, types: dict, budget: str = name) -> judged.Scores:
                scores, _ = judge.measured(f"{budget} {who}", types)
                bar.update()
                return scores

            choices[name] = candidates.choose(
                each, table, budgets[name], lambda types: rivals.size_of(types, shapes), measure, steps
            )
            bar.total -= most[name] - choices[name].measured()
            bar.refresh()
            if most[name]:
                tqdm.write(f"{name}: {' | '.join(choices[name].lines())}", file=sys.stderr)
    return choices


def entry(choice: candidates.Choice, budget: int, table: Table, judge) -> dict:
    """One budget's entry of the report."""
    tried, kinds = {}, judge.kinds() if choice.measured() else {}
    for name, one in choice.tried.items():
        known = table.knows(one["types"])
        tried[name] = {
            "bytes": one["bytes"],
            "predicted": rounded(table.predicted(one["types"])) if known else None,
            **({"kld": judged.figures(one["scores"], kinds)} if one["scores"] else {"unmeasured": one["unmeasured"]}),
            "types": rivals.describe(one["types"]),
            **{key: one[key] for key in ("against", "gain", "interval") if key in one},
        }
    types = {tensor: kind.name for tensor, kind in choice.types.items()}
    return {"budget": budget, "chosen": choice.name, "types": types, "candidates": tried}


def scored_tokens(choice: candidates.Choice) -> int:
    return max(len(one["scores"].kld) if one["scores"] else 0 for one in choice.tried.values())


def write(args, name: str, choice: candidates.Choice, budget: int, tensors: list, table: Table) -> None:
    """NAMEsearch.tensor-types of the budget NAMEkxl."""
    said = [f"It is the hand-written {name}."] if choice.name == "hand" else []
    if choice.measured():
        tokens = f"{scored_tokens(choice):,} tokens"
        said += [f"Chosen among {len(choice.tried)} candidates by measurement on {shown(args.text)}, {tokens}:"]
    else:
        said += ["Nothing was measured to choose it: there was no other candidate."]
    beside = sizes.header_bytes(args.gguf) + sizes.kept_bytes(tensors)
    about = {
        "model": args.model_name,
        "bytes": beside + choice.tried[choice.name]["bytes"],
        "budget": beside + budget,
        "source": shown(args.table),
        "choice": [*said, *(f"  {line}" for line in choice.lines())],
    }
    own = name.removesuffix("kxl") + "search"
    written.write(args.write, own, choice.types, tensors, table, about)


if __name__ == "__main__":
    cli.run(main)
