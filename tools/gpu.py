"""Test and measure the kernels on a GPU, and record both: run by `make gpu`.

    python tools/gpu.py FOLDER

PyTorch with CUDA, Triton and pytest are all that it takes. It ends within eight
minutes: what takes longer is stopped, and recorded as that. The record, gpu.json in the
folder, is written anew after each part.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from time import monotonic
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HAS_GPU = "import sys, torch; sys.exit(not torch.cuda.is_available())"
# What tests share is not needed by these. One of them compiles for other GPUs.
TESTS = (
    *("-m", "pytest", "--noconftest", "-p", "no:cacheprovider", "-W", "default", "-q"),
    *("tests/layers/test_triton.py", "-k", "not compiles"),
)
BENCHMARK = ("-m", "labml_bcn.experiment.bench.layers", "--device", "cuda")
# Seconds: of everything, of the tests, of a benchmark, and of measuring an input in it.
ALL, MOST_OF_TESTS, MOST_OF_BENCHMARK, MEASURING = 460, 200, 80, 0.3
LINES_KEPT = 40


def benchmarks() -> list[list[str]]:
    """Return the options of each benchmark, the most important one first."""
    ways = product(
        ([], ["--graph"]), ([], ["--channels-last"]), ("float32", "bfloat16")
    )
    return [
        ["--dtype", dtype, *layout, *graph, "--seconds", str(MEASURING)]
        for graph, layout, dtype in ways
    ]


def run(*arguments: str, most: float, end_at: float) -> dict[str, Any]:
    """Run Python with arguments; return how it ended, and its last lines.

    It has some seconds at most, and until the clock shows `end_at`.
    """
    seconds = max(0, min(most, end_at - monotonic()))
    command = [sys.executable, *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        try:
            status = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=False,
            ).returncode
            end = "passed" if status == 0 else f"failed with exit status {status}"
        except subprocess.TimeoutExpired:
            end = f"stopped after {seconds:.0f} seconds"
        output.seek(0)
        lines = output.read().splitlines()[-LINES_KEPT:]
    print(*lines, f"{' '.join(arguments)}: {end}", sep="\n", flush=True)
    return {"arguments": arguments, "end": end, "output": lines}


def measure(options: Sequence[str], end_at: float) -> dict[str, Any]:
    """Run a benchmark, and add its record to how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "record.json"
        written = ("--json", str(file))
        command = (*BENCHMARK, *options, *written)
        done = run(*command, most=MOST_OF_BENCHMARK, end_at=end_at)
        record = json.loads(file.read_text("utf-8")) if file.exists() else None
    return {"options": options, "end": done["end"], "record": record} | (
        {} if record else {"output": done["output"]}
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Test, measure and record; return 1 if anything failed, 2 without a GPU."""
    command = argparse.ArgumentParser(
        prog="python tools/gpu.py",
        description="Test and measure the kernels on a GPU.",
    )
    command.add_argument("folder", type=Path, help="where gpu.json is written")
    folder: Path = command.parse_args(arguments).folder
    if subprocess.run([sys.executable, "-c", HAS_GPU], check=False).returncode:
        command.error("there is no CUDA device here")
    folder.mkdir(parents=True, exist_ok=True)
    end_at = monotonic() + ALL
    tests = run(*TESTS, most=MOST_OF_TESTS, end_at=end_at)
    measured: list[dict[str, Any]] = []
    write(folder, tests, measured)
    for options in benchmarks():
        measured.append(measure(options, end_at))
        write(folder, tests, measured)
    return int(any(part["end"] != "passed" for part in (tests, *measured)))


def write(folder: Path, tests: dict[str, Any], measured: list[dict[str, Any]]) -> None:
    """Write the record."""
    text = json.dumps({"tests": tests, "benchmarks": measured}, indent=1)
    (folder / "gpu.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    sys.exit(main())
