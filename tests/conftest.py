"""What the tests share: seeds, real images, two processes, no silent skips under CI."""

import os
from collections.abc import Iterator
from pathlib import Path

# Of two processes that test at once, each takes one core. torch reads this
# when it is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from helpers.browsing import (  # noqa: F401
    browser,
    built_site,
    page_urls,
    parsed_pages,
    site_url,
    skip_or_fail,
    standalone,
    standalone_url,
    visit,
)

# What takes long to make is made in one process, for all tests that use it.
SHARED = ("site", "standalone", "wheel")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests that share something expensive to one process."""
    for item in items:
        used = {*getattr(item, "fixturenames", ())}
        case = getattr(item, "callspec", None)
        used |= {v for v in case.params.values() if v in SHARED} if case else set()
        for fixture in SHARED:
            if fixture in used:
                item.add_marker(pytest.mark.xdist_group(fixture))
                break


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_images() -> Path:
    """The root of real CIFAR-10 images, from LABML_BCN_DATA."""
    root = os.environ.get("LABML_BCN_DATA")
    if not root:
        skip_or_fail("LABML_BCN_DATA (a folder with real CIFAR-10 images)")
    return Path(root)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Steps this small are not faster on several busy cores, but slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
