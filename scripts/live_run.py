"""Let a real Hermes Agent do real tasks with the model, and judge it by what is on disk afterwards.

In:   a task file (evals/live/*.json) and one of: a GGUF file (served by the pinned llama-server at temperature 0),
      or the URL of any OpenAI-compatible server
Out:  a report: per task the verdict, what was checked, steps, seconds, tokens, and the whole conversation

  .venv/bin/python scripts/live_run.py --gguf runs/tiny/hermes-kxl-tiny-q4kxl.gguf --artifact q4kxl \\
      --config configs/tiny.json --out evals/tiny/hermes_live.llama_cpp.q4kxl.json
  .venv/bin/python scripts/live_run.py --url http://127.0.0.1:8080/v1 --artifact mine --out live.json

Each task gets an empty folder and a fresh Hermes home. The agent runs in a box (sandbox.py): it reaches the
model's server and nothing else, and writes into its folder and nowhere else. What counts is what lies in the folder
afterwards, and what the server saw: Hermes's exit code, its final words and its own records count for nothing. A task
whose leftovers cannot be read, or on which the server dies, has failed; the others go on.
"""

import contextlib
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
from kxl.live import agent, leftovers, net, sandbox
from kxl.live import task as live_task
from kxl.live.relay import Upstream
from kxl.live.transcript import Transcript
from kxl.setup.hermes_env import LOCK

TASKS = ROOT / "evals" / "live" / "hermes_16.json"


def main() -> None:
    args = arguments()
    name, tasks = live_task.load(args.tasks, args.seed)
    wanted = read_json(args.config)["eval"].get("live", {}).get("threshold", 0) if args.config else 0
    if args.config and not wanted:
        cli.say(f"{shown(args.config)} has no eval.live.threshold: this run is scored but not gated")
    agent.python()  # made now, so that its minutes are no task's
    if not args.no_isolation and (why := sandbox.unavailable()):
        raise cli.UserError(
            f"this system allows no box around the agent: {why}; --no-isolation (make: LIVE_FLAGS=--no-isolation)"
            " runs its commands with your own rights"
        )
    started = time.monotonic()
    details, died = attempt_all(tasks, args, name)
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
    settings = {
        "backend": "llama_cpp" if args.gguf else "openai",
        "artifact": args.artifact,
        "seed": args.seed,
        "context": args.context,
        "net": args.net,
        **({"thoughts": True} if args.thoughts else {}),
        "hermes": read_json(LOCK)["version"],
        "isolation": "none" if args.no_isolation else "namespaces",
        "temperature": 0 if args.gguf else None,
        "time_limit": args.timeout,
    }
    short = results["passed"] < wanted or died is not None
    inputs = [args.tasks, *filter(None, [args.gguf])]
    report.write_gated(args.out, not short, inputs, settings, remote.without_key(results))
    print(summary(results))
    if died:
        raise cli.UserError(
            f"{died}\nthe {len(details)} tasks until then are in {shown(report.failed_path(args.out))}; run it again"
        )
    if short:
        raise cli.UserError(
            f"{results['passed']} of {results['tasks']} tasks done, {wanted} are required ({shown(args.config)})."
            f" Every run is in {shown(report.failed_path(args.out))}"
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
        "--thoughts",
        action="store_true",
        help="with the plugin that gives a model its thoughts on the request at hand back",
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


def attempt_all(tasks: list, args, name: str) -> tuple[list[dict], cli.UserError | None]:
    """Each task's entry in the report, and the error that ended the run before its end, if one did.

    A server of ours that dies on a task is started again for the next; where two tasks in a row kill it, it is no
    task's fault.
    """
    details, todo, deaths = [], list(tasks), 0
    with tqdm(total=len(todo), desc=f"{name} {args.artifact}", unit="task") as progress:
        while todo:
            done_before = len(details)
            try:
                with serve(args) as server:
                    while todo and server.alive():
                        details.append(attempt(todo[0], server, args))
                        todo.pop(0)
                        progress.update()
                    if server.alive():
                        break
                    done = len(details) - done_before
                    death = server.failure("died" if done else "does not answer")
            except cli.UserError as error:  # no server, no box: what was done is kept
                if not details:
                    raise
                return details, error
            if done:
                details[-1]["passed"] = False
                details[-1]["why"].append(f"the model's server died on it: {str(death).splitlines()[0]}")
            deaths = deaths + 1 if done <= 1 else 1
            if args.url or not done or deaths > 1:
                return details, death
    return details, None


@contextlib.contextmanager
def serve(args) -> Iterator[eval_server.Server]:
    """The model's server."""
    if args.url:
        yield eval_server.external(args.url)
        return
    log = args.server_log or args.out.with_suffix(".server.log")
    # Hermes sends no temperature, and llama-server's own is 0.8.
    extra = ("--temp", "0", *(("--threads", str(args.threads)) if args.threads else ()))
    with eval_server.llama_server(args.gguf, log, args.context, extra=extra) as server:
        yield server
        died = not server.alive()
    if not args.server_log and not died:  # the error of one that died names its log
        log.unlink(missing_ok=True)


def attempt(task: live_task.Task, server: eval_server.Server, args) -> dict:
    """Let Hermes try one task in a folder of its own; its entry in the report."""
    upstream = Upstream(f"{server.url}/v1", server.http.auth, args.model_name)
    seen = Transcript(net=args.net)
    python = agent.python()
    with (
        sandbox.own_rights(upstream, seen) if args.no_isolation else sandbox.box(upstream, [python.parent.parent], seen)
    ) as place:
        home, work = place.root / "home" / ".hermes", place.root / "work"
        plugins = (*[net.NAME] * args.net, *[net.THOUGHTS] * args.thoughts)
        config = agent.config(place.url, args.model_name, args.context, plugins=plugins)
        of_home = {"config.yaml": config.encode(), **net.files(*plugins)}
        laid = {f"work/{path}": text for path, text in task.laid().items()}
        laid |= {f"home/.hermes/{path}": text for path, text in of_home.items()}
        laid["home/tmp/.empty"] = b""  # TMPDIR must be there
        run = place.run(
            agent.command(task.prompt, task.toolsets), laid, agent.environment(home, work), args.timeout, work
        )
        try:
            why = live_task.judge(task, leftovers.read(place.folder, "work"), seen.results())
        except leftovers.Unreadable as error:
            why = [f"its folder cannot be judged: {error}"]
        if run.stopped:
            why.append(f"Hermes was stopped: {run.stopped}")
        turns = [{**turn, "value": hide(turn["value"], place.root)} for turn in seen.turns(task.prompt)]
        return {
            "id": task.id,
            "calls": task.calls,
            "toolsets": task.toolsets,
            "prompt": task.prompt,
            "passed": not why,
            "why": why,
            "checked": live_task.checked(task),
            "called": seen.called(),
            "steps": seen.steps,
            "seconds": round(run.seconds, 1),
            "tokens": seen.tokens(),
            "answer": hide(run.out, place.root),
            "errors": hide(run.err, place.root),
            "exit_code": run.exit_code,
            "conversation": turns,
        }


def hide(text: str, root: Path) -> str:
    """Without the name of the temporary folder, which is another in each run."""
    return text.replace(str(root), "{ROOT}")


def summary(results: dict) -> str:
    lines = [
        f"{entry['id']:<28} {'done' if entry['passed'] else 'FAILED':<7} {entry['steps']:>2} steps"
        f" {entry['seconds']:>6} s" + ("" if entry["passed"] else f"  {entry['why'][0]}")
        for entry in results["details"]
    ]
    low, high = results["interval"]
    return "\n".join(
        [
            *lines,
            f"{results['passed']} of {results['tasks']} tasks done in {results['seconds']} s"
            f" (95 %: {low:.0%} to {high:.0%} of such tasks)",
        ]
    )


if __name__ == "__main__":
    cli.run(main)
