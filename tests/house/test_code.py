"""What makes a stage stale: a changed statement in what its script imports, and nothing else."""

import ast
import shutil
import subprocess
import sys

import pytest

from conftest import ROOT
from kxl.base.code import Code

pytestmark = pytest.mark.minutes

MODULES = sorted(str(path.relative_to(ROOT / "scripts")) for path in (ROOT / "scripts").glob("kxl/*/*.py"))


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkout") / "scripts"
    shutil.copytree(ROOT / "scripts", folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def hashes(folder, known: dict | None = None) -> dict[str, str]:
    """The hash of each script; what `known` holds is read again only where its file has changed."""
    code = Code(folder)
    code.known = dict(known or {})
    return {path.name: code.hash(path.name) for path in folder.glob("*.py")}


@pytest.fixture(scope="module")
def known(scripts):
    code = Code(scripts)
    for path in scripts.rglob("*.py"):
        code.module(str(path.relative_to(scripts)))
    return code.known


@pytest.fixture(scope="module")
def before(scripts):
    return hashes(scripts)


@pytest.fixture(scope="module")
def importers(scripts):
    """{module: scripts that import it}, by names alone: a module is reached when its path follows from an import."""
    direct, own = {}, {path.name for path in scripts.glob("*.py")}
    for path in scripts.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        direct[str(path.relative_to(scripts))] = found = set()
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        found |= {other for other in MODULES if _imports(nodes, other)}
        # Programs that are started by name are code of the starter as well.
        strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        found |= {name for name in own | set(MODULES) if {name, f"scripts/{name}"} & strings}
    reached = {name: set(found) for name, found in direct.items()}
    grew = True
    while grew:  # the closure by repeated union, another way than the one under test
        grew = False
        for found in reached.values():
            more = set().union(*(reached.get(other, set()) for other in found)) - found
            grew, found_more = grew or bool(more), more
            found |= found_more
    return {m: {p.name for p in scripts.glob("*.py") if m in reached[p.name]} for m in MODULES}


def _imports(imports: list, module: str) -> bool:
    dotted = module[:-3].replace("/", ".")
    package, _, name = dotted.rpartition(".")
    for node in imports:
        if isinstance(node, ast.Import) and any(alias.name == dotted for alias in node.names):
            return True
        if isinstance(node, ast.ImportFrom) and node.module == dotted:
            return True
        if isinstance(node, ast.ImportFrom) and node.module == package and any(a.name == name for a in node.names):
            return True
    return False


@pytest.mark.parametrize("module", MODULES)
def test_a_statement_in_a_module_makes_stale_the_scripts_that_import_it_and_no_other(
    scripts, known, before, importers, module
):
    path = scripts / module
    text = path.read_text(encoding="utf-8")
    try:
        path.write_text(text + "\nADDED = 1\n", encoding="utf-8")
        after = hashes(scripts, known)
    finally:
        path.write_text(text, encoding="utf-8")
    assert {name for name in before if before[name] != after[name]} == importers[module]


@pytest.mark.parametrize("module", ["kxl/base/files.py", "kxl/eval/server.py", "kxl/moe/int8.py"])
def test_a_docstring_a_comment_and_a_layout_make_nothing_stale(scripts, before, module):
    path = scripts / module
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    tree.body[0] = ast.parse('"""Another docstring."""').body[0]
    function = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and ast.get_docstring(node))
    function.body[0] = ast.parse('"""Another one."""').body[0]
    try:
        path.write_text("# a comment\n" + ast.unparse(tree), encoding="utf-8")  # every line laid out anew
        assert hashes(scripts) == before
    finally:
        path.write_text(text, encoding="utf-8")


def test_a_stamp_keeps_its_time_while_its_code_is_the_same(scripts):
    run = [sys.executable, str(scripts / "depends.py"), "--out", str(scripts.parent / "code")]
    subprocess.run(run, check=True)
    stamp = scripts.parent / "code" / "eval_run"
    first = stamp.stat().st_mtime_ns
    assert first == max((scripts / name).stat().st_mtime_ns for name in Code(scripts).closure("eval_run.py"))
    path = scripts / "kxl/eval/server.py"
    path.write_text("# a comment\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    subprocess.run(run, check=True)
    assert stamp.stat().st_mtime_ns == first
    path.write_text(path.read_text(encoding="utf-8") + "\nADDED = 1\n", encoding="utf-8")
    subprocess.run(run, check=True)
    assert stamp.stat().st_mtime_ns > first


def test_a_syntax_error_is_named_with_its_line(scripts):
    path = scripts / "kxl/eval/server.py"
    text = path.read_text(encoding="utf-8")
    try:
        path.write_text("def broken(:\n" + text, encoding="utf-8")
        run = [sys.executable, str(scripts / "depends.py"), "--out", str(scripts.parent / "code")]
        ended = subprocess.run(run, capture_output=True, text=True)
    finally:
        path.write_text(text, encoding="utf-8")
    assert ended.returncode == 2 and "kxl/eval/server.py:1: invalid syntax" in ended.stderr
