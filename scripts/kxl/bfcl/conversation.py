"""A case of several turns: the model is asked, its calls are carried out, their results go back, until it only talks.

    record = hold(case, ask, apis)      # records.py has its fields
    why = problem(case, record["turns"], apis)      # None where the calls did what they should

As the leaderboard does it: a turn ends with an answer that has no call, or one that cannot be read; after MOST_STEPS
answers with calls in one turn the conversation ends there, and the case has failed. A withheld tool is handed out in a
turn of its own. Calls are carried out in the box (place.py).

Three things differ. A call that takes too long or returns too much ends the conversation, which has failed. An answer
whose calls cannot be read goes into the history as its text alone: servers refuse a history with such calls. And where
the conversation has outgrown the server's context it ends, and has failed.
"""

from kxl.bfcl import cases, verdicts
from kxl.bfcl.place import Stopped

MOST_STEPS = 20
HANDED_OUT = "I have updated some more functions you can choose from. What about now?"  # the wheel's words
MOST_KEPT = 1000  # characters of one message that a record keeps
FOR_THE_BOX = ("id", "category", "turns", "classes", "config", "scenario")


def single(case: dict, ask) -> dict:
    """The record of a single-turn case. ask(messages, tools) gives a Reply (asking.py)."""
    reply = ask(case["turns"][0], case["tools"])
    return {"turns": [[reply.answer]], "stopped": None, **_counted([reply])}


def hold(case: dict, ask, apis, memory: dict | None = None) -> dict:
    """The record of a conversation; `apis` is place.Apis, `memory` what earlier conversations left in the memory."""
    wanted = {key: case[key] for key in FOR_THE_BOX if key in case}
    started = apis.order("begin", case={**wanted, "memory": memory})
    tools, messages, turns, replies, stopped = list(case["tools"]), [], [], [], None
    for number, said in enumerate(started["turns"]):
        if handed := case["later"].get(str(number)):
            tools += handed
            said = [{"role": "user", "content": HANDED_OUT}]
        messages += said
        turns.append([])
        try:
            stopped = _turn(turns[-1], messages, tools, replies, ask, apis)
        except Stopped as error:
            stopped = f"a call {error}"
            replies[-1].finish = "stopped"
        if stopped:
            break
    record = {"turns": turns, "stopped": stopped, **_counted(replies), "messages": [_cut(one) for one in messages]}
    if "scenario" in case and not cases.scored(case):
        record["memory"] = memory if record["finish"] == "stopped" else apis.order("memory")
    return record


def _turn(steps: list, messages: list, tools: list, replies: list, ask, apis) -> str | None:
    """Fill `steps` until the model only talks; why the conversation cannot go on, or None."""
    while len(steps) <= MOST_STEPS:
        reply = ask(messages, tools)
        replies.append(reply)
        steps.append(reply.answer)
        calls = executed(reply.answer)
        messages.append(reply.message if calls else {"role": "assistant", "content": reply.text})
        if reply.finish == "context":
            return "the conversation outgrew the server's context"
        if not calls:
            return None
        results = apis.order("call", calls=calls)
        messages += [
            {"role": "tool", "tool_call_id": call["id"], "content": result}
            for call, result in zip(reply.message["tool_calls"], results)
        ]
    return f"more than {MOST_STEPS} answers with calls in one turn"


def _counted(replies: list) -> dict:
    return {
        "finish": replies[-1].finish if replies else "stop",
        "prompt_tokens": sum(reply.prompt_tokens for reply in replies),
        "output_tokens": sum(reply.output_tokens for reply in replies),
        "thoughts": sum(reply.thought is not None for reply in replies),
        "errors": [error for reply in replies for error in reply.errors],
        "seconds": round(sum(reply.seconds for reply in replies), 3),
    }


def _cut(message: dict) -> dict:
    text = message.get("content") or ""
    return {**message, "content": text if len(text) <= MOST_KEPT else f"{text[:MOST_KEPT]}…"}


def executed(answer) -> list:
    """The calls of one step as [[NAME, ARGUMENTS], ...]; empty where there is none that can be read."""
    calls, unread = verdicts.decoded(answer)
    if unread or not verdicts.well_formed(calls):
        return []
    return [[name, arguments] for call in calls for name, arguments in call.items()]


def problem(case: dict, turns: list, apis) -> str | None:
    """Why the calls of a conversation fail its case, or None."""
    carried_out = [[calls for step in steps if (calls := executed(step))] for steps in turns]
    judged = {key: case[key] for key in ("id", "category", "classes", "config", "truth")}
    try:
        return apis.order("judge", case=judged, turns=carried_out)
    except Stopped as error:
        return f"its calls, carried out again for the verdict, {error}"


def why_not(case: dict, record: dict, apis) -> str | None:
    """Why a case has failed by its record, or None where it passed; `apis` for a case with executable APIs alone."""
    turns = record["turns"]
    if record["finish"] in ("context", "stopped"):
        return record["stopped"] or "the prompt is longer than the server's context"
    if not cases.executable(case["category"]):
        return verdicts.single_turn(case, turns[0][0])
    return verdicts.memory(case, turns) if case["category"] in cases.GROUPS["memory"] else problem(case, turns, apis)
