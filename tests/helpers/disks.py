"""Disks that are full or read-only, for tests: a small tmpfs where this user may mount one, limits where not."""

import os
import subprocess
from pathlib import Path

import pytest


def mounted(folder: Path, request, *options: str) -> Path:
    """A tmpfs at `folder` until the test ends; the test is skipped, and says so, where none can be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        pytest.skip(f"needs a disk of its own, which this user may not mount: {ended.stderr.strip()}")
    request.addfinalizer(lambda: subprocess.run(["umount", "--lazy", str(folder)], check=True))
    return folder


def small(folder: Path, request, kib: int) -> Path:
    """A disk of so many KiB."""
    return mounted(folder, request, "-o", f"size={kib}k")


def read_only(folder: Path, request) -> Path:
    """A folder in which nobody can write, not even root."""
    if os.geteuid():
        folder.mkdir()
        folder.chmod(0o555)
        request.addfinalizer(lambda: folder.chmod(0o755))
        return folder
    return mounted(folder, request, "-o", "ro")
