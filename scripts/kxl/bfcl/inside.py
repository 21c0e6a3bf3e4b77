"""A program, not a module: in the box, carry out calls with the wheel's executable APIs, as the process outside says.

  python inside.py URL

It asks URL, the one way out of the box, for an order, carries it out, and asks for the next with what came of it. An
order is JSON: {"do": NAME, ...}; see Orders. A process of its own carries it out, and is ended when it takes too long
(10 to the power of a billion is one call): then its conversation is over, and the next one begins in a new process.
"""

import contextlib
import io
import json
import multiprocessing
import os
import sys
import urllib.request

import apis
import wheel_checks

SECONDS = {"call": 30, "wheel": 300}  # that an order may take; any other: USUAL_SECONDS
USUAL_SECONDS = 60
MOST = 3 << 20  # bytes that may come of an order; no larger request than 4 MiB leaves the box


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


def carry_out(orders: Orders, order: dict) -> dict:
    """What came of one order."""
    try:
        came = {"came": getattr(orders, order.pop("do"))(**order)}
    except Exception as error:  # any: the process outside says what to do about it
        return {"failed": f"{type(error).__name__}: {error}"}
    return came if len(message(came)) <= MOST else {"stopped": f"returned more than {MOST:,} bytes"}


def message(came: dict) -> bytes:
    """What came of an order, as it leaves the box."""
    return json.dumps({"messages": [{"role": "user", "content": json.dumps(came)}]}).encode()


def work(pipe) -> None:
    """Carry out orders until the other end is closed."""
    orders = Orders()
    with contextlib.suppress(EOFError):
        while True:
            pipe.send(carry_out(orders, pipe.recv()))


class Worker:
    """The process that carries orders out."""

    def __init__(self):
        self.pipe, theirs = multiprocessing.Pipe()
        fork = multiprocessing.get_context("fork")  # the APIs are imported already
        self.process = fork.Process(target=work, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def order(self, order: dict) -> dict:
        seconds = SECONDS.get(order["do"], USUAL_SECONDS)
        try:
            self.pipe.send(order)
            if self.pipe.poll(seconds):
                return self.pipe.recv()
            return {"stopped": f"took more than {seconds} s"}
        except (EOFError, OSError):
            return {"stopped": "ended the process that carried it out"}

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def main(url: str) -> None:
    worker, came = Worker(), {"ready": True}
    while True:
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{url}/chat/completions", message(came), head)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as reply:
            order = json.loads(json.load(reply)["choices"][0]["message"]["content"])
        if order["do"] == "end":
            return worker.end()
        if order["do"] == "wait":
            came = {"waited": True}
            continue
        came = worker.order(order)
        if "stopped" in came:
            worker.end()
            worker = Worker()


if __name__ == "__main__":
    main(sys.argv[1])
