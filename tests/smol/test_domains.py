"""Domains of several files: one world of names, arrays and booleans as people say them."""

import random

import pytest

from kxl.base.cli import UserError
from kxl.base.files import write_json
from kxl.smol import domains

RENT = {
    "is": "Rent tools for some days.",
    "args": {
        "items": ["array of string", "What to rent", "some:machine"],
        "days": ["integer", "For how many days", "int:2-9"],
        "delivery?": ["boolean", "Bring it to the door", "true"],
    },
    "ask": ["bring me {items} for {days} days {delivery!}, please"],
    "lacks": {"days": ["I need {items}"]},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two files of domains in the data folder's place, each with a tool."""

    def use(first: dict, second: dict) -> None:
        for name, tools in (("one", first), ("two", second)):
            pools = {"machine": ["a drill", "a saw", "a mixer"]} if name == "one" else {}
            write_json(tmp_path / f"{name}.json", {"pools": pools, "domains": {name: {"tools": tools, "near": []}}})
        monkeypatch.setattr(domains, "DATA", tmp_path)
        domains.data.cache_clear()

    yield use
    domains.data.cache_clear()


def test_an_array_is_said_in_words_and_a_boolean_by_a_wording(folder):
    folder({"rent": RENT}, {})
    request, arguments = domains.request("one", "rent", random.Random(1))
    assert 2 <= len(arguments["items"]) == len(set(arguments["items"])) and arguments["delivery"] is True
    said = ", ".join(arguments["items"][:-1]) + " and " + arguments["items"][-1]
    assert request == f"bring me {said} for {arguments['days']} days , please".replace("  ", " ")
    declared = domains.tool("rent", RENT)["function"]["parameters"]
    assert declared["properties"]["items"] == {
        "type": "array", "description": "What to rent", "items": {"type": "string"},
    }  # fmt: skip
    assert declared["required"] == ["items", "days"]


def test_a_boolean_that_no_word_asks_for_is_not_set(folder):
    folder({"rent": {**RENT, "ask": ["{items}, {days} days"]}}, {})
    assert set(domains.request("one", "rent", random.Random(1))[1]) == {"items", "days"}


def test_a_tool_that_two_domains_have_is_refused_with_both_names(folder):
    folder({"rent": RENT}, {"rent": RENT})
    with pytest.raises(UserError, match=r"two\.json: two has the tool 'rent', and so has one"):
        domains.data()
