"""MLX on a Linux CPU multiplies with OpenBLAS, and child processes get it too."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT
from kxl.base.cli import UserError
from kxl.model import blas

pytestmark = pytest.mark.minutes

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="macOS computes on Metal")

# Prints which file gives cblas_sgemm to this process, and float32 GFLOP/s of a 768 x 768 product.
PROBE = """
import ctypes, json, sys, time
sys.path.insert(0, sys.argv[1])
from kxl.model import blas
if sys.argv[2] == "fast":
    blas.use_fast_blas()
import mlx.core as mx

def provider():
    try:
        address = ctypes.cast(ctypes.CDLL(None).cblas_sgemm, ctypes.c_void_p).value
    except AttributeError:
        return None
    for line in open("/proc/self/maps"):
        span, *_, path = line.split()
        low, high = (int(end, 16) for end in span.split("-"))
        if low <= address < high:
            return path

n = 768
a, b = mx.random.normal((n, n)), mx.random.normal((n, n))
mx.eval(a @ b)
times = []
for _ in range(3):
    start = time.perf_counter()
    mx.eval(a @ b)
    times.append(time.perf_counter() - start)
core = getattr(ctypes.CDLL(None), "openblas_get_corename", None)
if core:
    core.restype = ctypes.c_char_p
print(json.dumps({
    "provider": provider(), "gflops": 2 * n**3 / min(times) / 1e9, "core": core and core().decode(),
}))
"""


OURS = ("LD_PRELOAD", "HERMES_KXL_BLAS", "OPENBLAS_CORETYPE")


def probe(tmp_path, mode: str, **environment) -> tuple[dict, str]:
    script = tmp_path / "probe.py"
    script.write_text(PROBE)
    clean = {name: value for name, value in os.environ.items() if name not in OURS}
    ended = subprocess.run(
        [sys.executable, str(script), str(ROOT / "scripts"), mode],
        capture_output=True,
        text=True,
        check=True,
        env={**clean, **environment},
    )
    return json.loads(ended.stdout), ended.stderr


@linux_only
def test_matmul_goes_through_openblas_and_is_many_times_faster(tmp_path):
    fast, said = probe(tmp_path, "fast")
    slow, _ = probe(tmp_path, "as it comes")
    assert "openblas" in fast["provider"]
    assert slow["provider"] is None
    assert fast["gflops"] > 5 * slow["gflops"], (fast, slow)
    assert said.count("MLX multiplies") == 1


AVX512 = {"avx2", "fma", "avx512f", "avx512cd", "avx512dq", "avx512bw", "avx512vl"}


@pytest.mark.parametrize(
    "chosen, features, kernels",
    [
        ("Prescott", AVX512, "SkylakeX"),  # a Xeon that is newer than the library
        ("Prescott", {"avx2", "fma", "avx512f"}, "Haswell"),
        ("Prescott", {"ssse3"}, None),
        ("Zen", AVX512, None),
        ("SkylakeX", AVX512, None),
        ("ARMV8", set(), None),
    ],
)
def test_a_processor_that_openblas_does_not_know_gets_the_kernels_that_it_can_run(chosen, features, kernels):
    assert blas.better_kernels(chosen, features) == kernels


@linux_only
@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="who the processor is cannot be asked")
def test_no_process_multiplies_with_the_kernels_of_2004_on_a_newer_processor(tmp_path):
    if "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no better ones")
    fast, _ = probe(tmp_path, "fast")
    assert fast["core"] != "Prescott"


@linux_only
def test_a_child_of_a_fast_process_is_fast_without_a_second_start(tmp_path):
    child, said = probe(tmp_path, "fast", LD_PRELOAD=blas.child_env()["LD_PRELOAD"])
    assert "openblas" in child["provider"]
    assert said == ""


# Page faults of one pass over 100 MB after the first, in a thread, where a server computes.
FAULTS = """
import resource, sys, threading
sys.path.insert(0, sys.argv[1])
from kxl.model import blas
blas.use_fast_blas(keep_memory=sys.argv[2] == "keep")
import mlx.core as mx

def passes(count):
    for _ in range(count):
        mx.eval(mx.sum(mx.zeros((25, 1 << 20)) + 1))

def work():
    passes(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    passes(1)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.skipif("glibc" not in platform.libc_ver(), reason="the settings are glibc's")
def test_a_training_keeps_the_memory_that_it_frees_and_a_measured_process_does_not(tmp_path):
    script = tmp_path / "faults.py"
    script.write_text(FAULTS)
    clean = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD" and name not in blas.GLIBC}
    kept, given_back = (
        int(
            subprocess.run(
                [sys.executable, str(script), str(ROOT / "scripts"), mode],
                capture_output=True,
                text=True,
                check=True,
                env=clean,
            ).stdout
        )
        for mode in ("keep", "give back")
    )
    assert kept < 1000 < 10_000 < given_back


@linux_only
def test_the_reference_blas_can_be_asked_for(tmp_path):
    asked, _ = probe(tmp_path, "fast", HERMES_KXL_BLAS="reference")
    assert asked["provider"] is None


@linux_only
def test_a_library_that_cannot_be_loaded_is_an_error_and_not_a_slow_run(monkeypatch, tmp_path):
    script = tmp_path / "probe.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[1]); from kxl.base import cli; from kxl.model import blas; "
        "cli.run(blas.use_fast_blas)"
    )
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.setenv("HERMES_KXL_BLAS", str(tmp_path / "libnothing.so"))
    ended = subprocess.run([sys.executable, str(script), str(ROOT / "scripts")], capture_output=True, text=True)
    assert ended.returncode == 2
    assert "gives no cblas_sgemm" in ended.stderr


@linux_only
def test_a_missing_openblas_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.delenv("HERMES_KXL_BLAS", raising=False)
    monkeypatch.setattr(blas.ctypes.util, "find_library", lambda name: None)
    with pytest.raises(UserError, match="make system-packages"):
        blas.fast_blas()
