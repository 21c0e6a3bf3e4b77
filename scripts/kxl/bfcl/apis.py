"""For a program in the box, not a module of ours: the wheel's executable APIs, and whether calls did what they should.

A conversation has one instance of each API. A call is a name and arguments; it is carried out as a method of an
instance, never as source code. What it returns is written as the leaderboard writes it, which the model and the
verdict both depend on.

The verdict carries out the model's calls and the accepted ones on instances of their own, turn by turn. After each
turn in which something is asked for, the states must be equal (each attribute whose name has no underscore in front),
and each result of the turn's accepted calls must be among the results that the model has got so far.
"""

import ast
import copy
import importlib
import inspect
import json
from pathlib import Path

import wheel_stubs  # noqa: F401  first: the wheel cannot be imported without it
from bfcl_eval.constants.executable_backend_config import CLASS_FILE_PATH_MAPPING, STATELESS_CLASSES
from bfcl_eval.model_handler.utils import add_memory_instruction_system_prompt

# The leaderboard refuses these names, since it runs calls as source code; its models are told so.
REFUSED = ("kill", "exit", "quit", "remove", "unlink", "popen", "Popen", "run")


class Conversation:
    """The APIs of one case: `case` has id, category, classes, config; `work` is a folder for what they keep."""

    def __init__(self, case: dict, work: str):
        self.case, self.instances, self.methods = case, {}, {}
        for name in case["classes"]:
            made = getattr(importlib.import_module(CLASS_FILE_PATH_MAPPING[name]), name)()
            if name not in STATELESS_CLASSES:
                made._load_scenario(self._start(name, work), long_context="long_context" in case["category"])
            self.instances[name] = made
            for method, _ in inspect.getmembers(made, predicate=inspect.ismethod):
                if not method.startswith("_"):
                    self.methods[method] = made

    def _start(self, name: str, work: str) -> dict:
        """What an API starts with; of a memory: what an earlier conversation left in it."""
        if "scenario" not in self.case:
            return copy.deepcopy(self.case["config"].get(name, {}))
        folder = Path(work) / "results"
        kept = folder / "agentic" / "memory" / self.case["category"].removeprefix("memory_") / "memory_snapshot"
        kept.mkdir(parents=True, exist_ok=True)
        final = kept / f"{self.case['scenario']}_final.json"
        final.unlink(missing_ok=True)
        if self.case.get("memory") is not None:
            final.write_text(json.dumps(self.case["memory"]))
        return {
            "model_result_dir": folder,
            "scenario": self.case["scenario"],
            "test_id": self.case["id"],
            "test_category": self.case["category"],
        }

    def begin(self) -> dict:
        """The turns as they are sent: a memory's have a system message with what is in it."""
        turns = self.case.get("turns", [])
        if "scenario" in self.case:
            (made,) = self.instances.values()
            add_memory_instruction_system_prompt(turns, self.case["category"], self.case["scenario"], made)
        return {"turns": turns}

    def memory(self) -> dict:
        """What the conversation leaves in its memory."""
        (made,) = self.instances.values()
        made._flush_memory_to_local_file()
        return json.loads(made.latest_snapshot_file.read_text())

    def call(self, name: str, positional: list, named: dict) -> str:
        """What a call returns, as text; its error where it raised one."""
        if name in REFUSED:
            return f"Error during execution: Function call {name} is not allowed."
        if name not in self.methods:
            return f"Error during execution: name '{name}' is not defined"
        try:
            result = getattr(self.methods[name], name)(*positional, **named)
            if isinstance(result, dict):
                try:
                    return json.dumps(result)
                except (TypeError, ValueError):
                    return str(result)
            return result if isinstance(result, str) else str(result)
        except Exception as error:  # any, of an API that got a stranger's arguments
            return f"Error during execution: {error}"


def accepted(source: str) -> tuple[str, list, dict]:
    """An accepted call, written as source code, as (name, positional, named)."""
    call = ast.parse(source.strip(), mode="eval").body
    named = {part.arg: ast.literal_eval(part.value) for part in call.keywords}
    return call.func.id, [ast.literal_eval(part) for part in call.args], named


def problem(case: dict, turns: list, work: str) -> str | None:
    """Why the calls of a conversation fail its case, or None; `turns` has [[NAME, ARGUMENTS], ...] for each step."""
    if len(turns) != len(case["truth"]):
        return f"stopped in turn {len(turns)} of {len(case['truth'])}: it went on calling"
    model, right, got = Conversation(case, work), Conversation(case, work), []
    for number, (steps, truth) in enumerate(zip(turns, case["truth"]), 1):
        got += [model.call(name, [], arguments) for step in steps for name, arguments in step]
        wanted = [right.call(*accepted(source)) for source in truth]
        if not truth:
            continue
        if not any(steps):
            return f"turn {number}: no call, expected {truth[0]}"
        for name, instance in right.instances.items():
            state = vars(model.instances[name])
            other = [
                attribute
                for attribute, value in vars(instance).items()
                if not attribute.startswith("_") and (attribute not in state or state[attribute] != value)
            ]
            if other:
                return f"turn {number}: {name} is in another state afterwards: {', '.join(other)}"
        left = list(got)
        for result, source in zip(wanted, truth):
            if result not in left:
                return f"turn {number}: no call returned what {source} returns"
            left.remove(result)
    return None
