"""The executable APIs in their box: what a call can reach, and what a conversation is judged by."""

import json
import subprocess
import tempfile
from pathlib import Path

import pytest
import requests

from conftest import ROOT
from kxl.bfcl import answers, conversation, place
from kxl.bfcl.asking import Reply
from kxl.live import sandbox
from kxl.setup import bfcl_env


@pytest.fixture(scope="module")
def apis(bfcl_cases):
    """The executable APIs in a box."""
    if why := sandbox.unavailable():
        pytest.skip(f"no box here: {why}")
    with place.opened() as opened:
        yield opened


@pytest.fixture
def begun(apis, every_bfcl_case):
    apis.order("begin", case=every_bfcl_case["multi_turn_base_0"])
    return lambda name, **arguments: apis.order("call", calls=[[name, arguments]])[0]


def test_a_call_changes_what_the_next_one_sees(begun):
    assert begun("mkdir", dir_name="new") == "None"
    assert "new" in begun("ls")
    assert begun("cd", folder="new") == '{"current_working_directory": "new"}'


@pytest.mark.parametrize(
    "name",
    ["print", "__import__", "_load_scenario", "__class__", "eval", "root", "os.system", "open('/etc/passwd').read"],
)
def test_what_is_no_method_of_an_api_is_not_there(begun, name):
    assert begun(name) == f"Error during execution: name '{name}' is not defined"


def test_errors_of_a_call_are_told_and_end_nothing(begun):
    assert "unexpected keyword argument 'colour'" in begun("ls", colour="red")
    assert begun("remove") == "Error during execution: Function call remove is not allowed."
    assert "current_directory_content" in begun("ls")


def test_no_other_process_of_this_machine_gets_an_order_or_says_what_came_of_one(monkeypatch, bfcl_cases):
    addresses, usual = [], place.Upstream

    def noted(url, auth):
        addresses.append(url)
        return usual(url, auth)

    monkeypatch.setattr(place, "Upstream", noted)
    with place.opened() as apis:
        said = {"messages": [{"role": "user", "content": '{"came": "forged"}'}]}
        reply = requests.post(f"{addresses[0]}/chat/completions", json=said, timeout=10)
        assert reply.status_code == 403
        assert apis.order("wheel", answers=[]) == []


def test_an_order_that_cannot_be_carried_out_is_an_error_and_the_next_one_works(apis, every_bfcl_case):
    with pytest.raises(place.Failed, match="could not begin: KeyError: 'NoSuchAPI'"):
        apis.order("begin", case={**every_bfcl_case["multi_turn_base_0"], "classes": ["NoSuchAPI"]})
    assert apis.order("begin", case=every_bfcl_case["multi_turn_base_0"])["turns"]


def test_a_call_that_takes_for_ever_ends_its_conversation_and_the_next_one_begins(
    monkeypatch, bfcl_cases, every_bfcl_case
):
    hasty = (ROOT / "scripts/kxl/bfcl/inside.py").read_text().replace('"call": 30', '"call": 1')
    case = {**every_bfcl_case["multi_turn_base_0"], "classes": ["MathAPI"], "config": {}}
    with monkeypatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "inside.py").write_text(hasty)
        patch.setattr(place, "PROGRAMS", [Path(folder) / "inside.py", *place.PROGRAMS[1:]])
        with place.opened() as apis:
            record = conversation.hold(case, scripted([[[{"power": '{"base": 10, "exponent": 900000000}'}]]]), apis)
            assert conversation.why_not(case, record, apis) == "a call took more than 1 s"
            apis.order("begin", case=case)
            assert apis.order("call", calls=[["power", {"base": 2, "exponent": 5}]]) == ['{"result": 32}']


@pytest.mark.parametrize("depth", [64, 300, 900])
def test_arguments_that_are_nested_deeply_end_no_run(apis, every_bfcl_case, depth):
    case = every_bfcl_case["multi_turn_base_0"]
    deep = '{"folder": ' + "[" * depth + "]" * depth + "}"
    record = conversation.hold(case, scripted([[[{"cd": deep}], "Done."] for _ in case["turns"]]), apis)
    assert "turn 1" in conversation.why_not(case, record, apis)
    assert apis.order("begin", case=case)["turns"]


def test_results_that_are_too_much_end_their_conversation_and_the_next_one_begins(apis, every_bfcl_case):
    """A model that calls the same again and again, in one answer."""
    case = every_bfcl_case["multi_turn_base_0"]
    steps = [
        [{"touch": '{"file_name": "a"}'}, {"echo": json.dumps({"content": "x" * 50_000, "file_name": "a"})}],
        [{"cat": '{"file_name": "a"}'}] * 100,
    ]
    record = conversation.hold(case, scripted([steps]), apis)
    assert conversation.why_not(case, record, apis) == "a call returned more than 3,145,728 bytes"
    assert apis.order("begin", case=case)["turns"]


def scripted(turns):
    steps = iter([step for turn in turns for step in turn])

    def ask(messages, tools):
        answer = next(steps)
        ask.asked.append((list(messages), list(tools)))
        if isinstance(answer, str):
            return Reply(answer, answer)
        calls = [
            {"id": f"c{place}", "function": {"name": name, "arguments": text}}
            for place, call in enumerate(answer)
            for name, text in call.items()
        ]
        return Reply(answer, "", {"role": "assistant", "content": "", "tool_calls": calls}, "tool_calls")

    ask.asked = []
    return ask


@pytest.mark.parametrize("number", [0, 57, 123])
@pytest.mark.parametrize("kind", ["base", "miss_func", "miss_param", "long_context"])
def test_right_calls_pass_and_the_same_with_one_left_out_do_not(apis, every_bfcl_case, kind, number):
    case = every_bfcl_case[f"multi_turn_{kind}_{number}"]
    right = answers.right(case)
    record = conversation.hold(case, scripted(right), apis)
    assert record["turns"] == right and conversation.problem(case, record["turns"], apis) is None
    number = next(n for n, truth in enumerate(case["truth"]) if truth)
    right[number] = ["I would rather not."]
    assert f"turn {number + 1}: no call" in conversation.problem(case, right, apis)


def test_a_withheld_tool_is_handed_out_in_its_own_turn(apis, every_bfcl_case):
    case = every_bfcl_case["multi_turn_miss_func_0"]
    ask = scripted(answers.right(case))
    conversation.hold(case, ask, apis)
    offered = [{tool["function"]["name"] for tool in tools} for _, tools in ask.asked]
    assert "sort" not in offered[0] and "sort" in offered[-1]
    said = [message["content"] for message in ask.asked[-1][0] if message["role"] == "user"]
    assert conversation.HANDED_OUT in said


def test_a_model_that_never_stops_calling_is_stopped_and_has_failed(apis, every_bfcl_case):
    case = every_bfcl_case["multi_turn_base_0"]
    record = conversation.hold(case, scripted([[[{"ls": "{}"}]] * 100]), apis)
    assert len(record["turns"]) == 1 and len(record["turns"][0]) == conversation.MOST_STEPS + 1
    assert "it went on calling" in conversation.problem(case, record["turns"], apis)


def test_a_call_that_nobody_can_read_ends_the_turn_and_is_not_sent_back(apis, every_bfcl_case):
    case = every_bfcl_case["multi_turn_base_0"]
    sent = []

    def ask(messages, tools):
        sent.append(list(messages))
        return Reply([{"ls": "{"}], "", {"role": "assistant", "tool_calls": [{"id": "c"}]}, "tool_calls")

    record = conversation.hold(case, ask, apis)
    assert [len(turn) for turn in record["turns"]] == [1] * len(case["turns"])
    assert not any(message.get("tool_calls") for message in sent[-1])


def test_a_memory_holds_from_one_conversation_to_the_next(apis, every_bfcl_case):
    first, second = (
        every_bfcl_case["memory_kv_prereq_32-notetaker-0"],
        every_bfcl_case["memory_kv_prereq_33-notetaker-1"],
    )
    kept = conversation.hold(first, scripted([[[{"core_memory_add": '{"key": "budget", "value": "Friday"}'}], "Noted."]]
                             + [["Noted."]] * 4), apis)["memory"]  # fmt: skip
    assert kept["core_memory"] == {"budget": "Friday"}
    seen = []

    def ask(messages, tools):
        seen.append(messages[0])
        return Reply("Yes.", "Yes.")

    conversation.hold(second, ask, apis, kept)
    assert seen[0]["role"] == "system" and '"budget": "Friday"' in seen[0]["content"]
    conversation.hold(first, ask, apis)
    assert '"budget"' not in seen[-1]["content"]


def test_without_a_box_the_command_says_so_and_what_to_do(monkeypatch):
    monkeypatch.setattr(place.sandbox, "unavailable", lambda: "namespaces are Linux's")
    with pytest.raises(place.UserError, match="no box around the executable APIs: namespaces .* --no-isolation"):
        with place.opened():
            pass


WAYS = (answers.call_what_is_not_there, answers.give_a_call_a_strange_argument, answers.call_twice)


def test_our_conversation_sends_what_the_wheels_own_sends(apis, every_bfcl_case, tmp_path):
    """The wheel's handler and ours, with the same scripted model: the same messages and tools in each request."""
    wanted = [["multi_turn_base", "multi_turn_base_0", [[{"ls": "{}"}]] * 30]]
    for kind in ("base", "miss_func", "miss_param", "long_context"):
        for number in (3, 77):
            case = every_bfcl_case[f"multi_turn_{kind}_{number}"]
            for way in WAYS:
                turns = way(case, answers.right(case), answers.draw_for(case, way, 1))
                wanted.append([case["category"], case["id"], [step for turn in turns for step in turn]])
    first = "memory_kv_prereq_32-notetaker-0"
    wanted.append(["memory_kv", first, [[{"core_memory_add": '{"key": "a", "value": "b"}'}], *["Noted."] * 5]])
    theirs = through_the_wheel(wanted, tmp_path)
    assert len(theirs) == 26
    for (_, identity, steps), sent in zip(wanted, theirs):
        ask = scripted([steps])
        conversation.hold(every_bfcl_case[identity], ask, apis)
        names = [sorted(tool["function"]["name"] for tool in tools) for _, tools in ask.asked]
        assert [[one, list(map(said, messages))] for one, (messages, _) in zip(names, ask.asked)] == sent, identity


def said(message):
    calls = [[call["function"]["name"], call["function"]["arguments"]] for call in message.get("tool_calls", [])]
    return [message["role"], message["content"], calls]


def through_the_wheel(wanted, folder):
    (folder / "in.json").write_text(json.dumps(wanted))
    env = bfcl_env.environment(folder)
    env["PYTHONPATH"] += f":{ROOT / 'scripts/kxl/bfcl'}"
    program = ROOT / "tests/helpers/bfcl_wheel_loop.py"
    subprocess.run([bfcl_env.python(), program, folder / "in.json", folder / "out.json", folder], env=env, check=True)
    return json.loads((folder / "out.json").read_text())
