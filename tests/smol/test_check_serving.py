"""What a served model is refused for: too few structured calls of the right tool."""

import contextlib
import json
import sys

import pytest

import smol_check_serving
from kxl.base.cli import UserError
from kxl.base.files import read_json, write_json


@pytest.mark.parametrize("right, passes", [(9, True), (8, False)])
def test_a_served_quant_that_calls_too_few_right_tools_is_refused_and_its_answers_are_kept(
    tmp_path, monkeypatch, right, passes
):
    write_json(tmp_path / "config.json", {"emission": {"min_right_tool": 0.9}})
    rows = [
        {"id": str(i), "kind": "tool", "messages": [{"role": "user", "content": "x"}], "tools": [], "expected": ["a"]}
        for i in range(10)
    ]
    (tmp_path / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "q.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(smol_check_serving, "serve", lambda args, log: contextlib.nullcontext())
    monkeypatch.setattr(smol_check_serving.model_client, "Client", lambda *given: None)
    monkeypatch.setattr(
        smol_check_serving,
        "ask",
        lambda client, row, most: {"structured": True, "right_tool": int(row["id"]) < right, "leaks": [], "errors": []},
    )
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "smol_check_serving.py",
            *map(
                str,
                (
                    "--config",
                    tmp_path / "config.json",
                    "--data",
                    tmp_path,
                    "--gguf",
                    tmp_path / "q.gguf",
                    "--out",
                    tmp_path / "serving.q.json",
                ),
            ),
        ],
    )
    if passes:
        smol_check_serving.main()
    else:
        with pytest.raises(UserError, match="8 of the right tool, 90% are required"):
            smol_check_serving.main()
    assert (tmp_path / "serving.q.json").exists() == passes
    assert (
        read_json(tmp_path / ("serving.q.json" if passes else "serving.q.failed.json"))["results"]["right_tool"]
        == right
    )
