"""Missing system packages are installed where we may, and otherwise named with the command to run."""

import subprocess
import sys

import pytest

import setup_system_packages as install

EVERYTHING = {"c++", "cmake", "ninja", "git", "apt-get"}


@pytest.fixture
def machine(monkeypatch):
    """A Debian machine with everything; the test takes things away. Records the commands that were run."""

    class Machine:
        programs = set(EVERYTHING)
        openblas, root, ran = True, True, []

        def run(self, command, **_):
            self.ran.append(command)
            if "install" in command:
                self.programs |= EVERYTHING | {"bwrap"}
                self.openblas = True
            return subprocess.CompletedProcess(command, 0)

    machine = Machine()
    machine.ran = []
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "argv", ["setup_system_packages.py"])
    monkeypatch.setattr(install.shutil, "which", lambda name: name if name in machine.programs else None)
    monkeypatch.setattr(install.ctypes.util, "find_library", lambda name: "lib" if machine.openblas else None)
    monkeypatch.setattr(install, "has_seccomp", lambda: True)
    monkeypatch.setattr(install.os, "geteuid", lambda: 0 if machine.root else 1000)
    monkeypatch.setattr(install.subprocess, "run", machine.run)
    return machine


def test_nothing_is_run_when_everything_is_there(machine):
    assert install.main() == 0 and machine.ran == []


def test_root_gets_exactly_what_is_missing(machine):
    machine.programs -= {"cmake"}
    machine.openblas = False
    assert install.main() == 0
    update, command = machine.ran
    assert "update" in update
    assert command[command.index("--no-install-recommends") + 1 :] == ["cmake", "libopenblas0-pthread"]


def test_everybody_else_gets_one_line_with_the_command(machine, capsys):
    machine.programs -= {"ninja"}
    machine.root = False
    assert install.main() == 2 and machine.ran == []
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "run: sudo apt-get install -y --no-install-recommends ninja-build" in said


def test_without_apt_the_packages_are_named(machine, capsys):
    machine.programs -= {"apt-get", "c++"}
    assert install.main() == 2
    assert "g++" in capsys.readouterr().err


def test_macos_needs_no_openblas_and_is_sent_to_brew(machine, monkeypatch, capsys):
    monkeypatch.setattr(sys, "platform", "darwin")
    machine.openblas = False
    assert install.main() == 0
    machine.programs -= {"cmake", "ninja"}
    assert install.main() == 2
    assert "run: brew install cmake ninja" in capsys.readouterr().err


def test_a_failing_apt_get_is_an_error_with_the_command(machine, monkeypatch, capsys):
    machine.programs -= {"cmake"}
    monkeypatch.setattr(install.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 100))
    assert install.main() == 2
    assert "apt-get" in capsys.readouterr().err


def test_the_box_is_asked_for_only_where_it_is_wanted(machine, monkeypatch):
    assert install.main() == 0 and machine.ran == []
    monkeypatch.setattr(sys, "argv", ["setup_system_packages.py", "--box"])
    assert install.main() == 0
    assert machine.ran[-1][-1] == "bubblewrap"
    assert install.missing_packages("darwin", with_box=True) == []
