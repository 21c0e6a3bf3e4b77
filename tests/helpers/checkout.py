"""A copy of the repository in which make runs, with a stub in place of Python that only notes what it was asked."""

import os
import shutil
import subprocess
import sys
import time

from conftest import ROOT

STUB = f"""#!{sys.executable} -I
import pathlib, sys
script, *args = sys.argv[1:]
if script.endswith("plan_run.py"):
    script, *args = args[args.index("--") + 1 :]
name = pathlib.Path(script).stem
with open("ran.txt", "a") as file:
    print(name, *args, file=file)
for flag in ("--out", "--report", "--calibration", "--heldout"):
    if flag in args and name != "quant_show":
        made = pathlib.Path(args[args.index(flag) + 1])
        folders = dict(traces_prepare="train.jsonl", moe_build_core="config.json", moe_materialize="config.json")
        inside = folders.get(name) if flag == "--out" else None
        made = made / inside if inside else made
        made.parent.mkdir(parents=True, exist_ok=True)
        says = pathlib.Path("says.txt").read_text() if pathlib.Path("says.txt").exists() else ""
        if name in ("traces_prepare", "quant_build_calibration") and made.exists() and made.read_text() == says:
            continue  # what says the same keeps its time
        made.write_text(says)
if name == "quant_show" and "--up-to-date" in args:
    print("everything is up to date")
"""


# Inputs are older than anything that is made from them; all copies of a session share their times, and with them what
# the first make found out of each module (a second of every other one).
PAST = time.time() - 3600
MODULES = "runs/code/modules.json"


class Checkout:
    """A copy of the repository's inputs, with a stub in place of Python."""

    known = None  # text of MODULES

    def __init__(self, folder):
        self.folder = folder
        for name in ("Makefile", "requirements.txt", "constraints.txt"):
            shutil.copy(ROOT / name, folder)
        for name in ("scripts", "patches", "gguf", "configs", "datasets", "make"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        shutil.copytree(ROOT / "evals" / "suites", folder / "evals" / "suites")
        (folder / "third_party").mkdir()
        shutil.copy(ROOT / "third_party" / "llama.cpp.lock", folder / "third_party")
        for model in ("models/tiny", "mine"):
            (folder / model).mkdir(parents=True)
            for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
                (folder / model / name).touch()
        python = folder / ".venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(STUB)
        python.chmod(0o755)
        for path in folder.rglob("*"):
            os.utime(path, (PAST, PAST))
        if Checkout.known:
            (folder / MODULES).parent.mkdir(parents=True)
            (folder / MODULES).write_text(Checkout.known)
        (folder / ".venv" / "complete").touch()

    def make(self, *args):
        """Run make; return its exit code, its output and the scripts that it ran, without the question whether
        llama.cpp is built.
        """
        (self.folder / "ran.txt").unlink(missing_ok=True)
        ended = subprocess.run(
            ["make", f"PYTHON={sys.executable}", *args],
            cwd=self.folder,
            capture_output=True,
            text=True,
            env={
                name: value
                for name, value in os.environ.items()
                if name
                not in ("RUN", "MODEL", "CONFIG", "TRACES", "ROWS", "MAKEFLAGS", "MAKELEVEL", "HERMES_KXL_HISTORY")
            },
        )
        if not Checkout.known and (self.folder / MODULES).is_file():
            Checkout.known = (self.folder / MODULES).read_text()
        ran = (self.folder / "ran.txt").read_text().splitlines() if (self.folder / "ran.txt").exists() else []
        return (
            ended.returncode,
            ended.stdout + ended.stderr,
            [line for line in ran if line.split()[0] != "setup_llama_cpp"],
        )

    def scripts(self, *args):
        code, output, ran = self.make(*args)
        assert code == 0, output
        return [line.split()[0] for line in ran]

    def change(self, name):
        """Let a file hold another thing, so that what is made from it does, too."""
        with open(self.folder / name, "a") as file:
            file.write("\n")
        (self.folder / "says.txt").write_text(name)
        self.touch(name)

    def touch(self, name):
        assert (self.folder / name).exists(), name
        later = time.time() + 5
        for path in self.folder.rglob(
            "*"
        ):  # so that the touched file is newer than all others, whatever the clock's grain
            if path.is_file() and path.stat().st_mtime > later - 5:
                os.utime(path, (later - 5, later - 5))
        os.utime(self.folder / name, (later, later))
