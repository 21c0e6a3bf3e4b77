"""The safety net: which texts become calls and which stay text, and what follows in a real Hermes Agent."""

import importlib
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import ROOT
from kxl.chat import hermes_tools, tool_syntax
from kxl.live import agent, net, scripted_server

TOOLS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in hermes_tools.load()}


@pytest.fixture(scope="session")
def plugin(tmp_path_factory):
    """The plugin as Hermes loads it: a package in the folder that was installed."""
    folder = net.copy(tmp_path_factory.mktemp("net"))
    (folder / "__init__.py").rename(folder.parent / "toolcall_net.py")  # a name that Python's import takes
    package = folder.rename(folder.parent / "toolcall_net")
    (folder.parent / "toolcall_net.py").rename(package / "__init__.py")
    sys.path.insert(0, str(package.parent))
    try:
        yield importlib.import_module("toolcall_net")
    finally:
        sys.path.remove(str(package.parent))


@pytest.fixture(scope="session")
def recover(plugin):
    recover = importlib.import_module("toolcall_net.recover").recover
    return lambda text: recover(text, TOOLS)


def native(**arguments) -> str:
    return tool_syntax.render_calls([{"name": "write_file", "arguments": arguments}])


def bare(**arguments) -> str:
    return native(**arguments).removeprefix(tool_syntax.CALL_START).removesuffix(tool_syntax.CALL_END)


def tagged(**arguments) -> str:
    return (
        f"<tool_call>\n{json.dumps({'name': 'write_file', 'arguments': arguments}, ensure_ascii=False)}\n</tool_call>"
    )


FORMS = {"native": native, "bare": bare, "tagged": tagged}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@given(path=TEXT, content=TEXT)
@settings(max_examples=60, deadline=None)
def test_each_form_gives_the_arguments_back_whatever_stands_in_them(recover, form, path, content):
    arguments = {"path": path, "content": content}
    found = recover(form(**arguments))
    # Text that quotes the markers themselves may be left alone, never misread.
    if found or not any(mark in path + content for mark in ("<tool_call>", "</tool_call>", "<|tool_call", "<think>")):
        assert found == ("", [{"name": "write_file", "arguments": arguments}])


def test_text_before_a_marked_call_is_kept_and_several_calls_keep_their_order(recover):
    calls = [{"name": "read_file", "arguments": {"path": name}} for name in ("b.txt", "a.txt")]
    assert recover("I'll look.\n" + tool_syntax.render_calls(calls) + "\n") == ("I'll look.", calls)
    blocks = "\n".join(f"<tool_call>{json.dumps(call)}</tool_call>" for call in calls)
    assert recover("I'll look.\n" + blocks) == ("I'll look.", calls)
    assert recover(tool_syntax.render_calls(calls)[len(tool_syntax.CALL_START) : -len(tool_syntax.CALL_END)]) == (
        "",
        calls,
    )


READ = '[read_file(path="a.txt")]'
MARKED = f"{tool_syntax.CALL_START}{READ}{tool_syntax.CALL_END}"
JSON = '<tool_call>{"name": "read_file", "arguments": {"path": "a.txt"}}</tool_call>'


def test_the_doubtful_texts_below_are_calls_without_their_one_doubt(recover):
    for text in (READ, MARKED, JSON, f"<think>Reading helps.</think>\n{READ}", f"```\nls\n```\n{MARKED}"):
        assert recover(text)[1] == [{"name": "read_file", "arguments": {"path": "a.txt"}}]


@pytest.mark.parametrize(
    "text",
    [
        "Plain words.",
        "",
        "[1] See the manual.",
        "[link](https://example.org)",
        "[x for x in range(3)]",
        # code that merely shows a call
        f"```\n{MARKED}\n```",
        f"```python\n{READ}\n```",
        f"```json\n{JSON}\n```",
        f"Write:\n```\n{MARKED}",
        f"~~~\n{JSON}",
        f"Write `{MARKED}",
        f"Write `{MARKED}`",
        f"    {READ}",
        f"\t{READ}",
        f"Write:\n\n    {MARKED}",
        # an unfinished thought
        f"<think>Perhaps {MARKED}",
        f"<think>Perhaps {JSON}",
        f"<think>Perhaps {MARKED}</think>",
        f"<think>{READ}</think>",
        # words around it
        f"{MARKED} is how one reads a file.",
        f"{JSON} is how.",
        f"{READ} is how.",
        f"You could say {READ}",
        f"{MARKED}{MARKED}",
        f"{READ}\n{MARKED}",
        f"{JSON}\nand then\n{JSON}",
        # broken
        MARKED.replace(")]", "]"),
        MARKED.removesuffix(tool_syntax.CALL_END),
        READ.removesuffix("]"),
        MARKED.replace('"a.txt"', "a.txt"),
        READ.replace('path="a.txt"', '"a.txt"'),
        READ.replace('"a.txt"', 'open("x")'),
        JSON.replace("}}", "}"),
        JSON.removesuffix("</tool_call>"),
        JSON.replace('"name"', '"function"'),
        JSON.replace('{"path": "a.txt"}', "[]"),
        JSON.replace('{"path": "a.txt"}', '{"path": "a.txt", "path": "b.txt"}'),
        JSON.replace('"read_file"', "7"),
        "<tool_call>[]</tool_call>",
        "<tool_call></tool_call>",
        f"<tool_call>{JSON}</tool_call>",
        JSON.replace("a.txt", "\\ud800"),
        # not on offer, or not what the schema takes
        READ.replace("read_file", "rm"),
        JSON.replace("read_file", "rm"),
        READ.replace("path=", "file="),
        READ.replace(")", ", verbose=true)"),
        READ.replace('"a.txt"', "7"),
        READ.replace(")", ", limit=5000)"),
        READ.replace(")", ", limit=1.5)"),
        READ.replace(")", ", offset=true)"),
        "[read_file()]",
        '[process(action="explode")]',
        JSON.replace('"a.txt"', '"a.txt", "limit": NaN'),
        JSON.replace('"a.txt"', '"a.txt", "limit": 1e999'),
        f'{MARKED[: -len("]" + tool_syntax.CALL_END)]}, rm(path="b")]{tool_syntax.CALL_END}',
        f"{JSON}{JSON.replace('read_file', 'rm')}",
    ],
)
def test_in_doubt_the_text_stays_text(recover, text):
    assert recover(text) is None


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-3, 3000)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.sampled_from(["replace", "list", "a.txt"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["path", "limit", "action", "mode", "todos", "id", "x"]), inner, max_size=4
            )
        ),
        max_leaves=8,
    ),
    st.sampled_from(sorted(TOOLS)),
)
@settings(max_examples=400, deadline=None)
def test_what_the_small_schema_check_accepts_jsonschema_accepts(plugin, value, name):
    problem = importlib.import_module("toolcall_net.recover").problem
    if problem(value, TOOLS[name]) is None:
        jsonschema.Draft202012Validator(TOOLS[name]).validate(value)


def test_a_schema_that_says_more_than_can_be_checked_is_not_called(plugin):
    problem = importlib.import_module("toolcall_net.recover").problem
    assert (
        problem({"a": "x"}, {"type": "object", "properties": {"a": {"type": "string", "pattern": "y"}}})
        == "a: the schema uses pattern"
    )
    assert problem({"a": 1}, {"type": "object", "properties": {"a": {"$ref": "#/x"}}}) == "a: the schema uses $ref"


def answer(plugin, content, finish="stop", tool_calls=None, tools=("read_file",)):
    """What the middleware makes of one answer: (content, tool calls, finish_reason)."""
    response = SimpleNamespace(
        choices=[SimpleNamespace(message=SimpleNamespace(content=content, tool_calls=tool_calls), finish_reason=finish)]
    )
    request = {"tools": [{"type": "function", "function": {"name": name, "parameters": TOOLS[name]}} for name in tools]}
    response = plugin.on_llm_execution(request=request, next_call=lambda _: response, session_id="s")
    return (
        response.choices[0].message.content,
        response.choices[0].message.tool_calls,
        response.choices[0].finish_reason,
    )


def test_only_tools_of_this_very_request_are_called(plugin):
    assert answer(plugin, READ)[2] == "tool_calls"
    assert answer(plugin, READ, tools=("terminal",)) == (READ, None, "stop")
    assert answer(plugin, READ, tools=()) == (READ, None, "stop")


def test_a_cut_off_answer_and_one_with_real_calls_are_left_alone(plugin):
    assert answer(plugin, READ, finish="length") == (READ, None, "length")
    assert answer(plugin, READ, tool_calls=["real"]) == (READ, ["real"], "stop")
    assert answer(plugin, None) == (None, None, "stop")
    stream = object()
    assert plugin.on_llm_execution(request={}, next_call=lambda _: stream) is stream


# In the real agent: one scripted model, eight runs of Hermes, each in a folder of its own.


def write_call(form) -> str:
    return form(path="effect.txt", content="nonce-4711")


SCENES = {  # prompt: (does the home have the net, what the model answers)
    "native without": (False, write_call(native)),
    "bare without": (False, write_call(bare)),
    "native with": (True, write_call(native)),
    "bare with": (True, write_call(bare)),
    "tagged with": (True, "I'll write it.\n" + write_call(tagged)),
    "fenced with": (True, f"This is how one writes a file:\n```\n{write_call(native)}\n```"),
    "broken with": (True, write_call(native).replace('"nonce-4711"', "nonce-4711")),
    "unknown with": (True, write_call(bare).replace("write_file", "write_disk")),
}


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """{prompt: (Run, what the folder holds afterwards, whether the last request had the tool's result)}."""
    hermes = agent.python().parent / "hermes"
    root = tmp_path_factory.mktemp("hermes")

    def model(body: dict) -> dict:
        asked = next(message["content"] for message in body["messages"] if message["role"] == "user")
        return {"content": "Done." if body["messages"][-1]["role"] == "tool" else SCENES[asked][1]}

    with scripted_server.serve([model] * 60, side_answer="A title") as server:
        homes = {}
        for installed in (False, True):
            homes[installed] = root / f"home-{installed}" / ".hermes"
            homes[installed].mkdir(parents=True)
            agent.configure(homes[installed], server.url)
        net.install(homes[True], hermes)

        def play(prompt: str):
            folder = root / prompt.replace(" ", "-")
            home = folder / "home" / ".hermes"
            shutil.copytree(homes[SCENES[prompt][0]], home)
            work = folder / "work"
            work.mkdir()
            run = agent.run(prompt, server.url, work, home=home)
            return run, {path.name: path.read_text() for path in work.iterdir()}

        with ThreadPoolExecutor(2) as pool:
            yield dict(zip(SCENES, pool.map(play, SCENES)))


@pytest.mark.parametrize("form", ["native", "bare"])
def test_without_the_net_the_call_is_printed_and_nothing_happens(scenes, form):
    run, files = scenes[f"{form} without"]
    assert files == {} and run.exit_code == 0
    assert run.answer.strip() == SCENES[f"{form} without"][1]


@pytest.mark.parametrize("form", FORMS)
def test_with_the_net_the_effect_is_on_disk(scenes, form):
    run, files = scenes[f"{form} with"]
    assert files == {"effect.txt": "nonce-4711"}, run
    assert run.answer == "Done.\n" and run.usage["api_calls"] == 2


@pytest.mark.parametrize("doubt", ["fenced", "broken", "unknown"])
def test_with_the_net_a_doubtful_call_is_printed_and_nothing_happens(scenes, doubt):
    run, files = scenes[f"{doubt} with"]
    assert files == {}
    assert run.answer.strip() == SCENES[f"{doubt} with"][1]


def test_installing_keeps_the_users_settings_and_can_be_undone(tmp_path):
    home = tmp_path / ".hermes"
    home.mkdir()
    (home / "config.yaml").write_text("model:\n  default: mine\nplugins:\n  enabled: [other]\n")
    flags = ["--home", str(home), "--hermes", str(agent.python().parent / "hermes")]
    ended = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "live_install_net.py"), *flags], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert f"undo: make uninstall-net HERMES_HOME={home}" in ended.stdout
    config = (home / "config.yaml").read_text()
    assert "toolcall-net" in config and "mine" in config and "other" in config
    assert (home / "plugins/toolcall-net/tool_syntax.py").read_bytes() == (
        ROOT / "scripts/kxl/chat/tool_syntax.py"
    ).read_bytes()
    ended = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "live_install_net.py"), *flags, "--remove"],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert not (home / "plugins/toolcall-net").exists() and "mine" in (home / "config.yaml").read_text()


def test_a_home_that_is_not_there_is_an_error_that_says_so(tmp_path):
    ended = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "live_install_net.py"), "--home", str(tmp_path / "nowhere")],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2 and "no such folder" in ended.stderr and not (tmp_path / "nowhere").exists()
