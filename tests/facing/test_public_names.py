"""What `import facing` gives, and what it must not bring along."""

import subprocess
import sys

import facing


def test_every_public_name_is_there():
    assert sorted(facing.__all__) == facing.__all__
    for name in facing.__all__:
        assert getattr(facing, name) is not None


def test_the_import_brings_no_torch_no_numpy_and_no_mkdocs():
    code = "import facing, sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"torch", "numpy", "mkdocs", "labml_bcn"} & set(done.stdout.split())
