"""Check the tensor-type policies against a GGUF before anything is quantized.

In:  a BF16 GGUF and the policies of gguf/export_plan.json.
Out: a table of what each rule does; exit code 2 and every problem, by file and line, when a rule
     matches nothing that is quantized, a type is unknown, a capital letter or a shadowed rule would
     be silently misread, a row length would make llama-quantize fall back, or a tensor has no rule.

  .venv/bin/python scripts/quant_lint.py --gguf runs/tiny/hermes-kxl-tiny-bf16.gguf
  .venv/bin/python scripts/quant_lint.py --gguf runs/tiny/hermes-kxl-tiny-bf16.gguf --policy q4kxl --plain q4kxl.txt

--plain also writes the rules without comments, for llama-quantize --tensor-type-file.
"""

from pathlib import Path

from kxl.base import cli
from kxl.base.cli import UserError
from kxl.base.files import shown, write_text
from kxl.quant import policy


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
    parser.add_argument("--gguf", type=Path, required=True, metavar="FILE", help="BF16 GGUF the policies are for")
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
    tensors = policy.read_tensors(args.gguf)
    whole = []
    for name in names:
        rules = policy.load(name, args.plan)
        lines = table(rules, tensors)
        size = policy.data_bytes(tensors, policy.assign(rules, tensors))
        whole += [f"{name}: base {rules.base_type}, {size / 2**20:.2f} MiB of tensors", *lines]
        if not args.out:
            print("\n".join(whole[-len(lines) - 1 :]))
        if args.plain:
            write_text(args.plain, policy.plain(rules))
    if args.out:
        write_text(args.out, "\n".join(whole) + "\n")
    print(
        f"{', '.join(names)}: every rule applies to {shown(args.gguf)}"
        + (f"; plain rules in {shown(args.plain)}" if args.plain else "")
        + (f"; the table is in {shown(args.out)}" if args.out else "")
    )


if __name__ == "__main__":
    cli.run(main)
