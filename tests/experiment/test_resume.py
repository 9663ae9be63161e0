"""Nothing is lost: killed at any moment, a run ends as if never stopped."""

import functools
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from helpers.paths import ROOT
from helpers.processes import start
from helpers.runs import (
    assert_same_end,
    clean_environment,
    images,
    read_last_checkpoint,
    read_lines,
    rewrite_checkpoint,
    run_command,
    wait_for_a_line,
)
from torch import nn

from labml_bcn.experiment import cifar10, train
from labml_bcn.experiment.outcome import TRY_AGAIN, Outcome, Stopped
from labml_bcn.experiment.run_folder import RunFolder, read_outcome

__all__ = ["images"]

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 24
METHOD = ("--norm", "bcn", "--ws", "--variance-around", "running_mean")


def arguments(images, folder, *more, steps=STEPS):
    """A run that keeps a checkpoint after each step."""
    words = f"--images {2 * steps} --threads 1 --checkpoint-every 1".split()
    return (*METHOD, *words, "--data", images, "--out", folder, "--resume", *more)


def start_run(*arguments, folder):
    """Start the command in a process of its own."""
    log = folder.with_suffix(".log")
    return start(functools.partial(run_command, *arguments, log=log))


@pytest.fixture(scope="module")
def whole(images, tmp_path_factory):
    """A run that was never stopped, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    start_run(*arguments(images, folder), folder=folder).join()  # the server starts
    shutil.rmtree(folder)
    began = time.monotonic()
    process = start_run(*arguments(images, folder), folder=folder)
    process.join()
    assert process.exitcode == 0
    assert read_last_checkpoint(folder)["step"] == STEPS
    return folder, time.monotonic() - began


# --- Killed -----------------------------------------------------------------


@pytest.mark.fault("kill -9 at random moments", "the same end, bit for bit")
@pytest.mark.slow
def test_killed_at_twenty_random_moments_a_run_ends_the_same(images, whole, tmp_path):
    reference, seconds = whole
    moments = random.Random(5)
    kills, finished, done = 0, 0, False
    while not done:
        folder = tmp_path / f"run-{finished}"
        process = start_run(*arguments(images, folder), folder=folder)
        done = kills == 20
        if not done:
            time.sleep(moments.uniform(0, seconds / 2))
            process.kill()
        process.join()
        if process.exitcode == -signal.SIGKILL:
            kills += 1
            continue
        assert process.exitcode == 0, folder.with_suffix(".log").read_text()
        assert_same_end(folder, reference)
        finished += 1
    starts = read_lines(folder / "starts.jsonl")
    assert all("torch" in line for line in starts)


def run_command_with_signal(number, name, nth, done, *arguments, log):
    """Run the command, and signal this process in its nth call of os.name."""
    function, calls = getattr(os, name), 0

    @functools.wraps(function)
    def fatal(*arguments, **options):
        nonlocal calls
        calls += 1
        if calls == nth and done:
            function(*arguments, **options)
        if calls == nth:
            os.kill(os.getpid(), number)
        return function(*arguments, **options)

    setattr(os, name, fatal)
    run_command(*arguments, log=log)


def start_with_signal(number, name, nth, *arguments, folder, done=False):
    """Start the command in a process that will meet a signal."""
    log = folder.with_suffix(".log")
    words = (number, name, nth, done, *arguments)
    return start(functools.partial(run_command_with_signal, *words, log=log))


# Two calls of fsync and one of replace write the settings, and the outcome; a
# checkpoint has four and one, for metrics, timings, itself and the folder's names.
# The first unlink is that of an outcome which is not there, the next one that of the
# first of three checkpoints.
MOMENTS = [
    *(("fsync", n, False) for n in range(1, 12)),
    *(("fsync", n, False) for n in (23, 24)),
    *(("replace", n, done) for n in (1, 2, 3, 7) for done in (False, True)),
    ("unlink", 1, False),
    *(("unlink", 2, done) for done in (False, True)),
    *(("write", n, done) for n in (1, 4, 5) for done in (False, True)),
    ("ftruncate", 2, False),
]


@pytest.mark.fault(
    "kill -9 before or after any call that writes",
    "the same end, bit for bit",
)
@pytest.mark.slow
def test_killed_in_any_call_of_writing_a_run_ends_the_same(images, tmp_path):
    reference = tmp_path / "reference"
    words = arguments(images, reference, steps=4)
    start_run(*words, folder=reference).join()
    for name, nth, done in MOMENTS:
        folder = tmp_path / f"{name}-{nth}-{done}"
        words = arguments(images, folder, steps=4)
        process = start_with_signal(
            signal.SIGKILL, name, nth, *words, folder=folder, done=done
        )
        process.join()
        assert process.exitcode == -signal.SIGKILL, (name, nth, done)
        process = start_run(*words, folder=folder)
        process.join()
        assert process.exitcode == 0, folder.with_suffix(".log").read_text()
        assert_same_end(folder, reference)


# --- Asked to stop ----------------------------------------------------------


@pytest.mark.fault(
    "Ctrl-C, or SIGTERM from a scheduler",
    "kept, status 130 or 143; the same end",
)
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_step_and_keeps_it(images, whole, tmp_path, number):
    folder = tmp_path / "run"
    words = arguments(images, folder, "--checkpoint-every", 1000)
    # The start writes a line, the progress bar's lock may, and a step two.
    process = start_with_signal(number, "write", 8, *words, folder=folder)
    process.join()
    log = folder.with_suffix(".log")
    assert process.exitcode == 128 + number, log.read_text()
    step = read_last_checkpoint(folder)["step"]
    assert 2 <= step < STEPS
    assert (
        f"stopped by {number.name} after step {step}, and kept."
        f" Go on with --resume {folder}" in log.read_text()
    )
    said = f"stopped after step {step}"
    outcome = Outcome("stopped", step, number.name, said, 128 + number)
    assert read_outcome(folder) == outcome
    process = start_run("--resume", folder, folder=folder)
    process.join()
    assert process.exitcode == 0, log.read_text()
    assert_same_end(folder, whole[0])
    done = Outcome("done", STEPS, None, "the run has come to its end", 0)
    assert read_outcome(folder) == done


@pytest.mark.slow
def test_ctrl_c_in_a_shell_is_answered_in_one_line(images, tmp_path):
    folder = tmp_path / "run"
    words = arguments(images, folder, steps=10_000)
    module = ("-m", "labml_bcn.experiment.train")
    with subprocess.Popen(
        [sys.executable, *module, *map(str, words)],
        cwd=ROOT,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_for_a_line(folder / "metrics.jsonl", process.poll)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.startswith("stopped by SIGINT after step ")
    assert errors.count("\n") == 1


class Signalling(nn.Module):
    """Drops out at random, and sends a signal in a given forward pass."""

    def __init__(self, training, call):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(3072, 10))
        nn.init.zeros_(self.layers[2].weight)
        nn.init.zeros_(self.layers[2].bias)
        self.when, self.calls = (training, call), 0

    def forward(self, x):
        training, call = self.when
        self.calls += self.training is training
        if self.training is training and self.calls == call:
            self.calls += 1
            os.kill(os.getpid(), signal.SIGTERM)
        return self.layers(x)


@pytest.mark.fault(
    "A stop in the middle of a test, in a network with dropout",
    "the same end, bit for bit",
)
@pytest.mark.parametrize(
    ("training", "call", "optimizer"),
    [
        (True, 1, "sgd"),
        (True, 9, "sgd"),
        (True, 9, "adam"),
        (False, 1, "sgd"),
        (False, 5, "sgd"),
    ],
)
def test_a_run_with_dropout_and_a_test_cut_short_resumes_to_the_same_end(
    tmp_path, training, call, optimizer
):
    data = cifar10.stand_in(40, 120)

    def learn(folder, model):
        torch.manual_seed(4)
        return train.train(
            model,
            data,
            images=40,
            tests=3,
            optimizer=optimizer,
            folder=RunFolder(folder),
        )

    expected = Signalling(True, 0)
    whole = learn(tmp_path / "whole", expected)
    with pytest.raises(Stopped) as stopped:
        learn(tmp_path / "run", Signalling(training, call))
    assert stopped.value.signal == signal.SIGTERM
    model = Signalling(True, 0)
    again = learn(tmp_path / "run", model)
    assert torch.equal(model.layers[2].weight, expected.layers[2].weight)
    assert (again.points, again.tests) == (whole.points, whole.tests)
    assert_same_end(tmp_path / "run", tmp_path / "whole")


def test_without_a_folder_signal_handlers_stay(images):
    model, handler = Signalling(True, 0), signal.getsignal(signal.SIGTERM)
    seen = []
    model.register_forward_hook(
        lambda *_: seen.append(signal.getsignal(signal.SIGTERM))
    )
    train.train(model, cifar10.read(images), images=4)
    assert set(seen) == {handler}


# --- Disks and files --------------------------------------------------------


def run_command_with_small_files(size, *arguments, log):
    """Run the command with files of limited size."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    run_command(*arguments, log=log)


@pytest.mark.fault(
    "Files that may not grow any further",
    "status 1; the last good checkpoint is named",
)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "every", "what"),
    [
        (500, 1, "config.json could not be written: File too large. Make"),
        (1_500, 1000, "metrics.jsonl could not be written to: File too"),
        (2_000_000, 1, "the checkpoint of step 1 could not be written to"),
    ],
)
def test_a_full_disk_keeps_the_last_good_checkpoint(
    images, whole, tmp_path, size, every, what
):
    folder, log = tmp_path / "run", tmp_path / "run.log"
    words = arguments(images, folder, "--checkpoint-every", every)
    if size == 1_500:
        # There is a checkpoint, which would not fit, and room for a start.
        start_with_signal(signal.SIGKILL, "write", 5, *words, folder=folder).join()
        (folder / "starts.jsonl").unlink()
    process = start(
        functools.partial(run_command_with_small_files, size, *words, log=log)
    )
    process.join()
    said = log.read_text()
    assert process.exitcode == 1, said
    assert what in said
    assert "Make room, and " in said
    assert "Traceback" not in said
    kept = [checkpoint.step for checkpoint in RunFolder(folder).checkpoints()]
    assert kept == ([] if size == 500 else [0])
    if size == 2_000_000:
        assert f"The last good checkpoint is of step 0: {folder}" in said
    assert not list(folder.glob("*.part"))
    process = start_run(*words, folder=folder)
    process.join()
    assert process.exitcode == 0, log.read_text()
    assert_same_end(folder, whole[0])


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 5 MB, where this user may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=5m", "none", folder)
    if not shutil.which("mount") or subprocess.run(mount).returncode:
        pytest.skip("this user cannot make a small disk")
    yield folder
    subprocess.run(("umount", folder), check=True)


@pytest.mark.fault("A disk that is full", "status 1; the last good checkpoint is named")
@pytest.mark.slow
def test_a_disk_that_fills_up_keeps_the_last_good_checkpoint(
    images, small_disk, tmp_path
):
    folder, log = small_disk / "run", tmp_path / "log"
    process = start(functools.partial(run_command, *arguments(images, folder), log=log))
    process.join()
    said = log.read_text()
    assert process.exitcode == 1
    assert "could not be written to" in said
    assert "No space left on device" in said
    assert "Traceback" not in said
    kept = RunFolder(folder).checkpoints()[-1]
    assert f"The last good checkpoint is of step {kept.step}" in said
    assert read_last_checkpoint(folder)["step"] == kept.step
    assert not list(folder.glob("*.part"))


@pytest.fixture(scope="module")
def killed_once(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed") / "run"
    words = arguments(images, folder)
    start_with_signal(signal.SIGKILL, "write", 15, *words, folder=folder).join()
    return folder


@pytest.fixture
def killed(killed_once, tmp_path):
    """A run that was killed after a few of its steps."""
    return shutil.copytree(killed_once, tmp_path / "run")


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_no_outcome_not_even_that_of_before(images, killed):
    assert read_outcome(killed) is None
    before = '{"outcome": "stopped", "step": 1}'
    (killed / "outcome.json").write_text(before)
    words = arguments(images, killed)
    process = start_with_signal(signal.SIGKILL, "write", 3, *words, folder=killed)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert read_outcome(killed) is None


def resume(folder, capsys, *more):
    """Go on with a run, and return its exit status and what it said."""
    try:
        status = train.main(["--resume", str(folder), *map(str, more)])
    except SystemExit as exit:
        status = exit.code
    return status, capsys.readouterr().err


@pytest.mark.fault(
    "A checkpoint cut short, or with a bit that flipped",
    "status 1; the one before gives the same end",
)
@pytest.mark.slow
@pytest.mark.parametrize("harm", ["cut", "changed"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_gives_the_same_end(
    killed, whole, capsys, harm
):
    before, newest = RunFolder(killed).checkpoints()[-2:]
    data = bytearray(newest.path.read_bytes())
    if harm == "cut":
        data = data[: len(data) // 2]
    else:
        data[len(data) // 2] ^= 1
    newest.path.write_bytes(data)
    status, said = resume(killed, capsys)
    assert status == 1
    assert f"{newest.path} is damaged" in said
    assert f"{len(data):,} bytes are not those that were written" in said
    assert f"Remove {newest.path.name}" in said
    assert f"of step {before.step}, to the same result" in said
    assert before.path.exists()
    newest.path.unlink()
    assert resume(killed, capsys)[0] == 0
    assert_same_end(killed, whole[0])


@pytest.mark.fault(
    "A checkpoint of another version",
    "status 1: go on with that version",
)
def test_another_versions_checkpoint_is_refused(killed, capsys):
    rewrite_checkpoint(killed, lambda file: file.update(format=99))
    status, said = resume(killed, capsys)
    assert status == 1
    assert "must have format 2 of checkpoints, but has 99" in said
    assert "Go on with that version" in said


@pytest.mark.fault("A checkpoint of another network", "status 1, in one line")
def test_another_networks_checkpoint_is_refused(killed, capsys):
    rewrite_checkpoint(killed, lambda file: file["state"]["model"].popitem())
    status, said = resume(killed, capsys)
    assert status == 1
    assert "the run has another network: Error(s) in loading" in said
    assert "go on with that one" in said
    assert len(said) < 500


@pytest.mark.fault("A checkpoint that holds code", "refused, and nothing is executed")
def test_code_in_a_checkpoint_is_not_executed(killed, capsys, tmp_path):
    mark = tmp_path / "executed"

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(mark),)

    kept = RunFolder(killed).checkpoints()[-1]
    torch.save({"format": 1, "state": Trap()}, kept.path)
    digest = hashlib.sha256(kept.path.read_bytes()).hexdigest()[:16]
    kept.path.rename(kept.path.with_name(f"step-{kept.step:09}-{digest}.pt"))
    status, said = resume(killed, capsys)
    assert status == 1
    assert "is no checkpoint" in said
    assert not mark.exists()


@pytest.mark.fault("Metrics that were cut short", "status 1, with what must be there")
def test_metrics_that_were_cut_short_are_reported(killed, capsys):
    (killed / "metrics.jsonl").write_text("")
    status, said = resume(killed, capsys)
    assert status == 1
    assert "metrics.jsonl must have at least the" in said
    assert "but has 0" in said


@pytest.mark.fault(
    "Other settings typed than the run's",
    "status 2, with each difference",
)
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--batch-size", 4), "batch-size is 2 there and 4 here"),
        (("--norm", "gn"), "norm is 'bcn' there and 'gn' here"),
        (("--seed", 1, "--lr", 1), "lr is 0.005 there and 1.0 here; seed is"),
        (("--epochs", 3), "images is 48 there and 120 here"),
        (("--stand-in",), "digest is"),
        (("--out", "elsewhere"), "--resume and --out must name one folder"),
    ],
)
def test_other_settings_than_the_runs_are_refused(killed, capsys, more, message):
    before = {p: p.read_bytes() for p in killed.iterdir()}
    status, said = resume(killed, capsys, *more)
    assert status == 2
    assert message in said
    assert before == {p: p.read_bytes() for p in killed.iterdir()}


@pytest.mark.slow
def test_a_run_of_several_processes_is_not_gone_on_with_by_one(killed, capsys):
    """Nobody has typed the option that the run has."""
    config = killed / "config.json"
    whole = config.read_text()
    config.write_text(
        whole.replace('"sync_statistics": false', '"sync_statistics": true')
    )
    status, said = resume(killed, capsys)
    assert status == 2
    assert "--sync-statistics, typed or the run's own, needs more than one" in said
    assert "start the command with torchrun" in said


def test_settings_that_are_typed_again_go_on_with_the_run(killed, whole, capsys):
    assert resume(killed, capsys, *METHOD, "--images", 2 * STEPS)[0] == 0
    assert_same_end(killed, whole[0])


def test_a_run_that_has_ended_shows_its_end_again(killed, capsys):
    tables = []
    for _ in range(2):
        assert train.main(["--resume", str(killed)]) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1]
    assert f"after {2 * STEPS} images" in tables[0]


def test_a_folder_that_holds_a_run_is_not_overwritten(killed, capsys):
    with pytest.raises(SystemExit, match="2"):
        train.main(["--stand-in", "--out", str(killed)])
    assert "holds a run already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume"], "--resume needs the folder of a run"),
        (["--resume", "nowhere"], "nowhere holds none"),
    ],
)
def test_resume_without_a_run_is_refused(
    tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        train.main(arguments)
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.fault("A config.json that cannot be read", "status 2")
@pytest.mark.parametrize(
    "text", ["{", "null", "[]", "{}", '{"settings": {"lr": "abc"}}']
)
def test_settings_that_cannot_be_read_are_reported(killed, capsys, text):
    (killed / "config.json").write_text(text)
    status, said = resume(killed, capsys)
    assert status == 2
    assert "must hold the settings of a run" in said


@pytest.mark.parametrize("data", [{"data": 5}, {"x": 1}, None, [], {"stand_in": "no"}])
def test_images_that_a_run_cannot_have_begun_with_are_reported(killed, capsys, data):
    file = killed / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"data": data}))
    status, said = resume(killed, capsys)
    assert status == 2
    assert f"{file} must hold the settings of a run, but does not" in said


@pytest.mark.fault("A pipe or a folder in the place of a file", "status 1, it is named")
@pytest.mark.parametrize("name", ["metrics.jsonl", "timings.jsonl", "starts.jsonl"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_named(killed, capsys, name, make):
    (killed / name).unlink()
    make(killed / name)
    status, said = resume(killed, capsys)
    assert status == 1
    assert f"{killed / name} " in said
    assert "name another folder with --out" in said


@pytest.mark.fault("Half a line, as a loss of power leaves it", "cut off; the same end")
@pytest.mark.slow
def test_half_a_line_about_a_start_does_no_harm(killed, whole, capsys):
    file = killed / "starts.jsonl"
    text = file.read_text()
    file.write_text(text + text[:20])
    assert resume(killed, capsys)[0] == 0
    assert_same_end(killed, whole[0])
    assert len(read_lines(file)) == 2


@pytest.mark.parametrize("name", ["metrics.jsonl", "starts.jsonl"])
def test_lines_that_are_no_json_are_reported(killed, capsys, name):
    file = killed / name
    file.write_text(file.read_text().replace("{", "[", 1))
    status, said = resume(killed, capsys)
    assert status == 1
    assert f"{file} must hold JSON, line by line, but does not" in said


@pytest.mark.fault("Another version of torch", "a note, and the run goes on")
def test_another_version_of_torch_is_reported(killed, capsys):
    file = killed / "starts.jsonl"
    file.write_text(file.read_text().replace('"torch": "2', '"torch": "1'))
    status, said = resume(killed, capsys)
    assert status == 0
    assert "note: until now the run had torch 1" in said


def test_a_folder_that_cannot_be_made_is_reported(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="2"):
        train.main(["--stand-in", "--out", str(tmp_path / "file" / "run")])
    said = capsys.readouterr().err
    assert "must be a folder that can be written to: Not a directory" in said
    assert "name another one with --out" in said


@pytest.mark.slow
def test_a_run_has_one_writer_at_a_time(images, tmp_path, capsys):
    folder = tmp_path / "run"
    words = arguments(images, folder)
    process = start_with_signal(signal.SIGSTOP, "write", 9, *words, folder=folder)
    wait_for_a_line(folder / "metrics.jsonl", lambda: process.exitcode)
    status, said = resume(folder, capsys)
    process.kill()
    process.join()
    assert status == TRY_AGAIN
    assert "another process is writing to" in said
    assert not (folder / "outcome.json").exists()
    assert resume(folder, capsys)[0] == 0
