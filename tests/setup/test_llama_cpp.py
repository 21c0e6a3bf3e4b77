"""Fetching, unpacking, patching and building llama.cpp: only whole and checked things are used."""

import io
import os
import signal
import subprocess
import sys
import tarfile
import time

import pytest

import setup_llama_cpp
from conftest import ROOT
from kxl.base.cli import UserError
from kxl.setup import llama_cpp, smoke_test


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache of its own."""
    monkeypatch.setenv("HERMES_KXL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def no_patches(monkeypatch):
    monkeypatch.setattr(llama_cpp, "patches", lambda: [])


def archive_of(path, *members):
    """A tar.gz of (name, content) files and of ready TarInfo objects."""
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, content = member
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def link_to(name, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


def device(name):
    info = tarfile.TarInfo(name)
    info.type = tarfile.CHRTYPE
    return info


def test_the_tree_is_unpacked_without_the_rest_of_the_archive(tmp_path, no_patches):
    archive = archive_of(tmp_path / "a.tar.gz", ("sdist/tree/src/a.cpp", b"int a;"), ("sdist/setup.py", b"boom"))
    setup_llama_cpp.unpack(archive, "sdist/tree", tmp_path / "tree")
    assert [p.name for p in (tmp_path / "tree").rglob("*")] == ["src", "a.cpp"]


@pytest.mark.parametrize(
    "member",
    [
        ("sdist/tree/../../../outside.txt", b"x"),
        link_to("sdist/tree/link", "/etc/passwd"),
        link_to("sdist/tree/link", "../../../outside"),
        device("sdist/tree/null"),
    ],
    ids=["parent folder", "absolute link", "link to a parent folder", "device"],
)
def test_a_member_that_leads_out_of_the_folder_is_refused_and_nothing_is_left(tmp_path, no_patches, member):
    archive = archive_of(tmp_path / "a.tar.gz", ("sdist/tree/fine.txt", b"x"), member)
    with pytest.raises(UserError, match="refused to unpack"):
        setup_llama_cpp.unpack(archive, "sdist/tree", tmp_path / "box" / "tree")
    assert not list((tmp_path / "box").iterdir())
    assert not (tmp_path / "outside.txt").exists()


@pytest.mark.minutes
def test_kill_9_in_the_middle_of_unpacking_leaves_no_tree_and_the_next_run_makes_it(tmp_path, cache):
    tree = "sdist/tree"
    archive = archive_of(tmp_path / "a.tar.gz", *((f"{tree}/file{n}.txt", b"x") for n in range(4000)))
    script = tmp_path / "unpack.py"
    script.write_text(f"""
import sys; sys.path.insert(0, {str(ROOT / "scripts")!r})
import setup_llama_cpp as build_llama_cpp
from kxl.setup import llama_cpp
from pathlib import Path
llama_cpp.patches = lambda: []
llama_cpp.read_lock = lambda: {{"tree": {tree!r}, "commit": "0" * 40}}
build_llama_cpp.fetch = lambda: Path({str(archive)!r})
build_llama_cpp.link = lambda tree: None
sys.argv = ["setup_llama_cpp.py", "--tree-only"]
build_llama_cpp.main()
""")
    home = cache / "llama.cpp"

    def unpacked():
        return sum(1 for _ in home.glob(".*.partial-*/.unpacked/sdist/tree/*"))

    child = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while unpacked() < 50:
        assert child.poll() is None, "unpacking ended before it could be killed"
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert unpacked() < 4000 and not list(home.glob("source-*"))

    subprocess.run([sys.executable, str(script)], check=True, capture_output=True)
    [made] = home.glob("source-*")
    assert len(list(made.iterdir())) == 4000
    assert not list(home.glob(".*")), "what the killed process left was not cleared away"


@pytest.mark.minutes
def test_two_builds_at_once_do_the_work_once(tmp_path, cache):
    script = tmp_path / "build.py"
    script.write_text(f"""
import sys; sys.path.insert(0, {str(ROOT / "scripts")!r})
import time
import setup_llama_cpp as build_llama_cpp
from kxl.setup import llama_cpp
def make_tree():
    if not llama_cpp.source_path().is_dir():
        with open({str(tmp_path / "made")!r}, "a") as file:
            file.write("made\\n")
        time.sleep(1)
        llama_cpp.source_path().mkdir(parents=True)
build_llama_cpp.make_tree = make_tree
build_llama_cpp.link = lambda tree: None
sys.argv = ["setup_llama_cpp.py", "--tree-only"]
build_llama_cpp.main()
""")
    both = [
        subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [child.communicate()[1] for child in both]
    assert [child.returncode for child in both] == [0, 0]
    assert (tmp_path / "made").read_text() == "made\n"
    assert sum("waiting for it" in text for text in said) == 1


@pytest.mark.minutes
def test_kill_9_in_the_middle_of_compiling_leaves_no_build_and_the_next_run_waits_for_the_compilers(tmp_path, cache):
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "ninja").write_text(f"""#!/bin/sh
echo "[1/2] compiling"
touch {tmp_path}/compiling
sleep 2
echo done >> {tmp_path}/compiled
""")
    (tools / "cmake").write_text("#!/bin/sh\nexit 0\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    script = tmp_path / "build.py"
    script.write_text(f"""
import sys; sys.path.insert(0, {str(ROOT / "scripts")!r})
import setup_llama_cpp as build_llama_cpp
from kxl.setup import llama_cpp, smoke_test
build_llama_cpp.make_tree = lambda: llama_cpp.source_path().mkdir(parents=True, exist_ok=True)
build_llama_cpp.link = lambda tree: None
def check(bin_dir, scratch):
    assert open({str(tmp_path / "compiled")!r}).read() == "done\\ndone\\n", "the second compile began beside the first"
smoke_test.check = check
configure = build_llama_cpp.configure
build_llama_cpp.configure = lambda tree, work: (configure(tree, work), (work / "bin").mkdir(exist_ok=True))
sys.argv = ["setup_llama_cpp.py"]
build_llama_cpp.main()
""")
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
    child = subprocess.Popen(
        [sys.executable, str(script)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not (tmp_path / "compiling").exists():
        assert child.poll() is None
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not [path for path in (cache / "llama.cpp").glob("build-*") if path.suffix != ".work"]

    second = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert second.returncode == 0, second.stderr
    assert "waiting for it" in second.stderr
    [built] = (cache / "llama.cpp").glob("build-*")
    assert (built / "bin").is_dir()


def test_a_compile_error_shows_the_compilers_line_and_not_its_flags(tmp_path, monkeypatch):
    (tmp_path / "ninja").write_text("""#!/bin/sh
echo "[1/9] cc a.c"
echo "FAILED: a.o"
echo "cc -Werror=implicit-int -c a.c"
echo "a.c:7:1: error: expected ;"
echo "cc1plus: Killed"
exit 1
""")
    (tmp_path / "ninja").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with open(tmp_path / "lock", "w") as held, pytest.raises(UserError) as caught:
        setup_llama_cpp.compile_tree(tmp_path, held)
    message = str(caught.value)
    assert "a.c:7:1: error: expected ;" in message and "ran out of memory" in message and "-Werror" not in message
    assert "-Werror" in (tmp_path / "ninja.log").read_text()


def test_an_archive_with_another_sha256_is_fetched_again_and_never_unpacked(cache, monkeypatch):
    pin = llama_cpp.read_lock()
    archive = cache / "downloads" / pin["file"]
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"half a download")
    asked = []

    def offline_pip(command, **_):
        requirement = open(command[command.index("-r") + 1]).read()
        asked.append((requirement, "--require-hashes" in command))
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(setup_llama_cpp.subprocess, "run", offline_pip)
    with pytest.raises(UserError, match="pip could not fetch"):
        setup_llama_cpp.fetch()
    assert asked == [(f"{pin['package']}=={pin['version']} --hash=sha256:{pin['sha256']}\n", True)]


PATCH = """Why: a test.
--- a/file.txt
+++ b/file.txt
@@ -1,5 +1,5 @@
 one
 two
-three
+THREE
 four
 five
"""


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "llama.cpp-x.patch").write_text(PATCH)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file.txt").write_text("one\ntwo\nthree\nfour\nfive\n")
    return tmp_path / "tree"


def patched(tree):
    setup_llama_cpp.apply_patch(tree.parent / "llama.cpp-x.patch", tree)
    return (tree / "file.txt").read_text()


def test_a_patch_applies_where_its_context_matches(tree):
    assert patched(tree) == "one\ntwo\nTHREE\nfour\nfive\n"


def test_a_patch_applies_even_when_the_cache_lies_in_a_git_repository(tree):
    subprocess.run(["git", "init", "-q", str(tree.parent)], check=True)
    assert "THREE" in patched(tree)


def test_a_patch_applies_to_a_tree_with_a_submodules_dead_git_file(tree):
    (tree / ".git").write_text("gitdir: ../../.git/modules/vendor/llama.cpp\n")
    assert "THREE" in patched(tree)


def test_a_patch_whose_outermost_context_line_differs_is_refused(tree):
    (tree / "file.txt").write_text("one\ntwo\nthree\nfour\nFIVE\n")
    with pytest.raises(UserError, match=r"llama\.cpp-x\.patch does not apply"):
        patched(tree)


def test_the_build_key_changes_with_pin_compiled_patch_flags_and_cpu_and_not_with_a_python_patch(monkeypatch, tmp_path):
    patch = tmp_path / "llama.cpp-x.patch"
    patch.write_text(PATCH.replace("file.txt", "src/x.cpp"))
    monkeypatch.setattr(llama_cpp, "patches", lambda: [patch])
    monkeypatch.delenv("HERMES_KXL_CMAKE", raising=False)
    pin, macros = dict(llama_cpp.read_lock()), {"all": "#define __AVX2__ 1"}
    monkeypatch.setattr(llama_cpp, "read_lock", lambda: pin)
    monkeypatch.setattr(llama_cpp, "_predefined_macros", lambda *flags: macros["all"])

    def keys():
        return llama_cpp.cache_key.__wrapped__(), llama_cpp.source_key()

    seen = [keys()]
    patch.write_text(PATCH.replace("file.txt", "src/y.cpp"))
    seen.append(keys())
    monkeypatch.setenv("HERMES_KXL_CMAKE", "-DGGML_NATIVE=OFF")
    seen.append(keys())
    macros["all"] = "#define __AVX512F__ 1"
    seen.append(keys())
    pin["sha256"] = "0" * 64
    seen.append(keys())
    assert len({build for build, _ in seen}) == 5

    patch.write_text(PATCH.replace("file.txt", "conversion/lfm2.py"))
    first = keys()
    patch.write_text(PATCH.replace("file.txt", "conversion/lfm2.py").replace("THREE", "3"))
    second = keys()
    assert first[0] == second[0] and first[1] != second[1]


def test_amx_is_never_compiled_in():
    if "x86" not in llama_cpp.platform.machine():
        pytest.skip("AMX exists on x86 only")
    flags = [flag for flag in llama_cpp.cmake_flags() if "_FLAGS=" in flag]
    assert [flag.split("=")[0] for flag in flags] == ["-DCMAKE_C_FLAGS", "-DCMAKE_CXX_FLAGS"]
    assert all("-mno-amx-tile -mno-amx-int8 -mno-amx-bf16" in flag for flag in flags)


def test_the_fresh_build_quantizes_reads_and_generates(llama_bin, tmp_path):
    smoke_test.check(llama_bin, tmp_path)


def test_a_build_that_crashes_on_quantized_models_names_the_cpu_features_and_the_way_out(llama_bin, tmp_path):
    broken = tmp_path / "bin"
    broken.mkdir()
    for name in ("llama-quantize", "llama-server"):
        (broken / name).symlink_to(llama_bin / name)
    (broken / "llama-perplexity").write_text("#!/bin/sh\nkill -ILL $$\n")
    (broken / "llama-perplexity").chmod(0o755)
    with pytest.raises(UserError) as caught:
        smoke_test.check(broken, tmp_path)
    message = str(caught.value)
    assert "llama-perplexity was ended by SIGILL with a Q4_K model" in message
    assert llama_cpp.cpu_features() and all(feature in message for feature in llama_cpp.cpu_features())
    assert "HERMES_KXL_CMAKE='-DGGML_NATIVE=OFF'" in message


def test_a_server_that_dies_in_the_smoke_test_is_told_from_one_that_is_slow(llama_bin, tmp_path):
    broken = tmp_path / "bin"
    broken.mkdir()
    for name in ("llama-quantize", "llama-perplexity"):
        (broken / name).symlink_to(llama_bin / name)
    (broken / "llama-server").write_text("#!/bin/sh\necho loading\nkill -SEGV $$\n")
    (broken / "llama-server").chmod(0o755)
    with pytest.raises(UserError, match="llama-server was ended by SIGSEGV"):
        smoke_test.check(broken, tmp_path)


def test_the_binaries_run_from_any_folder(llama_bin, tmp_path):
    """Their libraries are found beside them, wherever the cache was built or moved."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LD_", "DYLD_"))}
    for name in llama_cpp.TARGETS:
        subprocess.run(
            [str(llama_bin / name), "--help"], cwd=tmp_path, env=environment, check=False, capture_output=True
        )
    subprocess.run(
        [str(llama_bin / "llama-server"), "--version"], cwd=tmp_path, env=environment, check=True, capture_output=True
    )


def test_a_failing_program_is_an_error_with_the_end_of_its_output(llama_bin, tmp_path):
    with pytest.raises(UserError) as caught:
        llama_cpp.run(
            "llama-quantize", [tmp_path / "absent.gguf", tmp_path / "out.gguf", "Q4_K"], log=tmp_path / "log.txt"
        )
    assert "llama-quantize ended with exit code" in str(caught.value)
    assert "absent.gguf" in str(caught.value) and "absent.gguf" in (tmp_path / "log.txt").read_text()


def test_without_a_build_the_error_says_make_llama(cache):
    with pytest.raises(UserError, match="make llama"):
        llama_cpp.binary("llama-server")
    with pytest.raises(UserError, match="make llama"):
        llama_cpp.source_tree()
