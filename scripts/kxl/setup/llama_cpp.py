"""Where the pinned llama.cpp is: its patched source tree, its binaries, and how to run one.

The tree and the binaries live in a cache outside the checkout, so that a clean clone does not
compile for minutes again. A folder in the cache is named by a key over everything that decides
its content, and appears there by one rename: a folder that exists is whole.

  $HERMES_KXL_CACHE, else $XDG_CACHE_HOME/hermes-kxl, else ~/.cache/hermes-kxl
    downloads/FILE           the source distribution named in third_party/llama.cpp.lock
    llama.cpp/source-KEY/    unpacked and patched         key: pin, patches
    llama.cpp/build-KEY/bin  binaries and their libraries key: pin, patches of compiled code, cmake flags, CPU, compiler

scripts/setup_llama_cpp.py fills the cache; everything else only asks here.
"""

import functools
import hashlib
import json
import os
import platform
import re
import shlex
import signal
import subprocess
from pathlib import Path

from kxl.base import processes
from kxl.base.cli import UserError
from kxl.base.files import ROOT, make_place, read_json, shown

LOCK = ROOT / "third_party" / "llama.cpp.lock"
OTHER_LOCK = "HERMES_KXL_LLAMA_LOCK"  # the variable that names another lock: for a look at another version
PATCHES = ROOT / "patches"
TARGETS = ("llama-quantize", "llama-imatrix", "llama-perplexity", "llama-server")

CMAKE_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    # Without both UI switches the build downloads web assets.
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
    # The libraries are found beside the binary, so the finished folder can be moved into its place.
    "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON",
)
# On virtual machines that advertise AMX, ggml's AMX kernels end with SIGSEGV or SIGILL for every quantized model.
NO_AMX = ("-mno-amx-tile", "-mno-amx-int8", "-mno-amx-bf16")


def lock_path() -> Path:
    """The lock in force: the repository's, unless the environment names another."""
    return Path(os.environ.get(OTHER_LOCK) or LOCK)


def read_lock() -> dict:
    """The pin: package, version, file, sha256, tree (path of llama.cpp inside the file), commit.

    In another lock, `optional_patches` leaves out the patches that do not apply to its tree.
    """
    return read_json(lock_path())


def cache_dir() -> Path:
    """The cache folder of this project, outside the checkout."""
    if own := os.environ.get("HERMES_KXL_CACHE"):
        return Path(own).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hermes-kxl"


def patches() -> list[Path]:
    """The patches to the tree, in the order in which they are applied."""
    return sorted(PATCHES.glob("llama.cpp-*.patch"))


def _touches_compiled_code(patch: str) -> bool:
    targets = re.findall(r"^\+\+\+ (?:b/)?(\S+)", patch, flags=re.MULTILINE)
    return not targets or any(not target.endswith(".py") for target in targets)


def _digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def source_key() -> str:
    """Names the patched tree: the pin and every patch."""
    return _digest([read_lock(), [patch.read_text() for patch in patches()]])


@functools.cache
def _predefined_macros(*flags: str) -> str | None:
    """What the C++ compiler predefines under `flags`: its version and, with -march=native, the CPU's features."""
    compiler = os.environ.get("CXX", "c++")
    try:
        made = subprocess.run(
            [*shlex.split(compiler), *flags, "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, text=True
        )
    except FileNotFoundError:
        raise UserError(f"no C++ compiler: `{compiler}` is not installed; run `make system-packages`") from None
    return made.stdout if made.returncode == 0 else None


def native_flag() -> str:
    """How this machine's compiler is asked for the machine's own CPU, as ggml's GGML_NATIVE does."""
    return "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"


def cpu_features() -> list[str]:
    """Vector extensions that a native build uses here, such as AVX2, AVX512BF16 or ARM_FEATURE_DOTPROD."""
    macros = _predefined_macros(native_flag(), *NO_AMX) or _predefined_macros(native_flag()) or ""
    found = re.findall(
        r"#define __((?:AVX|AMX|FMA|F16C|SSE4|ARM_FEATURE_)\w*?)__ 1\b|#define __(ARM_FEATURE_\w+) 1\b", macros
    )
    return sorted(first or second for first, second in found)


def cmake_flags() -> list[str]:
    """Every flag the tree is configured with; $HERMES_KXL_CMAKE comes last and so wins."""
    flags = list(CMAKE_FLAGS)
    # A compiler too old to know these switches cannot emit AMX either.
    if platform.machine() in ("x86_64", "AMD64") and _predefined_macros(*NO_AMX) is not None:
        flags += [f"-DCMAKE_{language}_FLAGS={' '.join(NO_AMX)}" for language in ("C", "CXX")]
    return flags + shlex.split(os.environ.get("HERMES_KXL_CMAKE", ""))


@functools.cache
def cache_key() -> str:
    """Names the build: pin, patches of compiled code, cmake flags, and what the compiler makes of this CPU."""
    compiled = [text for text in (patch.read_text() for patch in patches()) if _touches_compiled_code(text)]
    macros = _predefined_macros(native_flag()) or _predefined_macros()
    return _digest([read_lock(), compiled, TARGETS, cmake_flags(), macros])


def source_path() -> Path:
    """Where the patched tree belongs, whether or not it is there."""
    return cache_dir() / "llama.cpp" / f"source-{source_key()}"


def build_path() -> Path:
    """Where the finished build belongs, whether or not it is there."""
    return cache_dir() / "llama.cpp" / f"build-{cache_key()}"


def source_tree() -> Path:
    """The unpacked and patched tree: convert_hf_to_gguf.py, conversion/, gguf-py/, models/templates/."""
    tree = source_path()
    if not tree.is_dir():
        raise UserError(f"the patched llama.cpp tree is not at {tree}; run `make llama`")
    return tree


def binary(name: str) -> Path:
    """Path of a built program, as in binary("llama-quantize"); its libraries lie beside it."""
    program = build_path() / "bin" / name
    if not program.is_file():
        raise UserError(
            f"{name} is not built for this pin, CPU and compiler (looked in {program.parent}); run `make llama`"
        )
    return program


def exit_reason(name: str, code: int) -> str:
    """How a child process ended, in words."""
    if code >= 0:
        return f"{name} ended with exit code {code}"
    known = -code in list(signal.Signals)  # the real-time signals have no names
    return f"{name} was ended by {signal.Signals(-code).name if known else f'signal {-code}'}"


def tail(text: str, lines: int = 15) -> str:
    """The last lines of a program's output, indented for an error message."""
    return "\n".join(f"    {line}" for line in text.rstrip().splitlines()[-lines:])


def run(name: str, args: list, log: Path, progress=None) -> str:
    """Run a llama.cpp program to its end; return its output (stdout and stderr as they came).

    `log` receives the whole output while it runs; called from the repository, paths in it are relative.
    `progress` is called with each line or, where the
    program rewrites one line, each rewrite. Raises UserError with the end of the output when the
    program fails; the program does not outlive this process, however that ends.
    """
    log = Path(log)
    make_place(log)
    lines = []
    with open(log, "w", encoding="utf-8") as file:
        command = [
            str(binary(name)),
            *(shown(a) if isinstance(a, Path) and Path.cwd() == ROOT else str(a) for a in args),
        ]
        with processes.guarded(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
            for line in _lines(child.stdout):
                file.write(line + "\n")
                file.flush()
                lines.append(line)
                if progress:
                    progress(line)
            code = processes.ended_by(child.wait())
    output = "\n".join(lines)
    if code != 0:
        raise UserError(f"{exit_reason(name, code)}; the whole output is in {shown(log)}, it ends:\n{tail(output)}")
    return output


# llama-imatrix and llama-perplexity report progress as one growing line, "[1]5.21,[2]4.98,".
CHUNK_OR_LINE = rb"\r\n|\n|\r|(?<=,)(?=\[\d+\]\d)"


def _lines(stream):
    """Split a byte stream at newlines, carriage returns and chunk results as it arrives; rests are joined."""
    rest = b""
    while piece := stream.read1(1 << 16):
        *whole, rest = re.split(CHUNK_OR_LINE, rest + piece)
        yield from (line.decode("utf-8", "replace") for line in whole)
    if rest:
        yield rest.decode("utf-8", "replace")
