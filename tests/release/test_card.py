"""The model card: its front matter is what the hub reads, its numbers are the reports'."""

import copy
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import release_card
import release_summarize
from conftest import ROOT
from helpers import fabricated_reports as fabricated
from kxl.base.cli import UserError
from kxl.base.files import read_json, write_json
from kxl.eval import comparison
from kxl.release import usage

CONFIG = read_json(ROOT / "configs/tiny.json")


@pytest.fixture
def card(tmp_path, monkeypatch):
    """Summary and card from invented reports; return the card's text."""

    def run(config=CONFIG, kld=9.1e-3, failing=(), training=(), more=(), equivalence=None):
        config = copy.deepcopy(config)
        config["quants"], config["eval"]["suites"] = ["bf16", "q4kxl"], {"fixed_hermes_43": {"threshold": 40}}
        quants = fabricated.quants({"bf16": (19.8, 0.0, 0.0), "q4kxl": (7.6, kld, 0.22)})
        paths = fabricated.write(
            tmp_path,
            quants=quants,
            imatrix=fabricated.imatrix(),
            parity=fabricated.parity(),
            sizes=fabricated.sizes(),
            eval=[
                fabricated.evaluation("bf16"),
                fabricated.evaluation("bf16", backend="mlx"),
                fabricated.evaluation("q4kxl", failing=failing),
                *more,
            ],
        )
        write_json(tmp_path / "config.json", config)
        monkeypatch.setattr(
            sys,
            "argv",
            [
                "x",
                "--config",
                str(tmp_path / "config.json"),
                "--run",
                "mine",
                "--out",
                str(tmp_path / "summary.json"),
                *(w for n in ("quants", "imatrix", "parity", "sizes") for w in (f"--{n}", str(paths[n]))),
                *(w for p in paths["eval"] for w in ("--eval", str(p))),
            ],
        )
        release_summarize.main()
        monkeypatch.setattr(
            sys,
            "argv",
            [
                "x",
                "--config",
                str(tmp_path / "config.json"),
                "--summary",
                str(tmp_path / "summary.json"),
                "--out",
                str(tmp_path / "README.md"),
                "--model",
                str(ROOT / "models/tiny"),
                *(w for p in training for w in ("--training", str(p))),
                *(["--equivalence", str(equivalence)] if equivalence else []),
            ],
        )
        release_card.main()
        return (tmp_path / "README.md").read_text()

    return run


def front(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_the_front_matter_is_what_the_hub_reads(card):
    fields = front(card())
    assert (
        (fields["license"], fields["library_name"]) == ("apache-2.0", "gguf")
        and "tool-calling" in fields["tags"]
        and "base_model" not in fields
    )
    other = front(
        card({**CONFIG, **{k: read_json(ROOT / "configs/lfm2.5-8b-a1b.json")[k] for k in ("license", "base_model")}})
    )
    assert (other["license"], other["license_name"], other["base_model"]) == (
        "other",
        "lfm1.0",
        "LiquidAI/LFM2.5-8B-A1B",
    )
    license = {"id": "other", "name": "LFM Open License", "link": "https://example.org/license"}
    assert front(card({**CONFIG, "license": license}))["license_name"] == "LFM Open License"


def test_files_scores_and_intervals_come_from_the_reports(card):
    row = next(line for line in card(failing=[0]).splitlines() if line.startswith("| `hermes-kxl-tiny-Q4KXL.gguf`"))
    assert "7.60 MiB" in row and "0.00910" in row and "42/43 (88–100 %)" in row
    assert "0.01230" in card(kld=0.0123)


def test_the_files_stand_in_one_table_of_as_many_columns_as_its_head(card):
    lines = card().split("for who chooses one")[1].split("Scores are")[0].strip().splitlines()
    assert len(lines) == 2 + 2 and lines[1].startswith("|---")  # a blank line would end the table
    assert len({line.count("|") for line in lines}) == 1


def test_the_commands_to_fetch_are_taken_by_the_pinned_program_and_name_files_of_the_release(card):
    """With --help behind them they reach the parser, which refuses what it does not know, and no hub."""
    lines = [line for line in card().splitlines() if line.startswith("hf ")]
    assert len(lines) == 1
    words = shlex.split(lines[0])
    assert [words[place + 1] for place, word in enumerate(words) if word == "--include"] == [
        "hermes-kxl-tiny-Q4KXL.gguf",
        "SHA256SUMS",
    ]
    ended = subprocess.run([Path(sys.executable).with_name("hf"), *words[1:], "--help"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_each_tag_finds_one_file_by_the_rule_of_the_pinned_llama_cpp(card):
    """common/download.cpp: the tag, then a point or dash, anywhere in a name without "imatrix"."""
    text = card()
    files = ["imatrix.gguf", *re.findall(r"^\| \d+ GiB \| `([^`]+)`", text, flags=re.MULTILINE)]
    tags = re.findall(r"`ORG/NAME:(\w+)`", text)
    assert tags == ["BF16", "Q4KXL"] and "llama-server -hf ORG/NAME:Q4KXL -c 65536 --jinja" in text
    for tag in tags:
        pattern = re.compile(tag + "[.-]", re.IGNORECASE)
        assert len([name for name in files if "imatrix" not in name and pattern.search(name)]) == 1


def test_the_example_is_json_and_the_prompt_is_the_templates_own(card):
    text = card()
    request = json.loads(text.split("-d '\n")[1].split("'")[0])
    assert request["temperature"] == 0 and request["tools"][0]["function"]["name"] == "read_file"
    assert '<|tool_call_start|>[read_file(path="notes.txt")]<|tool_call_end|>' in text
    sampled = {**CONFIG, "eval": {**CONFIG["eval"], "sampling": {"temperature": 0.2, "repetition_penalty": 1.05}}}
    request = json.loads(card(sampled).split("-d '\n")[1].split("'")[0])
    assert request["temperature"] == 0.2 and request["repeat_penalty"] == 1.05


def test_hyperparameters_stand_last_and_stock_types_beside_the_files(card, tmp_path):
    write_json(tmp_path / "training.json", {"settings": {"steps": 1234}, "results": {"history": []}})
    text = card(training=[tmp_path / "training.json"])
    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings[0] == "## Which file, and how to run it" and headings[-1] == "## How it was made"
    assert "computed from" in text and "`imatrix.gguf` is the importance matrix" in text


@pytest.mark.parametrize("gib, memory", [(5.69, "12 GiB"), (8.58, "12 GiB"), (15.5, "24 GiB"), (400, "501 GiB")])
def test_the_memory_is_the_file_a_quarter_of_it_and_a_gib_rounded_up(gib, memory):
    assert usage.memory(int(gib * 2**30)) == memory


def test_every_suite_that_was_asked_is_told_with_its_false_calls_gated_or_not(card):
    hard = fabricated.evaluation("q4kxl", "hard_157", failing=[0, 30, 31])
    text = card(more=[hard, fabricated.live(passed=15)])
    told = text.split("## Every suite")[1].splitlines()
    rows = [line for line in told if line.startswith(("| fixed_hermes_43 | partly seen |", "| hard_157 |"))]
    assert len(rows) == 4 and sum("|  | 0 of 10 | 0 | at least 40 |" in row for row in rows) == 3
    assert "| 40/43 (81–98 %) |  | 2 of 10 | 0 | none |" in rows[-1]
    assert "Where no tool is wanted, `hermes-kxl-tiny-Q4KXL.gguf` calls one in 2 of 10 cases of hard_157." in text
    assert "calls one in" not in card()


def test_the_agents_tasks_are_told_by_kind_in_each_table_and_as_they_came_out(card):
    text = card(more=[fabricated.live(passed=10)])
    able = text.split("## What it does well")[1].split("## Files")[0]
    assert "| one call | Hermes Agent | 10/10 (72–100 %) | yes |" in able
    assert "| wrong paths | Hermes Agent | 0/6 (0–39 %) | no |" in able
    assert able.index("| yes |") < able.index("| no |"), "what it does well comes first"
    checked = text.split("## Every suite")[1]
    assert "kinds it is made for, 1 trial |  | `hermes-kxl-tiny-Q4KXL.gguf` | llama-server | 10/10" in checked
    assert "| 10 of 16 tries |" in checked and "hidden instructions not obeyed" in checked
    assert "| Hermes Agent" not in card() and "| in Hermes Agent" not in card()


def test_a_file_is_called_equivalent_only_where_the_test_says_so(card, tmp_path, monkeypatch):
    whole = comparison.judged(400, [400, 399], ["s: c1"], [], 399, 0, 0.02)
    alike = comparison.judged(43, [43, 43], [], [], 43, 0, 0.02)
    for one, says in ((whole, "equivalent within 2 points"), (alike, "equivalence within 2 points not shown")):
        results = {"q4kxl": {"all": one, "suites": {}, "left_out": {}}}
        write_json(tmp_path / "equivalence.json", {"settings": {"margin": 0.02}, "results": results})
        text = card(equivalence=tmp_path / "equivalence.json")
        row = next(line for line in text.splitlines() if line.startswith("| `hermes-kxl-tiny-Q4KXL.gguf`"))
        assert f"| {says} |" in row and f"`hermes-kxl-tiny-Q4KXL.gguf`: {says};" in text
    assert "| not compared |" in card()


def test_training_settings_are_named(card, tmp_path):
    write_json(
        tmp_path / "training.json",
        {"settings": {"steps": 1234, "model": {}}, "results": {"history": [{"tokens": 5000000, "loss": 0.41}]}},
    )
    text = card(training=[tmp_path / "training.json"])
    assert "- steps: 1234" in text and "- tokens: 5,000,000" in text


@pytest.mark.parametrize(
    "license, complaint",
    [
        (None, "license.id is missing"),
        ({"id": ""}, "license.id is missing"),
        ({"id": "other", "name": None, "link": None}, "license.name and license.link"),
    ],
)
def test_no_card_without_a_licence(card, license, complaint):
    with pytest.raises(UserError, match=complaint):
        card({**CONFIG, "license": license})
