"""Runs the trials of a study, several at once, and records each in one small file.

A study is a few hundred training commands. Here they are started, as many at once as
there are cores, and each becomes a record: a small file of JSON with the settings, the
curve, the result, the digest of the last weights, the commit, the machine and the
digest of the images. Nothing in it is typed by hand.

A record is written whole or not at all, when its run has ended. A run that has not
ended is kept in its folder, and goes on from there. So a study may be killed at any
moment.

A record holds the command that it came from. `check` runs it again and compares, bit
for bit. The same bits need the same torch and the same kind of processor; other ones
round differently, and training makes small differences large.
"""

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
from typing import Any

import torch
from torch import Tensor

from labml_bcn.experiment.outcome import (
    DONE,
    NONFINITE,
    TRY_AGAIN,
    Outcome,
    RunError,
)
from labml_bcn.experiment.output import say, tell
from labml_bcn.experiment.records import (
    RECORD_REMEDY,
    Records,
    Trial,
    Values,
    is_recorded,
    read_records,
    write_record,
)
from labml_bcn.experiment.run_folder import RunFolder, read_outcome
from labml_bcn.experiment.signals import StopSignal

# What the trials of a study are, as far as they are known from what is recorded.
Plan = Callable[[Records], Sequence[Trial]]


class Runner:
    """Starts training commands, one process each, and reads what they leave.

    Runs are kept in `folder` until they are recorded. `data` is what the commands are
    told about the images: `--data` and a folder, `--stand-in`, or nothing. With `looks`
    each network is tested in several ways when it is trained.
    """

    def __init__(
        self, folder: Path, data: Sequence[str] = (), looks: bool = False
    ) -> None:
        self.folder, self.data, self.looks = folder, data, looks
        self.commit = current_commit()
        self.version = version_of(self.commit)
        self.stopping = Event()
        self.processes: set[subprocess.Popen[str]] = set()

    def run(self, name: str, command: str) -> Values:
        """Run a command to its end, and return its record.

        What one version of the code has begun is not finished by another: the folder of
        the run carries the version. Raises `RunError` if it does not come to its end.
        """
        path = self.path(name)
        words = [*shlex.split(command)[1:], *self.data]
        words += ["--out", str(path), "--resume", "--no-progress"]
        status, errors = self.call(words)
        # A study that was killed has left its runs behind. They come to their end by
        # themselves, and it is found in their folders.
        while status == TRY_AGAIN and not self.stopping.wait(1):
            status, errors = self.call(words)
        outcome = read_outcome(path)
        # A process that was killed, or did not begin, may leave that of another start.
        if outcome is None or outcome.exit_status != status or not is_result(outcome):
            raise RunError(f"{command}\nended with status {status}: {errors}")
        record = {
            "name": name,
            "command": command,
            "commit": self.commit,
            **read_run(path, outcome),
        }
        is_looked_at = self.looks and outcome.outcome == DONE
        return record | ({"looks": self.look(path)} if is_looked_at else {})

    def look(self, path: Path) -> Values:
        """Test a trained network in several ways, and return what came out."""
        words = ["-m", "labml_bcn.experiment.looks", str(path), *self.data]
        status, errors = self.call(words)
        if status:
            raise RunError(f"{shlex.join(words)}\nended with status {status}: {errors}")
        found: Values = json.loads((path / "looks.json").read_text("utf-8"))
        return found

    def call(self, words: Sequence[str]) -> tuple[int, str]:
        """Start a command, and return its exit status and what it said of errors.

        Ctrl-C reaches the study alone, which then stops its runs; that of `check` is
        stopped here.
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
        errors = None
        with StopSignal(listen=True) as stop:
            while errors is None:
                if stop:
                    self.stop()
                with suppress(subprocess.TimeoutExpired):
                    _, errors = process.communicate(timeout=0.5)
        self.processes.discard(process)
        return process.returncode, errors

    def path(self, name: str) -> Path:
        """Return the folder of a run."""
        return self.folder / f"{name}-{self.version}"

    def clear(self, name: str) -> None:
        """Remove the folder of a run that is recorded."""
        shutil.rmtree(self.path(name), ignore_errors=True)

    def stop(self) -> None:
        """Let all runs keep what they have, and end."""
        self.stopping.set()
        for process in tuple(self.processes):
            process.terminate()


def is_result(outcome: Outcome) -> bool:
    """Return whether an outcome is a result: an accuracy, or a loss that was NaN."""
    return outcome.outcome == DONE or outcome.reason in NONFINITE


def read_run(path: Path, outcome: Outcome) -> Values:
    """Return what a run has left in its folder.

    The command of its start is left out: it names folders of this machine.
    """
    config = json.loads((path / "config.json").read_text("utf-8"))
    starts, metrics, timings = (
        [json.loads(line) for line in (path / name).read_text().splitlines()]
        for name in ("starts.jsonl", "metrics.jsonl", "timings.jsonl")
    )
    tests = [[m["images"], m["test_accuracy"]] for m in metrics if "test_accuracy" in m]
    curve = [[m["images"], m["loss"], m["accuracy"]] for m in metrics if "loss" in m]
    machine = {k: v for k, v in starts[-1].items() if k != "command"}
    found = RunFolder(path).load()
    is_done = outcome.outcome == DONE
    return {
        "images": config["images"],
        "counts": config["counts"],
        "settings": config["settings"],
        "accuracy": tests[-1][1] if is_done else None,
        "error": None if is_done else outcome.message,
        "weights": digest_weights(found[1]["model"]) if found else None,
        "seconds": timings[-1]["seconds"] if timings else None,
        "surroundings": machine,
        "tests": tests,
        "curve": curve,
    }


def digest_weights(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of weights and running statistics, in hexadecimal."""
    sha = hashlib.sha256()
    for name, value in weights.items():
        sha.update(name.encode())
        sha.update(bytes(value.flatten().view(torch.uint8).tolist()))
    return sha.hexdigest()


def current_commit() -> str | None:
    """Return the commit of the code, marked if the package differs from it.

    Outside of a repository it is `None`.
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


def version_of(commit: str | None) -> str:
    """Return a short name for the code: of a commit, if it is that.

    Code that was changed, or is in no repository, has the digest of its files.
    """
    if commit and re.fullmatch("[0-9a-f]{40}", commit):
        return commit[:12]
    package = Path(__file__).resolve().parents[1]
    sha = hashlib.sha256()
    for path in sorted(package.rglob("*")):
        if path.suffix in (".py", ".cpp", ".h"):
            sha.update(str(path.relative_to(package)).encode())
            sha.update(path.read_bytes())
    return f"{(commit or 'unknown')[:12]}-changed-{sha.hexdigest()[:12]}"


def note_other_commits(records: Records, now: str | None) -> list[str]:
    """Say which records other code has made than that of the commit `now`."""
    counts = Counter(record.get("commit") or "unknown" for record in records.values())
    old = {commit[:12]: n for commit, n in counts.items() if commit != now}
    if not old:
        return []
    made = ", ".join(f"{n} by {commit}" for commit, n in sorted(old.items()))
    return [
        f"note: {sum(old.values())} records were made by other code than this"
        f" ({(now or 'unknown')[:12]}): {made}. Whether it still gives the same,"
        " --check tells"
    ]


def record_all(
    plan: Plan,
    folder: Path,
    runner: Runner,
    jobs: int,
    only: Sequence[str] = ("*",),
) -> int:
    """Run what is not recorded in `folder`, `jobs` at once; return the exit status.

    The plan is made anew after each run: when the last run of a sweep has ended, the
    learning rate of its method is known. A trial's name must match one of the patterns
    in `only`. Raises `RunError` if a run cannot go on; the others are kept.
    """
    running: dict[Future[Values], Trial] = {}
    progress = Progress(missing_trials(plan, read_records(folder), only))
    # Perhaps the study was killed after a record was written.
    for name in read_records(folder):
        runner.clear(name)
    with StopSignal(listen=True) as stop, ThreadPoolExecutor(jobs) as pool:
        try:
            while not stop:
                todo = missing_trials(plan, read_records(folder), only)
                known = [trial for trial in todo if trial.settings["lr"] is not None]
                new = [trial for trial in known if trial not in running.values()]
                for trial in new[: jobs - len(running)]:
                    run = pool.submit(runner.run, trial.name, trial.command)
                    running[run] = trial
                if not running:
                    return report_waiting(todo)
                done: set[Future[Values]] = set()
                while not (done or stop):
                    done, _ = wait(running, 0.5, FIRST_COMPLETED)
                for run in done:
                    trial, record = running.pop(run), run.result()
                    write_record(folder, record)
                    runner.clear(trial.name)
                    progress.print_finished(trial, record)
        finally:
            runner.stop()
    tell("stopped, and kept; the same command goes on")
    return 128 + stop.number


def report_waiting(left: Sequence[Trial]) -> int:
    """Say what is left when nothing more can be run, and return the exit status."""
    if left:
        say(
            f"{len(left)} points wait for a learning rate: record the sweep of their"
            " methods, too"
        )
    return 1 if left else 0


def select_trials(plan: Plan, records: Records, only: Sequence[str]) -> list[Trial]:
    """Return the trials whose names match one of the patterns."""
    return [
        trial
        for trial in plan(records)
        if any(fnmatch(trial.name, pattern) for pattern in only)
    ]


def missing_trials(plan: Plan, records: Records, only: Sequence[str]) -> list[Trial]:
    """Return those of them that are not recorded."""
    trials = select_trials(plan, records, only)
    return [trial for trial in trials if not is_recorded(trial, records)]


class Progress:
    """Prints a line for each run that has ended, with the time left.

    What is left of `trials` is weighed by batch size, for the same images take longer
    one by one.
    """

    def __init__(self, trials: Sequence[Trial]) -> None:
        self.began, self.count, self.total = time.monotonic(), 0, len(trials)
        self.spent, self.cost = 0.0, sum(map(estimate_seconds, trials))

    def print_finished(self, trial: Trial, record: Values) -> None:
        """Print the line of a trial."""
        self.count, self.spent = self.count + 1, self.spent + estimate_seconds(trial)
        elapsed = time.monotonic() - self.began
        left = elapsed * (self.cost / self.spent - 1)
        say(
            f"[{self.count}/{self.total}] {trial.name}: {result_of(record)};"
            f" {clock(elapsed)}, about {clock(left)} left"
        )


def result_of(record: Values) -> str:
    """Return what came of a run: its accuracy, or why there is none."""
    error: str | None = record.get("error")
    return error or f"{record['accuracy']:.1%}"


# Seconds of one core for a thousand images of the small network, the mean of the seven
# methods, and those of a start and five tests.
SECONDS = {1: 7.1, 2: 5.1, 4: 3.8, 16: 3.0, 64: 2.8}
START = 9


def estimate_seconds(trial: Trial) -> float:
    """Return what a run takes of a core that was measured once.

    Only proportions matter.
    """
    batch_size = trial.settings["batch_size"]
    nearest = min(SECONDS, key=lambda size: abs(size - batch_size))
    thousands: float = trial.settings["images"] / 1_000
    return SECONDS[nearest] * thousands + START


def clock(seconds: float) -> str:
    """Return a time in hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def list_trials(plan: Plan, records: Records, only: Sequence[str]) -> str:
    """Return the trials, what came of them by which commit, and their commands."""
    trials = select_trials(plan, records, only)
    done = [trial for trial in trials if is_recorded(trial, records)]
    lines = []
    for trial in trials:
        found = [trial.name, "-"]
        if trial in done:
            record = records[trial.name]
            commit = (record.get("commit") or "")[:12]
            found = [trial.name, result_of(record), *([commit] if commit else [])]
        lines += ["  ".join(found), f"    {trial.command}"]
    return "\n".join([*lines, f"{len(done)} of {len(trials)} points are recorded"])


def check(names: Sequence[str], folder: Path, runner: Runner) -> int:
    """Run recorded trials again, by the commands in their records, and compare.

    Returns the exit status: 0 if no bit differs. Raises `ValueError` if there is no
    such record.
    """
    records = read_records(folder, verify=False)
    if unknown := sorted({*names} - records.keys()):
        raise ValueError(
            f"{folder} holds no record of {', '.join(map(repr, unknown))}; see --list"
        )
    failed = 0
    for name in names:
        record = records[name]
        if "command" not in record:
            raise ValueError(
                f"{folder / name}.json holds no command that could be run again."
                f" {RECORD_REMEDY}"
            )
        differences = compare_records(record, runner.run(name, record["command"]))
        failed += bool(differences)
        say(
            f"{name}: {' and '.join(differences)} came out differently"
            if differences
            else f"{name}: the same, bit for bit"
        )
    return 1 if failed else 0


def compare_records(record: Values, again: Values) -> list[str]:
    """Name what differs between a record and another run of its command.

    An option that came later has its default there.
    """
    same = ("accuracy", "error", "weights", "tests", "curve", "looks")
    settings: dict[str, Any] = again["settings"] | record.get("settings", {})
    differences = [name for name in same if record.get(name) != again.get(name)]
    return differences if settings == again["settings"] else ["settings", *differences]
