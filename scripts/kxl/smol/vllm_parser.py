"""vLLM's own `hermes` tool parser, taken alone out of its wheel: vLLM itself is not installed and not imported.

    Parser = load(path_of_hermes_tool_parser_py)
    calls(Parser, text)               # [{"name", "arguments"}] of a whole answer
    streamed_calls(Parser, pieces)    # the same from pieces of an answer, as they come

The file imports a dozen of vLLM's modules; for parsing it needs from them records without behaviour, a base class that
keeps four fields, and two functions on strings. Those are given here; every line that reads a call is vLLM's.
"""

import json
import logging
import sys
import types
import uuid
from pathlib import Path


class _Record:
    """A record with any fields, as vLLM's pydantic models are used."""

    def __init__(self, **fields):
        self.__dict__.update(fields)

    def model_dump(self, exclude_none: bool = False) -> dict:
        """The fields as a dict."""
        return {key: value for key, value in self.__dict__.items() if value is not None or not exclude_none}


class _ToolParser:
    """What vLLM's base class keeps for a parser."""

    def __init__(self, tokenizer, tools=None):
        self.model_tokenizer, self.tools = tokenizer, tools or []
        self.prev_tool_call_arr: list[dict] = []
        self.streamed_args_for_tool: list[str] = []
        self.current_tool_id, self.current_tool_name_sent = -1, False

    def adjust_request(self, request):
        """The request as it is."""
        return request


def _partial_tag_overlap(text: str, tag: str) -> int:
    """How many characters at the end of `text` may be the beginning of `tag`."""
    return next((size for size in range(min(len(text), len(tag) - 1), 0, -1) if tag.startswith(text[-size:])), 0)


def _is_complete_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


_silent = logging.Logger("vllm's parser", logging.CRITICAL + 1)  # a broken call is counted, not logged
GIVEN = {
    "vllm.entrypoints.generate.base.protocol": dict.fromkeys(
        (
            "DeltaFunctionCall",
            "DeltaMessage",
            "DeltaToolCall",
            "ExtractedToolCallInformation",
            "FunctionCall",
            "ToolCall",
        ),
        _Record,
    ),
    "vllm.entrypoints.openai.chat_completion.protocol": {"ChatCompletionRequest": _Record},
    "vllm.entrypoints.openai.responses.protocol": {"ResponsesRequest": _Record},
    "vllm.logger": {"init_logger": lambda name: _silent},
    "vllm.renderers.chat_utils": {"make_tool_call_id": lambda: f"call_{uuid.uuid4().hex}"},
    "vllm.tokenizers": {"TokenizerLike": object},
    "vllm.tool_parsers.abstract_tool_parser": {"Tool": object, "ToolParser": _ToolParser},
    "vllm.tool_parsers.utils": {"is_complete_json": _is_complete_json, "partial_tag_overlap": _partial_tag_overlap},
    "vllm.utils.mistral": {"is_mistral_tokenizer": lambda tokenizer: False},
}


def load(path: Path) -> type:
    """The parser's class from vLLM's file; sys.modules is afterwards as before."""
    before = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "vllm"}
    for name in before:
        del sys.modules[name]
    try:
        for name, members in GIVEN.items():
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
            vars(sys.modules[name]).update(members)
        module = types.ModuleType("hermes_tool_parser")
        exec(compile(Path(path).read_text(encoding="utf-8"), str(path), "exec"), vars(module))
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "vllm"]:
            del sys.modules[name]
        sys.modules.update(before)
    return module.Hermes2ProToolParser


def calls(parser: type, text: str) -> list[dict]:
    """The calls that vLLM finds in a whole answer."""
    found = parser(object()).extract_tool_calls(text, request=None)
    return [_call(call.function.name, call.function.arguments) for call in found.tool_calls]


def streamed_calls(parser: type, pieces: list[str]) -> list[dict]:
    """The calls that vLLM sends when an answer comes in pieces; ValueError where the arguments are no JSON."""
    made, text, names, arguments = parser(object()), "", [], []
    for piece in pieces:
        delta = made.extract_tool_calls_streaming(text, text + piece, piece, [], [], [], None)
        text += piece
        for call in delta.tool_calls if delta else []:
            while len(names) <= call.index:
                names.append("")
                arguments.append("")
            names[call.index] += call.function.get("name", "")
            arguments[call.index] += call.function.get("arguments", "")
    return [_call(name, argument) for name, argument in zip(names, arguments)]


def _call(name: str, arguments: str) -> dict:
    return {"name": name, "arguments": json.loads(arguments)}
