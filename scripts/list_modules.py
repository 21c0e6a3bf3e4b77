"""List every script and module with what it is, from the first sentence of its docstring.

In:  scripts/ and scripts/kxl/. Out: a Markdown page with one line each, by stage and room.

  .venv/bin/python scripts/list_modules.py --out docs/modules.md
"""

import ast
import re
from pathlib import Path

from kxl.base import cli
from kxl.base.files import ROOT, shown, write_text

HEAD = """# Every script and module

Made from the first sentence of each docstring: `make modules`. [Where to change what](where-to-change.md) goes the
other way, from an idea to its file.
"""


def sentence(path: Path) -> str:
    """The first sentence of a file's docstring, on one line. UserError where there is none."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not doc:
        raise cli.UserError(f"{shown(path)}: has no docstring; say in one sentence what it is")
    paragraph = " ".join(doc.split("\n\n")[0].split())
    return re.split(r"(?<=[.:])\s(?=[A-Z`])", paragraph)[0].rstrip(".:")


def page(root: Path = ROOT) -> str:
    """The whole page."""
    scripts = root / "scripts"
    parts = [HEAD, "## Scripts\n", *lines(scripts.glob("*.py"), scripts, "scripts/")]
    for room in sorted(path for path in (scripts / "kxl").iterdir() if path.is_dir() and path.name != "__pycache__"):
        parts += [f"\n## {room.name}\n", *lines(room.glob("*.py"), room, "")]
    return "\n".join(parts) + "\n"


def lines(paths, folder: Path, prefix: str) -> list[str]:
    return [f"- `{prefix}{path.relative_to(folder)}` {sentence(path)}" for path in sorted(paths)]


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="page to write (Markdown)")
    args = parser.parse_args()
    write_text(args.out, text := page())
    print(f"{shown(args.out)}: {text.count(chr(10) + '- ')} scripts and modules")


if __name__ == "__main__":
    cli.run(main)
