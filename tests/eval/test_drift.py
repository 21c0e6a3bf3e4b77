"""Another version of llama.cpp: what changed is named, the pinned one stays as it is, and what does not run is told."""

import json
import tarfile
from pathlib import Path

import pytest

import eval_measure_drift as drift
import setup_llama_cpp
from kxl.base.cli import UserError
from kxl.base.files import read_json, sha256
from kxl.setup import archive, llama_cpp


def ran(passed: str, texts: str = "aaa", broken=(), calls: str = "xxx") -> dict:
    details = [
        {
            "id": f"c{i}",
            "passed": bit == "1",
            "why": [] if bit == "1" else ["finish_reason is stop"],
            "calls": [{"name": calls[i], "arguments": {}}],
            "raw": {"text": texts[i]},
        }
        for i, bit in enumerate(passed)
    ]
    found = [{"row": row, "parser": parser} for row, parser in broken]
    return {
        "did_not_run": None,
        "eval": {"results": {"details": details}},
        "template": {"results": {"broken": found, "turns": 9}},
    }


def test_lost_cases_other_tokens_and_round_trips_are_named():
    base = ran("110", broken=[("apostrophe", "llama_server"), ("tab", "mlx_lm")])
    changed = drift.changes(base, ran("101", "aba", [("newline", "llama_server")], "xyx"))
    assert (changed["lost"], changed["won"], changed["other_tokens"]) == (["c1"], ["c2"], ["c1"])
    assert changed["why"] == {"c1": ["finish_reason is stop"]} and changed["other_calls"] == ["c1"]
    assert changed["breaks_now"] == ["newline, read by llama_server"]
    assert changed["mended"] == ["apostrophe, read by llama_server"], "mlx-lm is the same in both"
    words = drift.in_words(changed)
    assert "would fail (1): c1" in words and "round trips that would break (1): newline" in words


def test_where_nothing_changed_that_is_said():
    changed = drift.changes(ran("111"), ran("111"))
    assert drift.in_words(changed) == "3 of 3 cases, 3 now; no answer and none of 9 round trips changed"


def test_a_version_that_does_not_run_is_told():
    changed = drift.changes(ran("111"), {"did_not_run": "eval: error: the server ended: unknown argument --x"})
    assert "did not run: eval: error: the server ended" in drift.in_words(changed)


@pytest.fixture
def other(tmp_path, monkeypatch):
    """The lock of a made-up version whose archive is in the cache."""
    monkeypatch.setenv("HERMES_KXL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(llama_cpp.OTHER_LOCK, raising=False)
    folder = tmp_path / "llama_cpp_python-9.9"
    for name, text in {
        ".git/modules/vendor/llama.cpp/HEAD": "a" * 40 + "\n",
        "vendor/llama.cpp/convert_hf_to_gguf.py": "print()\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    fetched = tmp_path / "cache/downloads/llama_cpp_python-9.9.tar.gz"
    fetched.parent.mkdir(parents=True)
    with tarfile.open(fetched, "w:gz") as tar:
        tar.add(folder, folder.name)
    return drift.lock_of("llama-cpp-python", "9.9", tmp_path)


def test_its_lock_names_archive_and_commit(other, tmp_path):
    lock = read_json(other)
    assert lock["sha256"] == sha256(tmp_path / "cache/downloads" / lock["file"]) and lock["commit"] == "a" * 40


def test_it_is_unpacked_beside_the_pinned_one_without_patches_that_do_not_apply(other, monkeypatch, capsys):
    pinned = llama_cpp.source_path(), setup_llama_cpp.LINK.resolve()
    monkeypatch.setenv(llama_cpp.OTHER_LOCK, str(other))
    assert llama_cpp.source_path() != pinned[0]
    tree = setup_llama_cpp.make_tree()
    assert (tree / "convert_hf_to_gguf.py").is_file() and "left out: patches/" in capsys.readouterr().err
    setup_llama_cpp.link(tree)
    assert setup_llama_cpp.LINK.resolve() == pinned[1], "the link for people stays with the pin"
    monkeypatch.delenv(llama_cpp.OTHER_LOCK)
    assert llama_cpp.source_path() == pinned[0]


def test_a_patch_that_does_not_apply_to_the_pin_is_an_error(other, monkeypatch, tmp_path):
    lock = read_json(other)
    del lock["optional_patches"]
    strict = tmp_path / "strict.lock"
    strict.write_text(json.dumps(lock))
    monkeypatch.setenv(llama_cpp.OTHER_LOCK, str(strict))
    with pytest.raises(UserError, match="does not apply"):
        setup_llama_cpp.make_tree()


def test_a_version_that_the_index_lacks_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv("HERMES_KXL_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match="pip could not fetch llama-cpp-python==0.0.0"):
        archive.source_distribution("llama-cpp-python", "0.0.0")
    assert not list(Path(tmp_path, "downloads").glob("*.gz"))
