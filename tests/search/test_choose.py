"""`make search` chooses by measurement on its own text, says so in the policy's file, and judges on another text."""

import json
import sys

import numpy as np
import pytest

import search_choose
import search_judge
import search_policy
from kxl.base.cli import UserError
from kxl.base.files import read_json
from kxl.quant import policy
from kxl.search import judged, measuring, rivals, table
from kxl.search.allocate import Table, solve
from kxl.setup import llama_cpp, random_gguf

CONTEXT = 64
TEXT = "the quick brown fox jumps over the lazy dog's back. " * 20
BITS = {"BF16": 16, "Q8_0": 8, "Q5_1": 6, "Q5_0": 5, "IQ4_NL": 4}


@pytest.fixture
def place(tmp_path):
    """A random model, a table of it in which later blocks matter more, and a plan with one hand-written policy."""
    random_gguf.write(tmp_path / "model.gguf")
    tensors = [t for t in policy.read_tensors(tmp_path / "model.gguf") if policy.quantizable(t)]
    cells = {}
    for place, tensor in enumerate(tensors):
        cells[tensor.name] = {"shape": list(tensor.shape), "types": {}}
        for kind in table.fitting(tensor.shape[0]):
            size = policy.nbytes(tensor.shape, kind)
            damage = 0.0 if kind.name == "BF16" else 1e-3 * 1.5**place * 4.0 ** -BITS[kind.name]
            cells[tensor.name]["types"][kind.name] = {"bytes": size, "damage": damage, "flips": 0.0, "noise": 0.1}
    (tmp_path / "table.json").write_text(json.dumps({"results": {"tensors": cells}}))
    (tmp_path / "plain.tensor-types").write_text("^.*\\.weight$ = q5_1\n")
    policies = {"q5kxl": {"base_type": "Q5_1", "tensor_types": "plain.tensor-types"}}
    (tmp_path / "plan.json").write_text(json.dumps({"policies": policies, "stock": []}))
    (tmp_path / "search.txt").write_text(TEXT)
    (tmp_path / "judge.txt").write_text(TEXT[1:])
    return tmp_path


def choose(place, monkeypatch, *more: str) -> dict:
    files = ["--gguf", "model.gguf", "--table", "table.json", "--text", "search.txt", "--plan", "plan.json"]
    files += ["--work", "choice", "--logs", "logs", "--write", "found/plan.json", "--out", "choice.json"]
    words = [str(place / word) if not word.startswith("--") else word for word in files]
    words += ["--context", str(CONTEXT), "--tokens", str(4 * CONTEXT), "--model-name", "toy", *more]
    monkeypatch.setattr(sys, "argv", ["search_choose.py", *words])
    search_choose.main()
    return read_json(place / "choice.json")


def assigned(place, name: str, plan: str) -> dict:
    tensors = policy.read_tensors(place / "model.gguf")
    types = policy.assign(policy.load(name, place / plan), tensors)
    return {t.name: types[t.name] for t in tensors if policy.quantizable(t)}


def losing(monkeypatch, loss) -> list:
    """Let a policy lose loss(types) on each token, a little more or less; the list of what was measured."""
    asked = []

    def measured(judge, name, types):
        asked.append(name)
        kld = loss(types) * np.random.default_rng(0).exponential(1.0, 4096)
        return judged.Scores(kld, np.ones(4096, bool), np.zeros(4096, int)), 0

    monkeypatch.setattr(measuring.Judge, "measured", measured)
    monkeypatch.setattr(measuring.Judge, "kinds", lambda judge: {"call": np.arange(4096) < 1000})
    return asked


def test_the_hand_written_policy_is_written_where_it_measures_better(place, monkeypatch):
    hand = assigned(place, "q5kxl", "plan.json")
    losing(monkeypatch, lambda types: 0.001 if types == hand else 0.002)
    report = choose(place, monkeypatch)
    entry = report["results"]["budgets"]["q5kxl"]
    assert entry["chosen"] == "hand" and assigned(place, "q5search", "found/plan.json") == hand
    assert entry["types"] == {name: kind.name for name, kind in hand.items()}
    assert entry["candidates"]["hand"]["kld"]["mean"] == pytest.approx(0.001, rel=0.05)
    assert entry["candidates"]["table"]["kld"]["mean"] == pytest.approx(0.002, rel=0.05)
    text = (place / "found/q5search.tensor-types").read_text()
    assert "# It is the hand-written q5kxl.\n" in text
    assert f"# Chosen among {len(entry['candidates'])} candidates by measurement on " in text
    assert "search.txt, 4,096 tokens:\n" in text
    assert "#   hand: 0.00102 nats; chosen\n" in text
    assert "gain over hand -100 % (-100 to -100 %)" in text


def test_the_tables_policy_is_written_where_it_measures_better(place, monkeypatch):
    known = Table.of(read_json(place / "table.json")["results"])
    asked = losing(monkeypatch, known.predicted)
    report = choose(place, monkeypatch, "--budget", "small=5bpw")
    budgets = report["results"]["budgets"]
    found, hand = assigned(place, "q5search", "found/plan.json"), assigned(place, "q5kxl", "plan.json")
    shapes = {t.name: t.shape for t in policy.read_tensors(place / "model.gguf")}
    assert budgets["q5kxl"]["chosen"] == "table" and known.predicted(found) < known.predicted(hand)
    assert rivals.size_of(found, shapes) <= rivals.size_of(hand, shapes)
    assert asked == ["q5kxl hand", "q5kxl table"]  # of the other budget there is one candidate alone
    assert budgets["small"]["candidates"]["table"]["unmeasured"] == "alone"
    assert report["settings"]["scored_tokens"] == 4096
    assert not (place / "found/smallsearch.tensor-types").exists()


def test_the_text_that_chose_does_not_judge(place, monkeypatch):
    hand, known = assigned(place, "q5kxl", "plan.json"), Table.of(read_json(place / "table.json")["results"])
    losing(monkeypatch, lambda types: 0.001 if types == hand else 0.002 + known.predicted(types))
    choose(place, monkeypatch)
    estimate = read_json(place / "table.json")
    (place / "estimate.json").write_text(json.dumps(estimate))

    def judge(text: str, *more: str) -> None:
        files = ["--gguf", "model.gguf", "--chosen", "choice.json", "--table", "table.json", "--text", text]
        files += ["--estimate", "estimate.json", "--plan", "plan.json", "--work", "judge", "--logs", "logs"]
        words = [str(place / word) if not word.startswith("--") else word for word in [*files, "--out", "judge.json"]]
        monkeypatch.setattr(sys, "argv", ["search_judge.py", *words, *more])
        search_judge.main()

    with pytest.raises(UserError, match="chosen on this very text"):
        judge("search.txt")
    judge("judge.txt")
    [entry] = read_json(place / "judge.json")["results"]["budgets"].values()
    assert entry["chosen"] == "hand" and set(entry["candidates"]) >= {"hand", "table"}
    assert entry["rivals"]["hand"]["gain"] == 0 and "hand" not in entry["worse_than"]
    # What the estimate alone would have taken is judged beside them: 0.002 and more against 0.001.
    taken = solve(known, read_json(place / "choice.json")["results"]["budgets"]["q5kxl"]["budget"])
    assert entry["estimate"]["over"]["hand"]["gain"] == pytest.approx(-1 - known.predicted(taken) / 0.001, rel=0.01)
    assert "estimate" not in entry["rivals"]
    # A file that another program made is a rival at the budget that has its name.
    theirs = judged.Scores(np.full(4096, 0.004), np.ones(4096, bool), np.zeros(4096, int))
    monkeypatch.setattr(measuring.Judge, "measured_file", lambda judge, name, path: (theirs, 0))
    judge("judge.txt", "--rival", f"q5kxl={place / 'model.gguf'}")
    [entry] = read_json(place / "judge.json")["results"]["budgets"].values()
    assert entry["rivals"]["q5kxl"]["kld"]["mean"] == 0.004
    assert entry["rivals"]["q5kxl"]["gain"] == pytest.approx(1 - entry["kld"]["mean"] / 0.004, abs=1e-3)
    with pytest.raises(UserError, match="no budget of that name"):
        judge("judge.txt", "--rival", f"other={place / 'model.gguf'}")
    with pytest.raises(UserError, match="a GGUF that is there"):
        judge("judge.txt", "--rival", "q5kxl=nowhere.gguf")


def like(place, monkeypatch, *more: str) -> None:
    words = ["--table", str(place / "table.json"), "--gguf", str(place / "model.gguf"), "--model-name", "toy"]
    words += ["--plan", str(place / "own/plan.json"), *more]
    monkeypatch.setattr(sys, "argv", ["search_policy.py", *words])
    search_policy.main()


def test_a_table_gives_each_policy_of_a_plan_another_of_no_more_bytes(place, monkeypatch, capsys):
    (place / "fine.tensor-types").write_text("^.*\\.weight$ = q8_0\n")
    plan = read_json(place / "plan.json")
    plan["policies"]["q8kxl"] = {"base_type": "Q8_0", "tensor_types": "fine.tensor-types"}
    (place / "plan.json").write_text(json.dumps({**plan, "stock": ["Q8_0"]}))
    like(place, monkeypatch, "--like", str(place / "plan.json"))
    made = policy.read_plan(place / "own/plan.json")
    assert set(made["policies"]) == {"q5kxl", "q8kxl"} and made["stock"] == ["Q8_0"]
    known = Table.of(read_json(place / "table.json")["results"])
    shapes = {t.name: t.shape for t in policy.read_tensors(place / "model.gguf")}
    for name in made["policies"]:
        found, by_hand = assigned(place, name, "own/plan.json"), assigned(place, name, "plan.json")
        assert found != by_hand and rivals.size_of(found, shapes) <= rivals.size_of(by_hand, shapes)
        assert known.predicted(found) < known.predicted(by_hand)
    assert not list((place / "own").glob("*.partial"))
    assert "own/plan.json: 2 policies, each at the bytes of" in capsys.readouterr().out


@pytest.mark.parametrize("more", [(), ("--like", "x.json", "--budget", "5bpw"), ("--budget", "5bpw")])
def test_a_policy_has_a_budget_and_a_name_or_a_plan_to_be_like(place, monkeypatch, more):
    with pytest.raises(UserError, match="either --budget and --name, or --like"):
        like(place, monkeypatch, *more)


@pytest.mark.minutes
def test_an_interrupted_choice_goes_on_and_a_second_one_runs_nothing(llama_bin, place, monkeypatch):
    ran, real = [], llama_cpp.run

    def run(name, *args, **rest):
        ran.append(name)
        if limit and ran.count("llama-perplexity") > limit:
            raise KeyboardInterrupt
        return real(name, *args, **rest)

    monkeypatch.setattr(llama_cpp, "run", run)
    limit = 2  # the parent and one candidate
    with pytest.raises(KeyboardInterrupt):
        choose(place, monkeypatch)
    assert not (place / "choice.json").exists()
    limit, measured = 0, len(list((place / "choice").glob("*.npz")))
    ran.clear()
    report = choose(place, monkeypatch)
    entry = report["results"]["budgets"]["q5kxl"]
    done = [one for one in entry["candidates"].values() if "kld" in one]
    assert measured == 1 and ran.count("llama-perplexity") == len(done) - 1
    assert all(one["kld"]["mean"] > 0 for one in done)
    written = (place / "found/q5search.tensor-types").read_text()
    ran.clear()
    assert choose(place, monkeypatch) == report and ran == []
    assert (place / "found/q5search.tensor-types").read_text() == written
