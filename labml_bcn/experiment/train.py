"""The training command, and the function `train` for Python.

    python -m labml_bcn.experiment.train --norm bcn --ws --images 5000

A run is kept in a folder, and goes on from there with `--resume`. What decides its
result are its settings: they are written down when it starts, and hold from then on.
Which files to read, how often to write a checkpoint, or whether to show a progress bar
may differ from start to start.
"""

import argparse
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from labml_bcn.experiment import cifar10, ranks, vgg
from labml_bcn.experiment.cifar10 import CIFAR10
from labml_bcn.experiment.loop import count_steps, shuffled_batches, train
from labml_bcn.experiment.machine import (
    out_of_memory,
    require_machine,
    set_threads,
)
from labml_bcn.experiment.optional_packages import optional_package
from labml_bcn.experiment.outcome import (
    USAGE_ERRORS,
    RunError,
    Stopped,
    outcome_of,
)
from labml_bcn.experiment.output import finish_output, say, tell
from labml_bcn.experiment.run_config import (
    RunConfig,
    claim,
    describe,
    find_run,
    make_folder,
    note_start,
    require_same_settings,
)
from labml_bcn.experiment.run_folder import RunFolder
from labml_bcn.experiment.run_log import Run
from labml_bcn.experiment.settings import Settings, StartOptions, add_options
from labml_bcn.statistics import update_statistics

__all__ = ["main", "train"]

DESCRIPTION = """\
Train a VGG on CIFAR-10, one or two images a step, with a normalization of
your choice, and print its test accuracy.

The run is kept in a folder. It can be stopped at any moment, with Ctrl-C, by
a scheduler or by a power cut, and goes on with --resume. On a CPU it then
ends with the same weights, bit for bit, as if it had never been stopped.
"""

EPILOG = """\
examples:
  Batch norm, and what two images a step do to it:
    python -m labml_bcn.experiment.train --norm bn --images 5000

  Batch-channel norm with weight standardization, statistics as the paper
  has them:
    python -m labml_bcn.experiment.train --norm bcn --ws \\
        --variance-around running_mean --momentum 0.01 --images 5000

  Stopped with Ctrl-C? Go on:
    python -m labml_bcn.experiment.train --resume runs/small-bcn-ws

  For a scheduler that may stop and repeat it: starts, or goes on:
    python -m labml_bcn.experiment.train --norm bcn --ws --epochs 10 \\
        --out runs/night --resume

  The full VGG on a GPU in half precision, images downloaded once:
    python -m labml_bcn.experiment.train --model vgg --norm bcn --ws \\
        --batch-size 64 --lr 0.05 --epochs 20 --device cuda --amp --download

  Two processes with one image each, one batch of two to the norm:
    torchrun --nproc-per-node 2 -m labml_bcn.experiment.train \\
        --batch-size 1 --sync-statistics --images 5000

  No images at hand, only to see it run:
    python -m labml_bcn.experiment.train --stand-in --images 2000

files, in the folder of the run:
  config.json    the settings, and the digest of the images
  metrics.jsonl  a line for each point of the curve and each test
  timings.jsonl  images per second; no two runs agree in these
  starts.jsonl   a line for each start: command, versions, hardware
  outcome.json   how the last start has ended; none while it goes on
  step-*.pt      the newest two checkpoints, for torch.load
  tensorboard/   with --tensorboard

exit status:
  0    the run has come to its end
  1    it cannot go on: the loss is NaN or infinite, disk or memory are full,
       a checkpoint is damaged; what was kept is as it was, and the message
       says what to do
  2    the command does not fit; nothing was changed
  75   another process is writing to the folder: try again later; on Windows
       this is not noticed
  130  stopped by Ctrl-C, and kept; 143 by SIGTERM, 129 by a closed terminal

A second Ctrl-C stops at once. What follows the last checkpoint is then
taken again. Output that nobody reads any longer does not end a run. Of
several processes torchrun reports the first that fails, with a traceback
of its own and with status 1.
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser, made of the options in `settings`."""
    command = argparse.ArgumentParser(
        prog="python -m labml_bcn.experiment.train",
        usage="%(prog)s [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_options(command)
    return command


def main(arguments: Sequence[str] | None = None) -> int:
    """Find the images, build the network, train it, and print a summary.

    `arguments` are those of the command line if none are given. Returns 0 at the end of
    the run, 1 if it had to stop, and 128 plus the signal's number if a signal stopped
    it. Options that do not fit end the program with a message and exit status 2, as
    argparse does.
    """
    command = parser()
    # What can be wrong with a command is found before the first step, and said in one
    # line. So is what a run can meet on its way. Anything else is an error of the
    # program, and keeps its traceback.
    try:
        typed = vars(command.parse_args(arguments))
        options = StartOptions.of(typed)
        new = Settings().typed_over(typed)
        path, config = find_run(options)
        settings = config.settings.typed_over(typed) if config else new
        with ranks.join_group(settings.device, options.timeout) as device:
            try:
                return start(settings, options, path, config, device)
            except RuntimeError as error:
                return report_peer_failure(error, "Start all of them again")
    except (*USAGE_ERRORS, RunError) as error:
        command.error(str(error))
    except KeyboardInterrupt as error:
        tell("stopped at once; --resume goes on from what was kept")
        return outcome_of(error).exit_status
    finally:
        finish_output()


def start(
    settings: Settings,
    options: StartOptions,
    path: Path | None,
    config: RunConfig | None,
    device: str,
) -> int:
    """Start the run in the folder `path`, or go on with it, and return the exit status.

    Everything is read and built, and the settings are compared with those in `config`,
    before the folder is touched. Without a `path` it is made. `device` is that of this
    process.
    """
    optional_package("tqdm")  # before the first step, not in it
    data = load_images(options, config)
    if settings.hold_out is not None:
        data = data.hold_out(settings.hold_out)
    settings = resolve_settings(settings, options.epochs, data)
    if config and path:
        require_same_settings(settings, config.settings, path)
    set_threads(settings.threads or torch.get_num_threads())
    model = build_network(settings)
    warm_start(model, data, settings)
    count_steps(data, settings.batch_size, settings.accumulate, settings.images)
    require_machine(device, settings.compile)
    path = ranks.on_first(lambda: path or make_folder(settings))
    folder = RunFolder(path, asdict(settings))

    def begin() -> None:
        new = RunConfig.of(settings, data, options)
        claim(folder, new, resume=options.resume is not None)
        for note in note_start(folder.path):
            tell(note)
        introduce(settings, model, data, folder.path)

    def run() -> Run:
        ranks.on_first(begin)
        try:
            return train(
                model,
                data,
                **(settings.arguments_of(train) | {"device": device}),
                progress=options.progress if ranks.rank() == 0 else False,
                folder=folder,
                checkpoint_every=options.checkpoint_every,
                tensorboard=options.tensorboard,
            )
        except USAGE_ERRORS as error:
            # The command did fit: something has happened since.
            remedy = f"Go on from the last checkpoint with {resume_option(folder.path)}"
            raise RunError(f"{type(error).__name__}: {error}", remedy) from error
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise RunError(
                "there is not enough memory for a step",
                "Start another run with a smaller --batch-size, and --accumulate to"
                " make up for it; or make room, and go on with"
                f" {resume_option(folder.path)}",
            ) from error

    with closing(folder):
        return run_and_report(run, folder.path)


def warm_start(model: nn.Module, data: CIFAR10, settings: Settings) -> None:
    """Average the statistics over the first batches that the run will see, if asked to.

    A run that goes on has its own in the checkpoint, which is read after this.
    """
    if settings.warm_start is None:
        return
    batches = shuffled_batches(data, settings.batch_size, settings.seed)
    first = islice(batches, settings.warm_start)
    update_statistics(model, (data.standardize(x) for x, _ in first))


def introduce(settings: Settings, model: nn.Module, data: CIFAR10, path: Path) -> None:
    """Print what is trained, on what, and where it is kept."""
    parameters = sum(p.numel() for p in model.parameters())
    say(f"{describe(settings)}, {parameters:,} parameters")
    say(f"images: {data.source}")
    say(f"kept in: {path}")


def run_and_report(run: Callable[[], Run], path: Path) -> int:
    """Call `run`, say how it has ended, and return the exit status.

    `path` is the folder of the run.
    """
    go_on = resume_option(path)
    try:
        finished = run()
    except Stopped as stopped:
        outcome = outcome_of(stopped)
        tell(
            f"stopped by {outcome.reason} after step {stopped.step:,}, and kept. Go on"
            f" with {go_on}"
        )
        return outcome.exit_status
    except RunError as error:
        tell(f"error: {error}")
        return error.exit_status
    except RuntimeError as error:
        return report_peer_failure(
            error, f"Go on from the last checkpoint with {go_on}"
        )
    if ranks.rank() == 0:
        say(summarize(finished))
    return 0


def report_peer_failure(error: RuntimeError, remedy: str) -> int:
    """Say that another process does not answer, and return the exit status.

    Any other error is raised again.
    """
    if not ranks.is_peer_failure(error):
        raise error
    tell(f"error: {ranks.describe_peer_failure(error)}. {remedy}")
    return outcome_of(error).exit_status


def resume_option(path: Path) -> str:
    """Return what goes on with a run, as a shell wants it."""
    return f"--resume {shlex.quote(str(path))}"


def load_images(options: StartOptions, config: RunConfig | None = None) -> CIFAR10:
    """Return the images that are named, or else those that the run began with."""
    named = options.data is not None or options.download or options.stand_in
    if config and not named:
        options = replace(options, **config.data)
    if options.stand_in:
        return cifar10.stand_in()
    look = {"download": options.download, "progress": options.progress}
    try:
        # What one process has downloaded, all find.
        ranks.on_first(lambda: cifar10.find(options.data, **look))
        return cifar10.load(options.data, **look)
    except FileNotFoundError as error:
        raise ValueError(f"{error} Or try it out with --stand-in.") from error


def resolve_settings(
    settings: Settings, epochs: float | None, data: CIFAR10
) -> Settings:
    """Fill in what was left to the images, the machine and the processes."""
    images, total = settings.images, len(data.train_images)
    if epochs is not None:
        images = round(epochs * total)
    processes = ranks.size()
    if settings.sync_statistics and processes == 1:
        raise ValueError(
            "--sync-statistics, typed or the run's own, needs more than one process:"
            " start the command with torchrun, or a new run without the option"
        )
    return replace(
        settings,
        images=total if images is None else images,
        threads=settings.threads or torch.get_num_threads(),
        processes=processes,
        digest=data.digest,
    )


def build_network(settings: Settings) -> nn.Module:
    """Build the network that the settings ask for.

    Without a norm behind them, standardized filters multiply the size of the
    activations in every layer, and the loss is NaN after a few steps. So that pair is
    refused here.
    """
    if settings.ws and settings.norm == "none":
        raise ValueError(
            "--ws needs a norm: standardized filters amplify, and only a norm takes"
            " that out again; choose --norm bn, gn or bcn"
        )
    return vgg.build(
        **settings.arguments_of(vgg.build, vgg.conv_block),
        process_group=dist.group.WORLD if settings.sync_statistics else None,
    )


def summarize(run: Run) -> str:
    """Return a run as a small table and a sentence.

    Loss and accuracy in training are averages over the images since the line before.
    """
    lines = [f"{'images':>12}{'loss':>8}{'train':>8}{'test':>8}"]
    before = 0
    for images, test in run.tests:
        since = [p for p in run.points if before < p.images <= images]
        loss = mean_or_nan([point.loss for point in since])
        accuracy = mean_or_nan([point.accuracy for point in since])
        before = images
        lines.append(f"{images:>12,}{loss:>8.3f}{accuracy:>8.1%}{test:>8.1%}")
    lines.append(
        f"test accuracy {run.accuracy:.1%} after {run.images:,} images in"
        f" {run.seconds:.1f} s ({run.images_per_second:.0f} images/s)"
    )
    return "\n".join(lines)


def mean_or_nan(values: list[float]) -> float:
    """Return the mean, or NaN if there is nothing to take it of."""
    return sum(values) / len(values) if values else math.nan


if __name__ == "__main__":
    sys.exit(main())
