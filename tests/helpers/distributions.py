"""Distributions of our packages, built as a user's pip builds them."""

import subprocess
import sys
from pathlib import Path


def run(
    *command: str | Path, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, and keep what it printed."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def build(
    kind: str, source: Path, out: Path, env: dict[str, str] | None = None
) -> tuple[Path, str]:
    """Build a "wheel" or an "sdist"; return its file and what was printed."""
    done = run(
        sys.executable,
        *("-m", "build", f"--{kind}", "--no-isolation", "--outdir", out),
        cwd=source,
        env=env,
    )
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed
    (found,) = out.iterdir()
    return found, printed
