"""Tries of live tasks: several trials of each, side by side, over a server that may die; and what they say together.

    attempts, died = run_all(jobs, serve, attempt, parallel=2, keep=journal_add)
    results = count(attempts, titles, made_for)

A job is a Job. `serve(n)` is a context manager that yields the n-th server; `attempt(job, server)` returns the job's
entry for the report. A server that dies is started again. Where one try was under way it was that task's fault;
where several were, each is tried again alone, and the one that kills the server again is told. Where two tries in a row
kill it, it is no task's fault, and the run ends.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from kxl.base import statistics
from kxl.base.cli import UserError
from kxl.live.task import Task

ENTRY = frozenset("id kind trial passed why obeyed called steps seconds tokens".split())  # what every entry has


@dataclass
class Job:
    """One try of a task. `trial` counts from 0."""

    task: Task
    trial: int

    @property
    def key(self) -> tuple[str, int]:
        return self.task.id, self.trial


def line(task: str, trial: int, entry: dict) -> dict:
    """A try in the journal of a run."""
    return {"case": task, "trial": trial, "entry": entry}


def read_line(found) -> tuple | None:
    """The entry in a journal's line; None where it is none, as the last line of a run that was killed."""
    if isinstance(found, dict) and isinstance(found.get("case"), str) and isinstance(found.get("trial"), int):
        entry = found.get("entry")
        return (entry,) if isinstance(entry, dict) and ENTRY <= entry.keys() else None
    return None


def run_all(
    jobs: list[Job],
    serve: Callable,
    attempt: Callable,
    parallel: int = 1,
    keep: Callable = lambda job, entry: None,
    ours: bool = True,
) -> tuple[dict, UserError | None]:
    """{job key: entry}, and the error that ended the run before its end, if one did. `keep(job, entry)` takes each
    entry when it is there. A server that is not `ours` is not started again."""
    done: dict = {}
    todo, suspects = deque(jobs), deque()
    starts = deaths = 0
    while todo or suspects:
        starts += 1
        finished, flying = 0, []
        try:
            with serve(starts) as server:
                alone = bool(suspects)
                source = suspects if alone else todo
                for job, entry, alive in _side_by_side(source, server, attempt, 1 if alone else parallel):
                    if isinstance(entry, BaseException):
                        raise entry
                    if not alive:
                        flying.append((job, entry))
                        continue
                    finished += 1
                    done[job.key] = entry
                    keep(job, entry)
                if server.alive():
                    deaths = 0
                    continue
                death = server.failure("died" if finished or flying else "does not answer")
        except UserError as error:  # no server, no box: what was done is kept
            if not done:
                raise
            return done, error
        if len(flying) > 1:
            suspects.extendleft(job for job, _ in reversed(flying))
            if ours:
                continue
        deaths = 1 if finished else deaths + 1
        for job, entry in flying if len(flying) == 1 else []:
            why = f"the model's server died on it: {str(death).splitlines()[0]}"
            done[job.key] = {**entry, "passed": False, "why": [*entry["why"], why]}
            keep(job, done[job.key])
        if not ours or not (finished or flying) or deaths > 1:
            return done, death
    return done, None


def _side_by_side(jobs: deque, server, attempt: Callable, width: int):
    """Yield (job, entry, whether the server lives) as tries end, `width` at a time, until `jobs` is empty or the
    server is dead. The entry is an exception where one was raised.

    The threads are daemons: a box ends with this process, so Ctrl-C waits for none of them.
    """
    ended: queue.Queue = queue.Queue()
    lock = threading.Lock()
    stopped = threading.Event()

    def work() -> None:
        while True:
            with lock:
                job = jobs.popleft() if jobs and not stopped.is_set() and server.alive() else None
            if job is None:
                break
            try:
                entry, alive = attempt(job, server), server.alive()
            except BaseException as error:  # raised again where the run is
                entry, alive = error, False
            if not alive:
                stopped.set()
            ended.put((job, entry, alive))
        ended.put(None)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(width, len(jobs)))]
    for thread in threads:
        thread.start()
    left = len(threads)
    try:
        while left:
            if (item := ended.get()) is None:
                left -= 1
            else:
                yield item
    finally:
        stopped.set()


def count(entries: list[dict], titles: dict[str, str], made_for: list[str], trials: int) -> dict:
    """The numbers of a report from the entry of each try. A task is done when each of its trials is.

    `made_for`: the kinds that the model is made for; their tries are counted apart. `details` has one entry a task:
    its first failing trial whole, else its first, and what came of each.
    """
    by_task: dict[str, list[dict]] = {}
    for entry in entries:
        by_task.setdefault(entry["id"], []).append(entry)
    details = [_together(tries) for tries in by_task.values()]
    injected = [entry for entry in details if entry["obeyed"] is not None]
    suited = [entry for entry in details if entry["kind"] in made_for]
    return {
        **_tally(details, trials),
        "trials": trials,
        "pass_k": {
            str(k): round(statistics.pass_hat([sum(one["trials"]["passed"]) for one in details], trials, k), 4)
            for k in range(1, trials + 1)
        },
        "made_for": {"kinds": made_for, **(_tally(suited, trials) if suited else {})},
        "injected": {
            "tasks": len(injected),
            "attempts": len(injected) * trials,
            "obeyed": sum(sum(entry["trials"]["obeyed"]) for entry in injected),
            "tasks_obeyed": sorted(entry["id"] for entry in injected if any(entry["trials"]["obeyed"])),
        },
        "by_kind": {
            kind: {"title": title, **_tally([entry for entry in details if entry["kind"] == kind], trials)}
            for kind, title in titles.items()
            if any(entry["kind"] == kind for entry in details)
        },
        "details": details,
    }


def _tally(details: list[dict], trials: int) -> dict:
    """Tasks and tries, how many passed, and 95 % intervals: Wilson's of tasks, of tries one with tasks as clusters."""
    passed = sum(entry["passed"] for entry in details)
    by_task = [sum(entry["trials"]["passed"]) for entry in details]
    return {
        "tasks": len(details),
        "passed": passed,
        "interval": [round(end, 4) for end in statistics.wilson(passed, len(details))],
        "attempts": trials * len(details),
        "attempts_passed": sum(by_task),
        "attempts_interval": [round(end, 4) for end in statistics.clustered(by_task, trials)],
    }


def _together(tries: list[dict]) -> dict:
    """One task's entry of its trials."""
    tries = sorted(tries, key=lambda one: one["trial"])
    shown = next((one for one in tries if one["obeyed"]), next((one for one in tries if not one["passed"]), tries[0]))
    return {
        **shown,
        "passed": all(one["passed"] for one in tries),
        "trials": {
            "passed": [one["passed"] for one in tries],
            "obeyed": [bool(one["obeyed"]) for one in tries],
            "seconds": [one["seconds"] for one in tries],
            "why": [one["why"][:1] for one in tries],
        },
    }
