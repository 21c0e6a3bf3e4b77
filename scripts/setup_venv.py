"""Make .venv with exactly the packages of requirements.txt.

In:   requirements.txt, constraints.txt
Out:  .venv, with .venv/complete written last

  python3 scripts/setup_venv.py

Runs on the system's Python (3.11 or newer) and needs only its standard library. Half a minute to a few
minutes, by the network. An environment that was interrupted, or made for other requirements, is made anew.
"""

import os
import sys
from pathlib import Path

if sys.version_info < (3, 11):
    sys.exit(
        f"error: Python {sys.version.split()[0]} is too old, 3.11 is needed; run make with PYTHON=python3.11 or newer"
    )

from kxl.base import cli
from kxl.base.files import ROOT, shown
from kxl.setup import venvs


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="where to make it")
    args = parser.parse_args()
    python = venvs.make(args.venv, [ROOT / "requirements.txt", ROOT / "constraints.txt"])
    os.utime(args.venv / venvs.STAMP)  # what make compares with requirements.txt
    print(f"python environment: {shown(args.venv)} ({shown(python.parent)}/python)")


if __name__ == "__main__":
    cli.run(main)
