"""Install the system packages that the pipeline needs and that are missing.

In:   nothing
Out:  on Debian and Ubuntu as root, the missing ones of the packages below, through apt-get;
      elsewhere one line that says what to run

  python3 scripts/install_system_packages.py

  g++                    compiles llama.cpp
  cmake, ninja-build     configure and drive that compile (ninja resumes an interrupted one safely)
  git                    applies our patches to llama.cpp
  libopenblas0-pthread   fast float32 matmul for MLX on Linux CPUs (its own BLAS is 20 to 50 times slower)
  python3-venv           makes .venv

Needs only the standard library: it runs before there is a .venv.
"""

import argparse
import ctypes.util
import importlib.util
import os
import shutil
import subprocess
import sys


def has_venv() -> bool:
    """Can this interpreter make a venv? Debian ships venv without ensurepip."""
    return bool(importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip"))


def missing_packages(system: str) -> list[str]:
    """Names, as that system's package manager calls them, of what is not there."""
    programs = {"linux": {"g++": "c++", "cmake": "cmake", "ninja-build": "ninja", "git": "git"},
                "darwin": {"cmake": "cmake", "ninja": "ninja", "git": "git"}}[system]
    missing = [package for package, program in programs.items() if not shutil.which(program)]
    if system == "linux":
        if not ctypes.util.find_library("openblas"):
            missing.append("libopenblas0-pthread")
        if not has_venv():
            missing.append("python3-venv")
    return missing


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    system = "darwin" if sys.platform == "darwin" else "linux"
    missing = missing_packages(system)
    if not missing:
        print("system packages: all there")
        return 0
    if system == "darwin":
        print(f"error: missing: {' '.join(missing)}; run: brew install {' '.join(missing)}", file=sys.stderr)
        return 2
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if not shutil.which("apt-get"):
        print(f"error: missing (by their Debian names): {' '.join(missing)}; install them with your package manager", file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        print(f"error: missing: {' '.join(missing)}; run: sudo {' '.join(command)}", file=sys.stderr)
        return 2
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    print(f"installing {' '.join(missing)} through apt-get", file=sys.stderr, flush=True)
    # The package lists of a fresh image are empty or old; another apt-get may hold the lock for a moment.
    for step in (["apt-get", "update", "-q"], command):
        step = [step[0], "-o", "DPkg::Lock::Timeout=300", "-qq", *step[1:]]
        if subprocess.run(step, stdout=sys.stderr, env=environment).returncode != 0:
            print(f"error: `{' '.join(step)}` failed (its message is above); run it by hand, then make again", file=sys.stderr)
            return 2
    still = missing_packages(system)
    if still:
        print(f"error: installed, and still not found: {' '.join(still)}", file=sys.stderr)
        return 2
    print(f"system packages: installed {' '.join(missing)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
