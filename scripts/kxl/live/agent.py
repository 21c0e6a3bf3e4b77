"""The pinned Hermes Agent as users run it: installed whole in an environment of its own, headless, in a scratch folder.

    agent.run("create a.txt that says hi", "http://127.0.0.1:8080/v1", Path("scratch"))
    Path("scratch/a.txt").read_text()      # the effect counts: a headless Hermes that only printed text exits with 0

It has a home of its own (config, plugins, memory, sessions), so nothing of the user's Hermes is read or
written. `run` uses our own rights, for scripts that we wrote; what a model decides runs in a box (sandbox.py), which
takes `command`, `config` and `environment`. `hermes_env` is the small environment without Hermes's dependencies,
enough for schemas and single tools.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, scratch_dir, write_text
from kxl.live import leftovers, sandbox
from kxl.setup import llama_cpp, venvs
from kxl.setup.hermes_env import LOCK

REQUIREMENTS = ROOT / "third_party" / "hermes-agent-full.requirements.txt"
SAVING = ROOT / "scripts" / "kxl/live/hermes_saving.py"
TOOLSETS = "terminal,file"
TRAJECTORIES = ("trajectory_samples.jsonl", "failed_trajectories.jsonl")


@dataclass
class Run:
    """One finished run with our own rights.

    exit_code:  0 also where nothing was done; None when it was stopped at the time limit.
    answer:     what it printed, the final text.
    errors:     what it printed on stderr.
    seconds:    wall-clock time, start of the program included (about 3 s on an idle core).
    usage:      Hermes's own account: api_calls, input_tokens, output_tokens, completed, …; {} when it left none.
    trajectory: the ShareGPT row {"conversations", "completed", "model", "timestamp"}, if asked for and made.
    """

    exit_code: int | None
    answer: str
    errors: str
    seconds: float
    usage: dict
    trajectory: dict | None = None


def python() -> Path:
    """The environment's interpreter; made first when it is missing (pip, needs the network once, about 300 MB)."""
    return venvs.make(llama_cpp.cache_dir() / f"hermes-agent-full-{read_json(LOCK)['version']}", [REQUIREMENTS])


def config(url: str, model: str = "local", context: int = 65536, max_tokens: int = 2048, plugins: tuple = ()) -> str:
    """The text of $HERMES_HOME/config.yaml: one OpenAI-compatible server at `url` (ends in /v1), and enabled plugins.

    `context` is what Hermes believes the server offers; it refuses fewer than 64,000 tokens.
    """
    settings = {
        "model": {
            "default": model,
            "provider": "custom",
            "base_url": url,
            "api_key": "none",
            "context_length": context,
            "max_tokens": max_tokens,
        },
        "security": {"allow_lazy_installs": False},  # it would pip install at run time
        "plugins": {"enabled": list(plugins)},
    }
    return json.dumps(settings, indent=2, sort_keys=True) + "\n"  # JSON is YAML


def configure(home: Path, url: str, **options) -> None:
    """Write `config` into the HERMES_HOME `home`."""
    write_text(home / "config.yaml", config(url, **options))


def environment(home: Path, folder: Path) -> dict:
    """Every variable that Hermes sees. Nothing is inherited: no keys, no proxies, nobody's configuration."""
    return {
        "HOME": str(home.parent),
        "HERMES_HOME": str(home),
        "HERMES_DISABLE_LAZY_INSTALLS": "1",
        "TERMINAL_CWD": str(folder),
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "TMPDIR": str(home.parent / "tmp"),
        "USER": "user",
        "LANG": "C.UTF-8",
    }


def command(prompt: str, toolsets: str, usage: Path | None = None, save_trajectory: bool = False) -> list[str]:
    """Hermes's command line for one headless prompt; it leaves its account in the file `usage`."""
    interpreter = python()
    program = [str(interpreter), "-I", str(SAVING)] if save_trajectory else [str(interpreter.parent / "hermes")]
    return [*program, "-z", prompt, "-t", toolsets, *(("--usage-file", str(usage)) if usage else ())]


def run(
    prompt: str,
    url: str,
    folder: Path,
    toolsets: str = TOOLSETS,
    seconds: float = 300,
    home: Path | None = None,
    save_trajectory: bool = False,
) -> Run:
    """Let Hermes work on `prompt` in `folder`, with our own rights, with the model behind `url`; see Run.

    `home` is a configured HERMES_HOME (its parent becomes HOME); without one a fresh one is made and thrown away.
    It raises nothing for a run that fails: what counts is what is on disk.
    """
    folder = Path(folder).resolve()
    with scratch_dir() as fresh:
        if home is None:
            home = fresh / ".hermes"
            configure(home, url)
        home = home.resolve()
        (home.parent / "tmp").mkdir(parents=True, exist_ok=True)
        usage = home / "usage.json"
        usage.unlink(missing_ok=True)
        for name in TRAJECTORIES:
            if save_trajectory and (folder / name).exists():
                raise UserError(f"{folder / name}: Hermes would append to it; use a fresh scratch folder")
        ended = sandbox.run_bare(
            command(prompt, toolsets, usage, save_trajectory), environment(home, folder), seconds, folder
        )
        account = read_json(usage) if usage.exists() else {}
        trajectory = _take_trajectory(folder) if save_trajectory else None
    return Run(ended.exit_code, ended.out, ended.err, ended.seconds, account, trajectory)


def _take_trajectory(folder: Path) -> dict | None:
    """The row that this run appended to `folder`, whose file is removed. UserError where what lies there is none."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = leftovers.read(opened)
    except leftovers.Unreadable as error:
        raise UserError(f"{folder}: Hermes left what cannot be read: {error}") from None
    finally:
        os.close(opened)
    for name in TRAJECTORIES:
        if name in found:
            rows = (found[name].text or b"").rstrip(b"\n").split(b"\n")
            try:
                row = json.loads(rows[-1])
                row["conversations"], row["completed"]
            except (ValueError, RecursionError, KeyError, TypeError):
                raise UserError(f"{folder / name}: is no trajectory of Hermes") from None
            (folder / name).unlink()
            return row
    return None
