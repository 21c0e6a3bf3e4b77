"""A Hermes Agent plugin: a tool call that arrived as text becomes a structured one.

Hermes calls `on_llm_execution` around each request to the model. The answer is changed only where
recover.py reads it as calls beyond doubt; everything else passes untouched. If anything here raises,
Hermes keeps the original answer.
"""

import json
import logging
import uuid
from types import SimpleNamespace

from .recover import MAX_CALLS, recover

logger = logging.getLogger(__name__)


def register(ctx) -> None:
    """What Hermes calls when the plugin is enabled."""
    ctx.register_middleware("llm_execution", on_llm_execution)


def on_llm_execution(request: dict, next_call, **_):
    """Ask the model, then mend its answer where it is a call in text form."""
    response = next_call(request)
    choices = getattr(response, "choices", None)  # other API modes have none
    if not choices or len(choices) != 1:
        return response
    choice = choices[0]
    message = choice.message
    if choice.finish_reason != "stop" or message.tool_calls or not isinstance(message.content, str):
        return response  # cut off, already structured, or not text
    tools, at_most = allowed(request)
    found = recover(message.content, tools, request.get("messages"), at_most, request.get("tools") or ())
    if found is None:
        return response
    content, calls = found
    structured = [
        SimpleNamespace(
            id=f"call_{uuid.uuid4().hex[:24]}",
            type="function",
            extra_content=None,
            function=SimpleNamespace(name=call["name"], arguments=json.dumps(call["arguments"], ensure_ascii=False)),
        )
        for call in calls
    ]
    message.content, message.tool_calls, choice.finish_reason = content or None, structured, "tool_calls"
    logger.info("toolcall-net: %s arrived as text and became a call", ", ".join(call["name"] for call in calls))
    return response


def allowed(request: dict) -> tuple[dict, int]:
    """({name: schema} of the tools that this request lets the model call, how many calls in one answer)."""
    sent = {**request, **(request.get("extra_body") or {})}
    tools = {
        tool["function"]["name"]: tool["function"].get("parameters") or {}
        for tool in request.get("tools") or []
        if tool.get("type") == "function"
    }
    at_most = MAX_CALLS if sent.get("parallel_tool_calls") in (None, True) else 1
    if isinstance(sent.get("max_tool_calls"), int):
        at_most = min(at_most, sent["max_tool_calls"])
    choice = sent.get("tool_choice")
    if choice in (None, "auto", "required", "any"):
        return tools, at_most
    if isinstance(choice, dict) and choice.get("type") == "function":
        named, at_most = {choice.get("function", choice).get("name")}, min(at_most, 1)
    elif isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        named = {
            tool.get("function", tool).get("name") for tool in choice.get("allowed_tools", choice).get("tools", [])
        }
    else:  # "none", or what nobody here knows
        named = set()
    return {name: schema for name, schema in tools.items() if name in named}, at_most
