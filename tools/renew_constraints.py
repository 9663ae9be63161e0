"""Write constraints.txt anew from the newest versions: `make renew`.

A new environment is set up without constraints, all but torch: its version is
chosen by hand, as another one can bring gigabytes and other rounding. Run
`make check test` with the new file before it is committed.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "constraints.txt"
HEAD = """\
# Every version that the commands install, so that a build of today is one of
# tomorrow. `make renew` writes this file; torch is changed by hand.
"""


def hand_pinned(text: str) -> list[str]:
    """Return the lines of the packages that are not renewed."""
    return re.findall(r"^torch==.+$", text, re.MULTILINE)


def render(pinned: list[str]) -> str:
    """Return the file's text, one package a line in the order of the alphabet."""
    return HEAD + "".join(f"{line}\n" for line in sorted(pinned, key=str.lower))


def keep_hand_pinned(frozen: list[str], by_hand: list[str]) -> list[str]:
    """Return what was frozen, with the pins made by hand as they were.

    What is installed may be called more: `torch==2.13.0+cpu`, on a machine without GPU.
    """
    kept = {line.partition("==")[0] for line in by_hand}
    return [line for line in frozen if line.partition("==")[0] not in kept] + by_hand


def freeze_newest(by_hand: list[str]) -> list[str]:
    """Install everything into a new environment, and list what is in it."""
    with tempfile.TemporaryDirectory() as folder:
        python = str(Path(folder) / "bin" / "python")
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        everything = ["-e", "./facing", "-e", ".[test,lab,ecosystem,release]", *by_hand]
        install = [python, "-m", "pip", "install", "--quiet", *everything]
        subprocess.run(install, cwd=ROOT, check=True)
        freeze = [python, "-m", "pip", "freeze", "--exclude-editable"]
        done = subprocess.run(freeze, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


if __name__ == "__main__":
    by_hand = hand_pinned(FILE.read_text("utf-8"))
    pinned = keep_hand_pinned(freeze_newest(by_hand), by_hand)
    FILE.write_text(render(pinned), "utf-8")
