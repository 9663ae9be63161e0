"""How a command ends: what its exit status promises, and what it says on the way."""

import errno
import functools
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from helpers.processes import start
from helpers.runs import (
    assert_same_end,
    images,
    read_lines,
    run_command,
    wait_for_a_line,
)

from labml_bcn.experiment import loop, run_log, study, train
from labml_bcn.experiment.output import Listened
from labml_bcn.experiment.run_folder import RunFolder, read_outcome
from labml_bcn.experiment.signals import StopSignal

__all__ = ["images"]

pytestmark = pytest.mark.usefixtures("one_thread", "own_folder")

WORDS = "--norm bcn --ws --images 48 --threads 1 --checkpoint-every 1".split()


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """Runs are kept in a folder that goes away."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """A run that nothing has happened to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert train.main([*WORDS, "--data", str(images), "--out", str(folder)]) == 0
    return folder


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def started(*words, folder):
    """The command in a process of its own."""
    log = folder.with_suffix(".log")
    return start(functools.partial(run_command, *words, log=log))


# --- Nobody listens ---------------------------------------------------------


def into_closed_pipes(numbers, main, words):
    """Call a command with streams whose reader has gone, and leave as it does."""
    for number in numbers:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    sys.exit(main([str(word) for word in words]))


@pytest.mark.fault(
    "A closed pipe: train | true", "the run goes on to its end, status 0"
)
@pytest.mark.parametrize(
    ("numbers", "more"),
    # The bar is on the second one.
    [((1,), ()), ((2,), ()), ((2,), ("--progress",)), ((1, 2), ("--progress",))],
)
def test_a_run_whose_output_nobody_reads_goes_on(
    images, whole, tmp_path, numbers, more
):
    words = (*WORDS, "--data", images, "--out", tmp_path / "run", *more)
    process = start(functools.partial(into_closed_pipes, numbers, train.main, words))
    process.join()
    assert process.exitcode == 0
    assert_same_end(tmp_path / "run", whole)


def into_file(number, path, target, *arguments):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    target(*arguments)


@pytest.mark.fault(
    "A closed pipe: study --list | head", "an end without a word, status 0"
)
@pytest.mark.parametrize(
    ("main", "words"),
    [(study.main, ["--list"]), (study.main, ["--help"]), (train.main, ["--help"])],
)
def test_a_listing_that_nobody_reads_ends_without_a_word(tmp_path, main, words):
    said = tmp_path / "said"
    call = functools.partial(into_closed_pipes, (1,), main, words)
    process = start(functools.partial(into_file, 2, said, call))
    process.join()
    assert process.exitcode == 0
    lines = said.read_text().splitlines()
    assert all(line.startswith("note: ") for line in lines)


def with_ascii_streams(log, words):
    with Path(log).open("w", encoding="ascii") as sys.stdout:
        sys.stderr = sys.stdout
        status = train.main([str(word) for word in words])
    os._exit(status)


@pytest.mark.fault(
    "A terminal that knows ASCII alone, and a folder with an umlaut", "spelled out"
)
def test_an_ascii_terminal_reads_the_name_of_any_folder(images, tmp_path):
    words = (*WORDS, "--data", images, "--out", tmp_path / "fülle")
    process = start(functools.partial(with_ascii_streams, tmp_path / "log", words))
    process.join()
    assert process.exitcode == 0
    assert "f\\xfclle" in (tmp_path / "log").read_text()


def test_what_a_stream_can_show_is_shown():
    for encoding, shown in (("utf-8", "für"), ("latin-1", "für"), ("ascii", r"f\xfcr")):
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding=encoding)
        Listened(stream).write("für")
        assert raw.getvalue().decode(encoding) == shown


def test_a_path_in_an_advice_can_be_typed():
    assert train.resume_option(Path("my run")) == "--resume 'my run'"
    assert train.resume_option(Path("runs/small-bn")) == "--resume runs/small-bn"


# --- Something happens in a run ---------------------------------------------


@pytest.mark.fault(
    "The folder of a run is removed, moved or replaced",
    "status 1 with a remedy; what lies there now is untouched",
)
@pytest.mark.parametrize("replaced", [False, True])
def test_a_folder_that_is_taken_away_ends_the_run(images, tmp_path, replaced):
    folder = tmp_path / "run"
    words = [*WORDS, "--images", 4_800, "--checkpoint-every", 500]
    words += ["--data", images, "--out", folder]
    process = started(*words, folder=folder)
    wait_for_a_line(folder / "metrics.jsonl", lambda: process.exitcode)
    twin = shutil.copytree(folder, tmp_path / "twin") if replaced else None
    folder.rename(tmp_path / "away")
    if twin:
        twin.rename(folder)
        before = contents(folder)
    process.join()
    said = folder.with_suffix(".log").read_text()
    assert process.exitcode == 1, said
    assert f"{folder} was removed, or another folder put in its place" in said
    assert "Bring it back and go on with --resume" in said
    assert "usage:" not in said
    if twin:
        assert contents(folder) == before
    else:
        assert not folder.exists()
    # Brought back, it goes on.
    if not twin:
        (tmp_path / "away").rename(folder)
        assert RunFolder(folder).load()


@pytest.mark.fault(
    "A batch that does not fit into memory", "status 1; a smaller batch is advised"
)
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_a_batch_that_does_not_fit_into_memory_is_told(
    images, monkeypatch, capsys, error
):
    def full(*_, **__):
        raise error

    monkeypatch.setattr(loop.F, "cross_entropy", full)
    words = [*WORDS, "--data", str(images), "--out", "run"]
    assert train.main(words) == 1
    said = capsys.readouterr().err
    assert "error: there is not enough memory for a step. Start another run" in said
    assert "--resume run\n" in said
    assert read_outcome(Path("run")).reason == "out_of_memory"
    assert RunFolder("run").load(), "what was reached is kept"


@pytest.mark.fault("Any error of the system in a run", "status 1 with a remedy")
@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, os.strerror(errno.EIO)),
        PermissionError(errno.EACCES, "denied"),
        ValueError("no such value"),
        ModuleNotFoundError("no such module"),
    ],
)
def test_an_error_in_a_run_is_not_one_of_the_command(
    images, whole, monkeypatch, capsys, error
):
    evaluate = loop.evaluate

    def broken(*_, **__):
        raise error

    monkeypatch.setattr(loop, "evaluate", broken)
    words = [*WORDS, "--data", str(images), "--out", "run", "--resume"]
    assert train.main(words) == 1
    said = capsys.readouterr().err
    assert said.startswith(
        f"error: {type(error).__name__}: {error}. Go on from the last"
    )
    assert "--resume run" in said
    assert "usage:" not in said
    assert read_outcome(Path("run")).exit_status == 1
    monkeypatch.setattr(loop, "evaluate", evaluate)
    assert train.main(words) == 0
    assert_same_end(Path("run"), whole)


@pytest.mark.fault(
    "A terminal that is closed: SIGHUP", "kept, status 129; ignored under nohup"
)
@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_a_closed_terminal_stops_a_run_and_nohup_does_not(images, tmp_path):
    folder = tmp_path / "run"
    words = [*WORDS, "--images", 4_800, "--data", images, "--out", folder]
    process = started(*words, folder=folder)
    wait_for_a_line(folder / "metrics.jsonl", lambda: process.exitcode)
    os.kill(process.pid, signal.SIGHUP)
    process.join()
    assert process.exitcode == 128 + signal.SIGHUP
    assert read_outcome(folder).reason == "SIGHUP"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal(listen=True):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# --- Another user's files ---------------------------------------------------

NOBODY = 65_534


def as_nobody(target, *arguments):
    """Call a function without the rights of root, where this process has them."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    target(*arguments)


@pytest.fixture
def readable():
    """A folder that all users may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.fault("A read-only folder for a new run", "status 2, nothing is made")
def test_a_new_run_in_a_folder_that_is_read_only_is_refused(images, readable):
    home, log = readable / "home", readable / "log"
    home.mkdir(mode=0o555)
    log.touch()
    log.chmod(0o666)
    shutil.copytree(images, readable / "images")
    words = (*WORDS, "--data", readable / "images", "--out", home / "run")
    process = start(
        functools.partial(as_nobody, functools.partial(run_command, *words, log=log))
    )
    process.join()
    assert process.exitcode == 2, log.read_text()
    assert "must be a folder that can be written to: Permission denied" in (
        log.read_text()
    )
    assert list(home.iterdir()) == []


@pytest.mark.fault(
    "Another user's run, or images", "refused; the file and the remedy are named"
)
@pytest.mark.parametrize(
    ("name", "mode", "status", "message"),
    [
        ("metrics.jsonl", 0o444, 1, "cannot be written: Permission denied. Allow to"),
        ("config.json", 0o000, 2, "cannot be read: Permission denied. Allow to read"),
        ("data_batch_2.bin", 0o000, 2, "cannot be read: Permission denied. Copy or"),
    ],
)
def test_another_users_files_are_named(
    images, whole, readable, name, mode, status, message
):
    log, run = readable / "log", readable / "run"
    log.touch()
    log.chmod(0o666)
    shutil.copytree(whole, run)
    data = Path(shutil.copytree(images, readable / "images"))
    for folder in (run, data):
        for path in folder.iterdir():
            path.chmod(0o644)
    path = (data if name.endswith(".bin") else run) / name
    path.chmod(mode)
    before = contents(run) if os.getuid() == 0 else None
    words = ("--resume", run, "--data", data)
    process = start(
        functools.partial(as_nobody, functools.partial(run_command, *words, log=log))
    )
    process.join()
    assert process.exitcode == status, log.read_text()
    assert f"{path} {message}" in log.read_text()
    assert before is None or contents(run) == before


# --- The clock --------------------------------------------------------------


@pytest.mark.fault("The clock set back by a year", "the same end, bit for bit")
def test_a_run_from_the_future_goes_on(images, whole, tmp_path, capsys):
    folder = tmp_path / "run"
    words = [*WORDS, "--data", str(images), "--out", str(folder), "--resume"]
    process = started(*words, folder=folder)
    wait_for_a_line(folder / "metrics.jsonl", lambda: process.exitcode)
    process.kill()
    process.join()
    later = time.time() + 365 * 86_400
    for path in folder.iterdir():
        os.utime(path, (later, later))
    (begun,) = read_lines(folder / "starts.jsonl")
    begun["time"] = begun["time"].replace(begun["time"][:4], "2999")
    (folder / "starts.jsonl").write_text(json.dumps(begun) + "\n")
    assert train.main(words) == 0
    assert_same_end(folder, whole)


# --- On the way -------------------------------------------------------------

LINE = (
    r"step [\d,]+ of 24: loss \d+\.\d{3}, average \d+\.\d{3}, accuracy \d+\.\d%,"
    r" lr \S+, gradient norm \S+, \d+ images/s, [\d,]+ MB, \d:\d\d:\d\d left"
)


@pytest.mark.fault("No terminal", "a line every half minute")
def test_without_a_terminal_a_line_says_how_far_it_is(
    images, whole, monkeypatch, capsys
):
    words = [*WORDS, "--data", str(images)]
    assert run_log.LINE_EVERY == 30
    monkeypatch.setattr(run_log, "LINE_EVERY", 0)
    assert train.main([*words, "--out", "run"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 24
    assert all(re.fullmatch(LINE, line) for line in lines), lines[0]
    assert lines[-1].endswith("0:00:00 left")
    assert_same_end(Path("run"), whole)
    for more in ("--progress", "--no-progress"):
        train.main([*words, "--out", f"run{more}", more])
        assert "average" not in capsys.readouterr().err


def test_a_point_holds_rate_gradient_and_memory(whole):
    points = [m for m in read_lines(whole / "metrics.jsonl") if "loss" in m]
    for k, point in enumerate(points, 1):
        assert point["lr"] == pytest.approx(0.005 * loop.rate(k, 24))
        assert point["gradient_norm"] > 0
        # A point of one batch: its average is its loss.
        assert point["last_loss"] == pytest.approx(point["loss"])
    for line in read_lines(whole / "timings.jsonl"):
        assert line["memory"] > 1e6
        assert line["seconds_left"] >= 0
    assert line["seconds_left"] == 0
