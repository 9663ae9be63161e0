"""Runs that cannot be mixed up: who has a folder, and what belongs into it."""

import functools
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from helpers.processes import start, wait_until_stopped
from helpers.runs import (
    assert_same_end,
    images,
    read_lines,
    rewrite_checkpoint,
    run_command,
)

from labml_bcn.experiment import cifar10, train
from labml_bcn.experiment.outcome import TRY_AGAIN, RunError
from labml_bcn.experiment.run_folder import RunFolder

__all__ = ["images"]

pytestmark = pytest.mark.usefixtures("one_thread", "own_folder")

WORDS = "--norm bcn --ws --images 16 --threads 1 --checkpoint-every 1".split()


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """Runs are kept in a folder that goes away."""
    monkeypatch.chdir(tmp_path)


def contents(folder):
    return {p.name: p.read_bytes() for p in Path(folder).iterdir()}


def run(*words):
    """Run the command here, and return its exit status."""
    try:
        return train.main([str(word) for word in words])
    except SystemExit as exit:
        return exit.code


# --- Several commands at once -----------------------------------------------


def run_when_all_are_there(count, folder, *words):
    """Run the command in `folder`, as soon as so many processes have come here."""
    os.chdir(folder)
    Path(f"here-{os.getpid()}").touch()
    while len(list(Path().glob("here-*"))) < count:
        time.sleep(0.001)
    run_command(*words, log=Path("log"))


@pytest.mark.fault(
    "Starts at the same moment, without --out",
    "each has a folder of its own, and its own end",
)
def test_commands_that_start_together_have_folders_of_their_own(images, tmp_path):
    words = (*WORDS, "--data", images)
    processes = [
        start(
            functools.partial(
                run_when_all_are_there, 3, tmp_path, *words, "--seed", seed
            )
        )
        for seed in range(3)
    ]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0], Path(
        "log"
    ).read_text()
    seeds = set()
    for folder in Path("runs").iterdir():
        seed = json.loads((folder / "config.json").read_text())["settings"]["seed"]
        seeds.add(seed)
        twin = tmp_path / f"seed-{seed}"
        assert run(*words, "--seed", seed, "--out", twin) == 0
        assert_same_end(folder, twin)
        assert len(read_lines(folder / "starts.jsonl")) == 1
    assert seeds == {0, 1, 2}


def run_command_paused(log, *words):
    """Run the command, and stop when it has looked for its folder."""
    load = train.load_images

    def pause(*arguments):
        os.kill(os.getpid(), signal.SIGSTOP)
        return load(*arguments)

    train.load_images = pause
    run_command(*words, log=log)


@pytest.mark.fault(
    "A folder is taken between a command's look at it and its first write",
    "the second command is refused with status 2, the run is as it was",
)
@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_was_taken_meanwhile_is_left_alone(images, tmp_path, resume):
    words = (*WORDS, "--data", images, "--out", tmp_path / "run")
    more = ["--lr", "0.1", *(["--resume"] if resume else [])]
    log = tmp_path / "log"
    process = start(functools.partial(run_command_paused, log, *words, *more))
    wait_until_stopped(process.pid)
    assert run(*words) == 0
    before = contents("run")
    os.kill(process.pid, signal.SIGCONT)
    process.join(120)
    assert process.exitcode == 2
    said = "lr is 0.005 there and 0.1 here" if resume else "holds a run already"
    assert said in log.read_text()
    assert contents("run") == before


@pytest.mark.fault(
    "A second start while the first one runs",
    "status 75, and not a byte is written",
)
def test_a_second_start_writes_nothing(images, tmp_path):
    assert run(*WORDS, "--data", images, "--out", "run") == 0
    before = contents("run")
    holder = RunFolder("run")
    holder.lock()
    try:
        assert run("--resume", "run", "--data", images) == TRY_AGAIN
        assert contents("run") == before
    finally:
        holder.close()


# --- A checkpoint and its settings ------------------------------------------


@pytest.fixture(scope="module")
def runs(images, tmp_path_factory):
    """Four runs that are not the same, and have the same files."""
    folder = tmp_path_factory.mktemp("runs")
    changes = {
        "run": [],
        "seed": ["--seed", 1],
        "adam": ["--optimizer", "adam"],
        "momentum": ["--momentum", 0.01],
    }
    for name, more in changes.items():
        words = [*WORDS, *more, "--data", images, "--out", folder / name]
        assert run(*words) == 0
    return folder


@pytest.fixture
def here(runs, tmp_path):
    return Path(shutil.copytree(runs / "run", tmp_path / "run"))


def refused(folder, capsys):
    """Go on with a run that cannot; return what is said. Its checkpoints stay."""
    before = {c.path: c.path.read_bytes() for c in RunFolder(folder).checkpoints()}
    capsys.readouterr()
    assert run("--resume", folder) == 1
    after = {c.path: c.path.read_bytes() for c in RunFolder(folder).checkpoints()}
    assert before == after
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


@pytest.mark.fault(
    "Another run's checkpoint",
    "status 1, and the settings that differ",
)
@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ("seed", "seed is 1 there and 0 here"),
        ("adam", "optimizer is 'adam' there and 'sgd' here"),
        ("momentum", "momentum is 0.01 there and None here"),
    ],
)
def test_another_runs_checkpoint_is_refused(runs, here, capsys, other, difference):
    for kept in RunFolder(here).checkpoints():
        kept.path.unlink()
    newest = RunFolder(runs / other).checkpoints()[-1].path
    shutil.copy(newest, here)
    said = refused(here, capsys)
    assert str(here / newest.name) in said
    assert difference in said
    assert "start another run" in said


@pytest.mark.fault(
    "A setting that was edited in config.json",
    "status 1: the checkpoint has another one",
)
@pytest.mark.parametrize(
    ("name", "value"), [("lr", 0.1), ("momentum", 0.5), ("images", 400), ("seed", 3)]
)
def test_an_edited_setting_is_refused(here, capsys, name, value):
    config = json.loads((here / "config.json").read_text())
    config["settings"][name] = value
    (here / "config.json").write_text(json.dumps(config))
    assert f"and {value!r} here" in refused(here, capsys)


@pytest.mark.fault("A config.json that is gone", "status 1, and nothing is begun anew")
def test_checkpoints_without_settings_are_not_gone_on_with(images, here, capsys):
    (here / "config.json").unlink()
    before = contents(here)
    assert run(*WORDS, "--data", images, "--out", here, "--resume") == 1
    assert "no config.json that says what they are of" in capsys.readouterr().err
    assert contents(here) == before


@pytest.mark.parametrize("name", ["metrics.jsonl", "timings.jsonl"])
@pytest.mark.fault("Metrics edited by hand", "status 1, with both digests")
def test_metrics_that_were_changed_are_reported(here, capsys, name):
    text = (here / name).read_text()
    changed = text.replace("1", "2", 1)
    (here / name).write_text(changed)
    said = refused(here, capsys)
    assert f"{name} must begin with the {len(text):,} bytes" in said
    assert "It was changed: bring it back" in said


@pytest.mark.fault(
    "A checkpoint of a step that the run does not have",
    "status 1; it does not train for ever",
)
@pytest.mark.parametrize("renamed", [False, True])
def test_a_step_beyond_the_end_is_refused(here, capsys, renamed):
    step = {} if renamed else {"step": 60}
    rewrite_checkpoint(here, lambda file: file.update(step), step=60)
    said = refused(here, capsys)
    if renamed:
        assert "named after step 60, but was saved after step 8" in said
    else:
        assert "must be of one of the run's 8 steps, but is of step 60" in said


def entry(*path):
    """A change that takes an entry out of a checkpoint."""

    def change(file):
        for key in path[:-1]:
            file = file[key]
        del file[path[-1]]

    return change


MISSING = [
    *(entry(name) for name in ("settings", "lines", "state", "step")),
    *(
        entry("state", name)
        for name in ("model", "optimizer", "scaler", "seconds", "processes")
    ),
    *(entry("state", "processes", 0, name) for name in ("buffers", "random", "meter")),
    entry("state", "optimizer", "param_groups"),
    lambda file: file["state"].update(optimizer=torch.zeros(1)),
    lambda file: file["state"]["processes"][0].update(random=[]),
    lambda file: file["state"]["processes"][0].update(meter=torch.zeros(7)),
    lambda file: file.update(state="nothing"),
]


@pytest.mark.fault(
    "A checkpoint of a right digest, with an entry missing", "status 1 in one line"
)
@pytest.mark.parametrize("change", MISSING)
def test_a_checkpoint_without_all_entries_is_refused(here, capsys, change):
    rewrite_checkpoint(here, change)
    said = refused(here, capsys)
    assert "checkpoint" in said
    assert len(said) < 700


def test_from_python_a_run_goes_on_with_its_own_settings_alone(tmp_path):
    data, folder = cifar10.stand_in(40, 8), tmp_path / "run"

    def learn(images=16, **more):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
        return train.train(model, data, images=images, folder=RunFolder(folder), **more)

    learn()
    learn()
    for more in (
        {"lr": 0.1},
        {"optimizer": "adam"},
        {"images": 8},
        {"batch_size": 4},
        {"seed": 1},
    ):
        (name,) = more
        with pytest.raises(RunError, match=f"{name.replace('_', '-')} is .* there and"):
            learn(**more)
    learn()
