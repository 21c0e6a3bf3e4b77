"""The pinned Hermes Agent as users run it: installed whole in an environment of its own, headless, in a scratch folder.

    answer = hermes_agent.run("create a.txt that says hi", "http://127.0.0.1:8080/v1", Path("scratch"))
    Path("scratch/a.txt").read_text()      # the effect counts: a headless Hermes that only printed text also exits with 0

It has a home of its own (config, plugins, memory, sessions), so nothing of the user's Hermes is read or
written. `hermes_env` is the small environment without Hermes's dependencies, enough for schemas and single tools.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from kxl.base import jsonl
from kxl.base.cli import UserError
from kxl.base.files import ROOT, read_json, write_json
from kxl.eval import server
from kxl.setup import llama_cpp, venvs
from kxl.setup.hermes_env import LOCK

REQUIREMENTS = ROOT / "third_party" / "hermes-agent-full.requirements.txt"
TOOLSETS = "terminal,file"

# Hermes's own command line, except that the agent also keeps the conversation as a ShareGPT row
# (trajectory_samples.jsonl in the current folder), for which the command line has no switch.
SAVING = """
import run_agent
class Saving(run_agent.AIAgent):
    def __init__(self, *args, **options):
        super().__init__(*args, **{**options, "save_trajectories": True})
run_agent.AIAgent = Saving
from hermes_cli.main import main
main()
"""
TRAJECTORIES = ("trajectory_samples.jsonl", "failed_trajectories.jsonl")


@dataclass
class Run:
    """One finished run.

    exit_code:  0 also where nothing was done; None when it was stopped at the time limit.
    answer:     what it printed, the final text.
    errors:     what it printed on stderr.
    seconds:    wall-clock time, start of the program included (about 3 s on an idle core).
    usage:      Hermes's own account: api_calls, input_tokens, output_tokens, completed, failed, …; {} when it left none.
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


def configure(
    home: Path, url: str, model: str = "local", context: int = 65536, max_tokens: int = 2048, plugins: tuple = ()
) -> None:
    """Write $HERMES_HOME/config.yaml: one OpenAI-compatible server at `url` (ends in /v1), and which plugins are enabled.

    `context` is what Hermes believes the server offers; it refuses fewer than 64,000 tokens.
    """
    write_json(
        home / "config.yaml",
        {  # JSON is YAML
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
        },
    )


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


def command(prompt: str, toolsets: str, usage: Path, save_trajectory: bool) -> list[str]:
    """Hermes's command line for one headless prompt."""
    interpreter = python()
    program = [str(interpreter), "-I", "-c", SAVING] if save_trajectory else [str(interpreter.parent / "hermes")]
    return [*program, "-z", prompt, "-t", toolsets, "--usage-file", str(usage)]


def run(
    prompt: str,
    url: str,
    folder: Path,
    toolsets: str = TOOLSETS,
    seconds: float = 300,
    home: Path | None = None,
    save_trajectory: bool = False,
    wrap=list,
) -> Run:
    """Let Hermes work on `prompt` in `folder` with the model behind `url`; see Run.

    `home` is a configured HERMES_HOME (its parent becomes HOME); without one a fresh one is made and thrown away.
    `wrap` makes a command line of a command line, such as sandbox.Box.wrap.
    It raises nothing for a run that fails: what counts is what is on disk.
    """
    folder = Path(folder).resolve()
    with tempfile.TemporaryDirectory(prefix="hermes-kxl-home-") as fresh:
        if home is None:
            home = Path(fresh) / ".hermes"
            configure(home, url)
        home = home.resolve()
        (home.parent / "tmp").mkdir(parents=True, exist_ok=True)
        usage = home / "usage.json"
        usage.unlink(missing_ok=True)
        for name in TRAJECTORIES:
            if save_trajectory and (folder / name).exists():
                raise UserError(f"{folder / name}: Hermes would append to it; use a fresh scratch folder")
        started = time.monotonic()
        code, answer, errors = _execute(
            wrap(command(prompt, toolsets, usage, save_trajectory)), folder, environment(home, folder), seconds
        )
        return Run(
            code,
            answer,
            errors,
            time.monotonic() - started,
            read_json(usage) if usage.exists() else {},
            _take_trajectory(folder) if save_trajectory else None,
        )


def _execute(arguments: list[str], folder: Path, variables: dict, seconds: float) -> tuple:
    """(exit code or None, stdout, stderr). The whole process group is gone afterwards."""
    # Files, not pipes: a background process that the agent started would keep a pipe open.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        # The guard holds a pipe to us: when this process ends in whatever way, the agent ends, too.
        guarded = [sys.executable, "-I", "-S", "-c", server.GUARD, *arguments]
        child = subprocess.Popen(
            guarded, cwd=folder, env=variables, stdin=subprocess.PIPE, stdout=out, stderr=err, start_new_session=True
        )
        try:
            code = child.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _kill(child)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    return code, *texts


def _kill(child: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):  # all ended by themselves
        os.killpg(child.pid, signal.SIGKILL)
    child.stdin.close()
    child.wait()


def _take_trajectory(folder: Path) -> dict | None:
    """The row that this run appended to `folder`, whose file is removed."""
    for name in TRAJECTORIES:
        if (path := folder / name).exists():
            rows = list(jsonl.survivors(path))
            path.unlink()
            return rows[-1] if rows else None
    return None
