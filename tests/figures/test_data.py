"""The dataset figure shows the report's numbers, in either theme, without texts in each other's way."""

import copy

import matplotlib
import pytest

from conftest import ROOT
from kxl.base.files import read_json
from kxl.figures import data
from kxl.figures.style import THEMES, style, text_boxes, text_problems

DROPS = {  # reason: (rows, what the figure calls it)
    "over_10240_tokens": (2100, "over 10,240 tokens"),
    "over_16384_tokens": (600, "over 16,384 tokens"),
    "near_duplicate": (200, "near duplicates"),
    "unknown_tool": (100, "with calls to a tool not on offer"),
    "not_json": (42, "not JSON"),
}
REPORT = {
    "settings": {"caps": [16384, 10240]},
    "results": {
        "rows_in": 3679,
        "rows_out": {"train": 582, "valid": 29, "test": 26},
        "dropped": {reason: rows for reason, (rows, _) in DROPS.items()},
        "drops": {reason: {"in_words": words} for reason, (_, words) in DROPS.items()},
        "sources": {
            "a/long-name-of-a-file-of-traces.jsonl": {"rows": 3000, "kept": 500},
            "b.jsonl": {"rows": 9, "kept": 9},
            "c.parquet": {"rows": 600, "kept": 100},
            "d.jsonl": {"rows": 70, "kept": 28},
        },
        "sizes": {"tokens": 5_000_000, "trained_tokens": 700_000},
        "token_lengths": {"bin": 512, "before": [0, 3, *range(40, 100), 300], "after": [0, 3, *range(30, 48)]},
    },
}


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
@pytest.mark.parametrize("kind", ["reference", "long", "short", "nothing dropped"])
def test_the_figure_says_what_each_filter_took(theme, kind):
    report = copy.deepcopy(REPORT)
    if kind not in ("long", "reference"):  # shorter than the caps, as the tiny run's rows are
        report["results"]["token_lengths"] |= {"before": [14, 130, 32, 0, 39], "after": [14, 130, 32, 0, 38]}
    if kind == "nothing dropped":
        report["results"] |= {"dropped": {}, "drops": {}, "rows_in": 637}
    with matplotlib.rc_context(style(theme)):
        figure = data.filtering(
            report, theme, read_json(ROOT / "configs" / "reference_results.json") if kind == "reference" else None
        )
        texts = [text for text, _ in text_boxes(figure)]
        assert text_problems(figure) == []
    assert any(
        "published: 582 train, 29 valid, 26 test rows of its own traces; caps at 16,384 and 10,240 tokens" in text
        for text in texts
    ) is (kind == "reference")
    assert f"637 of {report['results']['rows_in']:,} rows are kept" in texts
    told = "Of long-name-of…traces.jsonl 500 of 3,000, of c.parquet 100 of 600, of 2 other files 37 of 79. 582 train"
    assert any(text.startswith(told) for text in texts)
    if kind != "nothing dropped":
        assert {"2,100", "over 10,240 tokens", "42", "not JSON", "kept", "637"} <= set(texts)
