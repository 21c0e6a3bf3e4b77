"""The pinned Hermes Agent in a small environment of its own, in the cache: enough for its tools, not for its agent.

third_party/hermes-agent.lock names version, toolsets and the sum of the schemas; the package comes without its
dependencies, whose needed few stand in third_party/hermes-agent.requirements.txt.
"""

from pathlib import Path

from kxl.base.files import ROOT, read_json
from kxl.setup import llama_cpp, venvs

LOCK = ROOT / "third_party" / "hermes-agent.lock"
REQUIREMENTS = ROOT / "third_party" / "hermes-agent.requirements.txt"


def python() -> Path:
    """The environment's interpreter; made first when it is missing (pip, needs the network once)."""
    return venvs.make(
        llama_cpp.cache_dir() / f"hermes-agent-{read_json(LOCK)['version']}", [REQUIREMENTS], ("--no-deps",)
    )
