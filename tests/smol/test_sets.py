"""The judging sets: apart from each other and from the training, three to eight tools, each answer possible."""

import random
import re
from collections import Counter

import pytest

from conftest import ROOT
from kxl.base.cli import UserError
from kxl.base.files import read_json, write_json
from kxl.chat import schemas
from kxl.smol import domains, masking, requests, sets

ROWS = {split: sets.read(ROOT / "datasets" / "smol" / f"{split}.json") for split in ("dev", "test")}


def of(split: str, *kinds: str) -> list[dict]:
    return [row for row in ROWS[split] if row["kind"] in kinds]


def asked(rows: list[dict]) -> set[str]:
    return {row["messages"][-1]["content"].strip().lower() for row in rows}


def offered(rows: list[dict]) -> set[str]:
    return {name for row in rows for name in sets.names(row)}


def test_the_test_set_is_as_large_as_its_numbers_are_published_for():
    assert len(of("test", "tool")) >= 300 and len(of("test", *sets.RESTRAINT)) >= 300
    assert len(of("test", "ordinary")) >= 100
    counts = Counter(len(row["tools"]) for row in of("test", "tool"))
    assert min(counts) == 3 and max(counts) <= 8 and all(counts[number] for number in range(3, 8))


def test_development_test_and_training_share_no_tool_and_no_request():
    assert not offered(ROWS["dev"]) & offered(ROWS["test"]) and not asked(ROWS["dev"]) & asked(ROWS["test"])
    trained = {name for domain in domains.data()["domains"].values() for name in domain["tools"]}
    assert not (trained | set(requests.data()["tools"])) & (offered(ROWS["dev"]) | offered(ROWS["test"]))


def test_ordinary_prompts_share_no_template_with_the_training():
    patterns = [re.escape(wording).replace(re.escape("{}"), ".+") for wording in requests.data()["questions"]]
    told = {prompt.lower() for prompt in requests.data()["small_talk"]}
    for prompt in asked(of("dev", "ordinary") + of("test", "ordinary")):
        assert prompt not in told
        assert not any(re.fullmatch(pattern, prompt, re.IGNORECASE) for pattern in patterns), prompt


@pytest.mark.parametrize("split", ["dev", "test"])
def test_every_tool_prompt_has_one_accepted_call_of_an_offered_tool(split):
    for row in of(split, "tool"):
        (expected,) = row["expected"]
        tools = {tool["function"]["name"]: tool["function"] for tool in row["tools"]}
        assert len(tools) == len(row["tools"]) and expected["name"] in tools
        known = set(schemas.properties(tools[expected["name"]]["parameters"]))
        assert set(expected["arguments"]) <= known and all(map(isinstance_list, expected["arguments"].values()))
        if row["source"] == "own":
            call = {"name": expected["name"], "arguments": {key: one[0] for key, one in expected["arguments"].items()}}
            assert not schemas.problems(tools[call["name"]]["parameters"], call["arguments"])
            assert sets.right_arguments(call, expected)


def isinstance_list(value) -> bool:
    return isinstance(value, list) and bool(value)


def test_bfcl_is_parted_by_tool_and_request_and_no_entry_is_lost():
    def entry(name, tools, request):
        return {
            "id": name,
            "category": "simple_python",
            "tools": [{"type": "function", "function": {"name": tool}} for tool in tools],
            "messages": [{"role": "user", "content": request}],
        }

    found = [entry(str(i), [f"t{i}", f"t{i % 30}"], f"do {i % 50}") for i in range(300)]
    parts = sets.parted(found)
    assert sorted(int(row["id"]) for rows in parts.values() for row in rows) == list(range(300))
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert not offered(parts[one]) & offered(parts[other]) and not asked(parts[one]) & asked(parts[other])
    alone = sets.parted([entry(str(i), [f"own{i}"], f"ask {i}") for i in range(300)])
    assert all(len(rows) > 30 for rows in alone.values())
    own = next(iter(requests.data()["tools"]))
    assert sets.parted([entry("0", [own], "x"), entry("1", [own, "q"], "y")])["train"] != []


def test_distractors_are_alike_and_none_does_the_same():
    def tool(name, text):
        return {"type": "function", "function": {"name": name, "description": text}}

    right = tool("book_flight", "Book a flight between two airports.")
    same = tool("flight_book", "Book a flight between two airports.")
    near = tool("delay_report", "Delays, gates and terminals of every flight today, with status.")
    far = tool("boil_egg", "Cook breakfast eggs softly.")
    others = [tool(f"other_{i}", f"Something else number{i} entirely{i}.") for i in range(20)]
    found = sets.Pool([right, same, near, far, *others]).like([right], "book_flight")
    assert near in found and same not in found and right not in found and far not in found


def test_masking_changes_names_alone_and_the_answer_with_them():
    for row in of("test", "tool")[:40]:
        hidden = masking.masked(row, random.Random(1))
        assert not set(sets.names(row)) & set(sets.names(hidden)) and len(set(sets.names(hidden))) == len(row["tools"])
        for tool, new in zip(row["tools"], hidden["tools"]):
            old, new = tool["function"], new["function"]
            assert old["description"] == new["description"]
            before, after = (schemas.properties(one["parameters"]) for one in (old, new))
            assert list(before.values()) == list(after.values()) and not set(before) & set(after)
        (expected,), (again,) = row["expected"], hidden["expected"]
        assert list(expected["arguments"].values()) == list(again["arguments"].values())
        place = sets.names(row).index(expected["name"])
        assert sets.names(hidden)[place] == again["name"]


def test_our_requests_name_what_they_ask_for():
    rng = random.Random(3)
    for domain, content in domains.data()["domains"].items():
        for name, declared in content["tools"].items():
            for _ in range(4):
                request, arguments = domains.request(domain, name, rng)
                parameters = domains.tool(name, declared)["function"]["parameters"]
                assert not schemas.problems(parameters, arguments), (name, request, arguments)
                values = [value if isinstance(value, list) else [value] for value in arguments.values()]
                assert all(str(one) in request for value in values for one in value if one is not True)
                assert "{" not in request


def test_a_file_that_is_no_set_is_refused(tmp_path):
    write_json(tmp_path / "x.json", {"prompts": []})
    with pytest.raises(UserError, match="no judging set"):
        sets.read(tmp_path / "x.json")
    assert read_json(tmp_path / "x.json") == {"prompts": []}
