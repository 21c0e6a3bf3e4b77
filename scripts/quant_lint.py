"""Check the tensor-type policies against a model before anything is quantized.

In:  a BF16 GGUF, or a config.json alone (--shapes), and the policies of gguf/export_plan.json.
Out: a table of what each rule does; exit code 2 and every problem of all policies, by file and line, with a type that
     fits beside, when a rule matches nothing that is quantized, a type is unknown, a capital letter or a shadowed rule
     would be silently misread, a row length would make llama-quantize fall back, or a tensor has no rule.

  .venv/bin/python scripts/quant_lint.py --gguf runs/tiny/hermes-kxl-tiny-bf16.gguf
  .venv/bin/python scripts/quant_lint.py --shapes models/tiny/config.json
  .venv/bin/python scripts/quant_lint.py --gguf runs/tiny/hermes-kxl-tiny-bf16.gguf --policy q4kxl --plain q4kxl.txt

--plain also writes the rules without comments, for llama-quantize --tensor-type-file.
"""

from pathlib import Path

from kxl.base import cli
from kxl.base.cli import UserError
from kxl.base.files import shown, write_text
from kxl.quant import policy, sparse


def table(rules: policy.Policy, tensors: list) -> list[str]:
    """One line per rule: pattern, type, how many tensors it decides and their size."""
    types = policy.assign(rules, tensors)
    lines = []
    for rule in rules.rules:
        mine = [t for t in tensors if policy.quantizable(t) and policy.first_rule(rules, t.name) is rule]
        size = sum(policy.nbytes(t.shape, types[t.name]) for t in mine) / 2**20
        lines.append(f"  {rule.pattern:<45} {rule.type:<6} {len(mine):>4} tensors {size:>10.2f} MiB")
    return lines


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--gguf", type=Path, metavar="FILE", help="BF16 GGUF the policies are for")
    parser.add_argument("--shapes", type=Path, metavar="FILE", help="config.json or shapes file, in place of a GGUF")
    parser.add_argument(
        "--policy", action="append", metavar="NAME", help="policy to check, may be repeated (default: all of the plan)"
    )
    parser.add_argument("--plan", type=Path, default=policy.PLAN, metavar="FILE", help="export plan")
    parser.add_argument("--plain", type=Path, metavar="FILE", help="write the one --policy without comments")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table there, too")
    args = parser.parse_args()

    names = args.policy or sorted(policy.read_plan(args.plan)["policies"])
    if args.plain and len(names) != 1:
        raise UserError("--plain writes one policy; name it with --policy")
    if bool(args.gguf) == bool(args.shapes):
        raise UserError("name either --gguf or --shapes")
    tensors = policy.read_tensors(args.gguf) if args.gguf else sparse.tensors_of(sparse.read_shapes(args.shapes))
    loaded = {name: policy.load(name, args.plan) for name in names}
    found = {name: policy.lint(rules, tensors) for name, rules in loaded.items()}
    whole = []
    for name, rules in loaded.items():
        if found[name]:
            continue
        lines = table(rules, tensors)
        size = policy.data_bytes(tensors, policy.assign(rules, tensors))
        whole += [f"{name}: base {rules.base_type}, {size / 2**20:.2f} MiB of tensors", *lines]
        if not args.out:
            print("\n".join(whole[-len(lines) - 1 :]))
        if args.plain:
            write_text(args.plain, policy.plain(rules))
    if problems := [f"{name}: {line}" for name, lines in found.items() for line in lines]:
        raise UserError(
            f"{sum(map(bool, found.values()))} of {len(found)} policies do not fit {shown(args.gguf or args.shapes)}:\n"
            + "\n".join(f"  {line}" for line in problems)
            + "\n`make propose SHAPES=config.json` makes one that fits"
        )
    if args.out:
        write_text(args.out, "\n".join(whole) + "\n")
    print(
        f"{', '.join(names)}: every rule applies to {shown(args.gguf or args.shapes)}"
        + (f"; plain rules in {shown(args.plain)}" if args.plain else "")
        + (f"; the table is in {shown(args.out)}" if args.out else "")
    )


if __name__ == "__main__":
    cli.run(main)
