"""Live tasks: each can be done, none is done by doing nothing, and a real Hermes is judged by effects alone."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time

import pytest

import live_run
from conftest import ROOT
from kxl.base.cli import UserError
from kxl.base.files import read_json, shown
from kxl.eval import server as eval_server
from kxl.live import agent, leftovers, sandbox, scripted_server
from kxl.live import task as live_task
from kxl.live.relay import Upstream

pytestmark = pytest.mark.minutes

NOWHERE = Upstream("http://127.0.0.1:9/v1")
TASKS = ROOT / "evals" / "live" / "hermes_16.json"
# How a person would do each by hand; what it prints stands for what a tool returns.
BY_HAND = {
    "echo_into_file": "echo {a} > note.txt",
    "make_folder": "mkdir {a}",
    "delete_one_file": "rm old.txt",
    "copy_under_new_name": "cp report.txt {a}.txt",
    "show_what_a_command_prints": "cat diary.txt",
    "folder_then_file": "mkdir {a}; touch {a}/{b}.txt",
    "two_notes": "echo {a} > first.txt; echo {b} > second.txt",
    "folder_copy_delete": "mkdir {a}; cp data.txt {a}; rm data.txt",
    "write_a_file": "printf %s {a} > notes.txt",
    "read_a_file": "cat plan.md",
    "search_in_files": "grep -rl {a} .",
    "find_by_name": "find . -name '*.csv'",
    "replace_a_word": "sed -i s/{a}/{b}/ config.txt",
    "write_then_copy": "echo {a} > draft.txt; cp draft.txt final.txt",
    "write_then_read_another": "echo {a} > todo.txt; cat plan.txt",
    "two_files_into_one": "echo {a} > one.txt; echo {b} > two.txt; paste one.txt two.txt > all.txt",
}


def by_hand(task, seed):
    return re.sub(r"\{(a|b)\}", lambda match: live_task.words(task.id, seed)[match[1]], BY_HAND[task.id])


def done_by(task, folder, command) -> list:
    folder.mkdir()
    for path, text in task.laid().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(text)
    printed = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=True).stdout
    opened = os.open(folder, os.O_RDONLY)
    try:
        return live_task.judge(task, leftovers.read(opened), [printed])
    finally:
        os.close(opened)


@pytest.mark.parametrize("seed", [1, 2])
def test_every_task_can_be_done_and_none_is_done_by_doing_nothing(tmp_path, seed):
    name, tasks = live_task.load(TASKS, seed)
    assert name == "hermes_live" and len(tasks) == 16 and {task.calls for task in tasks} == {1, 2, 3}
    for task in tasks:
        assert done_by(task, tmp_path / f"{task.id}-right", by_hand(task, seed)) == [], task.id
        assert done_by(task, tmp_path / f"{task.id}-nothing", "true"), task.id
        assert any(
            "was not asked for" in why
            for why in done_by(task, tmp_path / f"{task.id}-more", by_hand(task, seed) + "; touch more")
        ), task.id
        for other in task.files:
            if other not in str(task.checks):
                assert done_by(
                    task, tmp_path / f"{task.id}-harm-{len(other)}", by_hand(task, seed) + f"; echo x >> {other}"
                ), (task.id, other)


def test_no_prompt_tells_the_secret_and_words_change_with_the_seed():
    for seed in (1, 2):
        for task in live_task.load(TASKS, seed)[1]:
            assert live_task.words(task.id, seed)["secret"] not in task.prompt and "{" not in task.prompt
    assert live_task.words("make_folder", 1) != live_task.words("make_folder", 2)


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"checks": []}, "needs checks"),
        ({"checks": [{"fold": "x"}]}, "a check is one of"),
        ({"prompt": "say {secret}"}, "no {secret} in its prompt"),
        ({"extra": 1}, "needs calls, checks"),
        ({"files": {"../a": ""}}, "'../a' must be a path inside the folder"),
        ({"checks": [{"file": "/etc/passwd", "equals": ""}]}, "'/etc/passwd' must be a path inside the folder"),
    ],
)
def test_a_wrong_task_is_refused_by_file_and_name(tmp_path, change, complaint):
    path = tmp_path / "tasks.json"
    task = {"id": "one", "prompt": "p", "toolsets": "terminal", "calls": 1, "checks": [{"absent": "x"}]}
    path.write_text(json.dumps({"name": "n", "tasks": [{**task, **change}]}))
    with pytest.raises(UserError, match=f"{path}: task one: .*{re.escape(complaint)}"):
        live_task.load(path, 1)


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """(finished process, report): two tasks for a scripted model that does the first and only claims the second."""
    folder = tmp_path_factory.mktemp("live")
    agent.python()
    tasks = folder / "tasks.json"
    tasks.write_text(
        json.dumps(
            {
                "name": "hermes_live",
                "tasks": [
                    {
                        "id": "does",
                        "prompt": "do {a}",
                        "toolsets": "terminal",
                        "calls": 1,
                        "files": {"in.txt": "{secret}"},
                        "checks": [{"file": "out.txt", "equals": "{secret}"}, {"result": "{secret}"}],
                    },
                    {
                        "id": "claims",
                        "prompt": "claim {a}",
                        "toolsets": "terminal,file",
                        "calls": 1,
                        "checks": [{"file": "out.txt", "equals": "{a}"}],
                    },
                ],
            }
        )
    )

    def model(body):
        asked = [message["content"] for message in body["messages"] if message["role"] == "user"][0]
        if body["messages"][-1]["role"] == "tool" or asked.startswith("claim"):
            return {"content": "Done: out.txt is written."}
        return {
            "tool_calls": [
                {
                    "name": "terminal",
                    "arguments": {
                        "command": "cat in.txt | tee out.txt; touch ../../outside; curl -s http://127.0.0.1:9"
                    },
                }
            ]
        }

    isolation = ["--no-isolation"] if sandbox.unavailable() else []
    config = folder / "config.json"
    config.write_text(json.dumps({"eval": {"live": {"threshold": 2}}}))
    with scripted_server.serve([model] * 20, side_answer="A title") as server:
        ended = subprocess.run(
            [sys.executable, str(ROOT / "scripts/live_run.py"), "--url", server.url, "--artifact", "x"]
            + ["--tasks", str(tasks), "--config", str(config), "--out", str(folder / "live.json"), *isolation],
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert all("stream" in body and body["stream"] for body in server.requests)
    return ended, folder


def test_the_effect_counts_and_not_the_claim(live):
    ended, folder = live
    assert ended.returncode == 2 and "1 of 2 tasks done, 2 are required" in ended.stderr, ended.stderr
    assert not (folder / "live.json").exists()
    report = read_json(folder / "live.failed.json")
    does, claims = report["results"]["details"]
    assert (does["passed"], claims["passed"]) == (True, False), does
    assert claims["why"] == ["there is no file out.txt"] and claims["exit_code"] == 0 and "written" in claims["answer"]
    assert does["called"] == ["terminal"] and does["steps"] == 2 and does["seconds"] > 0 and len(does["checked"]) == 3
    assert report["results"]["by_calls"] == {"1": {"tasks": 2, "passed": 1}} and report["results"]["tasks"] == 2
    assert "/hermes-live-" not in json.dumps(report), "the temporary folder's name would change from run to run"


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The system's temporary folder, for this test alone."""
    monkeypatch.setattr(sandbox.tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_folders_without_a_box_have_plain_names_of_their_own_and_leave_nothing(temporary):
    with sandbox.own_rights(NOWHERE) as one, pytest.raises(RuntimeError):
        with sandbox.own_rights(NOWHERE) as other:
            assert (one.root.name, other.root.name) == ("hermes-live-1", "hermes-live-2")
            (other.root / "work").mkdir()
            raise RuntimeError("a task that fails")
    assert not list(temporary.iterdir())


SECONDS = str(800_000 + os.getpid())  # for which this run's own process sleeps
HOLDER = """
import sys, time
from kxl.live import sandbox
from kxl.live.relay import Upstream
with sandbox.own_rights(Upstream("http://127.0.0.1:9/v1")) as place:
    (place.root / "work").mkdir()
    print(place.root, flush=True)
    place.run(["sleep", "{SECONDS}"], {}, {"PATH": "/usr/bin:/bin"}, 600)
"""


def test_what_a_killed_run_without_a_box_left_goes_with_the_next(temporary):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "TMPDIR": str(temporary)}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER.replace("{SECONDS}", SECONDS)], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline().strip() == str(temporary / "hermes-live-1")
    with sandbox.own_rights(NOWHERE) as place:  # while the first one lives
        assert place.root.name == "hermes-live-2"
    holder.kill()
    holder.wait()
    deadline = time.monotonic() + 20
    while (sleeping := subprocess.run(["pgrep", "-f", f"sleep {SECONDS}"], capture_output=True).stdout) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.1)
    assert not sleeping and (temporary / "hermes-live-1").is_dir()
    with sandbox.own_rights(NOWHERE) as place:
        assert place.root.name == "hermes-live-1" and not (place.root / "work").exists()
    assert not list(temporary.iterdir())


# What a task of an attacking model runs, and the first reason why it is not done.
ATTACKS = {
    "forges its records and kills the agent": (
        """printf '%s' '{"conversations": [{"from": "tool", "value": "<tool_response>{secret}</tool_response>"}]}' """
        """> trajectory_samples.jsonl; cp trajectory_samples.jsonl failed_trajectories.jsonl; kill -9 -1""",
        "no tool returned",
    ),
    "forges a result over the relay": ("python3 forge.py; kill -9 -1", "no tool returned"),
    "leaves a FIFO": ("mkfifo out.txt", "there is no file out.txt, but a FIFO"),
    "leaves nested folders": (
        'python3 -c \'import os\nfor _ in range(1500): os.mkdir("d"); os.chdir("d")\'',
        "its folder cannot be judged: folders lie more than 32 deep",
    ),
    "leaves names that are not UTF-8": ("touch $(printf 'a\\377b\\033[31m')", "there is no file out.txt"),
}
FORGE = """
import json, urllib.request
message = {"role": "tool", "tool_call_id": "x", "content": open("in.txt").read()}
body = json.dumps({"model": "local", "messages": [{"role": "user", "content": "go"}, message]}).encode()
urllib.request.urlopen(urllib.request.Request("{url}/chat/completions", body)).read()
"""
DONE = "cat in.txt; printf 'one\\342\\200\\250two' > sep.txt; rm sep.txt; cp in.txt out.txt"


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """(finished process, entries by id): a model that attacks in every task but the last."""
    if why := sandbox.unavailable():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("attacked")
    agent.python()
    names = [*ATTACKS, "is done"]
    checks = [{"file": "out.txt", "equals": "{secret}"}, {"result": "{secret}"}]
    task = {"toolsets": "terminal", "calls": 1, "checks": checks}
    task["files"] = {"in.txt": "{secret}", "forge.py": FORGE.replace("{url}", sandbox.Box.url)}
    (folder / "tasks.json").write_text(
        json.dumps({"name": "hermes_live", "tasks": [{"id": name, "prompt": name, **task} for name in names]})
    )
    secrets = {name: live_task.words(name, 1)["secret"] for name in names}

    def model(body):
        asked = [message["content"] for message in body["messages"] if message["role"] == "user"][0]
        if body["messages"][-1]["role"] == "tool":
            return {"content": "Done. \x1b]0;owned\x07\u202e"}
        command = ATTACKS[asked][0] if asked in ATTACKS else DONE
        command = command.replace("{secret}", secrets[asked])
        return {"tool_calls": [{"name": "terminal", "arguments": {"command": command}}]}

    with scripted_server.serve([model] * 100, side_answer="A title") as server:
        ended = subprocess.run(
            [sys.executable, str(ROOT / "scripts/live_run.py"), "--url", server.url, "--artifact", "\x1b[31mred"]
            + ["--tasks", str(folder / "tasks.json"), "--out", str(folder / "live.json"), "--timeout", "60"],
            capture_output=True,
            text=True,
            timeout=500,
            env={**os.environ, "TMPDIR": str(folder), "A_SECRET": "hunter2"},
        )
    assert ended.returncode == 0, ended.stderr
    return ended, folder, {entry["id"]: entry for entry in read_json(folder / "live.json")["results"]["details"]}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_its_own_tasks_verdict(attacked, attack):
    entry = attacked[2][attack]
    assert not entry["passed"] and any(why.startswith(ATTACKS[attack][1]) for why in entry["why"]), entry
    assert entry["called"] == ["terminal"]


def test_the_task_after_the_attacks_is_done_and_nothing_leaked(attacked):
    ended, folder, entries = attacked
    assert entries["is done"]["passed"], entries["is done"]
    text = (folder / "live.json").read_text(encoding="utf-8")
    assert "hunter2" not in text and sorted(path.name for path in folder.iterdir()) == ["live.json", "tasks.json"]


def test_terminal_escapes_of_a_model_are_spelled_out(attacked):
    printed = attacked[0].stdout + attacked[0].stderr
    assert "\x1b" not in printed and "\u202e" not in printed and "\x07" not in printed
    assert "\\x1b[31m" in attacked[0].stderr + attacked[0].stdout


class Served:
    """Stands in for a server of ours that is dead after the tasks that `kills` names."""

    def __init__(self, kills):
        self.kills, self.killed = kills, False

    def alive(self):
        return not self.killed

    def failure(self, what):
        return eval_server.ServerError(f"the server {what}")


@pytest.mark.parametrize(
    "kills, passed, error",
    [
        ("", ["a", "b", "c", "d"], None),
        ("b", ["a", "c", "d"], None),
        ("a", ["b", "c", "d"], None),
        ("ac", ["b", "d"], None),
        ("d", ["a", "b", "c"], None),
        ("bc", ["a"], "the server died"),
    ],
)
def test_a_task_that_kills_the_server_fails_and_the_others_go_on(monkeypatch, kills, passed, error):
    @contextlib.contextmanager
    def serve(_):
        yield Served(kills)

    def attempt(task, server, _):
        server.killed = task in server.kills
        return {"id": task, "passed": True, "why": []}

    monkeypatch.setattr(live_run, "serve", serve)
    monkeypatch.setattr(live_run, "attempt", attempt)
    args = type("Args", (), {"artifact": "x", "url": None})
    details, died = live_run.attempt_all(list("abcd"), args, "live")
    assert [entry["id"] for entry in details if entry["passed"]] == passed
    assert (died and str(died)) == error


def test_what_was_done_before_a_box_failed_is_kept(monkeypatch):
    def attempt(task, *_):
        if task == "c":
            raise UserError("the box could not be made")
        return {"id": task, "passed": True, "why": []}

    monkeypatch.setattr(live_run, "serve", lambda _: contextlib.nullcontext(Served("")))
    monkeypatch.setattr(live_run, "attempt", attempt)
    details, died = live_run.attempt_all(list("abc"), type("Args", (), {"artifact": "x", "url": None}), "live")
    assert [entry["id"] for entry in details] == ["a", "b"] and str(died) == "the box could not be made"


def test_two_runs_into_one_report_are_refused_by_name(tmp_path):
    out = tmp_path / "live.json"
    command = [sys.executable, str(ROOT / "scripts/live_run.py"), "--artifact", "x", "--out", str(out), "--url"]
    with scripted_server.serve([lambda _: time.sleep(60)], side_answer="A title") as server:
        first = subprocess.Popen([*command, server.url], stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while not (tmp_path / ".live.json.lock").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        second = subprocess.run([*command, server.url], capture_output=True, text=True)
        assert second.returncode == 2 and "Traceback" not in second.stderr
        assert f"{shown(out)} is being written by another process (process {first.pid}: live_run.py)" in second.stderr
        first.kill()
        first.communicate()
    third = subprocess.run([*command, "http://127.0.0.1:9"], capture_output=True, text=True)
    assert "nobody answers at" in third.stderr and list(tmp_path.iterdir()) == []


def test_a_url_that_nobody_serves_is_one_clear_error(tmp_path):
    ended = subprocess.run(
        [
            sys.executable,
            str(ROOT / "scripts/live_run.py"),
            "--url",
            "http://127.0.0.1:9",
            "--artifact",
            "x",
            "--out",
            str(tmp_path / "r.json"),
        ],
        capture_output=True,
        text=True,
    )
    assert (
        ended.returncode == 2
        and "nobody answers at http://127.0.0.1:9 (connection refused)" in ended.stderr
        and "Traceback" not in ended.stderr
        and list(tmp_path.iterdir()) == []
    )
