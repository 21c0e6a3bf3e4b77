"""A person who converts a thinking model learns beforehand what its tokenizer makes of a thought's marks."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from kxl.chat import tokenizer_checks

ROOT = Path(__file__).resolve().parents[2]
THINKING = (ROOT / "configs" / "templates" / "lfm2.5-tools.jinja").read_text(encoding="utf-8")


def folder_with(tmp_path, change):
    shutil.copy(ROOT / "models" / "tiny" / "tokenizer.json", tmp_path)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return tmp_path


def add_marks(content):
    size = max([*content["model"]["vocab"].values(), *(token["id"] for token in content["added_tokens"])]) + 1
    for place, mark in enumerate(("<think>", "</think>")):
        content["added_tokens"].append({
            "id": size + place, "content": mark, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": False})  # fmt: skip


def forget_brackets(content):
    del content["model"]["vocab"]["<"]
    content["model"]["merges"] = [pair for pair in content["model"]["merges"] if "<" not in "".join(pair)]


@pytest.mark.parametrize("change, written, note", [
    (add_marks, "one", None),
    (lambda content: None, "several", "mlx_lm.server only by one token"),
    (forget_brackets, "none", "cannot write <think>"),
])  # fmt: skip
def test_the_marks_of_a_thought_are_one_token_several_or_none(tmp_path, change, written, note):
    folder = folder_with(tmp_path, change)
    assert tokenizer_checks.thought_tokens(tokenizer_checks.load(folder)) == written
    notes = tokenizer_checks.notes(folder, THINKING)
    assert notes == [] if note is None else len(notes) == 1 and note in notes[0]
    assert tokenizer_checks.notes(folder, "{{ messages[0].content }}") == [], "a model that does not think needs none"


def test_the_tokenizer_before_the_mended_one_is_told(tmp_path, monkeypatch, llama_tree):
    folder = folder_with(tmp_path, add_marks)
    tokenizer = tokenizer_checks.load(folder)
    monkeypatch.setattr(tokenizer_checks, "FIRST_RELEASE", tokenizer_checks.probe_hash(tokenizer))
    assert "commit feb5e04" in tokenizer_checks.notes(folder, THINKING)[0]


def test_the_probe_is_hashed_as_llama_cpps_converter_does(llama_tree):
    """The converter of the pinned tree knows this hash, so the probe text and the way of hashing are its own."""
    source = (llama_tree / "conversion" / "base.py").read_text(encoding="utf-8")
    assert f'"{tokenizer_checks.FIRST_RELEASE}"' in source and "sha256(str(chktok).encode())" in source
    tokenizer = Tokenizer.from_file(str(ROOT / "models" / "tiny" / "tokenizer.json"))
    assert len(tokenizer_checks.probe_hash(tokenizer)) == 64
