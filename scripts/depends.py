"""Tell make what each script's code is: one stamp a script, which is new when the code is, and only then.

In:  scripts/ and scripts/kxl/. Out: runs/code/SCRIPT, whose text is the sha256 of the syntax trees of the script and
     of all that it imports (kxl/base/code.py); make takes its file time. A stamp that is not there yet gets the time
     of its youngest source, as a file of make's own would have.

  python3 scripts/depends.py
"""

import os
import sys
import time
from pathlib import Path

from kxl.base import cli
from kxl.base.code import SCRIPTS, Code
from kxl.base.files import ROOT, write_text


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "runs/code", help="folder of the stamps")
    args = parser.parse_args()
    try:
        stamp_all(args.out)
    except SyntaxError as error:
        raise cli.UserError(f"{error.filename}:{error.lineno}: {error.msg}; mend it and run make again") from None
    except OSError as error:
        raise cli.UserError(f"{error.filename or args.out}: {error.strerror}; make needs to write there") from None


def stamp_all(folder: Path, scripts: Path = SCRIPTS) -> None:
    """Write what has changed of the stamps in `folder`."""
    code = Code(scripts, folder / "modules.json")
    for path in sorted(scripts.glob("*.py")):
        stamp, new = folder / path.stem, code.hash(path.name) + "\n"
        if not stamp.exists():
            write_text(stamp, new)
            # A source that is dated in the future would make everything old until then.
            os.utime(stamp, ns=(newest := min(code.newest(path.name), time.time_ns()), newest))
        elif stamp.read_text() != new:
            write_text(stamp, new)
    code.save()


if __name__ == "__main__":
    os.environ.pop("HERMES_KXL_HISTORY", None)  # make's own question is no stage
    sys.dont_write_bytecode = True
    cli.run(main)
