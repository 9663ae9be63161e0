"""Commands that measure for minutes: what they refuse at once, and how they end."""

import errno
import functools
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from helpers.processes import start

from labml_bcn.experiment import atomic_files, kills, option_types, study
from labml_bcn.experiment.bench import layers, record, timing, training

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = "--inputs 2,8,4,4 --groups 4 --rivals copy --threads 1".split()
FILES = {
    kills.main: [],
    layers.main: ["--json"],
    training.main: ["--json"],
}
TIMES = {
    layers.main: [],
    training.main: [],
    record.main: ["."],
}


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """What is not refused goes into a folder that goes away."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refused(monkeypatch, capsys):
    """Returns the words with which a command is refused, before it does anything."""

    def measured(*_, **__):
        raise AssertionError("it was measured")

    for module, name in (
        (kills, "warm_up"),
        (layers, "measure_rivals"),
        (training, "measure_networks"),
        (record.subprocess, "run"),
        (study.runner, "record_all"),
    ):
        monkeypatch.setattr(module, name, measured)

    def refuse(main, words):
        before = sorted(Path().rglob("*"))
        with pytest.raises(SystemExit, match="2"):
            main(words)
        assert sorted(Path().rglob("*")) == before
        return capsys.readouterr().err

    return refuse


@pytest.mark.fault(
    "A measurement that could not be written: no folder, a device, an empty name",
    "status 2, before anything is measured",
)
@pytest.mark.parametrize("main", FILES)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/x.json", "there is no folder missing"),
        ("there", "must name a file, got there, which is none"),
        ("there/file/x.json", "there is no folder there/file"),
        (os.devnull, "must name a file"),
        ("", "must name a place, got ''"),
        ("~nobody-here/x.json", "names a user who is not known here"),
        ("/proc/x.json", "/proc cannot be written to"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_at_once(main, name, message, refused):
    if name.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("no such folder here")
    Path("there").mkdir()
    Path("there/file").touch()
    assert message in refused(main, [*FILES[main], name])


@pytest.mark.fault(
    "--seconds nan, inf, a negative or an endless number", "status 2, with the rule"
)
@pytest.mark.parametrize("main", TIMES)
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e7", "soon", ""])
def test_a_time_that_is_none_is_refused_at_once(main, value, refused):
    said = refused(main, [*TIMES[main], f"--seconds={value}"])
    assert f"--seconds: must be from 0 to 1,000,000, got {value}" in said


@pytest.mark.parametrize("main", TIMES)
@pytest.mark.parametrize("value", ["0", "-2", "1.5", "nan"])
def test_threads_are_counted_from_one(main, value, refused):
    said = refused(main, [*TIMES[main], f"--threads={value}"])
    assert f"--threads: must be at least 1, got {value}" in said


@pytest.mark.parametrize("main", [layers.main, training.main])
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--threads=100000", "threads must be at most"),
        (f"--threads={10**30}", "threads must be at most"),
        ("--device=meta", "device must be one that torch can use"),
        ("--device=", "device must be one that torch can use"),
        ("--device=gpu", "device must be one that torch can use"),
    ],
)
def test_what_this_machine_has_not_is_refused_at_once(main, option, message, refused):
    assert message in refused(main, [option])


@pytest.mark.parametrize(
    ("main", "words", "message"),
    [
        (kills.main, ["x", "--kills=0"], "--kills: must be at least 1, got 0"),
        (kills.main, ["x", "--kills=nan"], "--kills: must be at least 1, got nan"),
        (training.main, ["--batch-sizes", "0"], "must be from 1 to 50,000, got 0"),
        (training.main, ["--batch-sizes", "9" * 12], "must be from 1 to 50,000"),
        (layers.main, ["--inputs", f"{10**12},1,1,1"], "at most 2,147,483,648 values"),
        (layers.main, ["--inputs", "1,32,1,1"], "more than one value a channel"),
        (record.main, [""], "must name a place, got ''"),
        (record.main, ["missing"], "there is no folder missing"),
        (study.main, ["--jobs", "0"], "--jobs: must be at least 1, got 0"),
        (study.main, ["--runs", "there"], "--runs: must name a folder, but there"),
        (study.main, ["--runs", "there/x/y"], "--runs: must name a folder, but"),
        (study.main, ["--runs", ""], "--runs: must name a place, got ''"),
        (study.main, ["--results", "", "--list"], "--results: must name a place"),
        (study.main, ["--stand-in", "--results", "there"], "--results: must name a"),
        (study.main, ["--only", "main-*", "man-*"], "got 'man-*', which matches none"),
        (study.main, ["--only", "", "--list"], "got '', which matches none"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(main, words, message, refused):
    Path("there").touch()
    assert message in refused(main, words)


def test_a_folder_that_is_asked_about_is_not_made(tmp_path):
    assert option_types.new_folder("a/b") == Path("a/b")
    assert option_types.new_file("~/x").is_absolute()
    assert list(tmp_path.iterdir()) == []


# --- How they end -----------------------------------------------------------


def call(numbers, said, main, words):
    """Call a command with streams whose reader has gone; errors go into a file."""
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
    for number in numbers:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    sys.exit(main(words))


@pytest.mark.fault("A closed pipe: a measurement | head", "it is written all the same")
@pytest.mark.parametrize(
    ("main", "words"),
    [
        (layers.main, [*TINY, "--seconds", "0", "--json", "x.json"]),
        (layers.main, ["--help"]),
        (kills.main, ["--help"]),
    ],
)
def test_a_measurement_that_nobody_reads_is_written(tmp_path, main, words):
    said = tmp_path / "said"
    process = start(functools.partial(call, (1,), said, main, words))
    process.join()
    assert process.exitcode == 0
    assert said.read_text() == ""
    if "--json" in words:
        assert json.loads(Path("x.json").read_text())["threads"] == 1


@pytest.mark.fault("Ctrl-C in a measurement", "status 130 in one line, nothing written")
def test_ctrl_c_ends_a_measurement_in_one_line(tmp_path):
    said = tmp_path / "said"
    words = [*TINY, "--seconds", "1000", "--json", "x.json"]
    process = start(functools.partial(call, (), said, layers.main, words))
    while not said.exists():
        time.sleep(0.01)
    time.sleep(1)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130
    assert said.read_text() == "stopped; nothing was written\n"
    assert [path.name for path in tmp_path.iterdir()] == ["said"]


def test_sigterm_ends_what_a_command_has_started(tmp_path):
    """The command that records all benchmarks starts another one for each."""
    process = start(functools.partial(call, (), tmp_path / "said", record_slowly, []))
    while not Path("child").exists():
        time.sleep(0.01)
    process.terminate()
    process.join()
    assert process.exitcode == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path("child").read_text()), 0)


def record_slowly(_):
    script = (
        "import os, pathlib, time\n"
        "pathlib.Path('new').write_text(str(os.getpid()))\n"
        "os.rename('new', 'child')\n"
        "time.sleep(100)\n"
    )
    record.command_of = lambda *_: [sys.executable, "-c", script]
    return record.main([".", "--only", "cpu-eager"])


@pytest.mark.fault(
    "A disk that is full when a measurement has ended", "status 1 with a remedy"
)
def test_a_full_disk_at_the_end_is_told_with_a_remedy(tmp_path, monkeypatch, capsys):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    Path("x.json").write_text("the one before")
    monkeypatch.setattr(atomic_files.os, "fsync", full)
    assert layers.main([*TINY, "--seconds", "0", "--json", "x.json"]) == 1
    out, err = capsys.readouterr()
    assert err == (
        "error: x.json could not be written: No space left on device. Make room, and"
        " measure again; what was found is printed above\n"
    )
    assert "geometric mean" in out
    assert Path("x.json").read_text() == "the one before"


def test_what_does_not_fit_into_memory_is_told(monkeypatch, capsys):
    def no_memory(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(layers, "measure_rivals", no_memory)
    assert layers.main([*TINY[2:], "--inputs", "1,8,4,4", "--seconds", "0"]) == 1
    assert capsys.readouterr().err == (
        "error: there is not enough memory; measure something smaller\n"
    )


def test_two_measurements_write_into_one_folder(tmp_path):
    """Each through the same name, which is never that of a finished file."""
    names = [f"{k}.json" for k in range(2)]
    words = ["x" * 100_000] * 10
    work = [functools.partial(write_often, tmp_path / n, words) for n in names]
    processes = [start(each) for each in work]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    for name in names:
        assert json.loads((tmp_path / name).read_text())["words"] == words


def write_often(path, words):
    for _ in range(20):
        timing.write_record(path, words=words)
        assert json.loads(path.read_text())["words"] == words
