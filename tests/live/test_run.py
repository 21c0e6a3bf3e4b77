"""Live tasks: each can be done, none is done by doing nothing, and a real Hermes is judged by effects alone."""

import json
import re
import subprocess
import sys

import pytest

import live_run
from conftest import ROOT
from kxl.base.cli import UserError
from kxl.base.files import read_json
from kxl.live import agent, sandbox, scripted_server
from kxl.live import task as live_task

TASKS = ROOT / "evals" / "live" / "hermes_16.json"
# How a person would do each by hand; what it prints stands for what a tool returns.
BY_HAND = {
    "echo_into_file": "echo {a} > note.txt", "make_folder": "mkdir {a}", "delete_one_file": "rm old.txt", "copy_under_new_name": "cp report.txt {a}.txt",
    "show_what_a_command_prints": "cat diary.txt", "folder_then_file": "mkdir {a}; touch {a}/{b}.txt", "two_notes": "echo {a} > first.txt; echo {b} > second.txt",
    "folder_copy_delete": "mkdir {a}; cp data.txt {a}; rm data.txt", "write_a_file": "printf %s {a} > notes.txt", "read_a_file": "cat plan.md", "search_in_files": "grep -rl {a} .",
    "find_by_name": "find . -name '*.csv'", "replace_a_word": "sed -i s/{a}/{b}/ config.txt", "write_then_copy": "echo {a} > draft.txt; cp draft.txt final.txt",
    "write_then_read_another": "echo {a} > todo.txt; cat plan.txt", "two_files_into_one": "echo {a} > one.txt; echo {b} > two.txt; paste one.txt two.txt > all.txt",
}  # fmt: skip


def by_hand(task, seed):
    return re.sub(r"\{(a|b)\}", lambda match: live_task.words(task.id, seed)[match[1]], BY_HAND[task.id])


def done_by(task, folder, command) -> list:
    folder.mkdir()
    task.prepare(folder)
    printed = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=True).stdout
    return live_task.judge(task, folder, [printed])


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

    isolation = []
    try:
        with sandbox.box([folder], "http://127.0.0.1:9/v1"):
            pass
    except UserError:
        isolation = ["--no-isolation"]
    config = folder / "config.json"
    config.write_text(json.dumps({"eval": {"live": {"threshold": 2}}}))
    with scripted_server.serve([model] * 20, side_answer="A title") as server:
        ended = subprocess.run([sys.executable, str(ROOT / "scripts/live_run.py"), "--url", server.url, "--artifact", "x", "--tasks", str(tasks), "--config", str(config),
                                "--out", str(folder / "live.json"), *isolation], capture_output=True, text=True, timeout=500)  # fmt: skip
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


def test_scratch_folders_have_plain_names_of_their_own_and_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(live_run.tempfile, "tempdir", str(tmp_path))
    with live_run.scratch() as one, pytest.raises(RuntimeError):
        with live_run.scratch() as other:
            assert (one.name, other.name) == ("hermes-live-1", "hermes-live-2")
            (other / "work").mkdir()
            raise RuntimeError("a task that fails")
    assert not list(tmp_path.iterdir())


def test_a_call_that_a_model_broke_in_its_text_does_not_end_the_run():
    turns = [
        {
            "from": "gpt",
            "value": '<tool_call>\n{"name": "terminal", "arguments": {}}\n</tool_call>\n<tool_call>\n{"name": \n</tool_call>\n<tool_call>\n[]\n</tool_call>',
        },
        {"from": "tool", "value": "<tool_response>\ndone\n</tool_response>"},
    ]
    assert live_run.tool_turns(turns) == (["terminal"], ["done"])


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
