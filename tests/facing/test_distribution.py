"""The distribution: a wheel that holds all it needs, in an empty environment."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers.paths import ROOT

import facing

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    run(*build, "--outdir", out, cwd=ROOT / "facing")
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment's commands, in which facing alone is installed."""
    folder = tmp_path_factory.mktemp("empty")
    run(sys.executable, "-m", "venv", folder, cwd=folder)
    found = folder / "bin"
    install = [found / "python", "-m", "pip", "install", "--quiet"]
    run(*install, "-c", ROOT / "constraints.txt", wheel, cwd=folder)
    return found


def test_the_wheel_holds_modules_assets_templates_types_and_licences(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "facing" / "src"
    for path in (package / "facing").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert path.relative_to(package).as_posix() in names
    assert "facing/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("OFL-LICENSE.txt") for name in names)
    assert all(name.startswith(("facing/", "facing-")) for name in names)


def test_the_command_renders_a_file_without_torch(scripts, tmp_path):
    (tmp_path / "one.py").write_text('r"""\n# One\n\nMean $\\mu$.\n"""\nx = 1\n')
    run(scripts / "facing", "one.py", "--out", "pages", cwd=tmp_path)
    page = (tmp_path / "pages" / "one.html").read_text()
    assert "<mi>μ</mi>" in page
    assert (tmp_path / "pages" / "assets" / "literate.css").is_file()
    found = run(scripts / "python", "-m", "pip", "list", cwd=tmp_path)
    assert "torch" not in found
    assert "mkdocs" not in found


def test_the_command_tells_its_version(scripts, tmp_path):
    version = f"facing {facing.__version__}\n"
    assert run(scripts / "facing", "--version", cwd=tmp_path) == version
    module = [scripts / "python", "-I", "-m", "facing"]
    assert run(*module, "--version", cwd=tmp_path) == version


def test_the_markdown_extension_has_a_name(scripts, tmp_path):
    code = (
        "import markdown; print(markdown.markdown('$x$', extensions=['facing.math']))"
    )
    assert "<math>" in run(scripts / "python", "-I", "-c", code, cwd=tmp_path)
