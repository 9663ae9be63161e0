r"""
---
title: Recording the study
summary: >
  Runs the points of the study, several at once, and writes one small file
  for each; killed at any moment, it goes on where it was.
---

# Recording the study

A [study](study.py) is a few hundred training commands. Here they are
started, as many at once as there are cores, and each becomes a *record*: a
small file of JSON with the settings, the curve, the result, the digest of
the last weights, the commit, the machine and the digest of the images.
Nothing in it is typed by hand.

    python -m labml_bcn.experiment.study

**Killed, and started again.** A record is written whole or not at all, when
its run has ended. A run that has not ended is [kept in its
folder](run_folder.py), and goes on from there.

**Doubted.** A record holds the command that it came from. This runs one
again and compares, bit for bit:

    python -m labml_bcn.experiment.study --check main-bcn-ws-b2-s0

The same bits need the same torch and the same kind of processor; other ones
round differently, and training makes small differences large.
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from threading import Event

import torch
from torch import Tensor

from labml_bcn.experiment.cifar10 import CIFAR10
from labml_bcn.experiment.options import images_for
from labml_bcn.experiment.run_folder import Folder, RunError, write
from labml_bcn.experiment.signals import Stop
from labml_bcn.experiment.study import (
    STUDIES,
    Point,
    Records,
    Study,
    Values,
    plan,
    recorded,
)
from labml_bcn.experiment.train import positive


class Runner:
    r"""
    ## One run

    Starts training commands, one process each, and reads what they leave.

    **Arguments**

    - `folder`: where runs are kept until they are recorded.
    - `data`: what the commands are told about the images: `--data` and a
      folder, `--stand-in`, or nothing.
    """

    def __init__(self, folder: Path, data: Sequence[str] = ()) -> None:
        self.folder, self.data = folder, data
        self.commit = commit()
        self.stopping = Event()
        self.processes: set[subprocess.Popen[str]] = set()

    def run(self, name: str, command: str) -> Values:
        r"""
        Run a command to its end, and return its record.

        What one version of the code has begun is not finished by another:
        the folder of the run carries the commit.

        **Raises** `RunError`: it did not come to its end.
        """
        path = self.path(name)
        words = [*shlex.split(command)[1:], *self.data]
        words += ["--out", str(path), "--resume"]
        status, said = self.call(words)
        # A study that was killed has left its runs behind. They come to
        # their end by themselves, and it is found in their folders.
        while "another process is writing" in said:
            if self.stopping.wait(1):
                break
            status, said = self.call(words)
        error = divergence(said)
        if status and error is None:
            raise RunError(f"{command}\nended with status {status}: {said}")
        return {
            "name": name,
            "command": command,
            "commit": self.commit,
            **left_by(path, error),
        }

    def call(self, words: Sequence[str]) -> tuple[int, str]:
        r"""
        Start a command, and return its exit status and what it said of
        errors. Ctrl-C reaches the study alone, which then stops its runs;
        that of `check` is stopped here.
        """
        process = subprocess.Popen(
            [sys.executable, *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.processes.add(process)
        if self.stopping.is_set():
            process.terminate()
        said = None
        with Stop(listen=True) as stop:
            while said is None:
                if stop:
                    self.stop()
                with suppress(subprocess.TimeoutExpired):
                    _, said = process.communicate(timeout=0.5)
        self.processes.discard(process)
        return process.returncode, said

    def path(self, name: str) -> Path:
        r"""
        The folder of a run.
        """
        return self.folder / f"{name}-{(self.commit or 'unknown')[:12]}"

    def clear(self, name: str) -> None:
        r"""
        Remove the folder of a run that is recorded.
        """
        shutil.rmtree(self.path(name), ignore_errors=True)

    def stop(self) -> None:
        r"""
        Let all runs keep what they have, and end.
        """
        self.stopping.set()
        for process in tuple(self.processes):
            process.terminate()


def divergence(said: str) -> str | None:
    r"""
    Return the sentence that says in which step a loss or a weight was no
    number, where that is what a run ended with.
    """
    pattern = r"error: ((?:in|after) step .+?)\. The last good checkpoint"
    found = re.search(pattern, said)
    return found[1] if found else None


def left_by(path: Path, error: str | None) -> Values:
    r"""
    ## What a run leaves

    Read the [folder of a run](run_folder.py). The command of its start is
    left out: it names folders of this machine.
    """
    config = json.loads((path / "config.json").read_text("utf-8"))
    starts, metrics, timings = (
        [json.loads(line) for line in (path / name).read_text().splitlines()]
        for name in ("starts.jsonl", "metrics.jsonl", "timings.jsonl")
    )
    tests = [list(m.values()) for m in metrics if "test_accuracy" in m]
    machine = {k: v for k, v in starts[-1].items() if k != "command"}
    found = Folder(path).load()
    return {
        "images": config["images"],
        "counts": config["counts"],
        "settings": config["settings"],
        "accuracy": None if error else tests[-1][1],
        "error": error,
        "weights": digest(found[1]["model"]) if found else None,
        "seconds": timings[-1]["seconds"] if timings else None,
        "surroundings": machine,
        "tests": tests,
        "curve": [list(m.values()) for m in metrics if "loss" in m],
    }


def digest(weights: Mapping[str, Tensor]) -> str:
    r"""
    The SHA-256 of weights and running statistics, in hexadecimal.
    """
    sha = hashlib.sha256()
    for name, value in weights.items():
        sha.update(name.encode())
        sha.update(bytes(value.flatten().view(torch.uint8).tolist()))
    return sha.hexdigest()


def commit() -> str | None:
    r"""
    The commit of the code, marked where the package differs from it; `None`
    outside of a repository.
    """
    package = Path(__file__).resolve().parents[1]

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", package, *words], capture_output=True, text=True
        )
        return done.stdout.strip()

    try:
        head = git("rev-parse", "HEAD")
    except FileNotFoundError:
        return None
    changed = git("status", "--porcelain", "--", ".")
    return head + ("-changed" if changed else "") if head else None


def read(folder: Path) -> dict[str, Values]:
    r"""
    ## The records

    Those of a folder, by the names of their points.
    """
    paths = sorted(folder.glob("*.json"))
    return {path.stem: json.loads(path.read_text("utf-8")) for path in paths}


def keep(folder: Path, record: Values) -> None:
    r"""
    Write a record, whole or not at all, a line for each of its entries.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries = (
        f"{json.dumps(key)}: {json.dumps(value)}" for key, value in record.items()
    )
    text = "{\n" + ",\n".join(entries) + "\n}\n"
    write(folder / f"{record['name']}.json", text.encode())


def record_all(
    study: Study,
    folder: Path,
    runner: Runner,
    jobs: int,
    only: Sequence[str] = ("*",),
) -> int:
    r"""
    ## Record

    Run what is not recorded, several runs at once. The plan is made anew
    after each of them: when the last run of a sweep has ended, the learning
    rate of its method is known.

    **Arguments**

    - `study`, `folder`: the grid, and where its records are.
    - `runner`: runs a point.
    - `jobs`: how many runs at once.
    - `only`: patterns, one of which a point's name must match.

    **Returns** the exit status.

    **Raises** `RunError`: a run cannot go on. The others are kept.
    """
    running: dict[Future[Values], Point] = {}
    progress = Progress(missing(study, read(folder), only))
    # Where a study was killed after a record was written.
    for name in read(folder):
        runner.clear(name)
    with Stop(listen=True) as stop, ThreadPoolExecutor(jobs) as pool:
        try:
            while not stop:
                todo = missing(study, read(folder), only)
                known = [p for p in todo if p.settings["lr"] is not None]
                new = [p for p in known if p not in running.values()]
                for point in new[: jobs - len(running)]:
                    run = pool.submit(runner.run, point.name, point.command)
                    running[run] = point
                if not running:
                    return told(todo)
                done: set[Future[Values]] = set()
                while not (done or stop):
                    done, _ = wait(running, 0.5, FIRST_COMPLETED)
                for run in done:
                    point, record = running.pop(run), run.result()
                    keep(folder, record)
                    runner.clear(point.name)
                    progress.finished(point, record)
        finally:
            runner.stop()
    print("stopped, and kept; the same command goes on", file=sys.stderr)
    return 128 + stop.signal


def told(left: Sequence[Point]) -> int:
    r"""
    Say what is left where nothing more can be run, and return the exit
    status.
    """
    if left:
        print(
            f"{len(left)} points wait for a learning rate: record the sweep"
            " of their methods, too"
        )
    return 1 if left else 0


def missing(study: Study, records: Records, only: Sequence[str]) -> list[Point]:
    r"""
    Return the points that are not recorded, of those whose names match one
    of the patterns.
    """
    return [
        point
        for point in plan(study, records)
        if any(fnmatch(point.name, pattern) for pattern in only)
        and not recorded(point, records)
    ]


class Progress:
    r"""
    ## Time left

    A line for each run that has ended. What is left is weighed by batch
    size, for the same images take longer one by one.

    **Arguments**

    - `points`: what there is to do.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        self.began, self.count, self.total = time.monotonic(), 0, len(points)
        self.spent, self.cost = 0.0, sum(map(seconds, points))

    def finished(self, point: Point, record: Values) -> None:
        r"""
        Print a line.
        """
        self.count, self.spent = self.count + 1, self.spent + seconds(point)
        elapsed = time.monotonic() - self.began
        left = elapsed * (self.cost / self.spent - 1)
        said = record["error"] or f"{record['accuracy']:.1%}"
        print(
            f"[{self.count}/{self.total}] {point.name}: {said};"
            f" {clock(elapsed)}, about {clock(left)} left",
            flush=True,
        )


# Seconds of one core for a thousand images of the small network, the mean of
# the seven methods, and those of a start and five tests.
SECONDS = {1: 7.1, 2: 5.1, 4: 3.8, 16: 3.0, 64: 2.8}
START = 9


def seconds(point: Point) -> float:
    r"""
    What a run takes of a core that was measured once. Only proportions
    matter.
    """
    batch_size = point.settings["batch_size"]
    nearest = min(SECONDS, key=lambda size: abs(size - batch_size))
    thousands: float = point.settings["images"] / 1_000
    return SECONDS[nearest] * thousands + START


def clock(seconds: float) -> str:
    r"""
    A time in hours, minutes and seconds.
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def listing(study: Study, records: Records, only: Sequence[str]) -> str:
    r"""
    ## List

    The points, what came of them, and their commands.
    """
    lines, count = [], 0
    for point in plan(study, records):
        if not any(fnmatch(point.name, pattern) for pattern in only):
            continue
        record = records[point.name] if recorded(point, records) else None
        count += record is not None
        said = "-"
        if record:
            said = record["error"] or f"{record['accuracy']:.1%}"
        lines.append(f"{point.name}  {said}\n    {point.command}")
    lines.append(f"{count} of {len(lines)} points are recorded")
    return "\n".join(lines)


def check(names: Sequence[str], folder: Path, runner: Runner) -> int:
    r"""
    ## Check

    Run recorded points again, by the commands in their records, and compare.

    **Returns** the exit status: 0 where no bit differs.

    **Raises** `ValueError`: there is no such record.
    """
    records = read(folder)
    if unknown := sorted({*names} - records.keys()):
        raise ValueError(
            f"{folder} holds no record of {', '.join(unknown)}; see --list"
        )
    wrong = 0
    for name in names:
        record = records[name]
        differences = compare(record, runner.run(name, record["command"]))
        wrong += bool(differences)
        said = " and ".join(differences)
        print(
            f"{name}: {said} came out differently"
            if differences
            else f"{name}: the same, bit for bit",
            flush=True,
        )
    return 1 if wrong else 0


def compare(record: Values, again: Values) -> list[str]:
    r"""
    Name what differs between a record and another run of its command. An
    option that came later has its default there.
    """
    same = ("accuracy", "error", "weights", "tests", "curve")
    kept = again["settings"] | record["settings"] == again["settings"]
    differences = [name for name in same if record[name] != again[name]]
    return differences if kept else ["settings", *differences]


def same_images(study: Study, data: CIFAR10, records: Records) -> None:
    r"""
    Compare the images with those of the records: a study has one set.

    **Raises** `ValueError`: they differ.
    """
    digests = {data.digest, data.hold_out(study.hold_out).digest}
    for name, record in records.items():
        if record["settings"]["digest"] not in digests:
            raise ValueError(
                f"{name} was recorded with other images"
                f" ({record['images']}) than those found here"
                f" ({data.source}); name another folder with --results"
            )


DESCRIPTION = """\
Record a study of normalization at micro-batch: seven methods, five batch
sizes, three seeds, and an ablation. Each point is one training command, and
becomes one small file. What is recorded is not run again. Stopped or killed
at any moment, the same command goes on.
"""

EPILOG = """\
examples:
  All that is not recorded yet, a run on each core:
    python -m labml_bcn.experiment.study

  What there is, and the command of each point:
    python -m labml_bcn.experiment.study --list

  Batch size 2 alone:
    python -m labml_bcn.experiment.study --only 'sweep-*-b2-*' 'main-*-b2-*'

  In doubt? Run a point's command again, and compare bit for bit:
    python -m labml_bcn.experiment.study --check main-bcn-ws-b2-s0

  The full VGG on a GPU; no records of these are here yet:
    python -m labml_bcn.experiment.study --study gpu --data FOLDER
    python -m labml_bcn.experiment.study --study gpu-labml --data FOLDER

exit status:
  0    all that was asked for is recorded, or came out the same
  1    a run cannot go on, waits for a sweep, or came out differently
  2    the command does not fit; nothing was run
  130  stopped by Ctrl-C, and kept; 143 by SIGTERM
"""


def parser() -> argparse.ArgumentParser:
    r"""
    ## The options
    """
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
        choices=tuple(STUDIES),
        default="cpu",
        help="which grid: of the small VGG on a CPU, or of the full one on a"
        " GPU with our recipe or labml's (default: cpu)",
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
        type=int,
        metavar="J",
        help="runs at once (default: one a core, or one on a GPU)",
    )
    add(
        "--results",
        type=Path,
        metavar="FOLDER",
        help="the records (default: docs/results, and the study's name)",
    )
    add(
        "--runs",
        type=Path,
        default=Path("runs", "study"),
        metavar="FOLDER",
        help="where runs are kept until they end (default: runs/study)",
    )
    images = command.add_mutually_exclusive_group().add_argument
    images("--data", metavar="FOLDER", help="as for the training command")
    images("--stand-in", action="store_true", help="likewise")
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    r"""
    ## The command

    List, check or record.

    **Arguments**

    - `arguments`: those of the command line, or `None` to take them from
      there.

    **Returns** the exit status.
    """
    command = parser()
    typed = command.parse_args(arguments)
    study = STUDIES[typed.study]
    folder = typed.results or Path("docs", "results", typed.study)
    if typed.list:
        print(listing(study, read(folder), typed.only))
        return 0
    words = ["--data", typed.data] if typed.data else []
    words += ["--stand-in"] if typed.stand_in else []
    try:
        jobs = positive("jobs", default_jobs(study, typed.jobs))
        source = {"data": typed.data, "stand_in": typed.stand_in}
        same_images(study, images_for(source, {}), read(folder))
        if not typed.check:
            return record_all(
                *(study, folder, Runner(typed.runs, words), jobs, typed.only)
            )
        with tempfile.TemporaryDirectory() as runs:
            return check(typed.check, folder, Runner(Path(runs), words))
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError, ModuleNotFoundError) as error:
        command.error(str(error))


def default_jobs(study: Study, jobs: int | None) -> int:
    r"""
    Return how many runs to take at once, where it was not said.
    """
    if jobs is not None:
        return jobs
    return 1 if "device" in study.common else os.cpu_count() or 1
