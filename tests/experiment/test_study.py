"""The study: its grid, its records, and what happens when it is killed."""

import contextlib
import functools
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from helpers.paths import ROOT
from helpers.processes import start
from helpers.runs import clean_environment, images, read_last_checkpoint, read_lines

from labml_bcn.experiment import cifar10, plotting, runner, study, study_options, train
from labml_bcn.experiment.outcome import Outcome, RunError
from labml_bcn.experiment.records import (
    accuracy,
    is_recorded,
    read_records,
    write_record,
)
from labml_bcn.experiment.run_folder import RunFolder
from labml_bcn.experiment.runner import Runner, compare_records
from labml_bcn.experiment.settings import Settings
from labml_bcn.experiment.study import (
    AT_MICRO,
    ESTIMATED,
    METHODS,
    MICRO,
    STUDIES,
    Question,
    Study,
    learning_rate,
    main,
    plan,
)

__all__ = ["images"]

CPU = STUDIES["cpu"]

# Two runs of a sweep, two of the comparison, two of the ablation.
TINY = Study(
    images=8,
    methods=("BCN+WS",),
    batch_sizes=(2, 1),
    seeds=(0,),
    rates={1: (0.01, 0.02), 4: (0.05,)},
    hold_out=8,
    momenta=(0.01,),
    groups=(4,),
)


def pretend(grid, better=max):
    """Records of a study in which the `better` rate of each sweep wins."""
    records = {}
    while True:
        left = [p for p in plan(grid, records) if not is_recorded(p, records)]
        ready = [p for p in left if p.settings["lr"] is not None]
        if not ready:
            assert not left
            return records
        for trial in ready:
            rates = grid.rates.get(trial.settings["batch_size"], ())
            best = rates and trial.settings["lr"] == better(rates)
            records[trial.name] = {
                "name": trial.name,
                "settings": asdict(Settings()) | trial.settings,
                "accuracy": 0.5 if best else 0.4,
            }


# --- The grid ---------------------------------------------------------------


def test_every_method_has_its_own_colour_and_line():
    looks = [plotting.METHODS[name] for name in METHODS]
    assert len({(look.colour, look.standardized) for look in looks}) == 7
    for name, settings in METHODS.items():
        assert plotting.METHODS[name].standardized == settings.get("ws", False)


@pytest.mark.parametrize("grid", STUDIES.values(), ids=STUDIES)
def test_every_run_sees_the_same_number_of_images(grid):
    for size in (*grid.batch_sizes, *grid.rates):
        assert grid.images % size == 0


@pytest.mark.parametrize("grid", STUDIES.values(), ids=STUDIES)
def test_every_trial_is_a_command_that_parses_to_its_settings(grid):
    trials = plan(grid, pretend(grid))
    assert len({trial.name for trial in trials}) == len(trials)
    for trial in trials:
        python, _, module, *words = shlex.split(trial.command)
        assert (python, module) == ("python", "labml_bcn.experiment.train")
        assert vars(train.parser().parse_args(words)) == trial.settings


def test_the_grid_has_every_method_size_rate_and_seed():
    parts = {"sweep": 0, "main": 0, "ablation": 0}
    for trial in plan(CPU, {}):
        parts[trial.part] += 1
    changed = 2 * 5 - 1 + 4 + 3
    assert parts == {
        "sweep": 7 * (5 + 5),
        "main": 7 * 5 * 3,
        "ablation": changed * 3,
    }


def test_two_methods_differ_in_their_method_alone():
    records = pretend(CPU)
    own = {"norm", "ws", "estimate", "lr", *AT_MICRO}
    mains = [p for p in plan(CPU, records) if p.part == "main"]
    for one in mains:
        for other in mains:
            a, b = one.settings, other.settings
            if a["batch_size"] == b["batch_size"] and a["seed"] == b["seed"]:
                keys = {k for k in a.keys() | b.keys() if a.get(k) != b.get(k)}
                assert keys <= own


def test_estimates_have_the_recommended_settings_at_micro_batch():
    for trial in plan(CPU, {}):
        if trial.part != "ablation" and trial.method in ESTIMATED:
            small = trial.settings["batch_size"] <= MICRO
            assert (AT_MICRO.items() <= trial.settings.items()) == small
            assert small or not AT_MICRO.keys() & trial.settings.keys()


def test_the_ablation_changes_one_setting_or_the_estimates_two():
    records = pretend(CPU)
    usual = {method: CPU.main(method, 2, records)[0].settings for method in CPU.methods}
    changes = set()
    for trial in plan(CPU, records):
        if trial.part == "ablation":
            before = usual[trial.method] | {"seed": trial.settings["seed"]}
            changed = dict(trial.settings.items() - before.items())
            assert changed
            assert changed.keys() <= {"momentum", "groups", "variance_around"}
            assert before.keys() <= trial.settings.keys()
            changes.add((trial.method, tuple(sorted(changed.items()))))
    assert len(changes) == 2 * 5 - 1 + 4 + 3


def test_one_seed_of_all_methods_at_batch_size_two_comes_first():
    names = [trial.name for trial in plan(CPU, {})]
    assert all(re.match("sweep-.*-b2-", name) for name in names[:35])
    assert all(re.match("main-.*-b2-s0", name) for name in names[35:42])
    assert all(name.startswith("ablation") for name in names[-48:])
    assert all("-s0" in name for name in names[:98])


def test_questions_change_no_more_than_they_ask():
    """Each run is one of the comparison, but for what its question changes."""
    records = read_records(ROOT / "docs" / "results" / "cpu")
    asked = STUDIES["questions"]
    names = {trial.name for trial in plan(asked, {})}
    assert len(names) == len(asked.questions) * len(asked.seeds)
    for question in asked.questions:
        whole = question.method.replace("EstBN", "BCN")
        for trial, usual in zip(
            asked.ask(question),
            CPU.main(whole, question.batch_size, records),
            strict=True,
        ):
            asked_for = set(question.settings)
            asked_for |= {"norm"} if whole != question.method else set()
            asked_for |= {"lr"} if "lr" in question.label else set()
            changed = trial.settings.items() ^ usual.settings.items()
            assert {name for name, _ in changed} == asked_for


def test_one_seed_of_all_questions_comes_first():
    seeds = [trial.settings["seed"] for trial in plan(STUDIES["questions"], {})]
    assert seeds == sorted(seeds)


# --- Learning rates ---------------------------------------------------------


def test_the_best_rate_of_the_sweep_is_chosen():
    for better in (min, max):
        records = pretend(CPU, better)
        for size, rates in CPU.rates.items():
            assert learning_rate(CPU, "BN", size, records) == better(rates)


def test_of_equal_rates_the_lowest_is_chosen():
    records = pretend(CPU)
    for record in records.values():
        record["accuracy"] = 0.3
    assert learning_rate(CPU, "BN", 2, records) == min(CPU.rates[2])


def test_a_rate_whose_loss_became_nan_is_not_chosen():
    records = pretend(CPU, min)
    (first, *_), others = CPU.sweep("GN", 2), CPU.sweep("GN", 2)[1:]
    records[first.name]["accuracy"] = None
    assert learning_rate(CPU, "GN", 2, records) == others[0].settings["lr"]
    assert accuracy(records[first.name]) == 0.1


@pytest.mark.equation("study.power-law")
def test_between_two_batch_sizes_the_rate_follows_a_power_law():
    grid = replace(CPU, rates={2: (0.004,), 64: (0.128,)})
    for size in (1, 2, 4, 16, 64):
        assert learning_rate(grid, "BN", size, {}) == pytest.approx(0.002 * size)
    grid = replace(CPU, rates={4: (0.01,), 16: (0.02,)})
    for size in (1, 4, 16, 64):
        root = 0.005 * size**0.5
        assert learning_rate(grid, "BN", size, {}) == pytest.approx(root)
    level = replace(CPU, rates={2: (0.1,), 64: (0.1,)})
    assert learning_rate(level, "BN", 16, {}) == 0.1


def test_a_rate_is_not_known_before_its_sweep_is_whole():
    records = pretend(CPU)
    del records["sweep-bn-b64-lr0.3-s0"]
    assert learning_rate(CPU, "BN", 64, records) is None
    assert learning_rate(CPU, "BN", 1, records) is None
    assert learning_rate(CPU, "BN", 2, records) == 0.01
    assert learning_rate(CPU, "GN", 64, records) == 0.3


def test_what_was_recorded_with_another_rate_is_no_trial():
    records = pretend(CPU, max)
    (trial, *_) = CPU.main("BN", 2, records)
    assert is_recorded(trial, records)
    for other in CPU.sweep("BN", 2):
        lowest = other.settings["lr"] == min(CPU.rates[2])
        records[other.name]["accuracy"] = 0.9 if lowest else 0.1
    (trial, *_) = CPU.main("BN", 2, records)
    assert not is_recorded(trial, records)


# --- Recording --------------------------------------------------------------


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    """Records and runs go into a folder that goes away."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(STUDIES, "cpu", TINY)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """The folder of a study that was never stopped."""
    folder = tmp_path_factory.mktemp("study")
    words = ["--data", str(images), "--results", str(folder / "records")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STUDIES, "cpu", TINY)
        assert main([*words, "--runs", str(folder / "runs")]) == 0
    return folder


@pytest.mark.slow
def test_all_trials_are_recorded_and_no_run_is_left(whole):
    records = read_records(whole / "records")
    trials = plan(TINY, records)
    assert {trial.name for trial in trials} == records.keys()
    assert all(is_recorded(trial, records) for trial in trials)
    assert list((whole / "runs").iterdir()) == []


@pytest.mark.slow
def test_a_record_holds_settings_images_versions_and_weights(whole, images):
    data = cifar10.read(images)
    for trial in plan(TINY, read_records(whole / "records")):
        record = read_records(whole / "records")[trial.name]
        assert record["command"] == trial.command
        assert record["images"].startswith("a 40-image part of CIFAR-10")
        held = data.hold_out(8) if trial.part == "sweep" else data
        assert record["settings"]["digest"] == held.digest
        count = len(held.train_images)
        assert record["counts"] == {"train": count, "test": 8}
        assert record["surroundings"]["torch"] == torch.__version__
        assert re.fullmatch("[0-9a-f]{64}", record["weights"])
        assert record["tests"][-1] == [8, record["accuracy"]]
        assert record["curve"][-1][0] == 8
        assert re.fullmatch("[0-9a-f]{40}(-changed)?", record["commit"])
    for path in (whole / "records").iterdir():
        text = path.read_text()
        assert sys.prefix not in text
        assert str(images) not in text


@pytest.mark.slow
def test_a_study_that_looks_records_what_it_sees(images, monkeypatch, capsys):
    asked = replace(TINY, methods=(), ablated=None, looks=True)
    asked = replace(asked, questions=(Question("BN", 1, 0.01),))
    monkeypatch.setitem(STUDIES, "questions", asked)
    words = ["--study", "questions", "--data", str(images), "--results", "records"]
    assert main(words) == 0
    [(name, record)] = read_records(Path("records")).items()
    assert record["looks"]["evaluation"]["accuracy"] == record["accuracy"]
    assert record["looks"].keys() == {"evaluation", "training", "anew", "anew64"}
    assert main([*words, "--check", name]) == 0
    assert f"{name}: the same, bit for bit" in capsys.readouterr().out
    other = record | {"looks": {}}
    assert compare_records(record, other) == ["looks"]


@pytest.mark.slow
def test_the_printed_command_gives_the_record_bit_for_bit(
    whole, images, tmp_path, monkeypatch
):
    record = read_records(whole / "records")["main-bcn-ws-b2-s0"]
    _, *words = shlex.split(record["command"])
    done = subprocess.run(
        [sys.executable, *words, "--out", "run"],
        env=clean_environment(LABML_BCN_DATA=str(images)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    weights = read_last_checkpoint(Path("run"))["model"]
    assert runner.digest_weights(weights) == record["weights"]
    metrics = read_lines(Path("run/metrics.jsonl"))
    assert record["curve"] == [
        [m["images"], m["loss"], m["accuracy"]] for m in metrics if "loss" in m
    ]
    assert record["tests"] == [
        [m["images"], m["test_accuracy"]] for m in metrics if "test_accuracy" in m
    ]
    said = f"test accuracy {record['accuracy']:.1%} after 8 images"
    assert said in done.stdout


@pytest.mark.slow
def test_check_runs_trials_again_and_tells_what_differs(
    whole, images, tmp_path, capsys
):
    shutil.copytree(whole / "records", "records")
    words = ["--data", str(images), "--results", "records", "--check"]
    assert main([*words, "sweep-bcn-ws-b1-lr0.01-s0"]) == 0
    assert capsys.readouterr().out == (
        "sweep-bcn-ws-b1-lr0.01-s0: the same, bit for bit\n"
    )
    path = Path("records/main-bcn-ws-b1-s0.json")
    record = json.loads(path.read_text())
    loss = record["curve"][-1][1]
    record["curve"][-1][1] = math.nextafter(loss, 0)
    record["weights"] = "0" * 64
    path.write_text(json.dumps(record))
    assert main([*words, "main-bcn-ws-b1-s0"]) == 1
    said = capsys.readouterr().out
    name = "main-bcn-ws-b1-s0"
    assert said == f"{name}: weights and curve came out differently\n"
    with pytest.raises(SystemExit, match="2"):
        main([*words, "main-bcn-ws-b3-s0"])
    assert "holds no record of 'main-bcn-ws-b3-s0'" in capsys.readouterr().err


def study_in(images, *words):
    """Run the tiny study in this process."""
    STUDIES["cpu"] = TINY
    words = ["--data", str(images), "--results", "records", *words]
    with (
        Path("study.log").open("a") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        sys.exit(main([*words, "--runs", "runs"]))


def start_study(images, *words):
    return start(functools.partial(study_in, images, *words))


def assert_as_whole(whole):
    one, other = read_records(Path("records")), read_records(whole / "records")
    assert one.keys() == other.keys()
    for name in one:
        assert compare_records(one[name], other[name]) == []
    assert list(Path("runs").iterdir()) == []


def wait_for_records(count, process):
    """Wait until there are as many records."""
    while process.is_alive():
        if len(list(Path("records").glob("*.json"))) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(Path("study.log").read_text())


@pytest.mark.fault("A study that is killed", "goes on; the same records")
@pytest.mark.slow
def test_a_killed_study_goes_on_and_ends_the_same(whole, images):
    for count in (1, 3, 5):
        process = start_study(images)
        wait_for_records(count, process)
        process.kill()
        process.join()
    kept = {p: p.read_bytes() for p in Path("records").glob("*.json")}
    process = start_study(images)
    process.join()
    assert process.exitcode == 0, Path("study.log").read_text()
    assert all(path.read_bytes() == data for path, data in kept.items())
    assert_as_whole(whole)


@pytest.mark.fault("A study that is stopped", "stops its runs, keeps them, goes on")
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_study_stops_its_runs_and_goes_on(whole, images, number):
    process = start_study(images)
    wait_for_records(2, process)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 128 + number
    assert "stopped, and kept" in Path("study.log").read_text()
    assert not is_training(images)
    process = start_study(images)
    process.join()
    assert process.exitcode == 0, Path("study.log").read_text()
    assert_as_whole(whole)


def is_training(images):
    """Say whether a training command with these images is running."""
    done = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True)
    return str(images) in done.stdout


@pytest.mark.slow
def test_a_stopped_check_stops_its_run(whole, images):
    shutil.copytree(whole / "records", "records")
    process = start_study(images, "--check", "main-bcn-ws-b1-s0")
    while process.is_alive() and not is_training(images):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGTERM)
    process.join()
    assert process.exitcode != 0
    assert not is_training(images)


@pytest.mark.slow
def test_trials_without_a_rate_wait_for_their_sweep(images, capsys):
    words = ["--data", str(images), "--results", "records", "--only"]
    assert main([*words, "main-*"]) == 1
    assert "2 points wait for a learning rate" in capsys.readouterr().out
    assert main([*words, "main-*", "sweep-*"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 4
    assert said[-1].startswith("[4/4] main-bcn-ws-b")
    assert said[-1].endswith("about 0:00:00 left")


@pytest.mark.slow
def test_a_run_that_fails_ends_the_study_with_its_words(images, capsys):
    runner = Runner(Path("runs"), ["--data", "nowhere"])
    command = TINY.sweep("BCN+WS", 1)[0].command
    with pytest.raises(RunError, match="ended with status 2") as raised:
        runner.run("x", command)
    assert "nowhere does not exist" in str(raised.value)


@pytest.mark.slow
def test_a_loss_that_became_nan_is_a_result(images):
    runner = Runner(Path("runs"), ["--data", str(images)])
    (trial, *_) = TINY.sweep("BCN+WS", 1)
    trial.settings["lr"] = 1e20
    record = runner.run("x", trial.command)
    assert record["accuracy"] is None
    assert re.match(r"in step \d the loss is nan: it arose", record["error"])
    assert "checkpoint" not in record["error"]
    assert str(Path("runs")) not in record["error"]
    assert accuracy(record) == 0.1


class Scripted(Runner):
    """Plays what the processes of a run do, instead of starting them.

    An exit status, and the outcome that is then in the folder of the run.
    """

    def __init__(self, *ends):
        super().__init__(Path("runs"))
        self.ends = list(ends)

    def call(self, words):
        status, outcome = self.ends.pop(0)
        if outcome:
            RunFolder(self.path("x")).write_outcome(outcome)
        return status, "what it said"


DONE = Outcome("done", 4, None, "the run has come to its end", 0)
DIVERGED = Outcome("failed", 3, "nonfinite_loss", "in step 3 the loss is nan", 1)


@pytest.mark.parametrize(
    "end",
    [
        (-signal.SIGKILL, None),
        # An outcome of an earlier start is not that of this one.
        (-signal.SIGKILL, DONE),
        (2, DIVERGED),
        (0, None),
        (1, Outcome("failed", 3, "not_writable", "the disk is full", 1)),
        (143, Outcome("stopped", 3, "SIGTERM", "stopped after step 3", 143)),
    ],
)
def test_a_run_without_a_result_is_no_record(end):
    with pytest.raises(RunError, match=rf"ended with status {end[0]}: what it said"):
        Scripted(end).run("x", "python -m labml_bcn.experiment.train")


@pytest.mark.parametrize(
    ("end", "expected"),
    [((0, DONE), DONE), ((1, DIVERGED), DIVERGED)],
)
def test_a_run_that_another_process_writes_is_waited_for(monkeypatch, end, expected):
    monkeypatch.setattr(runner, "read_run", lambda _, outcome: {"outcome": outcome})
    scripted = Scripted((75, None), (75, None), end)
    monkeypatch.setattr(scripted.stopping, "wait", lambda _: False)
    record = scripted.run("x", "python -m labml_bcn.experiment.train")
    assert record["outcome"] == expected
    assert scripted.ends == []


def test_the_images_must_be_those_of_the_records(images, capsys):
    data = cifar10.read(images)
    study.require_same_images(TINY, data, {})
    other = {"digest": "0" * 64}
    record = {"name": "x", "settings": other, "images": "other images"}
    with pytest.raises(ValueError, match="x was recorded with other images"):
        study.require_same_images(TINY, data, {"x": record})


def test_the_list_tells_what_is_missing(capsys):
    Path("docs/results/cpu").mkdir(parents=True)
    for name, record in pretend(TINY).items():
        if not name.startswith("ablation"):
            record |= {"error": None}
            write_record(Path("docs/results/cpu"), record)
    assert main(["--list", "--only", "main-*", "ablation-*-s0"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "main-bcn-ws-b2-s0  40.0%"
    assert said[1].startswith("    python -m labml_bcn.experiment.train --")
    assert said[-1] == "2 of 4 points are recorded"


def test_a_record_is_read_as_it_was_kept(tmp_path):
    record = {"name": "x", "curve": [[1, 0.1, 1 / 3]], "error": None}
    write_record(tmp_path / "records", record)
    assert read_records(tmp_path / "records") == {"x": record}
    path = tmp_path / "records" / "x.json"
    assert path.read_text().count("\n") == len(record) + 2


# --- Records that are not what was recorded ---------------------------------


@pytest.fixture
def kept():
    """The records of a study, written as a study writes them."""
    folder = Path("records")
    for record in pretend(TINY).values():
        write_record(folder, record | {"error": None, "weights": "0" * 64})
    return folder


def listing(capsys, *words):
    """The exit status of `--list`, and what is said of errors."""
    try:
        status = main(["--results", "records", "--list", *words])
    except SystemExit as exit:
        status = exit.code
    return status, capsys.readouterr().err


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


NAME = "main-bcn-ws-b2-s0"


@pytest.mark.fault(
    "A record edited by hand: its accuracy, a digest, a setting",
    "the study, its list and the site refuse it",
)
@pytest.mark.parametrize(
    "values",
    [{"accuracy": 0.99}, {"weights": "1" * 64}, {"settings": {}}, {"note": "x"}],
)
def test_a_record_that_was_edited_is_refused(kept, capsys, values):
    path = kept / f"{NAME}.json"
    assert listing(capsys)[0] == 0
    edit(path, **values)
    status, said = listing(capsys)
    assert status == 2
    assert f"{path} must have the SHA-256" in said
    assert "remove it and record it again" in said


@pytest.mark.fault("A record copied to another name", "refused; both names are said")
def test_a_record_under_another_name_is_refused(kept, capsys):
    other = kept / "main-bcn-ws-b2-s7.json"
    shutil.copy(kept / f"{NAME}.json", other)
    status, said = listing(capsys)
    assert status == 2
    assert f"{other} must be named in SHA256SUMS" in said
    (kept / "SHA256SUMS").unlink()
    status, said = listing(capsys)
    assert status == 2
    assert f"the record of {other.stem}, but holds that of {NAME!r}" in said


@pytest.mark.fault(
    "A record that is {} or no JSON", "refused in one line, no traceback"
)
@pytest.mark.parametrize(
    "text",
    [
        *("{}", "[]", "3", "{", ""),
        *(
            json.dumps({"name": NAME} | values)
            for values in (
                {"accuracy": "high"},
                {"accuracy": True},
                {"accuracy": math.nan},
                {"settings": None},
                {"settings": []},
                {"commit": 5},
                {"command": ["rm"]},
                {"images": {}},
                {"error": 0},
            )
        ),
    ],
)
def test_a_record_that_is_none_is_refused(kept, capsys, text):
    (kept / "SHA256SUMS").unlink()
    path = kept / f"{NAME}.json"
    path.write_text(text)
    for words in ([], ["--check", NAME]):
        status, said = listing(capsys, *words)
        assert status == 2
        assert f"{path} must hold" in said


def test_a_record_without_what_it_is_of_is_refused(kept, capsys):
    """It can be listed, for it is JSON; but it is no record of these images."""
    (kept / "SHA256SUMS").unlink()
    (kept / f"{NAME}.json").write_text(json.dumps({"name": NAME}))
    for words in ([], ["--check", NAME]):
        with pytest.raises(SystemExit, match="2"):
            main(["--stand-in", "--results", "records", *words])
        assert "was recorded with other images" in capsys.readouterr().err
    with pytest.raises(ValueError, match="holds no command that could be run again"):
        runner.check([NAME], kept, runner.Runner(Path("runs")))


def test_a_killed_study_leaves_no_record_with_another_digest(kept, monkeypatch):
    records = read_records(kept)
    new = records[NAME] | {"accuracy": 0.7}
    real = os.replace
    for calls in (1, 2, 3, 4):
        left = iter(range(calls))

        def killed(*arguments, left=left):
            next(left)
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", killed)
            with contextlib.suppress(StopIteration):
                write_record(kept, new)
        found = read_records(kept)
        assert found.get(NAME) in (None, records[NAME], new)
        write_record(kept, new)
        assert read_records(kept) == records | {NAME: new}


def write_many(names):
    for name in names:
        write_record(Path("records"), {"name": name, "accuracy": 0.5})


@pytest.mark.fault("Two studies that record into one folder", "no record is lost")
def test_two_studies_record_into_one_folder(tmp_path):
    names = [f"x{number}" for number in range(40)]
    processes = [
        start(functools.partial(in_folder, tmp_path, write_many, names[k::2]))
        for k in range(2)
    ]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert read_records(tmp_path / "records").keys() == set(names)


def in_folder(folder, target, *arguments):
    os.chdir(folder)
    target(*arguments)


def test_old_records_without_digests_get_them_with_the_next_one(kept):
    (kept / "SHA256SUMS").unlink()
    records = read_records(kept)
    write_record(kept, records[NAME])
    assert read_records(kept) == records
    edit(kept / "ablation-bcn-ws-b2-g4-s0.json", accuracy=1.0)
    with pytest.raises(ValueError, match="must have the SHA-256"):
        read_records(kept)


@pytest.mark.fault("--results with a folder that is not there", "status 2")
@pytest.mark.parametrize("more", [["--list"], ["--check", NAME]])
def test_a_mistyped_folder_is_not_an_empty_study(capsys, more):
    with pytest.raises(SystemExit, match="2"):
        main(["--results", "typo", *more])
    assert "must name a folder with records, got typo" in capsys.readouterr().err


@pytest.mark.fault(
    "Records that older code has made", "listed with their commit, and a warning"
)
def test_the_list_names_the_commit_and_warns_of_older_code(kept, monkeypatch, capsys):
    now, old = "a" * 40, "b" * 40
    monkeypatch.setattr(runner, "current_commit", lambda: now)
    for name, record in read_records(kept).items():
        write_record(kept, record | {"commit": old if name == NAME else now})
    assert main(["--results", "records", "--list"]) == 0
    out, err = capsys.readouterr()
    assert f"{NAME}  40.0%  {old[:12]}" in out
    assert err.startswith(
        f"note: 1 records were made by other code than this ({now[:12]}"
    )
    assert f"1 by {old[:12]}" in err
    monkeypatch.setattr(runner, "current_commit", lambda: now + "-changed")
    main(["--results", "records", "--list"])
    assert "5 by aaaaaaaaaaaa" in capsys.readouterr().err


@pytest.mark.fault(
    "Code that was edited while a study was stopped", "runs of their own, none mixed"
)
def test_edited_code_has_folders_of_its_own(monkeypatch, tmp_path):
    paths = set()
    package = tmp_path / "package"
    (package / "experiment").mkdir(parents=True)
    monkeypatch.setattr(runner, "__file__", str(package / "experiment" / "runner.py"))
    commit = "a" * 40
    for found in (commit, f"{commit}-changed", None):
        monkeypatch.setattr(runner, "current_commit", lambda found=found: found)
        for text in ("one", "two"):
            (package / "layer.py").write_text(text)
            paths.add(Runner(Path("runs")).path("x").name)
    # A commit has one version; what differs from it has as many as it had edits.
    assert len(paths) == 1 + 2 + 2
    assert f"x-{commit[:12]}" in paths


@pytest.mark.fault("A full disk while a record is written", "status 1 with a remedy")
def test_a_record_that_cannot_be_written_is_no_error_of_the_command(
    monkeypatch, capsys
):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runner, "record_all", full)
    assert main(["--stand-in", "--results", "records", "--jobs", "1"]) == 1
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert "the same command goes on" in said
    assert "usage:" not in said


def test_help_explains_every_option_and_its_examples_parse():
    text = study_options.parser(STUDIES).format_help()
    for action in study_options.parser(STUDIES)._actions:
        assert action.help
        assert all(name in text for name in action.option_strings)
    lines = study_options.EPILOG.splitlines()
    examples = [shlex.split(line) for line in lines if "python -m" in line]
    assert len(examples) == 7
    for words in examples:
        study_options.parser(STUDIES).parse_args(words[words.index("-m") + 2 :])


@pytest.mark.parametrize("words", [["--jobs", "0"], ["--data", "nowhere"]])
def test_what_does_not_fit_ends_with_a_message_and_2(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert "error: " in capsys.readouterr().err
    assert not Path("runs").exists()


def test_an_option_that_came_later_is_no_difference():
    record = dict.fromkeys(("accuracy", "error", "weights", "tests", "curve"))
    one = record | {"settings": {"lr": 0.1}}
    assert compare_records(one, record | {"settings": {"lr": 0.1, "new": 1}}) == []
    assert compare_records(one, record | {"settings": {"lr": 0.2}}) == ["settings"]
