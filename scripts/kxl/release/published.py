"""Where a run's results stand once they are published: runs/RUN/results/KIND/... becomes KIND/RUN/..., in the tree.

What a run finds out stays in runs/RUN/results, which git ignores. A summary names its reports as they are published, so
that whoever has the tree can look them up.
"""

import os
from pathlib import Path

from kxl.base.files import ROOT, shown

RESULTS = "results"
KINDS = ("evals", "reports", "logs", "datasets")


def name(path: Path) -> str:
    """The published name of a file: of a run's result its place in the tree, of any other its own name.

    The path counts as it is written: runs/ may be a link to another disk.
    """
    absolute = Path(os.path.abspath(path))
    parts = absolute.relative_to(ROOT).parts if absolute.is_relative_to(ROOT) else ()
    if len(parts) > 4 and parts[0] == "runs" and parts[2] == RESULTS and parts[3] in KINDS:
        return str(Path(parts[3], parts[1], *parts[4:]))
    return shown(path)


def publishable(run: Path) -> list[Path]:
    """What of a run folder's results is published: all but failed reports, answers that are kept, hidden files."""
    return [
        path
        for kind in KINDS
        for path in sorted((run / RESULTS / kind).rglob("*"))
        if path.is_file()
        and not path.name.startswith(".")
        and not path.name.endswith((".failed.json", ".answers.jsonl"))
    ]
