"""Check every number of README, docs and model cards against the report that docs/claims.json names for it.

In:  README.md, docs/*.md, the model card's template and configs; docs/claims.json (its form: kxl/release/claims.py);
     the reports in the tree.
Out: a line for each number that has no entry, and for each entry whose words are gone, whose report is missing, holds
     another number, or is of a model or settings that are not in the tree; exit code 2 when there is any.

  .venv/bin/python scripts/release_check_claims.py
  .venv/bin/python scripts/release_check_claims.py --update

After a stage was run again, --update writes the new numbers into pages and claims, in as many digits as before, and
shows each line that it changed: read them, for a number may have turned what its sentence says.
"""

import difflib

from kxl.base import cli
from kxl.base.cli import UserError
from kxl.base.files import ROOT, write_text
from kxl.release import claims
from kxl.release.provenance import Tree


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--update", action="store_true", help="write the numbers that the reports hold today")
    args = parser.parse_args()
    tree, entries = Tree(), claims.load()
    if args.update:
        entries = update(tree, entries)
        tree = Tree()
    found = [problem for page in claims.pages(ROOT) for problem in claims.problems(tree, page, entries)]
    for problem in found:
        print(problem)
    if found:
        raise UserError(f"{len(found)} numbers are not backed; each line above says what to do")
    print(f"{len(entries)} sentences in {len(claims.pages(ROOT))} pages, each number as its report has it")


def update(tree: Tree, entries: list[dict]) -> list[dict]:
    """Rewrite pages and docs/claims.json; return the new entries."""
    pages = {name: tree.text(name) for name in sorted({entry["file"] for entry in entries}) if name.endswith(".md")}
    new = dict(pages)
    for place, entry in enumerate(entries):
        if entry["file"] in pages:
            entries[place], new[entry["file"]] = claims.updated(tree, entry, new[entry["file"]])
    for name, text in new.items():
        if text != pages[name]:
            write_text(ROOT / name, text)
            for line in difflib.unified_diff(pages[name].splitlines(), text.splitlines(), name, name, n=0, lineterm=""):
                print(line)
    write_text(ROOT / claims.CLAIMS, claims.dumps(entries))
    return entries


if __name__ == "__main__":
    cli.run(main)
