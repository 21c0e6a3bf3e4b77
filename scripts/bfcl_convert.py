"""Write the cases of the Berkeley Function Calling leaderboard, v4, that run offline: a case a line.

In:   the bfcl-eval wheel that third_party/bfcl-eval.lock pins (Apache-2.0), fetched into the cache when it is missing
Out:  a file for bfcl_run.py and bfcl_agree.py (40 MB), in which tools and system messages are as the wheel's own code
      makes them for an OpenAI-compatible server; not committed

  .venv/bin/python scripts/bfcl_convert.py --out runs/bfcl/cases.jsonl
"""

import subprocess
import sys
from collections import Counter
from pathlib import Path

from kxl.base import cli, jsonl
from kxl.base.files import atomic_path, scratch_dir, shown
from kxl.bfcl import cases
from kxl.setup import bfcl_env


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="cases file to write (JSON lines)")
    args = parser.parse_args()
    python = bfcl_env.python()
    with scratch_dir() as work, atomic_path(args.out) as partial:
        ended = subprocess.run(
            [python, cases.PROGRAM, partial, ",".join(cases.ALL)],
            env=bfcl_env.environment(Path(work)),
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
        )
        if ended.returncode:
            raise cli.UserError(
                f"the wheel's own code could not write its cases (its message is above); delete "
                f"{python.parent.parent} and run this again to make its environment anew"
            )
        counts = Counter(case["category"] for _, case in jsonl.objects(partial) if cases.scored(case))
    if set(counts) != set(cases.ALL):
        raise cli.UserError(f"the wheel has no case of {', '.join(sorted(set(cases.ALL) - set(counts)))}")
    print(f"{shown(args.out)}: {sum(counts.values())} cases of {len(counts)} categories")


if __name__ == "__main__":
    cli.run(main)
