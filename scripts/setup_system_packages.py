"""Install the system packages that the pipeline needs and that are missing.

In:   nothing
Out:  on Debian and Ubuntu as root, the missing ones of the packages below, through apt-get;
      elsewhere one line that says what to run

  python3 scripts/setup_system_packages.py

  g++                    compiles llama.cpp
  cmake, ninja-build     configure and drive that compile (ninja resumes an interrupted one safely)
  git                    applies our patches to llama.cpp
  libopenblas0-pthread   fast float32 matmul for MLX on Linux CPUs (its own BLAS is 20 to 50 times slower)
  python3-venv           makes .venv
  chromium, fonts-dejavu-core   only with --browser: the tests look at HTML pages in it
  bubblewrap, libseccomp2       only with --box: the box around a live agent (kxl/live/sandbox.py), on Linux

Needs only the standard library: it runs before there is a .venv.
"""

import argparse
import ctypes
import ctypes.util
import importlib.util
import os
import shutil
import subprocess
import sys


def has_venv() -> bool:
    """Can this interpreter make a venv? Debian ships venv without ensurepip."""
    return bool(importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip"))


def browser() -> str | None:
    """A Chromium to run headless, wherever it is installed."""
    app = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
    found = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
    )
    return found or (app if os.path.exists(app) else None)


def has_seccomp() -> bool:
    """Is libseccomp there? Asked of the linker: `find_library` needs a compiler for that."""
    try:
        ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return False
    return True


def missing_packages(system: str, with_browser: bool = False, with_box: bool = False) -> list[str]:
    """Names, as that system's package manager calls them, of what is not there."""
    programs = {
        "linux": {"g++": "c++", "cmake": "cmake", "ninja-build": "ninja", "git": "git"},
        "darwin": {"cmake": "cmake", "ninja": "ninja", "git": "git"},
    }[system]
    missing = [package for package, program in programs.items() if not shutil.which(program)]
    if system == "linux":
        if not ctypes.util.find_library("openblas"):
            missing.append("libopenblas0-pthread")
        if not has_venv():
            missing.append("python3-venv")
    if with_browser and not browser():
        missing += ["chromium", "fonts-dejavu-core"] if system == "linux" else ["google-chrome"]
    if with_box and system == "linux":
        missing += ["bubblewrap"] * (not shutil.which("bwrap")) + ["libseccomp2"] * (not has_seccomp())
    return missing


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--browser", action="store_true", help="also what the tests of HTML pages need")
    parser.add_argument("--box", action="store_true", help="also what the box around a live agent is made with")
    args = parser.parse_args()
    wanted = ("darwin" if sys.platform == "darwin" else "linux", args.browser, args.box)
    system, missing = wanted[0], missing_packages(*wanted)
    if not missing:
        print("system packages: all there")
        return 0
    if system == "darwin":
        print(f"error: missing: {' '.join(missing)}; run: brew install {' '.join(missing)}", file=sys.stderr)
        return 2
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if not shutil.which("apt-get"):
        print(
            f"error: missing (by their Debian names): {' '.join(missing)}; install them with your package manager",
            file=sys.stderr,
        )
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
            print(
                f"error: `{' '.join(step)}` failed (its message is above); run it by hand, then make again",
                file=sys.stderr,
            )
            return 2
    still = missing_packages(*wanted)
    if still:
        print(f"error: installed, and still not found: {' '.join(still)}", file=sys.stderr)
        return 2
    print(f"system packages: installed {' '.join(missing)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
