"""Record every benchmark of the page "How fast it is" anew.

    python -m labml_bcn.experiment.bench.record docs/benchmarks

It takes about ten minutes on two cores, and wants the machine to itself. Each record is
made by a command of its own, which the page shows. The C library is told to keep its
memory: left alone, it gives large blocks back to the system, and fetching one again
takes longer than a norm does, now for one rival and now for another.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from labml_bcn.experiment import option_types
from labml_bcn.experiment.bench.layers import INPUTS
from labml_bcn.experiment.measurement import EXIT_STATUS, end_quietly
from labml_bcn.experiment.output import say

KEEP_MEMORY = dict.fromkeys(
    ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_TRIM_THRESHOLD_"),
    "2000000000",
)

LAYERS, TRAINING = "layers", "training"
# Compiling takes longer than measuring: fewer inputs, rivals and networks are enough.
FEW_INPUTS = ("--inputs", *(",".join(map(str, shape)) for shape in INPUTS))
FEW_RIVALS = ("--rivals", "kernels", "operations", "group norm")
ONE_NETWORK = ("--models", "small", "--batch-sizes", "2")

# The records, each with its module and options, the most important one first.
RECORDS: dict[str, tuple[str, ...]] = {
    "cpu-eager": (LAYERS,),
    "cpu-training": (TRAINING,),
    "cpu-relu": (LAYERS, "--relu"),
    "cpu-eval": (LAYERS, "--eval"),
    "cpu-channels-last": (LAYERS, "--channels-last"),
    "cpu-bfloat16": (LAYERS, "--dtype", "bfloat16"),
    "cpu-weights": (LAYERS, "--weights"),
    "cpu-compiled": (LAYERS, "--compile", *FEW_INPUTS, *FEW_RIVALS),
    "cpu-training-compiled": (TRAINING, "--compile", *ONE_NETWORK),
}
# What takes another time to measure than its command's own.
SECONDS = {"cpu-training": 12, "cpu-weights": 2}


def command_of(
    name: str, folder: Path, threads: int, seconds: float | None
) -> list[str]:
    """Return the command that makes a record."""
    module, *options = RECORDS[name]
    if seconds is None:
        seconds = SECONDS.get(name)
    if seconds is not None:
        options += ["--seconds", f"{seconds:g}"]
    return [
        sys.executable,
        "-m",
        f"labml_bcn.experiment.bench.{module}",
        *options,
        "--threads",
        str(threads),
        "--json",
        str(folder / f"{name}.json"),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the commands one after the other; stop at the first that fails."""
    return end_quietly(partial(record, arguments))


def record(arguments: Sequence[str] | None) -> int:
    """Make the records, and return the status of the first command that fails."""
    command = argparse.ArgumentParser(
        prog="python -m labml_bcn.experiment.bench.record",
        description="Record every benchmark anew, in about ten minutes.",
        epilog=EXIT_STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = command.add_argument
    add(
        "folder",
        type=option_types.folder,
        help="where the records lie, such as docs/benchmarks",
    )
    add("--only", nargs="+", choices=RECORDS, metavar="NAME", help="these alone")
    add("--threads", type=option_types.count, default=2, metavar="T", help="default: 2")
    add(
        "--seconds", type=option_types.seconds, metavar="S", help="for each measurement"
    )
    options = command.parse_args(arguments)
    environment = os.environ | KEEP_MEMORY
    for name in options.only or RECORDS:
        say(f"\n{name}")
        words = command_of(name, options.folder, options.threads, options.seconds)
        if status := subprocess.run(words, env=environment, check=False).returncode:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
