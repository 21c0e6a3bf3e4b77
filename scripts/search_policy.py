"""Write the policy of least predicted damage under a budget, or one for each policy of a plan, at its bytes.

In:  a table, measured (search_measure_sensitivity.py) or estimated (search_estimate.py), and the BF16 GGUF or a
     --shapes file of the model it was made for.
Out: NAME.tensor-types with its reasons in comments and its entry in --plan; both are linted.
     With --like PLAN the names, the bytes and the stock types are those of that plan; --plan holds nothing else then.

The size that is compared with the budget is the whole file's: the tensors as llama-quantize makes them and the
metadata. Another budget takes seconds; the table is not computed again. The table alone decides, and the file says so:
measuring whole policies, as search_choose.py does, takes hours for a large model.

  .venv/bin/python scripts/search_policy.py --table reports/tiny/sensitivity.json --gguf runs/tiny/bf16.gguf \\
      --budget 8.3MiB --name q4search --plan gguf/tiny/plan.json
  .venv/bin/python scripts/search_policy.py --table runs/mine/results/reports/estimate.json \\
      --gguf runs/mine/bf16.gguf --like gguf/export_plan.json --plan runs/mine/estimated/plan.json
"""

import contextlib
from collections import Counter
from pathlib import Path

from kxl.base import cli
from kxl.base.cli import UserError
from kxl.base.files import atomic_path, shown, write_json
from kxl.base.report import results
from kxl.quant import policy
from kxl.quant.sparse import read_shapes, tensors_of
from kxl.search import rivals, sizes, table, written
from kxl.search.allocate import Table, solve


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--table", type=Path, required=True, metavar="FILE", help="sensitivity or estimate report")
    parser.add_argument("--gguf", type=Path, metavar="FILE", help="BF16 GGUF of the model")
    parser.add_argument("--shapes", type=Path, metavar="FILE", help="shapes file or config.json, in place of a GGUF")
    parser.add_argument(
        "--token-bytes", type=int, default=40, help="with --shapes: metadata bytes per vocabulary entry"
    )
    parser.add_argument("--budget", metavar="SIZE", help="5.7 or 5.7GiB, 8.3MiB, or 5.5bpw")
    parser.add_argument("--name", metavar="NAME", help="the policy's name, such as q4search")
    parser.add_argument("--like", type=Path, metavar="PLAN", help="a policy for each of this plan, of the same bytes")
    parser.add_argument("--model-name", metavar="NAME", help="who the policy is for (default: the file's name)")
    parser.add_argument("--plan", type=Path, required=True, metavar="FILE", help="plan to enter it in (JSON)")
    parser.add_argument(
        "--without", action="append", default=[], metavar="TYPE", help="a type to leave out, repeatable"
    )
    parser.add_argument("--fast", action="store_true", help=f"leave out what runs slowly: {', '.join(table.SLOW)}")
    args = parser.parse_args()
    if bool(args.gguf) == bool(args.shapes):
        raise UserError("name either --gguf or --shapes")
    if bool(args.like) == bool(args.budget) or bool(args.budget) != bool(args.name):
        raise UserError("name either --budget and --name, or --like")

    if args.gguf:
        tensors, header = policy.read_tensors(args.gguf), sizes.header_bytes(args.gguf)
    else:
        config = read_shapes(args.shapes)
        tensors = tensors_of(config)
        header = config["vocab_size"] * args.token_bytes
    left_out = {named(name) for name in [*args.without, *(table.SLOW if args.fast else ())]}
    known = Table.of(results(args.table), shown(args.table)).without(left_out)
    known.refuse_other(tensors, args.table)
    parameters = sum(policy.nbytes(t.shape, policy.Type.I8) for t in tensors)
    beside = header + sizes.kept_bytes(tensors)
    if args.like:
        shapes = {t.name: t.shape for t in tensors}
        by_hand = rivals.hand_written(args.like, tensors)
        budgets = {name: beside + rivals.size_of(types, shapes) for name, types in by_hand.items()}
    else:
        budgets = {args.name: written.budget_bytes(args.budget, parameters, header)}
    source = (args.gguf or args.shapes).name.removesuffix(".gguf").removesuffix(".shapes.json")
    solved = {name: solve(known, budget - beside) for name, budget in budgets.items()}  # all of them, or nothing
    # A plan of several gets its name when it holds all of them.
    with atomic_path(args.plan) if args.like else contextlib.nullcontext(args.plan) as plan:
        if args.like:
            write_json(plan, {"policies": {}, "stock": policy.read_plan(args.like).get("stock", [])})
        for name, types in solved.items():
            budget = budgets[name]
            size = beside + known.bytes(types)
            about = {
                "model": args.model_name or source,
                "bytes": size,
                "budget": budget,
                "source": shown(args.table),
                "choice": ["Chosen by that table alone: no whole policy was measured for it."],
            }
            path = written.write(plan, name, types, tensors, known, about)
            counts = Counter(kind.name for kind in types.values()).most_common()
            kinds = ", ".join(f"{count} {kind}" for kind, count in counts)
            print(f"{kinds}; {sizes.bits_per_token(types, tensors)} read per token")
            print(
                f"{shown(path)}: {size / 2**20:,.2f} MiB of {budget / 2**20:,.2f}, "
                f"{8 * (size - header) / parameters:.2f} bits per weight, "
                f"predicted mean KL divergence {known.predicted(types):.3g} nats"
            )
    if args.like:
        print(f"{shown(args.plan)}: {len(budgets)} policies, each at the bytes of {shown(args.like)}'s")


def named(name: str) -> policy.Type:
    if name.lower() not in policy.TYPES:
        raise UserError(f"--without {name}: no such type; use one of {', '.join(policy.TYPES)}")
    return policy.TYPES[name.lower()]


if __name__ == "__main__":
    cli.run(main)
