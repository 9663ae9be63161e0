"""Test and measure the kernels on a GPU, and record both: run by `make gpu`.

    python tools/gpu.py FOLDER

PyTorch with CUDA, Triton and pytest are all that it takes. It ends within eight
minutes: what takes longer than its share is stopped, and recorded as that. The record,
gpu.json in the folder, is written anew after each part.
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
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
HAS_GPU = "import sys, torch; sys.exit(not torch.cuda.is_available())"
# No other test runs here, and nothing that they share is needed.
TESTS = (
    *("-m", "pytest", "--noconftest", "-p", "no:cacheprovider", "-W", "default", "-q"),
    "tests/layers/test_triton.py",
)
BENCHMARK = ("-m", "labml_bcn.experiment.bench.layers", "--device", "cuda")
# Seconds that each may take, and those of measuring an input.
SHARE_OF_TESTS, SHARE_OF_BENCHMARK, MEASURING = 150, 40, 0.5
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


def run(*arguments: str, seconds: float) -> dict[str, Any]:
    """Run Python with arguments; return how it ended, and its last lines."""
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
            end = f"stopped after {seconds:g} seconds"
        output.seek(0)
        lines = output.read().splitlines()[-LINES_KEPT:]
    print(*lines, f"{' '.join(arguments)}: {end}", sep="\n", flush=True)
    return {"arguments": arguments, "end": end, "output": lines}


def measure(options: Sequence[str]) -> dict[str, Any]:
    """Run a benchmark, and add its record to how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "record.json"
        written = ("--json", str(file))
        done = run(*BENCHMARK, *options, *written, seconds=SHARE_OF_BENCHMARK)
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
    record: dict[str, Any] = {"tests": run(*TESTS, seconds=SHARE_OF_TESTS)}
    record["benchmarks"] = measured = []
    for options in [None, *benchmarks()]:
        if options is not None:
            measured.append(measure(options))
        text = json.dumps(record, indent=1) + "\n"
        (folder / "gpu.json").write_text(text, "utf-8")
    parts = [record["tests"], *measured]
    return int(any(part["end"] != "passed" for part in parts))


if __name__ == "__main__":
    sys.exit(main())
