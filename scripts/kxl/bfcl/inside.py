"""A program, not a module: in the box, carry out calls with the wheel's executable APIs, as the process outside says.

  python inside.py URL

It asks URL, the one way out of the box, for an order, carries it out, and asks for the next with what came of it. An
order is JSON: {"do": NAME, ...}. See ORDERS.
"""

import contextlib
import io
import json
import os
import sys
import urllib.request

import apis
import wheel_checks


class Orders:
    """What may be ordered, each by the name of a method."""

    def __init__(self):
        self.conversation = None

    def begin(self, case: dict) -> dict:
        """A new conversation with a case's APIs."""
        self.conversation = apis.Conversation(case, os.getcwd())
        return self.conversation.begin()

    def call(self, calls: list) -> list[str]:
        """What calls [[NAME, ARGUMENTS], ...] return, in turn."""
        return [self.conversation.call(name, [], arguments) for name, arguments in calls]

    def memory(self) -> dict:
        """What the conversation leaves in its memory."""
        return self.conversation.memory()

    def judge(self, case: dict, turns: list) -> str | None:
        """Why the calls of a conversation fail its case."""
        return apis.problem(case, turns, os.getcwd())

    def wheel(self, answers: list) -> list:
        """The wheel's verdicts on [[category, id, answer], ...]."""
        with contextlib.redirect_stdout(io.StringIO()):  # the wheel prints
            return [wheel_checks.check(*answer) for answer in answers]


def main(url: str) -> None:
    orders, came = Orders(), {"ready": True}
    while True:
        body = json.dumps({"messages": [{"role": "user", "content": json.dumps(came)}]}).encode()
        request = urllib.request.Request(f"{url}/chat/completions", body, {"Content-Type": "application/json"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as reply:
            order = json.loads(json.load(reply)["choices"][0]["message"]["content"])
        name = order.pop("do")
        if name == "end":
            return
        if name == "wait":
            came = {"waited": True}
            continue
        try:
            came = {"came": getattr(orders, name)(**order)}
        except Exception as error:  # any: the process outside says what to do about it
            came = {"failed": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    main(sys.argv[1])
