"""The tools in each request are Hermes Agent's own, to the letter."""

import copy

import pytest

import setup_hermes_tools
from kxl.base.cli import UserError
from kxl.base.files import read_json
from kxl.chat import hermes_tools

PIN = read_json(setup_hermes_tools.LOCK)


def test_the_committed_schemas_are_the_pinned_ones():
    setup_hermes_tools.check(hermes_tools.load(), PIN)
    assert len(hermes_tools.load()) == 24


def test_the_requirements_install_the_pinned_version():
    assert f"{PIN['package']}=={PIN['version']}\n" in setup_hermes_tools.REQUIREMENTS.read_text()


def test_the_fixed_surface_has_terminal_file_and_browser_tools_in_hermes_order():
    names = [tool["function"]["name"] for tool in hermes_tools.load(hermes_tools.FIXED_SURFACE)]
    assert names == list(hermes_tools.FIXED_SURFACE)
    assert {"terminal", "process", "read_file", "write_file", "patch", "search_files", "browser_navigate"} == set(names)


def test_one_changed_character_in_a_description_is_noticed():
    tools = copy.deepcopy(hermes_tools.load())
    tools[3]["function"]["description"] += " "
    with pytest.raises(UserError, match="sha256"):
        setup_hermes_tools.check(tools, PIN)


def test_another_order_is_noticed():
    with pytest.raises(UserError, match="sha256"):
        setup_hermes_tools.check(hermes_tools.load()[::-1], PIN)


def test_vanished_tools_are_counted_and_the_rest_named():
    with pytest.raises(UserError, match="gave 6 tools, .* expects 24; it gave: browser_back, "):
        setup_hermes_tools.check(hermes_tools.load()[:6], PIN)


def test_an_unknown_tool_name_is_an_error():
    with pytest.raises(UserError, match="browser_close"):
        hermes_tools.load(["terminal", "browser_close"])
