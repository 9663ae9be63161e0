"""What is asked before a release, and the pins that it is built with."""

import re
import subprocess
import sys

import pytest
from helpers.paths import ROOT

from tools import release, renew_constraints

INIT = '"""Layers."""\n\n__version__ = "1.2.0"\n'
CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.0] - 2030-01-01

### Added

- Convert a network.

## [1.1.0]

- Older.
"""


def test_the_notes_of_a_tag_are_its_section_of_the_changelog():
    notes = release.notes("v1.2.0", INIT, CHANGELOG)
    assert notes == "### Added\n\n- Convert a network.\n"


@pytest.mark.parametrize("tag", ["1.2.0", "v1.2", "v1.1.0", "v1.2.0rc1", ""])
def test_a_tag_that_is_not_the_version_is_refused(tag):
    with pytest.raises(ValueError, match=r"must be v1\.2\.0.*got"):
        release.notes(tag, INIT, CHANGELOG)


@pytest.mark.parametrize(
    "changelog",
    [
        CHANGELOG.replace("[1.2.0]", "[1.3.0]"),
        CHANGELOG.replace("### Added\n\n- Convert a network.\n", ""),
        CHANGELOG.replace("1.2.0", "1x2.0"),
    ],
    ids=["absent", "empty", "alike"],
)
def test_a_version_that_the_changelog_does_not_know_is_refused(changelog):
    with pytest.raises(ValueError, match=r"section \[1\.2\.0\]"):
        release.notes("v1.2.0", INIT, changelog)


def test_the_command_ends_with_1_and_one_line_if_the_tag_is_wrong():
    command = [sys.executable, "tools/release.py", "v0.0.0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("package", ["labml_bcn", "facing/src/facing"])
def test_the_version_stands_once(package):
    stated = release.version((ROOT / package / "__init__.py").read_text("utf-8"))
    assert re.fullmatch(r"\d+\.\d+\.\d+", stated)
    for name in ("pyproject.toml", "facing/pyproject.toml", "CITATION.cff"):
        text = (ROOT / name).read_text("utf-8")
        assert not re.search(r"^version\b", text, re.MULTILINE), name


def test_pins_are_one_a_line_in_order_and_torch_is_kept():
    text = (ROOT / "constraints.txt").read_text("utf-8")
    pinned = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.+]+", line) for line in pinned)
    assert renew_constraints.render(pinned) == text
    (torch,) = renew_constraints.hand_pinned(text)
    assert torch in pinned


def test_a_pin_made_by_hand_stays_as_it_is():
    frozen = ["a==1", "torch==2.13.0+cpu", "torchmetrics==3"]
    kept = renew_constraints.keep_hand_pinned(frozen, ["torch==2.13.0"])
    assert kept == ["a==1", "torchmetrics==3", "torch==2.13.0"]
