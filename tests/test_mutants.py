"""The edits that show that tests of equations bite, and what runs them."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.paths import ROOT

from tools import mutants


def test_every_equation_has_edits_that_still_apply():
    assert list(mutants.find_problems()) == []


@pytest.mark.parametrize(
    ("edit", "changed"),
    [
        ("y = a + b", 0),
        ("y = a - b", 1),
        ("y = -a + b", 1),
        ("y = a", 2),
        ("y = f(a + b)", 3),
        ("y  =  a + b  # as before", 1),
    ],
)
def test_an_edit_is_measured_in_tokens(edit, changed):
    assert mutants.count_changed_tokens("y = a + b", edit) == changed


# A project of one equation.
LAYER = '''r"""
# Sum

$$y = a + b$$ {#sum}
"""


def add(a, b):
    return a + b
'''
TEST = """import pytest

from labml_bcn.layer import add


@pytest.mark.equation("layer.sum")
@pytest.mark.parametrize("a", [0, 1])
def test_sum(a):
    assert add(a, 2) == a + 2


def test_unmarked():
    assert add(1, 2) != 0
"""
EDIT = "layer.sum:\n  - line: return a + b\n    edit: return a - b\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "labml_bcn").mkdir()
    (tmp_path / "tests").mkdir()
    (tmp_path / "labml_bcn" / "__init__.py").touch()
    (tmp_path / "labml_bcn" / "layer.py").write_text(LAYER)
    (tmp_path / "tests" / "test_layer.py").write_text(TEST)
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "mutants.yml").write_text(EDIT)
    (tmp_path / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\nmarkers = ["equation: names"]\n'
    )
    return tmp_path


def run(project: Path) -> tuple[int, str]:
    before = (project / "labml_bcn" / "layer.py").read_bytes()
    script = ROOT / "tools" / "mutants.py"
    done = subprocess.run(
        [sys.executable, str(script), "--root", str(project)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert (project / "labml_bcn" / "layer.py").read_bytes() == before
    assert not list(project.rglob("__pycache__"))
    return done.returncode, done.stdout


@pytest.mark.slow
def test_an_edit_that_a_test_notices_is_well(project):
    status, text = run(project)
    assert status == 0, text
    assert "1 of 1" in text
    assert "every edit makes a test fail" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("tests/test_layer.py", "a + 2", "add(a, 2)", "SURVIVES"),
        ("tests/test_layer.py", "a + 2", "a - 2", "without any edit"),
        (
            "tests/test_layer.py",
            "def test_un",
            "@pytest.mark.equation('layer.sum')\ndef test_un",
            "test_unmarked fails for none of the edits",
        ),
        ("tests/test_layer.py", "layer.sum", "layer.no", "no test asserts"),
        ("tools/mutants.yml", "a + b", "b + a", "0 lines that read"),
        ("tools/mutants.yml", "a - b", "f(a - b)", "no edit of one token"),
        ("tools/mutants.yml", "layer.sum", "layer.no", "no edit is listed"),
        ("tools/mutants.yml", "layer.sum", "layer.no", "no equation has"),
        ("labml_bcn/layer.py", "return a + b", "return a +\\\n b", "0 lines"),
    ],
)
def test_whatever_is_not_well_is_named_and_the_command_fails(
    project, name, old, new, says
):
    path = project / name
    path.write_text(path.read_text().replace(old, new))
    status, text = run(project)
    assert status == 1
    assert says in text
