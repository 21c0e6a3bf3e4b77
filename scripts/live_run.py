"""Let a real Hermes Agent do real tasks with the model, and judge it by what is on disk afterwards.

In:   a task file (evals/live/*.json) and one of: a GGUF file (served by the pinned llama-server at temperature 0),
      or the URL of any OpenAI-compatible server
Out:  a report: per task the verdict, what was checked, steps, seconds, tokens, and the whole conversation

  .venv/bin/python scripts/live_run.py --gguf runs/tiny/hermes-kxl-tiny-q4kxl.gguf --artifact q4kxl \\
      --config configs/tiny.json --out evals/tiny/hermes_live.llama_cpp.q4kxl.json
  .venv/bin/python scripts/live_run.py --url http://127.0.0.1:8080/v1 --artifact mine --out live.json

Each task gets an empty folder and a fresh Hermes home. The agent runs in a box (sandbox.py): it reaches the
model's server and nothing else, and writes into its folder and nowhere else. Hermes's exit code and final words
count for nothing, since it prints a call that came as text, does nothing, and exits with 0.
"""

import contextlib
import itertools
import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from kxl.base import cli, report
from kxl.base.files import ROOT, read_json, shown
from kxl.base.statistics import wilson
from kxl.eval import remote
from kxl.eval import server as eval_server
from kxl.eval.scores import tally
from kxl.live import agent, net, sandbox
from kxl.live import task as live_task
from kxl.setup.hermes_env import LOCK

TASKS = ROOT / "evals" / "live" / "hermes_16.json"


def main() -> None:
    args = arguments()
    name, tasks = live_task.load(args.tasks, args.seed)
    wanted = read_json(args.config)["eval"].get("live", {}).get("threshold", 0) if args.config else 0
    if args.config and not wanted:
        cli.say(f"{shown(args.config)} has no eval.live.threshold: this run is scored but not gated")
    agent.python()  # made now, so that its minutes are no task's
    started = time.monotonic()
    with serve(args) as server:
        details = [attempt(task, server, args) for task in tqdm(tasks, desc=f"{name} {args.artifact}", unit="task")]
    results = {
        **tally(details, "tasks"),
        "details": details,
        "by_calls": {
            str(calls): tally([entry for entry in details if entry["calls"] == calls], "tasks")
            for calls in sorted({entry["calls"] for entry in details})
        },
        "seconds": round(time.monotonic() - started),
    }
    results["interval"] = [round(end, 4) for end in wilson(results["passed"], results["tasks"])]
    settings = {"backend": "llama_cpp" if args.gguf else "openai", "artifact": args.artifact, "seed": args.seed, "context": args.context, "net": args.net,
                "hermes": read_json(LOCK)["version"], "isolation": "none" if args.no_isolation else "namespaces", "temperature": 0 if args.gguf else None, "time_limit": args.timeout}  # fmt: skip
    short = results["passed"] < wanted
    inputs = [args.tasks, *filter(None, [args.gguf])]
    report.write_gated(args.out, not short, inputs, settings, remote.without_key(results))
    print(summary(results))
    if short:
        raise cli.UserError(
            f"{results['passed']} of {results['tasks']} tasks done, {wanted} are required ({shown(args.config)}). Every run is in {shown(report.failed_path(args.out))}"
        )
    print(f"wrote {shown(args.out)}")


def arguments():
    parser = cli.parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--gguf", type=Path, help="GGUF file to serve")
    source.add_argument(
        "--url",
        help="a running OpenAI-compatible server, such as http://127.0.0.1:8080/v1; "
        f"a key for it stands in the variable {remote.KEY}",
    )
    parser.add_argument("--artifact", required=True, help="name of what is tried, such as q4kxl")
    parser.add_argument("--out", type=Path, required=True, help="report file to write")
    parser.add_argument("--tasks", type=Path, default=TASKS, help="task file")
    parser.add_argument("--config", type=Path, help="config file, whose eval.live.threshold (tasks) gates the run")
    parser.add_argument("--model-name", default="local", help="model name sent along")
    parser.add_argument(
        "--context", type=int, default=65536, help="tokens of context; Hermes refuses fewer than 64,000"
    )
    parser.add_argument("--seed", type=int, default=1, help="decides the words in the tasks")
    parser.add_argument("--timeout", type=float, default=300, help="seconds that one task may take")
    parser.add_argument("--threads", type=int, default=0, help="threads of llama-server, 0 = its own choice")
    parser.add_argument(
        "--net",
        action="store_true",
        help="with the safety-net plugin, for servers that do not parse their model's calls",
    )
    parser.add_argument(
        "--no-isolation",
        action="store_true",
        help="where the system allows no box: run the agent's commands with your own rights",
    )
    parser.add_argument(
        "--server-log", type=Path, help="log of llama-server (default: beside the report, and kept only after an error)"
    )
    args = parser.parse_args()
    if args.gguf and not args.gguf.exists():
        raise cli.UserError(f"{shown(args.gguf)}: no such file")
    return args


@contextlib.contextmanager
def serve(args):
    """The model's server."""
    if args.url:
        yield eval_server.external(args.url)
        return
    log = args.server_log or args.out.with_suffix(".server.log")
    # Hermes sends no temperature, and llama-server's own is 0.8.
    extra = ("--temp", "0", *(("--threads", str(args.threads)) if args.threads else ()))
    with eval_server.llama_server(args.gguf, log, args.context, extra=extra) as server:
        yield server
    if not args.server_log:
        log.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A new folder with a plain name, as people work in: a row of random letters in every path that a tool returns is a trial
    of its own for a small model."""
    for number in itertools.count(1):
        folder = Path(tempfile.gettempdir()).resolve() / f"hermes-live-{number}"
        try:
            folder.mkdir(mode=0o700)
            break
        except FileExistsError:
            continue
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def attempt(task: live_task.Task, server: eval_server.Server, args) -> dict:
    """Let Hermes try one task in a folder of its own; its entry in the report."""
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(scratch())
        work, home = root / "work", root / "home" / ".hermes"
        work.mkdir()
        home.mkdir(parents=True)
        task.prepare(work)
        url, wrap = f"{server.url}/v1", list
        if not args.no_isolation:
            try:
                box = stack.enter_context(sandbox.box([work, home.parent], url))
            except cli.UserError as error:
                raise cli.UserError(
                    f"{error}; --no-isolation (make: LIVE_FLAGS=--no-isolation) runs its commands with your own rights"
                ) from None
            url, wrap = box.url, box.wrap
        if args.net:
            net.copy(home)
        agent.configure(home, url, args.model_name, args.context, plugins=(net.NAME,) if args.net else ())
        run = agent.run(task.prompt, url, work, task.toolsets, args.timeout, home, save_trajectory=True, wrap=wrap)
        if not server.alive():
            raise server.failure(f"died on task {task.id}")
        turns = run.trajectory["conversations"] if run.trajectory else []
        called, results = tool_turns(turns)
        why = live_task.judge(task, work, results)
        if run.exit_code is None:
            why.append(f"Hermes had not ended after {args.timeout:.0f} s")
        return {"id": task.id, "calls": task.calls, "toolsets": task.toolsets, "prompt": task.prompt, "passed": not why, "why": why,
                "checked": live_task.checked(task), "called": called, "steps": run.usage.get("api_calls", 0), "seconds": round(run.seconds, 1),
                "tokens": {"input": run.usage.get("input_tokens", 0), "cached": run.usage.get("cache_read_tokens", 0), "output": run.usage.get("output_tokens", 0)},
                "answer": hide(run.answer, root), "errors": hide(run.errors, root), "exit_code": run.exit_code,
                "conversation": json.loads(hide(json.dumps([turn for turn in turns if turn["from"] != "system"], ensure_ascii=False), root))}  # fmt: skip


def tool_turns(turns: list[dict]) -> tuple[list[str], list[str]]:
    """(names of the tools called, what they returned) from a ShareGPT conversation."""
    names, results = [], []
    for turn in turns:
        if turn["from"] == "gpt":
            names += filter(
                None, map(tool_name, re.findall(r"<tool_call>\n(.*?)\n</tool_call>", turn["value"], re.DOTALL))
            )
        elif turn["from"] == "tool":
            results += re.findall(r"<tool_response>\n(.*?)\n</tool_response>", turn["value"], re.DOTALL)
    return names, results


def tool_name(block: str) -> str | None:
    """The tool that a call block names; None for one that the model only wrote as text, and broke."""
    try:
        return json.loads(block)["name"]
    except (ValueError, TypeError, KeyError):
        return None


def hide(text: str, root: Path) -> str:
    """Without the name of the temporary folder, which is another in each run."""
    return text.replace(str(root), "{ROOT}")


def summary(results: dict) -> str:
    lines = [
        f"{entry['id']:<28} {'done' if entry['passed'] else 'FAILED':<7} {entry['steps']:>2} steps {entry['seconds']:>6} s"
        + ("" if entry["passed"] else f"  {entry['why'][0]}")
        for entry in results["details"]
    ]
    low, high = results["interval"]
    return "\n".join(
        [
            *lines,
            f"{results['passed']} of {results['tasks']} tasks done in {results['seconds']} s (95 %: {low:.0%} to {high:.0%} of such tasks)",
        ]
    )


if __name__ == "__main__":
    cli.run(main)
