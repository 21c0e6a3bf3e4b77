"""Runs inside Hermes's own environment: carries out the calls of episodes with its real tools.

In:  one episode a line on stdin, {"folder", "calls": [{"name", "arguments"}]}.
Out: the same line on stdout with a "result" in each call; whatever the tools print goes to stderr.

recorded.py starts it by path with `python -P`, so that the modules beside it do not stand in for Hermes's.
"""

import json
import os
import sys

import model_tools
import tools.registry


def main() -> None:
    tools.registry._check_fn_cached = lambda check: True  # no tool is left out for a program that is not installed
    model_tools.get_tool_definitions(enabled_toolsets=["terminal", "file"], quiet_mode=True)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(carried_out(json.loads(line))) + "\n")
        answers.flush()


def carried_out(episode: dict) -> dict:
    """The episode with the result of each call."""
    folder = episode["folder"]
    os.chdir(folder)
    os.environ["TERMINAL_CWD"] = folder
    # A first shell command opens the task's environment there; before it the file tools look elsewhere.
    model_tools.handle_function_call("terminal", {"command": "cd " + folder}, task_id=folder)
    for call in episode["calls"]:
        call["result"] = model_tools.handle_function_call(call["name"], dict(call["arguments"]), task_id=folder)
    return episode


if __name__ == "__main__":
    main()
