"""Shared by all tests: scripts/ is importable, MLX has its fast BLAS, llama.cpp is built when a test asks for it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

from kxl.base.cli import UserError
from kxl.model import blas
from kxl.setup import llama_cpp


def pytest_configure(config):
    capture = config.pluginmanager.getplugin("capturemanager")
    try:
        blas.use_fast_blas(before_restart=capture.stop_global_capturing)
    except UserError as error:
        pytest.exit(str(error), returncode=2)


def pytest_collection_modifyitems(items):
    """What needs programs of others is not for `make test-fast`."""
    for item in items:
        if {"llama_bin", "llama_tree", "chromium", "bfcl_cases"} & set(item.fixturenames):
            item.add_marker(pytest.mark.minutes)


@pytest.fixture(scope="session")
def llama_bin(pytestconfig) -> Path:
    """The folder with llama-quantize, -imatrix, -perplexity and -server; built first when it is missing."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():  # a compile takes minutes, and its progress belongs on the terminal
        subprocess.run([sys.executable, str(ROOT / "scripts" / "setup_llama_cpp.py"), "--quiet"], check=True)
    return llama_cpp.build_path() / "bin"


@pytest.fixture(scope="session")
def llama_tree(llama_bin) -> Path:
    """The patched source tree."""
    return llama_cpp.source_tree()


@pytest.fixture(scope="session")
def bfcl_cases(pytestconfig, tmp_path_factory) -> Path:
    """The file of all Berkeley cases, as the wheel's own code makes it; its environment is made when it is missing."""
    out = tmp_path_factory.mktemp("bfcl") / "cases.jsonl"
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        command = [sys.executable, str(ROOT / "scripts" / "bfcl_convert.py"), "--out", str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return out


@pytest.fixture(scope="session")
def every_bfcl_case(bfcl_cases) -> dict:
    """{id: Berkeley case}"""
    with open(bfcl_cases, encoding="utf-8") as file:
        return {case["id"]: case for case in map(json.loads, file)}


@pytest.fixture
def checkout(tmp_path):
    """A copy of the repository in which make runs, with a stub in place of Python."""
    from helpers.checkout import Checkout

    return Checkout(tmp_path)


@pytest.fixture
def in_order():
    """MLX begins nothing before what it began has ended and given its memory back.

    Else it allocates some operations ahead of the one that computes: how many depends on how busy the machine is.
    """
    import mlx.core as mx

    before = mx.set_memory_limit(1)
    yield
    mx.set_memory_limit(before)


@pytest.fixture
def on_the_cpu():
    import mlx.core as mx

    before = mx.default_device()
    mx.set_default_device(mx.cpu)
    yield
    mx.set_default_device(before)
