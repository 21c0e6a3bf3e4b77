"""What a run found out, copied into the tree: under which names, and never in silence."""

import pytest

import release_publish
from kxl.base.cli import UserError
from kxl.base.files import ROOT, write_text
from kxl.release import published


@pytest.fixture
def publish(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(release_publish, "ROOT", tmp_path)
    monkeypatch.setattr(published, "ROOT", tmp_path)
    monkeypatch.setattr(
        published, "shown", lambda path: str(path.relative_to(tmp_path) if path.is_relative_to(tmp_path) else path)
    )

    def run():
        monkeypatch.setattr("sys.argv", ["release_publish.py", "--run", "mine"])
        release_publish.main()
        return capsys.readouterr().out

    return run


def test_results_get_their_place_in_the_tree_and_what_is_replaced_is_named(publish, tmp_path):
    results = tmp_path / "runs/mine/results"
    write_text(results / "evals/a.llama_cpp.q4kxl.json", "1")
    write_text(results / "reports/quants.json", "2")
    write_text(results / "logs/convert.log", "3")
    write_text(results / "datasets/manifest.json", "4")
    for name in ("a.failed.json", "a.kept.answers.jsonl", "a.answers.jsonl", ".a.lock"):
        write_text(results / "evals" / name, "not published")
    assert "4 new files, 0 replaced, 0 were the same" in publish()
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} >= {
        "evals/mine/a.llama_cpp.q4kxl.json",
        "reports/mine/quants.json",
        "logs/mine/convert.log",
        "datasets/mine/manifest.json",
    }
    assert len(list((tmp_path / "evals/mine").iterdir())) == 1
    write_text(results / "reports/quants.json", "5")
    said = publish()
    assert "quants.json: replaced by this run's" in said and "0 new files, 1 replaced, 3 were the same" in said
    assert (tmp_path / "reports/mine/quants.json").read_text() == "5"


def test_a_run_without_results_says_what_makes_them(publish):
    with pytest.raises(UserError, match="runs/mine/results holds nothing; the targets of the line fill it"):
        publish()


def test_a_published_name_is_that_of_the_tree_and_any_other_path_stays():
    assert published.name(ROOT / "runs/tiny/results/evals/x.json") == "evals/tiny/x.json"
    assert published.name(ROOT / "runs/tiny/results/logs/a/b.log") == "logs/tiny/a/b.log"
    for name in ("reports/tiny/x.json", "runs/tiny/imatrix.gguf", "runs/tiny/results/other/x.json"):
        assert published.name(ROOT / name) == name


def test_runs_on_another_disk_behind_a_link_are_published_as_well(publish, tmp_path):
    write_text(tmp_path / "disk/mine/results/reports/quants.json", "1")
    (tmp_path / "runs").symlink_to(tmp_path / "disk")
    assert "1 new files, 0 replaced, 0 were the same" in publish()
    assert (tmp_path / "reports/mine/quants.json").read_text() == "1"
