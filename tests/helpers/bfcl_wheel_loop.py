"""A program of the wheel's environment: hold conversations as its own OpenAI handler does, with scripted answers.

  python bfcl_wheel_loop.py IN.json OUT.json FOLDER

IN: [[category, case id, [step, ...]], ...], a step being [{NAME: arguments text}, ...] or a text. OUT: for each the
requests that the handler sent: [[names of the tools], [[role, text, [[name, arguments text], ...]], ...]].
"""

import contextlib
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import wheel_stubs  # noqa: F401  first: the wheel cannot be imported without it
from bfcl_eval import utils
from bfcl_eval.constants.enums import ModelStyle
from bfcl_eval.model_handler.api_inference.openai_completion import OpenAICompletionsHandler


def plain(message) -> list:
    if isinstance(message, dict):
        return [message["role"], message["content"], []]
    calls = [[call.function.name, call.function.arguments] for call in message.tool_calls or []]
    return ["assistant", message.content, calls]


def held(category: str, identity: str, steps: list, folder: Path) -> list:
    entries = utils.load_dataset_entry(category)
    utils.populate_initial_settings_for_memory_test_cases(entries, folder)
    entry = next(entry for entry in entries if entry["id"] == identity)
    script, sent = iter(steps), []

    class Scripted(OpenAICompletionsHandler):
        def __init__(self):
            self.is_fc_model, self.model_style = True, ModelStyle.OPENAI_COMPLETIONS
            self.model_name_underline_replaced = f"model_{len(made)}"

        def _query_FC(self, inference_data):
            tools = sorted(tool["function"]["name"] for tool in inference_data["tools"])
            sent.append([tools, [plain(message) for message in inference_data["message"]]])
            step = next(script)
            calls = [
                SimpleNamespace(id=f"c{place}", type="function", function=SimpleNamespace(name=name, arguments=text))
                for place, call in enumerate(step if isinstance(step, list) else [])
                for name, text in call.items()
            ]
            message = SimpleNamespace(tool_calls=calls or None, content="" if calls else step)
            usage = SimpleNamespace(prompt_tokens=0, completion_tokens=0)
            return SimpleNamespace(choices=[SimpleNamespace(message=message)], usage=usage), 0

    with contextlib.redirect_stdout(io.StringIO()):
        Scripted().inference_multi_turn_FC(entry, False, True)
    return sent


made = []
for wanted in json.loads(Path(sys.argv[1]).read_text()):
    made.append(held(*wanted, Path(sys.argv[3])))
Path(sys.argv[2]).write_text(json.dumps(made))
