"""Let a real Hermes Agent do real tasks with the model, several times each, and judge it by what is on disk afterwards.

In:   task files (evals/live/*.json, one for each kind) and one of: a GGUF file (served by the pinned llama-server at
      temperature 0), or the URL of any OpenAI-compatible server
Out:  a report: per task the verdict on each trial, what was checked, whether a hidden instruction was obeyed, steps,
      seconds, tokens, and the whole conversation of one trial; shares by kind, pass^k and intervals

  .venv/bin/python scripts/live_run.py --gguf runs/tiny/hermes-kxl-tiny-q4kxl.gguf --artifact q4kxl \\
      --config configs/tiny.json --trials 3 --out runs/tiny/results/evals/hermes_live.llama_cpp.q4kxl.json
  .venv/bin/python scripts/live_run.py --url http://127.0.0.1:8080/v1 --artifact mine --out live.json

Each try gets a fresh Hermes home and an empty folder with a drawn name; words in requests and files are drawn for each
trial. The agent runs in a box (sandbox.py): it reaches the model's server and nothing else, and writes into its folder
and nowhere else. What counts is what lies in the folder afterwards, and what the server saw and sent: Hermes's exit
code, what it prints and its own records count for nothing. A try whose leftovers cannot be read, or on which the
server dies, has failed; the others go on. Tries that are done stay in OUT.attempts.jsonl until the report is written:
the same command goes on from there. Those of a GGUF are kept behind that, so that another gate makes no try again.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from kxl.base import cli, report
from kxl.base.code import Code
from kxl.base.config import load
from kxl.base.files import ROOT, read_json, shown
from kxl.eval import remote
from kxl.eval import server as eval_server
from kxl.eval.journal import Journal
from kxl.live import agent, gate, leftovers, machine, net, sandbox, trials
from kxl.live import task as live_task
from kxl.live.relay import Upstream
from kxl.live.transcript import Transcript
from kxl.setup import llama_cpp
from kxl.setup.hermes_env import LOCK

TASKS = ROOT / "evals" / "live"
SUITE = "hermes_live"
MOST_PARALLEL, TRY_BYTES = 4, 2 << 30  # a Hermes at work takes a quarter of this, and its commands what they take


def main() -> None:
    args = arguments()
    config = load(args.config)["eval"].get("live", {}) if args.config else {}
    if args.config and not config:
        cli.say(f"{shown(args.config)} has no eval.live: this run is scored but not gated")
    files = task_files(args.tasks)
    titles, jobs = jobs_of(files, args)
    made_for = gate.kinds(config, titles, shown(args.config)) if config else []
    agent.python()  # made now, so that its minutes are no task's
    if not args.no_isolation and (why := sandbox.unavailable()):
        raise cli.UserError(
            f"this system allows no box around the agent: {why}; --no-isolation (make: LIVE_FLAGS=--no-isolation)"
            " runs its commands with your own rights"
        )
    inputs = [report.describe_input(path) for path in [*files, *filter(None, [args.gguf])]]
    settings = {
        "suite": SUITE,
        "backend": "llama_cpp" if args.gguf else "openai",
        "artifact": args.artifact,
        "seed": args.seed,
        "trials": args.trials,
        "context": args.context,
        "net": args.net,
        **({"thoughts": True} if args.thoughts else {}),
        "hermes": read_json(LOCK)["version"],
        "isolation": "none" if args.no_isolation else "namespaces",
        "temperature": 0 if args.gguf else None,
        "time_limit": args.timeout,
    }
    # Of a server of ours all is known that decides an answer, so that its tries serve another gate, too.
    tried_by = {"code": Code().hash("live_run.py"), "programs": llama_cpp.cache_key()} if args.gguf else None
    journal, died = attempt_all(jobs, args, {"inputs": inputs, "url": args.url, "tried_by": tried_by, **settings})
    entries = [journal.answers[job.key][0] for job in jobs if job.key in journal.answers]
    results = trials.count(entries, titles, made_for, args.trials) if not died else {"details": entries}
    results["seconds"] = round(sum(entry["seconds"] for entry in entries))  # of tries: a resumed run has no one clock
    missed = [] if died else gate.missed(results, config)
    report.write_gated(args.out, not missed and not died, inputs, settings, remote.without_key(results))
    if died:
        raise cli.UserError(
            f"{died}\nthe {len(entries)} tries until then are in {shown(report.failed_path(args.out))}; run it again"
        )
    if args.gguf:
        journal.keep({"seconds": results["seconds"]})
    else:
        journal.delete()
    print(summary(results))
    if missed:
        raise cli.UserError(
            f"{'; '.join(missed)} ({shown(args.config)}). Every task is in {shown(report.failed_path(args.out))}"
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
    parser.add_argument(
        "--tasks", type=Path, action="append", help="task file, or a folder of them; may be given several times"
    )
    parser.add_argument("--config", type=Path, help="config file, whose eval.live gates the run")
    parser.add_argument("--model-name", default="local", help="model name sent along")
    parser.add_argument(
        "--context", type=int, default=65536, help="tokens of context; Hermes refuses fewer than 64,000"
    )
    parser.add_argument(
        "--trials", type=int, default=1, help="how often each task is tried, each time with other words"
    )
    parser.add_argument(
        "--parallel",
        type=int,
        default=0,
        help="tries side by side; each slot of llama-server has the whole context. "
        "0 = as many as cores and free memory allow, one for a --url",
    )
    parser.add_argument("--seed", type=int, default=1, help="decides the words in the tasks of the first trial")
    parser.add_argument("--timeout", type=float, default=300, help="seconds that one try may take")
    eval_server.add_server_flags(parser)
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
    args = parser.parse_args()
    if args.gguf and not args.gguf.exists():
        raise cli.UserError(f"{shown(args.gguf)}: no such file")
    if args.trials < 1 or args.parallel < 0:
        parser.error("--trials is at least 1, --parallel at least 0")
    args.tasks = args.tasks or [TASKS]
    args.parallel = args.parallel or (1 if args.url else fitting())
    return args


def fitting() -> int:
    """How many tries fit side by side into this machine's cores and the memory that is free now."""
    free = machine.memory()[0] if Path("/proc/meminfo").exists() else TRY_BYTES
    return max(1, min(os.cpu_count() or 1, MOST_PARALLEL, free // TRY_BYTES))


def task_files(given: list[Path]) -> list[Path]:
    """The task files of `given` files and folders, in order. UserError where there is none."""
    found = [path for one in given for path in (sorted(one.glob("*.json")) if one.is_dir() else [one])]
    if not found:
        raise cli.UserError(f"{', '.join(map(shown, given))}: no task file there")
    return found


def jobs_of(files: list[Path], args) -> tuple[dict[str, str], list[trials.Job]]:
    """({kind: title}, every try): each trial draws its words by a seed of its own."""
    jobs = []
    for trial in range(args.trials):
        titles, tasks = live_task.load_all(files, args.seed + trial)
        jobs += [trials.Job(task, trial) for task in tasks]
    return titles, jobs


def attempt_all(jobs: list[trials.Job], args, identity: dict) -> tuple[Journal, cli.UserError | None]:
    """The journal with each try's entry in the report, and the error that ended the run before its end, if one did."""
    journal = Journal(
        args.out.with_suffix(".attempts.jsonl"),
        identity,
        read=trials.read_line,
        write=trials.line,
    )
    if found := journal.open():
        of = "a finished run" if journal.before else "an interrupted run"
        cli.say(f"{found} tries of {of} are in {shown(journal.path)} and are not made again")
    todo = [job for job in jobs if job.key not in journal.answers]
    journal.before = None if todo else journal.before
    try:
        with tqdm(total=len(jobs), initial=found, desc=f"{SUITE} {args.artifact}", unit="try") as progress:

            def keep(job: trials.Job, entry: dict) -> None:
                journal.add(*job.key, entry)
                progress.update()

            _, died = trials.run_all(
                todo,
                lambda start: serve(args, start),
                lambda job, server: attempt(job, server, args),
                args.parallel,
                keep,
                ours=bool(args.gguf),
            )
    finally:
        journal.close()
    return journal, died


@contextlib.contextmanager
def serve(args, start: int) -> Iterator[eval_server.Server]:
    """The model's server, for the `start`-th time in this run: each start has a log of its own."""
    if args.url:
        yield eval_server.external(args.url)
        return
    log = args.server_log or args.out.with_suffix(".server.log")
    log = log if start == 1 else log.with_suffix(f".{start}{log.suffix}")
    # Hermes sends no temperature, and llama-server's own is 0.8.
    extra = ("--temp", "0", *(("--threads", str(args.threads)) if args.threads else ()))
    with eval_server.llama_server(args.gguf, log, args.context, extra=extra, slots=args.parallel) as server:
        yield server
        died = not server.alive()
    if not args.server_log and not died:  # the error of one that died names its log
        log.unlink(missing_ok=True)


def attempt(job: trials.Job, server: eval_server.Server, args) -> dict:
    """Let Hermes try one task in a folder of its own; its entry in the report."""
    task = job.task
    upstream = Upstream(f"{server.url}/v1", server.http.auth, args.model_name)
    seen = Transcript(net=args.net)
    python = agent.python()
    with (
        sandbox.own_rights(upstream, seen) if args.no_isolation else sandbox.box(upstream, [python.parent.parent], seen)
    ) as place:
        home, work = place.root / "home" / ".hermes", place.root / task.folder
        plugins = (*[net.NAME] * args.net, *[net.THOUGHTS] * args.thoughts)
        config = agent.config(place.url, args.model_name, args.context, plugins=plugins)
        of_home = {"config.yaml": config.encode(), **net.files(*plugins)}
        laid = {f"{task.folder}/{path}": text for path, text in task.laid().items()}
        laid |= {f"home/.hermes/{path}": text for path, text in of_home.items()}
        laid["home/tmp/.empty"] = b""  # TMPDIR must be there
        run = place.run(
            agent.command(task.prompt, task.toolsets), laid, agent.environment(home, work), args.timeout, work
        )
        obeyed = [] if task.injection else None
        try:
            found = leftovers.read(place.folder, task.folder)
            why = live_task.judge(task, found, live_task.Seen(seen.results(), seen.called(), seen.answer()))
            obeyed = live_task.obeyed(task, found) if task.injection else None
        except leftovers.Unreadable as error:
            why = [f"its folder cannot be judged: {error}"]
        why = (obeyed or []) + why
        if run.stopped:
            why.append(f"Hermes was stopped: {run.stopped}")
        turns = [{**turn, "value": hide(turn["value"], place.root)} for turn in seen.turns(task.prompt)]
        return {
            "id": task.id,
            "kind": task.kind,
            "trial": job.trial,
            "calls": task.calls,
            "toolsets": task.toolsets,
            "prompt": task.prompt,
            "passed": not why,
            "why": why,
            "obeyed": obeyed,
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
        f"{entry['id']:<28} {sum(entry['trials']['passed'])}/{results['trials']} {entry['steps']:>2} steps"
        f" {max(entry['trials']['seconds']):>6} s" + ("" if entry["passed"] else f"  {entry['why'][0]}")
        for entry in results["details"]
    ]
    for kind in results["by_kind"].values():
        low, high = kind["attempts_interval"]
        lines.append(
            f"{kind['title']:<28} {kind['passed']} of {kind['tasks']} tasks in each trial; {kind['attempts_passed']} of"
            f" {kind['attempts']} tries (95 %: {low:.0%} to {high:.0%})"
        )
    injected = results["injected"]
    if injected["tasks"]:
        lines.append(f"hidden instructions obeyed: {injected['obeyed']} of {injected['attempts']} times")
    lines.append("pass^k: " + ", ".join(f"{k}: {share:.1%}" for k, share in results["pass_k"].items()))
    low, high = results["interval"]
    lines.append(
        f"{results['passed']} of {results['tasks']} tasks done in each of {results['trials']} trials,"
        f" {results['seconds']} s of tries (95 %: {low:.0%} to {high:.0%} of such tasks)"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
