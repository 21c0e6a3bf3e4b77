"""A chat template that loops, divides by zero or calls itself is one error that comes soon, in every stage."""

import json
import shutil
import subprocess
import sys
import time

import pytest

from conftest import ROOT
from helpers import traces
from kxl.base.cli import UserError
from kxl.base.files import read_json, write_json
from kxl.chat import loss_mask, rendering

pytestmark = pytest.mark.minutes

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a * b %}{% endfor %}{% endfor %}"
TEMPLATES = {
    "loops": (LOOP, "takes more than 2 s for one conversation; it loops"),
    "loops only over long chats": ("{% if messages|length > 1 %}" + LOOP + "{% endif %}", "it loops"),
    "divides by zero": ("{{ 1 / 0 }}", "division by zero"),
    "takes the rest by zero": ("{{ messages|length % 0 }}", "modulo"),
    "calls itself": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "calls itself without end"),
    "includes itself": ("{% include 'self' %}", "cannot render this conversation"),
    "raises to a power": ("{{ 9**9**9 }}", "raises to a power in line 1"),
    "repeats a text": ("{{ 'a' * 99999999999 }}", "has the number 99999999999 in line 1"),
    "counts too far": ("{% for a in range(10000000) %}{% endfor %}", "Range too big"),
    "is no Jinja": ("{% for %}", "is no Jinja, line 1"),
    "looks for what is not there": ("{{ messages[99].content.x }}", "cannot render this conversation"),
    "reaches for Python": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "cannot render this conversation"),
    "raises": ("{{ raise_exception('no tools here') }}", "no tools here"),
}


@pytest.fixture
def model(tmp_path):
    """A folder with the tiny model's tokenizer and whatever template a test writes into it."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "models/tiny" / name, folder)
    return folder


CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


@pytest.mark.parametrize("kind", TEMPLATES)
def test_a_bad_template_is_named_soon(model, kind):
    template, complaint = TEMPLATES[kind]
    (model / "chat_template.jinja").write_text(template)
    chat = loss_mask.load(model)
    for _ in range(20):  # a thousand rows do not take a thousand times as long
        started = time.process_time()
        with pytest.raises(loss_mask.MaskError, match=complaint):
            chat.render(CHAT)
        assert time.process_time() - started < 4
    assert time.process_time() - started < 0.5


def test_the_timer_is_gone_afterwards(model):
    shutil.copy(ROOT / "models/tiny/chat_template.jinja", model)
    chat = loss_mask.load(model)
    expected = chat.render(CHAT)
    started = time.process_time()
    while time.process_time() - started < rendering.SECONDS + 0.5:
        assert chat.render(CHAT) == expected


def run(script: str, *flags) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "scripts" / script, *flags]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("kind", ["loops"])
def test_every_stage_that_renders_ends_with_one_line(model, tmp_path, kind):
    (model / "chat_template.jinja").write_text(TEMPLATES[kind][0])
    traces.write(tmp_path / "traces.jsonl", [traces.good(f"t{number}") for number in range(40)])
    rows = [{"messages": CHAT, "tools": None, "split": split} for split in ("calibration", "heldout")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config, out = ROOT / "configs/tiny.json", tmp_path / "out"
    commands = {
        "traces_prepare.py": [tmp_path / "traces.jsonl", "--config", config, "--model", model, "--out", out,
                              "--manifest", out / "m.json", "--report", out / "r.json", "--jobs", "1"],
        "moe_encode_rows.py": ["--rows", tmp_path / "rows.jsonl", "--model", model,
                               "--config", ROOT / "configs/tiny-moe.json", "--out", out / "e.jsonl"],
        "quant_build_calibration.py": ["--rows", tmp_path / "rows.jsonl", "--model", model, "--report", out / "r.json",
                                       "--calibration", out / "c.txt", "--heldout", out / "h.txt"],
    }  # fmt: skip
    for script, flags in commands.items():
        ended = run(script, *flags)
        assert ended.returncode == 2 and "Traceback" not in ended.stderr, (script, ended.stderr)
        assert TEMPLATES[kind][1].split(";")[0] in ended.stderr, (script, ended.stderr)


def test_a_looping_template_does_not_reach_llama_server(tmp_path):
    with pytest.raises(rendering.TemplateProblem, match="it loops"):
        rendering.try_out(LOOP, "chat_template.jinja")
    rendering.try_out("{{ raise_exception('first message must be system') }}", "chat_template.jinja")
    rendering.try_out("", "chat_template.jinja")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("chat_template.jinja", b"{{ \xff }}", "chat_template.jinja: not UTF-8 at byte 3"),
        ("tokenizer_config.json", {"chat_template": 7}, "tokenizer_config.json: chat_template is 7"),
        ("tokenizer_config.json", {"chat_template": ["a"]}, "tokenizer_config.json: chat_template.0 is .a., expected"),
    ],
)
def test_a_template_that_is_none_is_named(tmp_path, name, content, said):
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "models/tiny" / file, tmp_path)
    if isinstance(content, dict):
        write_json(tmp_path / name, read_json(tmp_path / name) | content)
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        loss_mask.load(tmp_path)
