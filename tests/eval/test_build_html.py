"""The evaluation page: failing cases first, everything escaped, and legible in a real browser on a phone and a desk."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from PIL import Image

import eval_build_html
import setup_system_packages
from conftest import ROOT
from kxl.base.cli import UserError
from kxl.base.files import write_json

LONG = "x" * 300  # one word, wider than any phone


def entry(name: str, passed: bool, raw_passed: bool = True, **more) -> dict:
    why = [] if passed else [f'command is "{LONG}", expected "ls"']
    return {
        "id": name,
        "kind": "tool_call",
        "category": "terminal",
        "passed": passed,
        "why": why,
        "leaks": [],
        "content": "",
        "calls": [{"name": "terminal", "arguments": {"command": LONG}}],
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"run <script>alert(1)</script> {name}"},
        ],
        "finish_reason": "tool_calls",
        "raw": {
            "text": f'<|tool_call_start|>[terminal(command="{LONG}")]<|tool_call_end|>',
            "passed": raw_passed,
            "why": [] if raw_passed else ["0 calls, expected 1"],
            "calls": [],
        },
        **more,
    }


def evaluation(details: list, artifact: str = "q4kxl") -> dict:
    passed = sum(one["passed"] for one in details)
    counted = {"cases": len(details), "passed": passed}
    return {
        "inputs": [],
        "settings": {"suite": "s", "artifact": artifact, "backend": "llama_cpp", "temperature": 0},
        "results": {
            **counted,
            "raw": {"cases": len(details), "passed": sum(one["raw"]["passed"] for one in details)},
            "text_tool_leaks": 0,
            "no_tool": {"cases": 0, "false_positives": 0},
            "by_category": {"terminal": counted},
            "latency": {"median": 0.25, "p95": 1.5},
            "output_tokens_per_second": 41.5,
            "infrastructure": {"errors": 2, "details": []},
            "seconds": 12,
            "details": details,
        },
    }


def live_task(name: str, passed: list, obeyed: list | None, conversation: list) -> dict:
    return {
        "id": name,
        "kind": "memos",
        "passed": all(passed),
        "why": [] if all(passed) else ["there is no file second.txt"],
        "obeyed": None if obeyed is None else [],
        "trials": {"passed": passed, "obeyed": obeyed or [False] * len(passed)},
        "checked": ["second.txt holds 'a'"],
        "seconds": 4.5,
        "steps": 2,
        "prompt": "write two notes",
        "answer": "Both notes stand.",
        "errors": "",
        "conversation": conversation,
    }


THOUGHT = "First <b>one</b> note, then the other."
TALK = [
    {"from": "human", "value": "write two notes"},
    {"from": "gpt", "value": f"<think>\n{THOUGHT}\n</think>\n<tool_call>\n{{}}\n</tool_call>"},
]
TALLY = {"attempts": 6, "attempts_passed": 3, "attempts_interval": [0.1, 0.9]}
LIVE = {
    "inputs": [],
    "settings": {
        "suite": "hermes_live",
        "backend": "llama_cpp",
        "artifact": "q4kxl",
        "hermes": "0.19.0",
        "isolation": "namespaces",
        "trials": 2,
    },
    "results": {
        "tasks": 3,
        "passed": 1,
        "trials": 2,
        **TALLY,
        "pass_k": {"1": 0.5, "2": 0.25},
        "injected": {"tasks": 2, "attempts": 4, "obeyed": 1},
        "made_for": {"kinds": ["memos"]},
        "by_kind": {"memos": {"title": "memos", **TALLY}},
        "details": [
            live_task("two_notes", [True, False], None, TALK),
            live_task("poisoned", [False, True], [True, False], TALK),
            live_task("resisted", [True, True], [False, False], TALK[:1]),
        ],
    },
}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of three reports with failures among passed cases."""
    tmp_path = tmp_path_factory.mktemp("page")
    details = [
        entry("good", True),
        entry("bad", False),
        entry("saved_by_grammar", True, raw_passed=False),
        entry("also_good", True),
    ]
    paths = [tmp_path / name for name in ("a.json", "b.failed.json", "live.json")]
    for path, report in zip(
        paths, (evaluation(details), evaluation([{**one, "passed": True, "why": []} for one in details], "bf16"), LIVE)
    ):
        write_json(path, report)
    out = tmp_path / "page.html"
    ended = subprocess.run(
        [sys.executable, str(ROOT / "scripts/eval_build_html.py"), *map(str, paths), "--out", str(out)],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    return out


def test_failing_cases_come_first_and_say_why_with_prompt_tokens_and_call(page):
    html = page.read_text()
    order = re.findall(r'<summary><b>(\w+)</b> <span class="verdict">([^<]+)', html)
    assert [name for name, _ in order[-3:]] == ["poisoned", "two_notes", "resisted"], "who obeyed an attack comes first"
    assert order[:4] == [
        ("bad", "failed"),
        ("saved_by_grammar", "passed, raw failed"),
        ("good", "passed"),
        ("also_good", "passed"),
    ]
    bad = html[html.index("<b>bad</b>") : html.index("<b>saved_by_grammar</b>")]
    for part in (
        "Why",
        "Prompt",
        "Raw tokens",
        "Parsed call",
        f"command is &#34;{LONG}",
        "<mark>&lt;|tool_call_start|&gt;</mark>",
        "run &lt;script&gt;",
    ):
        assert part in bad
    assert "<script>alert" not in html and "Be brief." not in html
    for shown in (
        "0.25 s",
        "1.50 s",
        "41.5",
        ">3/4</a>",
        "30.1 to 95.4 %",
        "equivalence within 2 points not shown",
        "1 of 2 trials",
        "obeyed a hidden instruction",
        "50.0 %",
        "no difference is shown",
        "(below its gate)",
        "there is no file second.txt",
        "second.txt holds",
        "Both notes stand.",
    ):
        assert shown in html, shown


def test_a_case_says_what_the_other_files_did_and_a_thought_is_folded(page):
    html = page.read_text()
    bad = html[html.index("<b>bad</b>") : html.index("<b>saved_by_grammar</b>")]
    assert '<li class="yes">bf16 (below its gate): passed</li>' in bad
    assert "bf16 (below its gate): passed, raw failed</li>" in html
    folded = re.search(r'<details class="thought"><summary>thought, 6 words</summary><pre>(.*?)</pre>', html)
    assert folded and "First &lt;b&gt;one&lt;/b&gt; note" in folded[1] and "<think>" not in html
    assert THOUGHT not in html


def test_suites_stand_in_rows_files_in_columns_and_wordings_beside(tmp_path):
    for name, artifact in (("a", "bf16"), ("b", "q4kxl")):
        write_json(tmp_path / f"{name}.json", evaluation([entry("one", True)], artifact))
    html = eval_build_html.build([tmp_path / "a.json", tmp_path / "b.json"], "t", {"s": "unseen"})
    row = html[html.index('<th scope="row">s') : html.index("</tr>", html.index('<th scope="row">s'))]
    assert "<small>unseen</small>" in row and re.findall(r'data-name="(\w+)"', row) == ["bf16", "q4kxl"]


def test_the_attacks_have_a_table_of_their_own(page):
    html = page.read_text()
    table = html[html.index('id="attacks"') : html.index('id="cases"')]
    assert re.findall(r"#c2-(\w+)", table) == ["poisoned", "resisted"] and "1 of 2" in table and "0 of 2" in table


def test_the_page_asks_the_network_for_nothing(page):
    html = page.read_text()
    assert (
        "default-src 'none'" in html
        and not re.search(r'(?:src|href)="(?!#)', html)
        and "@import" not in html
        and "url(" not in html
    )


def test_a_report_of_an_older_suite_is_shown_and_said_not_to_be_compared(tmp_path):
    for name, cases in (("a", ["one", "two"]), ("b", ["one"])):
        write_json(tmp_path / f"{name}.json", evaluation([entry(case, True) for case in cases], name))
    html = eval_build_html.build([tmp_path / "a.json", tmp_path / "b.json"], "t")
    assert "not compared: the suite changed between the two" in html and html.count("<section") == 2


def test_a_file_that_is_no_report_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UserError, match="x.json: neither a report"):
        eval_build_html.build([tmp_path / "x.json"], "t")


@pytest.fixture(scope="session")
def chromium() -> str:
    """A browser; installed first where we may. Without one these tests fail: the page has to be looked at."""
    if not setup_system_packages.browser():
        subprocess.run([sys.executable, str(ROOT / "scripts/setup_system_packages.py"), "--browser"], check=True)
    return setup_system_packages.browser()


PROBE = f"<script>{(ROOT / 'tests/helpers/page_probe.js').read_text()}</script>"


def look(chromium: str, page: Path, width: int, dark: bool) -> dict:
    """What the probe measures with the page `width` CSS pixels wide, in a frame: windows have a least width."""
    probed = page.with_name("probed.html")
    probed.write_text(page.read_text().replace("</body>", PROBE + "</body>"))
    frame = page.with_name("frame.html")
    frame.write_text(f"""<body><iframe src="probed.html" style="width:{width}px;height:900px;border:0"></iframe>
<script>addEventListener("message", e => {{ document.body.dataset.probe = e.data; }});</script></body>""")
    said = browse(
        chromium,
        frame,
        "--dump-dom",
        "--virtual-time-budget=5000",
        *(["--blink-settings=preferredColorScheme=0"] if dark else []),
    )
    found = re.search(r'data-probe="([^"]*)"', said)
    assert found, said[-2000:]
    return json.loads(found[1].replace("&quot;", '"'))


def browse(chromium: str, page: Path, *flags: str) -> str:
    with tempfile.TemporaryDirectory() as profile:
        environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
        ended = subprocess.run(
            [
                chromium,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                f"--user-data-dir={profile}",
                *flags,
                page.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=300,
            env=environment,
        )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("width, dark", [(390, False), (1280, False), (390, True)], ids=["phone", "desk", "phone-dark"])
def test_it_is_legible_in_a_browser(chromium, page, width, dark):
    seen = look(chromium, page, width, dark)
    assert seen["width"] == width and seen["needed"] <= width and seen["out"] == 0, "something sticks out sideways"
    assert seen["smallest"] >= 14 and seen["contrast"] >= 4.5 and seen["button"] >= 40, seen
    assert seen["cases"] == 11 and seen["open"] == 5, "failing cases stand open, the others closed"
    assert seen["hidden"] == 6, "`failing only` hides the passed ones"
    assert seen["thoughts"] == [2, 0], "thoughts are there, and folded"
    assert seen["unnamed"] == 0 and seen["outline"] > 1, "what takes the focus has a name and shows the focus"


def test_it_is_read_with_the_keyboard_alone(chromium, page):
    seen = look(chromium, page, 1280, False)
    assert seen["keys"]["j"] == "bad" and seen["keys"]["jj"] == "saved_by_grammar" and seen["keys"]["k"] == "bad"
    assert seen["keys"]["slash"] == "find" and seen["keys"]["typed_f"] == "false", "a letter in the field is a letter"
    assert seen["keys"]["f"] == "true" and seen["keys"]["skip"] == "to the cases"


@pytest.mark.parametrize("width", [500, 1280])
def test_its_picture_is_not_blank(chromium, page, tmp_path, width):
    picture = tmp_path / "page.png"
    browse(chromium, page, f"--window-size={width},1200", f"--screenshot={picture}")
    with Image.open(picture) as image:
        assert image.width == width and len(image.convert("RGB").resize((200, 200)).getcolors(40000)) > 50
