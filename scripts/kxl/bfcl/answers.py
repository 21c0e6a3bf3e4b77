"""Answers to the Berkeley cases that need no model: the right one, and the same damaged in many ways.

    answer = right(case)
    for way in ways(case): damaged = way(case, copy.deepcopy(answer), random)     # None where it does not apply

They prove the judge: on each, our verdict and the wheel's must be the same. Some ways do no harm (another order of
parallel calls, another case of letters): there, too, both must agree. Answers have the form that verdicts.py takes.
`scripted` makes an agent of them, which needs no model.
"""

import ast
import json
import random

from kxl.bfcl import cases, literals
from kxl.bfcl.asking import Reply
from kxl.bfcl.conversation import MOST_STEPS

AGENTS = ("perfect", "nothing")
NO_CALL = "None of these functions helps with that."


def right(case: dict) -> list | str:
    """An answer that passes, from what the data accepts."""
    category = case["category"]
    if category in cases.GROUPS["memory"]:
        return [[f"{{'answer': '{case['truth'][0]}', 'context': 'You told me.'}}"]]
    if cases.executable(category):
        # A call a step; but a turn has 20 steps at most, and two cases want 34 calls in one.
        steps = [_accepted_calls(case, turn) for turn in case["truth"]]
        return [[*([[call] for call in calls] if len(calls) < MOST_STEPS else [calls]), "Done."] for calls in steps]
    if case["truth"] is None:
        return NO_CALL if "irrelevance" in category else [{_name(case["functions"][0]["name"]): "{}"}]
    return [
        {_name(name): json.dumps(_arguments(case, name, accepted), ensure_ascii=False)}
        for want in case["truth"]
        for name, accepted in want.items()
    ]


def scripted(case: dict, agent: str):
    """`ask` of an agent without a model (AGENTS): the right steps one after the other, or the same words for ever."""
    if agent == "perfect" and cases.scored(case):
        answer = right(case)
        steps = iter([step for turn in answer for step in turn] if cases.executable(case["category"]) else [answer])
    else:
        steps = iter(lambda: NO_CALL, None)

    def ask(messages: list, tools: list) -> Reply:
        answer = next(steps)
        if isinstance(answer, str):
            return Reply(answer, answer)
        calls = [
            {"id": f"call_{place}", "type": "function", "function": {"name": name, "arguments": text}}
            for place, call in enumerate(answer)
            for name, text in call.items()
        ]
        return Reply(answer, "", {"role": "assistant", "content": "", "tool_calls": calls}, "tool_calls")

    return ask


def _name(name: str) -> str:
    return name.replace(".", "_")


def _accepted_calls(case: dict, turn: list[str]) -> list[dict]:
    """The accepted calls of a turn, which are source code, with named arguments."""
    tools = case["tools"] + [tool for later in case["later"].values() for tool in later]
    order = {tool["function"]["name"]: list(tool["function"]["parameters"]["properties"]) for tool in tools}
    calls = []
    for source in turn:
        call = ast.parse(source.strip(), mode="eval").body
        named = dict(zip(order.get(call.func.id, []), map(ast.literal_eval, call.args)))
        named |= {part.arg: ast.literal_eval(part.value) for part in call.keywords}
        calls.append({call.func.id: json.dumps(named, ensure_ascii=False)})
    return calls


def _arguments(case: dict, name: str, accepted: dict) -> dict:
    """An accepted value of each argument; one that may be absent is."""
    function = next(function for function in case["functions"] if function["name"] == name)
    described, language = function["parameters"]["properties"], cases.language(case["category"])
    made = {}
    for argument, values in accepted.items():
        given = [value for value in values if value != ""]
        if "" in values and argument not in function["parameters"]["required"]:
            continue
        value = given[0] if given else ""
        kind = described.get(argument, {"type": None})  # one that is accepted and not described cannot be given
        if language != "python":
            made[argument] = _source(value, kind["type"], kind.get("items", {}).get("type"), language)
        elif kind["type"] == "dict":
            made[argument] = _member(value)
        elif kind.get("items", {}).get("type") == "dict" and isinstance(value, list):
            made[argument] = [_member(part) for part in value]
        else:
            made[argument] = value
    return made


def _member(value):
    """An object of lists of accepted values, as one object."""
    if not isinstance(value, dict):
        return value
    return {key: next(one for one in values if one != "") for key, values in value.items() if "" not in values}


def _source(value, kind: str, item: str | None, language: str) -> str:
    """A value as Java or JavaScript source of a type."""
    expected = literals.TYPES[language][kind]
    if type(value) is not expected or expected is str:
        return str(value)  # the name of a variable, or a text, which needs no quotes
    if isinstance(value, list):
        parts = [_source(part, item, None, language) if item else _json(part, language) for part in value]
        if language == "javascript":
            return f"[{', '.join(parts)}]"
        if kind == "ArrayList":
            parts = [f'"{part}"' if item == "String" else f"'{part}'" if item == "char" else part for part in parts]
            return f"new ArrayList<>(Arrays.asList({', '.join(parts)}))" if parts else "new ArrayList<>()"
        return f"new Object[]{{{', '.join(parts)}}}"
    if isinstance(value, dict):
        members = {key: _json(next(iter(one), ""), language) for key, one in value.items()}
        if language == "javascript":
            return "{" + ", ".join(f"'{key}': {one}" for key, one in members.items()) + "}"
        return (
            "new HashMap<String, Object>() {{ "
            + " ".join(f'put("{key}", {one});' for key, one in members.items())
            + " }}"
        )
    text = _json(value, language)
    return text + {"long": "L", "Bigint": "n"}.get(kind, "f" if kind == "float" and language == "java" else "")


def _json(value, language: str) -> str:
    return (
        json.dumps(value, ensure_ascii=False)
        if not isinstance(value, list)
        else _source(value, "array" if language == "javascript" else "Array", None, language)
    )


# Ways to damage the calls of a single turn. Each takes (case, calls, random): calls as [{NAME: arguments text}, ...].


def drop_a_call(case, calls, draw):
    del calls[draw.randrange(len(calls))]
    return calls


def repeat_a_call(case, calls, draw):
    return [*calls, draw.choice(calls)]


def reverse_the_calls(case, calls, draw):
    return calls[::-1] if len(calls) > 1 else None


def call_another_function(case, calls, draw):
    return _rename(calls, draw, lambda name: name + "_all")


def write_a_name_otherwise(case, calls, draw):
    return _rename(calls, draw, lambda name: name.upper() if name != name.upper() else name.lower())


def call_nothing(case, calls, draw):
    return []


def say_nothing(case, calls, draw):
    return ""


def talk_instead(case, calls, draw):
    return f"I would call {next(iter(calls[0]))} with {calls[0]}."


def break_the_json(case, calls, draw):
    return _texts(calls, draw, lambda text: text[:-1])


def give_a_list_for_arguments(case, calls, draw):
    return _texts(calls, draw, lambda text: f"[{text}]")


def leave_out_an_argument(case, calls, draw):
    def change(arguments):
        if arguments:
            del arguments[draw.choice(sorted(arguments))]
            return True
        return False

    return _edit(calls, draw, change)


def add_an_argument(case, calls, draw):
    return _edit(calls, draw, lambda arguments: arguments.setdefault("comment", "please") == "please")


def leave_an_argument_null(case, calls, draw):
    return _values(calls, draw, lambda value: None)


def put_a_value_in_a_list(case, calls, draw):
    return _values(calls, draw, lambda value: [value])


def write_a_number_as_text(case, calls, draw):
    return _values(calls, draw, str, (int, float))


def make_a_number_a_float(case, calls, draw):
    return _values(calls, draw, float, (int,))


def be_off_by_one(case, calls, draw):
    return _values(calls, draw, lambda value: value + 1, (int, float))


def turn_a_truth_round(case, calls, draw):
    return _values(calls, draw, lambda value: not value, (bool,))


def write_a_truth_as_a_number(case, calls, draw):
    return _values(calls, draw, int, (bool,))


def add_a_word(case, calls, draw):
    return _values(calls, draw, lambda value: value + " again", (str,))


def write_a_text_otherwise(case, calls, draw):
    return _values(calls, draw, lambda value: value.upper().replace(" ", "_"), (str,))


def leave_a_text_empty(case, calls, draw):
    return _values(calls, draw, lambda value: "", (str,))


def leave_out_an_item(case, calls, draw):
    return _values(calls, draw, lambda value: value[1:], (list,))


def turn_a_list_round(case, calls, draw):
    return _values(calls, draw, lambda value: value[::-1], (list,))


def write_items_otherwise(case, calls, draw):
    def change(value):
        return [item.upper() if isinstance(item, str) else [item] for item in value]

    return _values(calls, draw, change, (list,))


def leave_out_a_member(case, calls, draw):
    return _values(calls, draw, lambda value: dict(list(value.items())[1:]), (dict,))


def add_a_member(case, calls, draw):
    return _values(calls, draw, lambda value: {**value, "note": "x"}, (dict,))


ANYTHING = (
    0,
    -1,
    1.0,
    1e300,
    True,
    "",
    "0",
    "true",
    "null",
    [],
    {},
    [[]],
    [{}],
    [""],
    [0, "0"],
    {"": None},
    ["a", ["a"]],
)


def give_anything(case, calls, draw):
    return _values(calls, draw, lambda value: draw.choice(ANYTHING))


def give_anything_within(case, calls, draw):
    """Anything in place of an item or a member."""

    def change(value):
        value = dict(value) if isinstance(value, dict) else list(value)
        places = sorted(value) if isinstance(value, dict) else range(len(value))
        if places:
            value[draw.choice(places)] = draw.choice(ANYTHING)
        return value

    return _values(calls, draw, change, (list, dict))


def give_two_arguments_the_same_value(case, calls, draw):
    def change(arguments):
        if len(arguments) < 2:
            return False
        one, other = draw.sample(sorted(arguments), 2)
        arguments[one] = arguments[other]
        return True

    return _edit(calls, draw, change)


def choose_other_accepted_values(case, calls, draw):
    """Another of the accepted values of an argument, where they are plain: harmless."""

    def change(arguments):
        for accepted in (values for want in case["truth"] or [] for values in want.values()):
            for name in sorted(arguments.keys() & accepted.keys()):
                plain = [one for one in accepted[name] if one != "" and not isinstance(one, (dict, list))]
                if len(plain) > 1 and cases.language(case["category"]) == "python":
                    arguments[name] = draw.choice(plain)
                    return True
        return False

    return _edit(calls, draw, change)


def damage_a_letter(case, calls, draw):
    """One character of a text, which may be source code, is another."""

    def change(value):
        place = draw.randrange(len(value) + 1)
        return value[:place] + draw.choice("x 1,.;'\"{}[]()\n") + value[place + 1 :]

    return _values(calls, draw, change, (str,))


def _rename(calls, draw, change):
    place = draw.randrange(len(calls))
    ((name, text),) = calls[place].items()
    calls[place] = {change(name): text}
    return calls


def _texts(calls, draw, change):
    place = draw.randrange(len(calls))
    ((name, text),) = calls[place].items()
    calls[place] = {name: change(text)}
    return calls


def _edit(calls, draw, change):
    """`change` the arguments of one call in place; None where it says that there is nothing to change."""
    place = draw.randrange(len(calls))
    ((name, text),) = calls[place].items()
    arguments = json.loads(text)
    if not change(arguments):
        return None
    calls[place] = {name: json.dumps(arguments, ensure_ascii=False)}
    return calls


def _values(calls, draw, change, kinds: tuple = ()):
    """Change one value of one call, of one of `kinds`, or of any."""

    def one(arguments):
        fitting = [name for name, value in arguments.items() if not kinds or type(value) in kinds]
        if fitting:
            name = draw.choice(sorted(fitting))
            arguments[name] = change(arguments[name])
        return bool(fitting)

    return _edit(calls, draw, one)


SINGLE_TURN = (
    drop_a_call, repeat_a_call, reverse_the_calls, call_another_function, write_a_name_otherwise, call_nothing,
    say_nothing, talk_instead, break_the_json, give_a_list_for_arguments, leave_out_an_argument, add_an_argument,
    leave_an_argument_null, put_a_value_in_a_list, write_a_number_as_text, make_a_number_a_float, be_off_by_one,
    turn_a_truth_round, write_a_truth_as_a_number, add_a_word, write_a_text_otherwise, leave_a_text_empty,
    give_anything, give_anything_within, give_two_arguments_the_same_value, choose_other_accepted_values,
    damage_a_letter, leave_out_an_item, turn_a_list_round, write_items_otherwise, leave_out_a_member, add_a_member,
)  # fmt: skip


# Ways to damage what is said where nothing is to be called. Each takes (case, text, random).


def call_the_first(case, text, draw):
    return [{_name(case["functions"][0]["name"]): "{}"}] if case["functions"] else None


def call_with_broken_json(case, text, draw):
    return [{_name(case["functions"][0]["name"]): "{"}] if case["functions"] else None


def call_with_a_list(case, text, draw):
    return [{_name(case["functions"][0]["name"]): "[]"}] if case["functions"] else None


TEXT = (call_the_first, call_with_broken_json, call_with_a_list, call_nothing, say_nothing)


# Ways to damage a conversation. Each takes (case, turns, random): turns of steps.


def do_nothing(case, turns, draw):
    return [[NO_CALL] for _ in turns]


def say_nothing_in_a_turn(case, turns, draw):
    turns[draw.randrange(len(turns))] = [""]
    return turns


def end_a_turn_early(case, turns, draw):
    return _in_a_turn(turns, draw, lambda steps: steps[:-2] + steps[-1:])


def skip_a_turn(case, turns, draw):
    turns[draw.randrange(len(turns))] = []
    return turns


def stop_before_the_end(case, turns, draw):
    return turns[:-1]


def call_all_at_once(case, turns, draw):
    return [[[call for step in steps[:-1] for call in step], steps[-1]] for steps in turns]


def call_backwards(case, turns, draw):
    return _in_a_turn(turns, draw, lambda steps: steps[-2::-1] + steps[-1:], 2)


def call_twice(case, turns, draw):
    return _in_a_turn(turns, draw, lambda steps: steps[:1] + steps)


def call_what_is_not_there(case, turns, draw):
    return _in_a_turn(turns, draw, lambda steps: [[{"open_the_door": "{}"}], *steps])


def call_what_is_refused(case, turns, draw):
    return _in_a_turn(turns, draw, lambda steps: [[{"remove": "{}"}], *steps])


def give_a_call_a_strange_argument(case, turns, draw):
    return _on_a_step(turns, draw, lambda calls: add_an_argument(case, calls, draw))


def change_a_text(case, turns, draw):
    return _on_a_step(turns, draw, lambda calls: add_a_word(case, calls, draw))


def change_a_number(case, turns, draw):
    return _on_a_step(turns, draw, lambda calls: be_off_by_one(case, calls, draw))


def leave_an_argument_out(case, turns, draw):
    return _on_a_step(turns, draw, lambda calls: leave_out_an_argument(case, calls, draw))


def break_a_calls_json(case, turns, draw):
    return _on_a_step(turns, draw, lambda calls: break_the_json(case, calls, draw))


def call_in_an_empty_turn(case, turns, draw):
    empty = [number for number, truth in enumerate(case["truth"]) if not truth]
    calling = [steps for steps in turns if len(steps) > 1]
    if not empty or not calling:
        return None
    turns[draw.choice(empty)] = draw.choice(calling)
    return turns


def call_a_turn_late(case, turns, draw):
    number = draw.randrange(len(turns))
    if number + 1 == len(turns):
        return None
    moved, turns[number] = turns[number][:-1], turns[number][-1:]
    turns[number + 1] = moved + turns[number + 1]
    return turns


def call_a_turn_early(case, turns, draw):
    number = draw.randrange(len(turns))
    if number + 1 == len(turns):
        return None
    turns[number] = turns[number][:-1] + turns[number + 1]
    turns[number + 1] = turns[number + 1][-1:]
    return turns


def look_around_first(case, turns, draw):
    """Calls that change nothing: harmless."""
    looks = {"GorillaFileSystem": "pwd", "TradingBot": "get_account_info", "VehicleControlAPI": "displayCarStatus"}
    known = [looks[name] for name in case["classes"] if name in looks]
    arguments = {"displayCarStatus": '{"option": "fuel"}'}
    return known and _in_a_turn(turns, draw, lambda steps: [[{known[0]: arguments.get(known[0], "{}")}], *steps])


def ask_back_between(case, turns, draw):
    return _in_a_turn(turns, draw, lambda steps: steps[:1] + ["Shall I go on?"] + steps[1:])


def _in_a_turn(turns, draw, change, least: int = 1):
    """Change the steps of a turn with at least so many calls; None where there is none."""
    fitting = [number for number, steps in enumerate(turns) if len(steps) > least]
    if not fitting:
        return None
    number = draw.choice(fitting)
    turns[number] = change(turns[number])
    return turns


def _on_a_step(turns, draw, change):
    """Change one step with a call; None where there is none, or nothing to change."""
    places = [
        (turn, step)
        for turn, steps in enumerate(turns)
        for step, one in enumerate(steps)
        if one and isinstance(one, list)
    ]
    if not places:
        return None
    turn, step = draw.choice(places)
    changed = change([dict(call) for call in turns[turn][step]])
    if changed is None:
        return None
    turns[turn][step] = changed
    return turns


CONVERSATION = (
    do_nothing, say_nothing_in_a_turn, end_a_turn_early, skip_a_turn, stop_before_the_end, call_all_at_once,
    call_backwards, call_twice, call_what_is_not_there, call_what_is_refused, give_a_call_a_strange_argument,
    change_a_text, change_a_number, leave_an_argument_out, break_a_calls_json, call_in_an_empty_turn,
    call_a_turn_late, call_a_turn_early, look_around_first, ask_back_between,
)  # fmt: skip


# Ways to damage the last words about a memory. Each takes (case, turns, random).


def answer_in_capitals(case, turns, draw):
    return [[turns[0][0].upper().replace("'", '"')]]


def answer_something_else(case, turns, draw):
    return [["{'answer': 'I do not know', 'context': 'I do not know'}"]]


def answer_within_a_word(case, turns, draw):
    return [[f"x{case['truth'][0]}x"]]


def answer_after_calls(case, turns, draw):
    return [[[{"memory_retrieve": "{}"}], *turns[0]]]


def answer_before_calls(case, turns, draw):
    return [[*turns[0], [{"memory_retrieve": "{}"}]]]


def end_with_a_broken_call(case, turns, draw):
    return [[*turns[0], [{"memory_retrieve": "{"}]]]


def only_call(case, turns, draw):
    return [[[{"memory_retrieve": "{}"}]]]


def answer_in_two_turns(case, turns, draw):
    return [*turns, *turns]


def answer_nothing(case, turns, draw):
    return [[""]]


MEMORY = (
    answer_in_capitals, answer_something_else, answer_within_a_word, answer_after_calls, answer_before_calls,
    end_with_a_broken_call, only_call, answer_in_two_turns, answer_nothing,
)  # fmt: skip


def ways(case: dict) -> tuple:
    """The ways that fit a kind of case."""
    if case["category"] in cases.GROUPS["memory"]:
        return MEMORY
    if cases.executable(case["category"]):
        return CONVERSATION
    return TEXT if "irrelevance" in case["category"] else SINGLE_TURN


def draw_for(case: dict, way, seed: int) -> random.Random:
    """The draw of one damage, the same for the same seed."""
    return random.Random(f"{seed} {case['id']} {way.__name__}")
