"""Rows that say the same are found however they are written; rows that only look alike are not."""

import json
import re

from kxl.traces import duplicates
from kxl.traces.duplicates import Rows, Suites, hashed, ngrams, words


def row(*texts):
    return {"messages": [{"role": "user", "content": text} for text in texts], "tools": []}


def fingerprint(found):
    return duplicates.fingerprint(hashed(found))


LONG = " ".join(f"word{i} other{i * 7 % 13}" for i in range(200))


def test_a_copy_and_a_nearly_equal_row_are_found_and_told_apart():
    rows = Rows(0.8)
    assert rows.duplicate_of("h1", fingerprint(words(row(LONG))), "first") is None
    assert rows.duplicate_of("h1", fingerprint(words(row(LONG))), "copy") == ("exact_duplicate", "of first")
    reason, detail = rows.duplicate_of("h2", fingerprint(words(row(LONG.upper() + " and a bit"))), "near")
    assert reason == "near_duplicate" and detail.startswith("of first")
    changed = LONG.replace("word1", "another1").replace("other3", "else3")
    assert rows.duplicate_of("h3", fingerprint(words(row(changed))), "different") is None


def test_the_estimate_agrees_with_counting_the_runs_of_words():
    from datasketch import MinHash

    one, two = LONG.split(), LONG.split()[:300] + [f"new{i}" for i in range(100)]
    sets = [set(zip(*(text[i:] for i in range(duplicates.SHINGLE)))) for text in (one, two)]
    exact = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
    sketches = [MinHash(seed=1, hashvalues=fingerprint(text), scheme="affine32") for text in (one, two)]
    assert abs(sketches[0].jaccard(sketches[1]) - exact) < 0.15


def test_equal_runs_of_words_have_equal_hashes_wherever_they_stand():
    text = "a b c d e f a b c d".split()
    hashes = ngrams(hashed(text), 4)
    assert len(hashes) == 7 and hashes[0] == hashes[6] and len(set(hashes.tolist())) == 6
    assert len(ngrams(hashed(text), 11)) == 0 and len(fingerprint([])) == duplicates.PERMUTATIONS


def test_a_suite_is_found_in_any_turn_and_a_short_request_only_as_a_whole(tmp_path):
    suite = {
        "name": "s",
        "tools": None,
        "system": None,
        "max_tokens": 9,
        "cases": [
            {
                "id": "long",
                "category": "c",
                "kind": "no_tool",
                "prompt": "please read the file notes/today.md and tell me what is in it",
            },
            {"id": "short", "category": "c", "kind": "no_tool", "prompt": "List my files!"},
        ],
    }
    path = tmp_path / "suite.json"
    path.write_text(json.dumps(suite))
    suites = Suites([path], 8)

    def overlap(*texts):
        return suites.overlap(row(*texts), found := words(row(*texts)), hashed(found))

    assert "case long" in overlap("hello", "Could you PLEASE read the file notes today md, and tell me more?")
    assert overlap("please read the file notes/tomorrow.md and tell me what is in there") is None
    assert re.fullmatch("asks the same as .*suite.json, case short: List my files!", overlap("list my files"))
    assert "case short" in overlap("please could you list files now, thanks")  # nearly the same words
    assert overlap("list my files in the folder src") is None
