"""AutoRound in a small environment of its own, in the cache: a rival of our quants, and nothing that makes them.

third_party/auto-round.requirements.txt pins it and the few packages that ours lacks. torch, transformers and numpy are
ours: its packages are put behind them on the path, so that both sides compute with the same ones.
"""

import sys

from kxl.base.files import ROOT
from kxl.setup import llama_cpp, venvs

REQUIREMENTS = ROOT / "third_party" / "auto-round.requirements.txt"


def version() -> str:
    """The pinned version."""
    lines = REQUIREMENTS.read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith("auto-round=="))


def use() -> None:
    """Make `import auto_round` work in this process; its environment is made first when it is missing (pip)."""
    python = venvs.make(llama_cpp.cache_dir() / f"auto-round-{version()}", [REQUIREMENTS], ("--no-deps",))
    packages = next((python.parents[1] / "lib").glob("python3*/site-packages"))
    if str(packages) not in sys.path:
        sys.path.append(str(packages))
