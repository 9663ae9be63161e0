"""The wheel, installed beside torch alone in an empty environment."""

import sys
import zipfile
from pathlib import Path

import pytest
from helpers.distributions import build, run
from helpers.paths import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))[0]


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("empty")
    assert run(sys.executable, "-m", "venv", folder, cwd=folder).returncode == 0
    found = folder / "bin" / "python"
    done = run(
        found,
        *("-m", "pip", "install", "--quiet"),
        *("-c", ROOT / "constraints.txt", wheel),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return found


def test_the_wheel_holds_the_package_its_types_and_its_licence(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "labml_bcn/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    rooms = {name.split("/")[0].split("-")[0] for name in names}
    assert rooms == {"labml_bcn"}


def test_the_layers_need_torch_alone(python, tmp_path):
    code = (
        "import torch, labml_bcn\n"
        "layer = labml_bcn.BatchChannelNorm(8, 2)\n"
        "conv = labml_bcn.WSConv2d(3, 8, 3)\n"
        "print(layer(conv(torch.randn(1, 3, 8, 8))).shape)\n"
    )
    done = run(python, "-I", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([1, 8, 6, 6])" in done.stdout


def test_a_missing_extra_is_named(python, tmp_path):
    done = run(python, "-I", "-m", "labml_bcn.experiment.train", cwd=tmp_path)
    assert done.returncode != 0
    assert "labml-bcn[train]" in done.stderr
    assert "Traceback" not in done.stderr
