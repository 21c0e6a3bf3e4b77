"""The native call syntax: what we write, every parser downstream reads back; what they refuse, we refuse."""

import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.strategies import calls
from kxl.chat import tool_syntax
from kxl.chat.tool_syntax import CALL_END, CALL_START, find_leaks, parse, render_calls
from kxl.eval import server as eval_server
from kxl.setup import random_gguf

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "",
            "parameters": {
                "type": "object",
                "properties": {"s": {"type": "string"}, "t": {"type": "string"}, "v": {}, "n": {"type": "integer"}},
            },
        },
    }
    for name in ("first", "second")
]

# Imports and a busy machine make single examples slow; that is no failure.
unhurried = settings(deadline=None)
with_server = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


def block(inside: str) -> str:
    return CALL_START + inside + CALL_END


@unhurried
@given(calls)
def test_any_argument_survives_writing_and_reading(calls):
    parsed = parse(render_calls(calls))
    assert parsed.errors == [] and parsed.leaks == [] and parsed.content == ""
    # As JSON text, so that 1, 1.0 and true stay apart.
    assert json.dumps(parsed.calls, sort_keys=True) == json.dumps(calls, sort_keys=True)


@unhurried
@given(calls)
def test_chat_template_writes_exactly_what_we_write(calls):
    from transformers.utils.chat_template_utils import render_jinja_template

    message = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": call} for call in calls],
    }
    conversation = [{"role": "user", "content": "hi"}, message]
    rendered, _ = render_jinja_template([conversation], chat_template=random_gguf.TEMPLATE.read_text(), bos_token="")
    assert rendered[0] == f"<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n{render_calls(calls)}<|im_end|>\n"


@unhurried
@given(calls)
def test_any_argument_survives_the_mlx_server(calls):
    from mlx_lm.tool_parsers import pythonic

    inside = render_calls(calls).removeprefix(CALL_START).removesuffix(CALL_END)
    parsed = pythonic.parse_tool_call(inside)
    assert (parsed if isinstance(parsed, list) else [parsed]) == calls


@pytest.fixture(scope="module")
def read_by_llama_server(llama_bin, tmp_path_factory):
    """A function that lets llama-server parse an assistant message: calls, or None where it refuses.

    The text is given as the beginning of the assistant's turn and the model is made to end the turn at
    once, so that the server parses exactly this text.
    """
    folder = tmp_path_factory.mktemp("parser")
    gguf = random_gguf.write(folder / "random.gguf")
    # One thread: two that wait for each other crawl when anything else runs.
    with eval_server.llama_server(gguf, folder / "server.log", context=8192, extra=("--threads", "1")) as server:

        def read(text: str):
            reply = server.http.post(
                server.url + "/v1/chat/completions",
                timeout=60,
                json={
                    "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": text}],
                    "tools": TOOLS,
                    "parallel_tool_calls": True,
                    "max_tokens": 1,
                    "temperature": 0,
                    "add_generation_prompt": False,
                    "continue_final_message": "content",
                    "logit_bias": [[random_gguf.SPECIAL.index("<|im_end|>"), 1e6]],
                },
            )
            if reply.status_code == 500 and "does not match the expected" in reply.text:
                return None
            assert reply.status_code == 200, reply.text
            try:
                return [
                    {"name": call["function"]["name"], "arguments": json.loads(call["function"]["arguments"])}
                    for call in reply.json()["choices"][0]["message"].get("tool_calls", [])
                ]
            except json.JSONDecodeError:
                return None

        yield read


@with_server
@given(calls=calls)
def test_any_argument_survives_llama_server(read_by_llama_server, calls):
    assert read_by_llama_server(render_calls(calls)) == calls


# Whether llama.cpp reads the inside of a block; the reasons are its grammar's.
FORMS = {
    '[first(s="x")]': True,
    "[first(s='x')]": True,
    "[first(s='it\\'s')]": True,
    "[first(s='say \"hi\"')]": True,
    '[first(s="it\'s")]': True,
    '[first(s="\\/ \\b\\f\\n\\r\\t \\u00e9 \\ud83d\\ude00")]': True,
    "[first(v=True), second(v=None)]": True,
    "[first(v=true, n=3)]": True,
    "[first(v={'a': [1, 2.5, -3e2], 'b': {}})]": True,
    '[ first( s="x" ) ]': True,
    "[first(v=[1] , n=2)]": True,
    '[first(s="x",t="y")]': True,
    '[first("x")]': False,  # positional
    '[first(s = "x")]': False,  # spaces around =
    '[first(s ="x")]': False,
    '[first(s= "x")]': False,
    '[first (s="x")]': False,
    '[first(s="x" , t="y")]': False,  # space before a comma
    '[first(s="x",)]': False,  # trailing comma
    "[first(v=(1, 2))]": False,  # tuple
    "[first(v=[1 ,2])]": False,
    "[first(v=1_000)]": False,
    "[first(v=01)]": False,
    "[first(v=.5)]": False,
    "[first(v=+1)]": False,
    "[first(v=0x10)]": False,
    '[first(s="""x""")]': False,
    '[first(s="\\d")]': False,  # an escape that JSON does not know
    '[first(s="\\\'")]': False,
    "[first(s='\\\"')]": False,
    '[first(s="a\nb")]': False,  # a raw control character
    '[first(s="x)]': False,
    '[first(s="x")': False,
    'first(s="x")': False,
    "[]": False,
    "[first(v=yes)]": False,
    '[first(v="a" "b")]': False,
    '[first(s="x") second(s="y")]': False,
    "[first(v={1: 2})]": False,
    '[first(v={"a": 1,})]': False,
    "[first(**{})]": False,
}


@pytest.mark.parametrize("form", FORMS)
def test_our_parser_is_as_strict_as_llama_server(read_by_llama_server, form):
    assert (parse(block(form)).errors == []) == FORMS[form]
    assert (read_by_llama_server(block(form)) is not None) == FORMS[form]


@with_server
@given(calls=calls, data=st.data())
def test_our_parser_and_llama_server_agree_on_damaged_calls(read_by_llama_server, calls, data):
    inside = render_calls(calls).removeprefix(CALL_START).removesuffix(CALL_END)
    at = data.draw(st.integers(0, len(inside)))
    cut = data.draw(st.integers(0, 2))
    damaged = (
        inside[:at]
        + data.draw(st.sampled_from(["", " ", ",", "'", '"', "\\", "(", "]", "=", "1", "x", "{"]))
        + inside[at + cut :]
    )
    parsed, read = parse(block(damaged)), read_by_llama_server(block(damaged))
    # Beyond syntax llama-server also knows the tools: their names, their arguments, which are strings.
    if parsed.errors == [] and all(_fits_tools(call) for call in parsed.calls):
        assert read == parsed.calls
    elif parsed.errors:
        # It takes a number beyond all floats for infinity, which JSON cannot say; we do not.
        known = ("one value for", "a finite number")
        assert read is None or any(words in error for error in parsed.errors for words in known)
    else:
        assert read is None


def _fits_tools(call: dict) -> bool:
    known = TOOLS[0]["function"]["parameters"]["properties"]
    return (
        call["name"] in ("first", "second")
        and bool(call["arguments"])
        and all(
            name in known and (known[name].get("type") != "string" or isinstance(value, str))
            for name, value in call["arguments"].items()
        )
    )


def test_a_quote_cannot_inject_an_argument():
    attack = {"name": "first", "arguments": {"s": "a', n=5, u='b", "t": 'a", n=5, u="b'}}
    assert parse(render_calls([attack])).calls == [attack]


def test_text_before_a_call_is_kept_and_text_after_it_is_an_error():
    assert parse("Sure. " + render_calls([{"name": "first", "arguments": {}}])).content == "Sure. "
    after = parse(render_calls([{"name": "first", "arguments": {}}]) + " done")
    assert after.errors == ["text after the call block at character 45"] and after.content == " done"


def test_a_second_block_is_an_error_but_its_call_is_not_lost():
    both = parse(
        render_calls([{"name": "first", "arguments": {}}]) + render_calls([{"name": "second", "arguments": {}}])
    )
    assert [call["name"] for call in both.calls] == ["first", "second"]
    assert len(both.errors) == 1 and "second call block" in both.errors[0]


def test_a_truncated_call_is_an_error_that_says_where():
    assert parse(CALL_START + '[first(s="x", t=').errors == [
        "expected a string, number, list, dict, true, false or null at character 35, found the end of the message"
    ]


def test_deep_nesting_is_an_error_and_not_a_crash():
    assert "nested" in parse(block(f"[first(v={'[' * 10000}{']' * 10000})]")).errors[0]


def test_end_of_turn_marker_is_not_text():
    assert parse("Hello.<|im_end|>").content == "Hello."


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800"])
def test_what_has_no_json_or_utf8_form_is_refused_when_writing(value):
    with pytest.raises(ValueError):
        render_calls([{"name": "first", "arguments": {"v": value}}])


@pytest.mark.parametrize(
    "text",
    [
        # LFM's own, with and without its tokens
        '<|tool_call_start|>[terminal(command="ls")]',
        '[terminal(command="ls")]<|tool_call_end|>',
        '[terminal(command="ls")]',
        'I will run terminal(command="ls") now.',
        "[read_file(path='a')]",
        '[terminal("ls -la")]',
        "[browser_snapshot()]",
        "browser_snapshot()",
        '```python\nprint(default_api.terminal(command="ls"))\n```',
        'I will use terminal("ls") for that.',
        'terminal({"command": "ls"})',
        'read_file\n{"path": "a.txt"}',
        # JSON, whole, broken, sorted, nested, in Python's quotes
        '<tool_call>{"name": "terminal", "arguments": {"command": "ls"}}</tool_call>',
        "<tool_call>\n",
        '{"name": "terminal", "arguments": {"command": "ls"}}',
        '{"name": "terminal", "arguments": {"command": "l',
        "{'name': 'terminal', 'arguments': {'command': 'ls'}}",
        '```json\n{"name":"terminal","parameters":{"command":"ls"}}\n```',
        '{"arguments": {"command": "ls"}, "name": "terminal"}',
        '{"arguments": {"command": "echo }"}, "name": "terminal"}',
        '{"type": "function", "name": "terminal", "parameters": {"command": "ls"}}',
        '{"type": "function", "name": "browser_snapshot"}',
        '{"tool_calls": [{"type": "function", "function": {"name": "terminal", "arguments": "{}"}}]}',
        '{"type": "tool_use", "id": "t1", "name": "terminal", "input": {"command": "ls"}}',
        '{"tool": "terminal", "tool_input": {"command": "ls"}}',
        '{"tool_uses": [{"recipient_name": "functions.terminal", "parameters": {"command": "ls"}}]}',
        # other models' tags and tokens
        "<function=terminal><parameter=command>ls",
        '<function_calls>\n<invoke name="terminal">\n<parameter name="command">ls</parameter>\n</invoke>',
        '<invoke name="terminal">',
        "<function>terminal</function>\n<parameters>ls</parameters>",
        "<tool_use>\n<tool_name>terminal</tool_name>\n<command>ls</command>\n</tool_use>",
        "<tool_use><name>terminal</name></tool_use>",
        "<read_file>\n<path>a.txt</path>\n</read_file>",
        "[TOOL_CALLS]",
        '<|python_tag|>{"name": "terminal", "parameters": {"command": "ls"}}',
        '<|python_tag|>terminal.call(command="ls")',
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>terminal",
        "<|tool_calls_section_begin|>",
        '<minimax:tool_call>\n<invoke name="terminal">',
        '<|channel|>commentary to=functions.terminal <|message|>{"command": "ls"}',
        "call:terminal{command:ls}",
        "Thought: list it\nAction: terminal\nAction Input: ls",
    ],
)
def test_a_call_written_as_text_is_a_leak(text):
    assert find_leaks(text, ["terminal", "read_file", "browser_snapshot"])


@pytest.mark.parametrize(
    "text",
    [
        "`ls -la` lists all files, one per line.",
        "Use print('hi') or open(path, mode='r') in Python.",
        "See [the docs](https://docs.python.org/3/) and [x] done.",
        'The tool returned {"output": "ok", "exit_code": 0}.',
        "The terminal (a command line) and read_file are tools.",
        "A list like [1, 2, f(x)] is fine.",
        "",
        # code that calls what is not on offer
        "Keyword arguments look like this: `points = [Point(x=1, y=2), Point(x=3, y=4)]`.",
        "[Point(x=1)]",
        "handlers = [StreamHandler(), FileHandler(filename='a.log')]",
        '{"name": "Ada", "parameters": {"age": 36}}',
        '{"arguments": {"verbose": true}}',
        "<function> is an XML element here, <tool_use> another.",
        # what is on offer, but not called
        "I have terminal() and read_file() among my tools.",
        '{"name": "terminal", "description": "Runs a command.", "parameters": {"type": "object", "properties": {}}}',
        '{"name": "terminal", "enabled": true}',
        '{"terminal": {"shell": "bash"}}',
        "A model writes `<tool_call>` before a call.",
        "def read_file(path='a.txt'):\n    return open(path).read()",
        "content = self.read_file(path='a.txt')",
        'with patch("requests.get") as get:\n    text = process("a")',
        '@patch("requests.get")\ndef test(get): ...',
        "rows = [process(row) for row in rows]",
        "Action: terminal velocity is reached.",
    ],
)
def test_ordinary_text_and_code_are_no_leaks(text):
    assert find_leaks(text, ["terminal", "read_file", "patch", "process"]) == []


def test_without_a_list_of_tools_the_shape_of_a_call_is_enough():
    assert find_leaks('[anything(at="all")]') and find_leaks('{"name": "any", "arguments": {}}')
    assert find_leaks('[anything(at="all")]', []) == [], "an empty list offers no tool"


def test_leaks_of_a_long_text_are_found_at_once():
    started = time.monotonic()
    for piece in (
        "terminal ",
        "<tool ",
        '{"name": "terminal", ',
        "[terminal(",
        "{" * 50,
        "`",
        "Action: terminal\n",
        '"',
    ):
        find_leaks(piece * (40_000 // len(piece)), ["terminal", "read_file"])
    assert time.monotonic() - started < 10


def test_module_needs_nothing_but_the_standard_library():
    """A Hermes plugin ships this one file."""
    import ast
    import sys
    from pathlib import Path

    tree = ast.parse(Path(tool_syntax.__file__).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names
