"""BFCL's questions and answers as OpenAI rows."""

import json
import zipfile

import pytest

from kxl.base.cli import UserError
from kxl.eval import bfcl

FUNCTION = {
    "name": "bank.rate",
    "description": "Rates.",
    "parameters": {
        "type": "dict",
        "required": ["sum"],
        "properties": {
            "sum": {"type": "float", "description": "Sum"},
            "type": {"type": "string", "description": "a parameter called type", "optional": True},
            "range": {"type": "tuple", "items": {"type": "integer"}},
            "more": {"type": "any"},
            "who": {"type": "dict", "properties": {"age": {"type": "integer"}}},
        },
    },
}


def wheel(tmp_path, truth, turns=(("user", "How much?"),)):
    path = tmp_path / "w.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for category in bfcl.ANSWERED + bfcl.UNANSWERABLE:
            entry = {
                "id": f"{category}_0",
                "question": [[{"role": role, "content": text} for role, text in turns]],
                "function": [FUNCTION],
            }
            archive.writestr(
                f"bfcl_eval/data/BFCL_v4_{category}.json",
                json.dumps(entry) if category in ("multiple", "irrelevance") else "",
            )
            archive.writestr(
                f"bfcl_eval/data/possible_answer/BFCL_v4_{category}.json",
                json.dumps({"id": entry["id"], "ground_truth": truth}) if category == "multiple" else "",
            )
    return path


def test_a_question_becomes_a_row_with_json_schema_types_and_a_plain_name(tmp_path):
    rows, left_out = bfcl.answered(
        wheel(tmp_path, [{"bank.rate": {"sum": [5.5, 5], "type": ["", "x"], "range": [[1, 2]], "who": [{"age": [3]}]}}])
    )
    (row,), call = rows, rows[0]["messages"][-1]["tool_calls"][0]["function"]
    assert call == {"name": "bank_rate", "arguments": {"sum": 5.5, "range": [1, 2], "who": {"age": 3}}} and not left_out
    properties = row["tools"][0]["function"]["parameters"]["properties"]
    assert properties["sum"]["type"] == "number" and properties["range"]["type"] == "array" and properties["more"] == {}
    assert properties["type"] == {"type": "string", "description": "a parameter called type"}


@pytest.mark.parametrize(
    "truth, turns, reason",
    [
        ([{"bank.rate": {"sum": ["five"]}}], (("user", "?"),), "arguments not valid by the tool's schema"),
        ([{"bank.rate": {}}], (("user", "?"),), "arguments not valid by the tool's schema"),
        ([{"other": {}}], (("user", "?"),), "calls a tool that is not offered"),
        ([], (("user", "?"),), "no answer"),
        ([{"bank.rate": {"sum": [1]}}], (("user", "?"), ("assistant", "!"), ("user", "?")), "several turns"),
    ],
)
def test_what_cannot_be_a_row_is_left_out_and_counted(tmp_path, truth, turns, reason):
    assert bfcl.answered(wheel(tmp_path, truth, turns)) == ([], {reason: 1})


def test_questions_without_an_answer_keep_their_tools(tmp_path):
    (row,) = bfcl.unanswerable(wheel(tmp_path, []))
    assert (
        row["id"] == "bfcl/irrelevance_0"
        and row["messages"][-1]["role"] == "user"
        and row["tools"][0]["function"]["name"] == "bank_rate"
    )


def test_another_wheel_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as archive:
        archive.writestr("other.txt", "")
    with pytest.raises(UserError, match="holds no bfcl_eval/data"):
        bfcl.answered(tmp_path / "w.whl")
