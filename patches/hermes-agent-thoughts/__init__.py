"""A Hermes Agent plugin: the model gets the thoughts back that it had on the request that it is working on.

Hermes calls `on_llm_execution` around each request to the model. A thought is remembered by the session and the call
that it came with (some servers number the calls of each answer, so an id alone is no name). It stands in
`reasoning_content` of that turn when the next request is sent. Turns before the last user message get none: templates
leave those out. Nothing is shown and no call is changed. If anything here goes wrong, the request goes out as Hermes
made it.
"""

import json
import logging
import threading
from collections import OrderedDict

logger = logging.getLogger(__name__)
MOST = 1000  # thoughts that are remembered; a request with more calls than this loses its oldest

_thoughts: "OrderedDict[tuple, str]" = OrderedDict()
_lock = threading.Lock()


def register(ctx) -> None:
    """What Hermes calls when the plugin is enabled."""
    ctx.register_middleware("llm_execution", on_llm_execution)


def on_llm_execution(request: dict, next_call, session_id: str = "", **_):
    """Ask the model with its thoughts in place, and remember the new one."""
    try:
        request = with_thoughts(request, session_id)
    except Exception:  # a thought that is missing costs less than a request
        logger.exception("thoughts: this request goes out without them")
    response = next_call(request)
    try:
        remember(response, session_id)
    except Exception:  # the answer counts, whatever shape a provider gives it
        logger.exception("thoughts: this answer's thought is not remembered")
    return response


def with_thoughts(request: dict, session: str = "") -> dict:
    """The request, with `reasoning_content` in the assistant turns behind the last user message."""
    messages = request.get("messages")
    if not isinstance(messages, list):  # other API modes have none
        return request
    last_user = max((place for place, message in enumerate(messages) if message.get("role") == "user"), default=-1)
    made = []
    for place, message in enumerate(messages):
        calls = message.get("tool_calls") if place > last_user and message.get("role") == "assistant" else None
        if calls and not message.get("reasoning_content"):
            with _lock:
                names = (_name(session, call["id"], **call["function"]) for call in calls)
                thought = next((_thoughts[name] for name in names if name in _thoughts), None)
            if thought:
                message = {**message, "reasoning_content": thought}
        made.append(message)
    return {**request, "messages": made}


def remember(response, session: str = "") -> None:
    """Note the thought of an answer that calls tools."""
    choices = getattr(response, "choices", None)
    message = choices[0].message if choices else None
    thought = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    if not isinstance(thought, str) or not thought.strip():
        return
    with _lock:
        for call in getattr(message, "tool_calls", None) or []:
            if isinstance(getattr(call, "id", None), str):
                name = _name(session, call.id, call.function.name, call.function.arguments)
                _thoughts.pop(name, None)  # the newest are kept
                _thoughts[name] = thought
        while len(_thoughts) > MOST:
            _thoughts.popitem(last=False)


def _name(session: str, identity: str, name: str, arguments, **_) -> tuple:
    """What tells one call from every other; Hermes may write its arguments anew."""
    try:
        arguments = json.dumps(json.loads(arguments), sort_keys=True)
    except (TypeError, ValueError, RecursionError):
        arguments = str(arguments)
    return session, identity, name, arguments
