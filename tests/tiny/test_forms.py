"""The forms that requests are composed of: each can be drawn from, and what is broken is named."""

import random
import re

import pytest

from kxl.base.cli import UserError
from kxl.tiny import forms

FILES = sorted(path.stem for path in forms.FOLDER.glob("*.json"))
# What stands in a form's place: words to be copied as they are, with the signs that forms use themselves.
COPIED = "it's (a|b) {c}"


def strings(value):
    """Every string of a JSON value but the keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)


@pytest.mark.parametrize("name", ["requests", "tasks", "no_tool", "conversations"])
def test_no_alternative_is_left_open_and_no_slot_without_a_name(name):
    rng = random.Random(1)
    for form in strings(forms.load(name)):
        for _ in range(5):
            drawn = forms.expand(rng, form)
            assert not set("()|") & set(forms.SLOT.sub("", drawn)) or "`" in form, form
            assert re.sub(r"\{\w+\}", "", drawn).count("{") == 0, form


def test_what_is_copied_into_a_request_stays_as_it_is():
    rng = random.Random(2)
    given = forms.load("requests")
    for _ in range(300):
        form = rng.choice(given["write_file"]["write"])
        assert COPIED in forms.ask(rng, form, t=COPIED, p="x.txt")


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_those_that_the_docstring_names(name):
    assert f"  {name} " in forms.__doc__


def test_a_broken_file_is_named_with_its_line(tmp_path, monkeypatch):
    (tmp_path / "requests.json").write_text('{\n  "openers": ["please",]\n}')
    monkeypatch.setattr(forms, "FOLDER", tmp_path)
    forms.load.cache_clear()
    try:
        with pytest.raises(UserError, match=r"requests\.json:2:.* not JSON"):
            forms.load("requests")
    finally:
        forms.load.cache_clear()
