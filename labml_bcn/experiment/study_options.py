"""The options of the study's command, and their help."""

import argparse
from collections.abc import Collection
from pathlib import Path

from labml_bcn.experiment import option_types

DESCRIPTION = """\
Record a study of normalization at micro-batch: seven methods, five batch
sizes, three seeds, and an ablation. Each trial is one training command, and
becomes one small file. What is recorded is not run again. Stopped or killed
at any moment, the same command goes on.
"""

EPILOG = """\
examples:
  All that is not recorded yet, a run on each core:
    python -m labml_bcn.experiment.study

  What there is, and the command of each trial:
    python -m labml_bcn.experiment.study --list

  Batch size 2 alone:
    python -m labml_bcn.experiment.study --only 'sweep-*-b2-*' 'main-*-b2-*'

  In doubt? Run a trial's command again, and compare bit for bit:
    python -m labml_bcn.experiment.study --check main-bcn-ws-b2-s0

  What readers ask next, 36 runs:
    python -m labml_bcn.experiment.study --study questions

  The full VGG on a GPU; no records of these are here yet:
    python -m labml_bcn.experiment.study --study gpu --data FOLDER
    python -m labml_bcn.experiment.study --study gpu-labml --data FOLDER

exit status:
  0    all that was asked for is recorded, or came out the same
  1    a run cannot go on, waits for a sweep, or came out differently
  2    the command does not fit; nothing was run
  130  stopped by Ctrl-C, and kept; 143 by SIGTERM
"""


def parser(studies: Collection[str]) -> argparse.ArgumentParser:
    """Return the parser of the study's command, for studies of these names."""
    command = argparse.ArgumentParser(
        prog="python -m labml_bcn.experiment.study",
        usage="%(prog)s [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = command.add_argument
    add(
        "--study",
        choices=tuple(studies),
        default="cpu",
        help="which grid: of the small VGG on a CPU, what readers ask next, or of the"
        " full one on a GPU with our recipe or labml's (default: cpu)",
    )
    add(
        "--list",
        action="store_true",
        help="run nothing; list the points and what is recorded of them",
    )
    add(
        "--only",
        nargs="+",
        default=["*"],
        metavar="PATTERN",
        help="points whose names match one of these; * is anything",
    )
    add(
        "--check",
        nargs="+",
        default=[],
        metavar="NAME",
        help="run recorded points again, and compare",
    )
    add(
        "--jobs",
        type=option_types.count,
        metavar="J",
        help="runs at once (default: one a core, or one on a GPU)",
    )
    add(
        "--results",
        type=option_types.path,
        metavar="FOLDER",
        help="the records (default: docs/results, and the study's name)",
    )
    add(
        "--runs",
        type=option_types.new_folder,
        default=Path("runs", "study"),
        metavar="FOLDER",
        help="where runs are kept until they end (default: runs/study)",
    )
    images = command.add_mutually_exclusive_group().add_argument
    images("--data", metavar="FOLDER", help="as for the training command")
    images("--stand-in", action="store_true", help="likewise")
    return command
