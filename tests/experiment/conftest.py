"""What the tests of the experiment share."""

from pathlib import Path

import pytest

from labml_bcn.experiment import cifar10


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing configured, and an empty cache folder."""
    monkeypatch.delenv("LABML_BCN_DATA", raising=False)
    monkeypatch.delenv("LABML_BCN_DOWNLOAD", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "cache"
    monkeypatch.setattr(cifar10, "cache_folder", lambda: folder)
    return folder
