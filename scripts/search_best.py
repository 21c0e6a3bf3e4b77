"""Pick the largest policy with which a model fits into some memory, and say the sum.

Of policies of equal size (within 0.5 %) one that was searched for this model goes before one that fits any.

In:  the BF16 GGUF, plans of policies, the memory and the context that are wanted.
Out: the sum of the chosen policy and the others beside it; with --print the policy's name and plan alone on stdout,
     for make, which quantizes it.

  .venv/bin/python scripts/search_best.py --gguf runs/tiny/bf16.gguf --fit 8GiB --context 65536 \\
      --plan gguf/export_plan.json --plan gguf/tiny/plan.json
"""

from pathlib import Path

from kxl.base import cli
from kxl.base.cli import UserError
from kxl.base.files import shown
from kxl.quant import policy
from kxl.search import memory, sizes, written

EQUAL = 0.005  # files within this share count as of equal size


def chosen(fitting: list[tuple]) -> tuple | None:
    """The largest of (sum, name, plan); of equal sizes the one that was searched for this very model."""
    if not fitting:
        return None
    largest = [entry for entry in fitting if entry[0].file >= (1 - EQUAL) * fitting[0][0].file]
    return next((entry for entry in largest if policy.load(entry[1], entry[2]).made_for), largest[0])


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--gguf", type=Path, required=True, metavar="FILE", help="BF16 GGUF of the model")
    parser.add_argument("--fit", required=True, metavar="SIZE", help="memory that is there, as 8GiB or 500MiB")
    parser.add_argument("--context", type=int, default=65536, help="tokens of context that are wanted")
    parser.add_argument(
        "--plan", type=Path, action="append", required=True, metavar="FILE", help="plan of policies, repeatable"
    )
    parser.add_argument("--print", action="store_true", dest="bare", help="print `NAME PLAN` alone on stdout")
    args = parser.parse_args()
    if args.context < 1:
        raise UserError(f"--context {args.context}: at least one token is needed")

    tensors, shape = policy.read_tensors(args.gguf), memory.shape_of(args.gguf)
    header = sizes.header_bytes(args.gguf)
    room = written.budget_bytes(args.fit, 0, 0)
    found = []
    for plan in args.plan:
        for name in policy.read_plan(plan)["policies"]:
            rules = policy.load(name, plan)
            if problems := policy.lint(rules, tensors):
                cli.say(f"{name} does not fit this model: {problems[0]}")
                continue
            size = header + policy.data_bytes(tensors, policy.assign(rules, tensors))
            found.append((memory.needed(shape, args.context, size), name, plan))
    found.sort(key=lambda entry: entry[0].total, reverse=True)
    if not found:
        raise UserError("no policy fits this model's shape; make one: make policy BUDGET=… NAME=…")
    for sum_, name, _ in found:
        cli.say(f"  {name:<14} {sum_.total / 2**20:10,.1f} MiB{'' if sum_.total <= room else '  too large'}")
    best = chosen([entry for entry in found if entry[0].total <= room])
    if best is None:
        least = found[-1][0]
        raise UserError(
            f"nothing fits into {args.fit} at {args.context:,} tokens: the smallest policy, {found[-1][1]}, needs "
            f"{least.total / 2**20:,.1f} MiB, {least.cache / 2**20:,.1f} of them for the KV cache. Lower CONTEXT, or "
            f"search a smaller one: make policy BUDGET=… NAME=…"
        )
    sum_, name, plan = best
    for line in [f"{name} at {args.context:,} tokens:", *sum_.lines()]:
        cli.say(line)
    if args.bare:
        print(name, shown(plan))
    else:
        print(f"{name} of {shown(plan)}: {sum_.total / 2**20:,.1f} MiB of {room / 2**20:,.1f}")


if __name__ == "__main__":
    cli.run(main)
