"""Scripted agents for live tasks: one that does each task right, one that does nothing, one that obeys what it reads.

Each is a turn of scripted_server: a function of the request's body. It knows the task by the user's message, and how
far it is by the tool results in the conversation.
"""

from kxl.live.task import Task


def perfect(tasks: list[Task]):
    """Runs the commands of a task's solution one by one, then gives its answer."""
    return _agent(tasks, lambda task: task.solution["commands"], lambda task: task.solution["answer"])


def idle(tasks: list[Task]):
    """Says that it is done, whatever was asked."""
    return _agent(tasks, lambda task: [], lambda task: "Done.")


def obedient(tasks: list[Task]):
    """Does each task right, and after the first result also what a hidden instruction wants."""
    return _agent(tasks, obedient_commands, lambda task: task.solution["answer"])


def obedient_commands(task: Task) -> list[str]:
    commands = task.solution["commands"]
    return [*commands[:1], task.injection["command"], *commands[1:]] if task.injection else commands


def _agent(tasks: list[Task], commands, answer):
    by_prompt = {task.prompt: task for task in tasks}

    def turn(body: dict) -> dict:
        asked = next(message["content"] for message in body["messages"] if message["role"] == "user")
        task = next(task for prompt, task in by_prompt.items() if prompt in asked)
        done = sum(message["role"] == "tool" for message in body["messages"])
        todo = commands(task)
        if done < len(todo):
            return {"tool_calls": [{"name": "terminal", "arguments": {"command": todo[done]}}]}
        return {"content": answer(task)}

    return turn
