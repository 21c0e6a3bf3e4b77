"""The release folder: complete, checkable on another machine, and refused when a file is not the measured one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

import release_build
import release_verify
from kxl.base.cli import UserError
from kxl.base.files import sha256, write_json, write_text


def small_gguf(path, name="tiny", run="mine", seed=0):
    writer = gguf.GGUFWriter(path, "lfm2moe")
    writer.add_name(name)
    writer.add_version(run)
    writer.add_tensor("a.weight", np.random.default_rng(seed).normal(size=(8, 32)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def release(tmp_path, monkeypatch):
    """Make runs with two artifacts; return (call that builds the release, its folder, the sources' folder)."""
    sources, out = tmp_path / "run", tmp_path / "release"
    sources.mkdir()
    artifacts = {}
    for seed, name in enumerate(("bf16", "q4kxl")):
        small_gguf(sources / f"{name}.gguf", seed=seed)
        artifacts[name] = {
            "file": f"Tuned-{name.upper()}.gguf",
            "policy": f"gguf/{name}.tensor-types",
            "sha256": sha256(sources / f"{name}.gguf"),
        }
    small_gguf(sources / "imatrix.gguf", seed=9)
    write_text(sources / "card.md", "# card\n")
    write_json(sources / "summary.json", {"name": "tiny", "run": "mine", "artifacts": artifacts})

    def build(**replaced):
        monkeypatch.setattr(
            sys,
            "argv",
            [
                "release_build.py",
                "--summary",
                str(sources / "summary.json"),
                "--imatrix",
                str(sources / "imatrix.gguf"),
                "--card",
                str(sources / "card.md"),
                "--out",
                str(out),
                *(
                    word
                    for name in artifacts
                    for word in ("--artifact", f"{name}={replaced.get(name, sources / f'{name}.gguf')}")
                ),
            ],
        )
        release_build.main()

    return build, out, sources


def verify(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["release_verify.py", "--dir", str(folder)])
    release_verify.main()
    return capsys.readouterr().out


@pytest.mark.minutes
def test_the_printed_commands_are_taken_by_the_pinned_program(release, capsys):
    """With --help behind them they reach the parser, which refuses what it does not know, and no hub."""
    release[0]()
    printed = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  hf ")]
    assert [words[1] for words in printed] == ["repos", "upload"]
    program = Path(sys.executable).with_name("hf")
    for words in printed:
        ended = subprocess.run([program, *words[1:], "--help"], capture_output=True, text=True)
        assert ended.returncode == 0, f"{' '.join(words)}: {ended.stderr}"
    assert subprocess.run([program, "repo", "create", "a/b", "--help"], capture_output=True).returncode != 0


def test_a_copy_on_another_machine_is_intact(release, tmp_path, monkeypatch, capsys):
    build, out, _ = release
    build()
    said = capsys.readouterr().out
    assert "hf upload" in said and "not uploaded" in said
    shutil.copytree(out, tmp_path / "copy")
    assert "intact, 5 files of tiny (run mine)" in verify(tmp_path / "copy", monkeypatch, capsys)
    assert {p.name for p in out.iterdir()} == {
        "Tuned-BF16.gguf",
        "Tuned-Q4KXL.gguf",
        "imatrix.gguf",
        "README.md",
        "release_summary.json",
        "SHA256SUMS",
    }
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=out, check=True)


def as_link(path):
    """The same content, in a file elsewhere."""
    path.rename(path.parent.parent / path.name)
    path.symlink_to(path.parent.parent / path.name)


def sums(folder, change):
    (folder / "SHA256SUMS").write_text(change((folder / "SHA256SUMS").read_text()))


def listed(folder, name, make=lambda path: path.write_text("#!/bin/sh\n")):
    """A file more, with its right sum."""
    (folder / name).parent.mkdir(exist_ok=True)
    make(folder / name)
    sums(folder, lambda text: text + f"{sha256(folder / name)}  {name}\n")


@pytest.mark.parametrize(
    "damage, complaint",
    [
        (
            lambda d: (d / "Tuned-Q4KXL.gguf").write_bytes((d / "Tuned-Q4KXL.gguf").read_bytes()[:-1] + b"\xff"),
            r"Tuned-Q4KXL\.gguf: sha256",
        ),
        (lambda d: (d / "Tuned-BF16.gguf").unlink(), r"Tuned-BF16\.gguf: missing"),
        (lambda d: (d / "extra.bin").write_text("x"), r"extra\.bin: not part of the release"),
        (lambda d: (d / "SHA256SUMS").unlink(), "SHA256SUMS: no such file"),
        (
            lambda d: (
                (d / "Tuned-BF16.gguf").unlink(),
                (d / "SHA256SUMS").write_text(
                    "".join(line for line in (d / "SHA256SUMS").open() if "BF16" not in line)
                ),
            ),
            r"Tuned-BF16\.gguf: release_summary\.json names it, SHA256SUMS does not",
        ),
        (lambda d: (d / "SHA256SUMS").write_text("nonsense\n"), "SHA256SUMS:1: not a line of sha256sum"),
        # what stands in for a file
        (lambda d: (d / "more").symlink_to(d.parent), "more: is a link"),
        (lambda d: (d / "gone").symlink_to("nowhere"), "gone: is a link"),
        (lambda d: os.mkfifo(d / "pipe"), "pipe: is a pipe or device"),
        (lambda d: (d / "empty").mkdir(), "empty: an empty folder"),
        (lambda d: as_link(d / "Tuned-Q4KXL.gguf"), r"Tuned-Q4KXL\.gguf: is a link"),
        (lambda d: as_link(d / "README.md"), r"README\.md: is a link"),
        (lambda d: as_link(d / "SHA256SUMS"), "SHA256SUMS: is a link"),
        (lambda d: as_link(d / "release_summary.json"), r"release_summary\.json: is a link"),
        (lambda d: ((d / "README.md").unlink(), os.mkfifo(d / "README.md")), r"README\.md: is a pipe"),
        (lambda d: ((d / "README.md").unlink(), (d / "README.md").mkdir()), r"README\.md: an empty folder"),
        # what is named that is no part of it
        (
            lambda d: listed(d, "Extra.gguf", small_gguf),
            r"Extra\.gguf: SHA256SUMS names it, release_summary\.json does",
        ),
        (lambda d: listed(d, "run.sh"), r"run\.sh: SHA256SUMS names it, release_summary\.json does not"),
        (lambda d: listed(d, "deep/run.sh"), r"deep/run\.sh: SHA256SUMS names it"),
        # names in the sums
        (lambda d: sums(d, lambda text: text + f"{'0' * 64}  README.md\n"), r"SHA256SUMS:6: README\.md stands twice"),
        (lambda d: sums(d, lambda text: f"{'0' * 64}  README.md\n" + text), "README.md stands twice"),
        (lambda d: sums(d, lambda text: text + f"{'0' * 64}  ../run/card.md\n"), "is no plain name in this folder"),
        (lambda d: sums(d, lambda text: text + f"{'0' * 64}  a/../../b\n"), "leads out of this folder"),
        (lambda d: sums(d, lambda text: text + f"{'0' * 64}  /etc/passwd\n"), "is no plain name in this folder"),
        (lambda d: sums(d, lambda text: text + f"{'0' * 64}  ./README.md\n"), "is no plain name in this folder"),
        (lambda d: sums(d, lambda text: text + f"{'0' * 64}  a\x1b[2Jb\n"), r"'a\\x1b\[2Jb' is no plain name"),
        (lambda d: (d / "\x1b[2Jx").write_text("x"), r"'\\x1b\[2Jx': not part of the release"),
        # the summary
        (lambda d: (d / "release_summary.json").write_text("[]"), r"release_summary\.json: holds list"),
        (
            lambda d: (d / "release_summary.json").write_text('{"artifacts": [1]}'),
            r"artifacts is \[1\], expected an object; fetch it again",
        ),
        (lambda d: (d / "Tuned-BF16.gguf").write_bytes(b"GGUF"), r"Tuned-BF16\.gguf: not a readable GGUF"),
    ],
)
def test_what_differs_is_named(release, tmp_path, monkeypatch, capsys, damage, complaint):
    build, out, _ = release
    build()
    shutil.copytree(out, tmp_path / "copy")  # a copy: the folder's own files are hard links
    damage(tmp_path / "copy")
    with pytest.raises(UserError, match=complaint):
        verify(tmp_path / "copy", monkeypatch, capsys)


def test_a_gguf_of_another_run_under_the_right_sum_is_seen(release, tmp_path, monkeypatch, capsys):
    build, out, _ = release
    build()
    shutil.copytree(out, tmp_path / "copy")
    (tmp_path / "copy/Tuned-BF16.gguf").unlink()
    small_gguf(tmp_path / "copy/Tuned-BF16.gguf", run="another")
    sums = release_verify.read_sums(tmp_path / "copy/SHA256SUMS") | {
        "Tuned-BF16.gguf": sha256(tmp_path / "copy/Tuned-BF16.gguf")
    }
    write_text(tmp_path / "copy/SHA256SUMS", "".join(f"{value}  {name}\n" for name, value in sums.items()))
    with pytest.raises(UserError, match="general.version is 'another', the summary says 'mine'"):
        verify(tmp_path / "copy", monkeypatch, capsys)


def test_a_file_that_changed_after_it_was_measured_is_refused(release):
    build, out, sources = release
    small_gguf(sources / "q4kxl.gguf", seed=5)
    with pytest.raises(UserError, match=r"q4kxl\.gguf changed after it was measured"):
        build()
    assert not out.exists()


def test_a_missing_quant_is_named_with_its_target(release):
    build, out, sources = release
    (sources / "q4kxl.gguf").unlink()
    with pytest.raises(UserError, match=r"q4kxl\.gguf: no such file; `make q4kxl` makes it"):
        build()
    assert not out.exists()


@pytest.mark.parametrize("name", ["card.md", "imatrix.gguf"])
def test_a_card_or_an_imatrix_that_is_no_file_is_named_before_anything_is_copied(release, name):
    build, out, sources = release
    (sources / name).unlink()
    os.mkfifo(sources / name)
    with pytest.raises(UserError, match=f"{name}: is a pipe or device, not a file"):
        build()
    assert not out.exists()
