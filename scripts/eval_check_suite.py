"""Check a suite before anything is made for it: its form, its tools, and that a right answer could pass every case.

In:  a suite, a JSON file anywhere (scripts/kxl/eval/suites.py has the format, docs/your-own-tools.md an example).
Out: what it holds, in one line; with --out the same in a file, for make. What is wrong is said with the case; a suite
     that has the name of another one in evals/suites is refused.

  .venv/bin/python scripts/eval_check_suite.py --suite my/booking.json
"""

from collections import Counter
from pathlib import Path

from kxl.base import cli
from kxl.base.cli import UserError
from kxl.base.files import ROOT, shown, write_text
from kxl.eval import suites


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--suite", type=Path, required=True, help="suite file (JSON)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the line there, too")
    args = parser.parse_args()
    suite = suites.load(args.suite)
    if suite.name != args.suite.stem:
        raise UserError(
            f"{shown(args.suite)}: its name is {suite.name}, its file's {args.suite.stem}; give both one name, since "
            "reports are called so"
        )
    ours = ROOT / "evals/suites" / f"{suite.name}.json"
    if ours.is_file() and not ours.samefile(args.suite):
        raise UserError(f"{shown(args.suite)}: {shown(ours)} is called so, too; rename yours, file and name")
    kinds = Counter(case["kind"] for case in suite.cases)
    line = (
        f"{shown(args.suite)}: {len(suite.cases)} cases ("
        + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        + f"), {len(suite.tools)} tools, every case can be passed"
    )
    if args.out:
        write_text(args.out, line + "\n")
    print(line)


if __name__ == "__main__":
    cli.run(main)
