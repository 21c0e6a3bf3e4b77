"""The one law: stage = section of `make help` = make/STAGE.mk = first word of a script = room = tests folder."""

import ast
import re
import subprocess
import sys

import pytest

from conftest import ROOT
from kxl.base.code import Code

SCRIPTS = ROOT / "scripts"
ROOMS = {path.name: path for path in (SCRIPTS / "kxl").iterdir() if path.is_dir() and path.name != "__pycache__"}
STAGES = "setup tiny traces moe quant eval repair live smol bfcl search release plan house".split()
# Rooms that stages share; they have tests and no make rules.
SHARED = {"base", "model", "chat", "lora", "figures", "dialogue"}
# Names that the user chose, and the house's own, which belong to no stage of the line.
NAMED = {
    "build_visual_assets": "release",
    "prepare_data": "smol",
    "train_lora": "smol",
    "status": "house",
    "settings": "house",
    "depends": "house",
    "list_modules": "house",
}


def imports(path) -> set[str]:
    """Rooms and scripts that a file imports, anywhere in it: "kxl.ROOM" or a script's name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("kxl."):
                found.add(".".join(name.split(".")[:2]))
            elif (SCRIPTS / f"{name}.py").is_file():
                found.add(name)
    return found


def rooms_of(room: str) -> set[str]:
    """The other rooms that a room's modules import."""
    found = {name for path in ROOMS[room].glob("*.py") for name in imports(path)}
    return {name.removeprefix("kxl.") for name in found if name.startswith("kxl.")} - {room}


def test_a_stage_has_a_make_file_a_section_scripts_a_room_and_tests():
    assert {path.stem for path in (ROOT / "make").glob("*.mk")} == set(STAGES)
    assert set(ROOMS) == set(STAGES) | SHARED
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()} - {"__pycache__"}
    assert set(STAGES) | SHARED <= folders <= set(STAGES) | SHARED | {"published", "slow", "helpers"}
    for stage in STAGES:
        text = (ROOT / "make" / f"{stage}.mk").read_text()
        assert len(re.findall(r"^## ", text, flags=re.MULTILINE)) == 1, stage
    words = {NAMED.get(path.stem, path.stem.split("_")[0]) for path in SCRIPTS.glob("*.py")}
    assert words == set(STAGES)


def test_make_runs_a_stages_scripts_from_that_stages_file():
    for path in (ROOT / "make").glob("*.mk"):
        for script in re.findall(r"scripts/(\w+)\.py", path.read_text()):
            stage = NAMED.get(script, script.split("_")[0])
            # SmolLM goes through the fuse and the quantizer of the other line, the proof of training through its data,
            # a search through all that makes a quant.
            borrowed = {
                "smol": {"repair_fuse", "quant_quantize"},
                "search": {
                    "quant_quantize",
                    "quant_build_calibration",
                    "quant_compute_imatrix",
                    "quant_predict_sizes",
                    "eval_run",
                    "eval_prove_equivalence",
                },
                "moe": {"traces_build_router_rows", "traces_prepare"},
            }
            assert stage == path.stem or script in borrowed.get(path.stem, ()), f"{path.name}: {script}"
    # The head runs what make itself needs, and shows what was made.
    assert set(re.findall(r"scripts/(\w+)\.py", (ROOT / "Makefile").read_text())) == {
        "settings",
        "depends",
        "quant_show",
    }


def test_no_script_is_imported_by_another_or_by_a_room():
    names = {path.stem for path in SCRIPTS.glob("*.py")}
    for path in [*SCRIPTS.glob("*.py"), *SCRIPTS.glob("kxl/*/*.py")]:
        assert not imports(path) & names, path


def test_each_script_runs_alone_and_says_how():
    for path in SCRIPTS.glob("*.py"):
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert f"scripts/{path.name}" in doc, f"{path.name}: its docstring shows no command"


def test_rooms_have_no_circle_and_at_most_fifteen_modules():
    for room, path in ROOMS.items():
        assert len(list(path.glob("*.py"))) <= 15, room
    left = {room: rooms_of(room) for room in ROOMS}
    while ready := [room for room, needs in left.items() if not needs & left.keys()]:
        for room in ready:
            del left[room]
    assert not left, f"these rooms import each other in a circle: {left}"


def test_base_imports_no_room_and_setup_only_base():
    assert rooms_of("base") == set()
    assert rooms_of("setup") <= {"base"}
    assert rooms_of("house") <= {"base"}


@pytest.mark.parametrize("name", ["chat/tool_syntax", "chat/thoughts", "base/cli", "base/files", "setup/venvs"])
def test_what_the_net_ships_and_what_runs_before_there_are_packages_needs_the_standard_library_alone(name):
    path = SCRIPTS / "kxl" / f"{name}.py"
    if not path.exists():
        pytest.fail(f"{path} is gone; this test names it")
    todo, allowed = [f"kxl/{name}.py"], set(sys.stdlib_module_names)
    code = Code(SCRIPTS)
    for module in code.closure(todo[0]):
        for node in ast.walk(ast.parse((SCRIPTS / module).read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            for imported in names:
                assert imported.split(".")[0] in allowed | {"kxl"}, f"{module} imports {imported}"


def test_scripts_that_run_before_there_are_packages_start_on_a_bare_python():
    for script in ("setup_system_packages", "setup_venv", "settings", "depends"):
        command = [sys.executable, "-I", "-S", str(SCRIPTS / f"{script}.py"), "--help"]
        program = (
            f"import sys, runpy; sys.path.insert(0, {str(SCRIPTS)!r}); sys.argv = {command[3:]!r}; "
            f"runpy.run_path({command[3]!r}, run_name='__main__')"
        )
        ended = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True)
        assert ended.returncode == 0, f"{script}: {ended.stderr[-300:]}"


def test_make_files_are_short_enough_to_read():
    assert len((ROOT / "Makefile").read_text().splitlines()) <= 120
    for path in [ROOT / "Makefile", *(ROOT / "make").glob("*.mk")]:
        lines = path.read_text().splitlines()
        assert len(lines) <= 150, path.name
        assert [n for n, line in enumerate(lines, 1) if len(line) > 120] == [], path.name


def test_no_line_of_python_is_over_120_columns():
    long = [
        f"{path.relative_to(ROOT)}:{number}"
        for folder in ("scripts", "tests", "patches")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 120
    ]
    assert long == []


# What GNU make 3.81 does not know.
@pytest.mark.parametrize("word", [r"\$\(file ", r"!=", r"\.ONESHELL", r"&:", r"\$\(intcmp", r"\$\(let ", r"private "])
def test_make_files_speak_the_language_of_make_381(word):
    for path in [ROOT / "Makefile", *(ROOT / "make").glob("*.mk")]:
        text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith(("\t", "#")))
        assert not re.search(word, text), path.name


def test_readme_and_docs_name_only_scripts_and_targets_that_exist():
    targets = set()
    for path in [ROOT / "Makefile", *(ROOT / "make").glob("*.mk")]:
        targets |= set(re.findall(r"^([a-z0-9][a-z0-9-]*):", path.read_text(), flags=re.MULTILINE))
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]:
        text = page.read_text(encoding="utf-8")
        for name in re.findall(r"scripts/([\w/]+\.py)", text):
            assert (SCRIPTS / name).is_file(), f"{page.name}: scripts/{name}"
        for name in re.findall(r"(?:`|^|\n)make ([a-z][a-z0-9-]+)", text):
            assert name in targets, f"{page.name}: make {name}"


def test_the_list_of_modules_is_what_their_docstrings_say():
    import list_modules

    assert (ROOT / "docs/modules.md").read_text(encoding="utf-8") == list_modules.page(), "run make modules"


def test_where_to_change_names_files_that_exist():
    text = (ROOT / "docs/where-to-change.md").read_text(encoding="utf-8")
    for name in re.findall(r"`([\w./-]+/[\w./-]*)`", text):
        if not re.search("NAME|STAGE|SUITE", name):
            assert (ROOT / name).exists() or (SCRIPTS / "kxl" / name).exists(), name


def test_every_option_says_what_it_is():
    quiet = SCRIPTS / "kxl/base/config.py"  # it reads --config ahead of the parser that explains it
    for path in {*SCRIPTS.glob("*.py"), *SCRIPTS.glob("kxl/*/*.py")} - {quiet}:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
                assert any(keyword.arg == "help" for keyword in node.keywords), f"{path.name}:{node.lineno}"


def test_every_make_command_that_a_page_shows_is_a_target():
    text = "\n".join(path.read_text() for path in [ROOT / "Makefile", *(ROOT / "make").glob("*.mk")])
    targets = set(re.findall(r"^([a-z0-9-]+):", text, flags=re.MULTILINE)) | {"q8kxl", "q6kxl", "q5kxl", "q4kxl"}
    for page in [ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").glob("*.md")]:
        words = page.read_text(encoding="utf-8")
        shown = re.findall(r"`make ([a-z][a-z0-9-]+)", words) + re.findall(
            r"^make ([a-z][a-z0-9-]+)", words, re.MULTILINE
        )
        assert set(shown) <= targets, f"{page.name}: {set(shown) - targets}"
