"""Export the exact tool schemas of the pinned Hermes Agent.

In:   third_party/hermes-agent.lock (toolsets, number of tools, sha256), hermes-agent.requirements.txt
Out:  configs/hermes_tools.json, in Hermes's own order, not a character changed

  .venv/bin/python scripts/setup_hermes_tools.py

The package is installed into a small environment of its own in the cache, without its dependencies:
only the schemas are wanted. No key, no network beyond pip, no configuration of the user is read.
"""

import hashlib
import json
import os
import subprocess
from pathlib import Path

from kxl.base import cli
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, scratch_dir, shown, write_text
from kxl.chat import hermes_tools
from kxl.setup import hermes_env, llama_cpp
from kxl.setup.hermes_env import LOCK, REQUIREMENTS

EXPORT = ROOT / "scripts" / "kxl/setup/hermes_export.py"


def digest(tools: list[dict]) -> str:
    """sha256 of the schemas as compact JSON in their own order."""
    return hashlib.sha256(json.dumps(tools, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()


def export(python: Path, toolsets: list[str]) -> list[dict]:
    """The schemas of `toolsets` from the Hermes Agent that `python` has installed."""
    with scratch_dir() as home:
        out = Path(home) / "tools.json"
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": home,
            "HERMES_HOME": f"{home}/.hermes",
            "HERMES_DISABLE_LAZY_INSTALLS": "1",
        }
        ended = subprocess.run(
            [str(python), "-I", str(EXPORT), str(out), ",".join(toolsets)],
            cwd=home,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if ended.returncode != 0:
            raise UserError(f"Hermes Agent did not give its tools; its output ends:\n{llama_cpp.tail(ended.stdout)}")
        return json.loads(out.read_text(encoding="utf-8"))


def check(tools: list[dict], pin: dict) -> None:
    """Refuse schemas other than the pinned ones."""
    # A dependency that cannot be imported makes its tools vanish without a word, so the count is told apart from the
    # content.
    if len(tools) != pin["tools"]:
        names = ", ".join(tool["function"]["name"] for tool in tools)
        raise UserError(
            f"Hermes Agent {pin['version']} gave {len(tools)} tools, {shown(LOCK)} expects {pin['tools']}; it "
            f"gave: {names}."
            f" A missing dependency hides tools: complete {shown(REQUIREMENTS)}"
        )
    if digest(tools) != pin["sha256"]:
        raise UserError(
            f"the tool schemas have sha256 {digest(tools)}, {shown(LOCK)} expects {pin['sha256']};"
            " if the package was changed on purpose, compare the tools and put the new sums into the lock"
        )


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--out", type=Path, default=hermes_tools.TOOLS, help="where the schemas go")
    args = parser.parse_args()

    pin = read_json(LOCK)
    tools = export(hermes_env.python(), pin["toolsets"])
    check(tools, pin)
    text = json.dumps(tools, indent=2, ensure_ascii=False) + "\n"
    if not args.out.is_file() or args.out.read_text(encoding="utf-8") != text:
        write_text(args.out, text)
    print(f"{len(tools)} tools of {pin['package']} {pin['version']}: {shown(args.out)}")


if __name__ == "__main__":
    cli.run(main)
