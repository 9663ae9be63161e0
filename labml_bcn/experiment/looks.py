"""A trained network, looked at in training mode and with other statistics.

    python -m labml_bcn.experiment.train --norm bn --batch-size 1 --out runs/bn
    python -m labml_bcn.experiment.looks runs/bn

Is a network that fails in evaluation a bad network, or a good one with statistics that
are not its own? The weights stay as they are, and the test images are classified

- `evaluation`: as after training, with the running statistics;
- `training`: in training mode, in batches of the size that the run had;
- `anew`: in evaluation, the running statistics replaced by averages over batches of
  that size;
- `anew64`: the same with batches of 64, which see how images differ.

What came out is printed, and kept in the folder of the run as `looks.json`: the share
that was right, and how many of each class (a row) were taken for which (a column).
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from labml_bcn.experiment.atomic_files import write_atomically
from labml_bcn.experiment.cifar10 import CIFAR10
from labml_bcn.experiment.loop import shuffled_batches
from labml_bcn.experiment.machine import set_threads
from labml_bcn.experiment.outcome import USAGE_ERRORS, RunError
from labml_bcn.experiment.output import finish_output, say
from labml_bcn.experiment.run_config import RunConfig, read_config
from labml_bcn.experiment.run_folder import RunFolder
from labml_bcn.experiment.settings import StartOptions
from labml_bcn.experiment.train import build_network, load_images
from labml_bcn.statistics import update_statistics

LOOKS = "looks.json"
# Images that statistics are averaged over, and how many at once for `anew64`.
IMAGES, LARGE = 1024, 64

Look = dict[str, Any]


def look(path: Path, data: CIFAR10, config: RunConfig) -> dict[str, Look]:
    """Return what the run in the folder `path` classifies right in each of the ways.

    Raises `ValueError` if the folder holds no checkpoint.
    """
    found = RunFolder(path).load()
    if found is None:
        raise ValueError(
            f"{path} must hold a checkpoint, and holds none; let the run end first"
        )
    size, seed = config.settings.batch_size, config.settings.seed
    model = build_network(replace(config.settings, sync_statistics=False))

    def trained() -> nn.Module:
        model.load_state_dict(found[1]["model"])
        return model.eval()

    looks = {"evaluation": confusion(trained(), data, 50)}
    looks["training"] = confusion(trained().train(), data, size)
    for name, count in (("anew", size), ("anew64", LARGE)):
        update_statistics(trained(), training_batches(data, count, seed))
        looks[name] = confusion(model, data, 50)
    return {name: summary(table) for name, table in looks.items()}


def training_batches(data: CIFAR10, size: int, seed: int) -> Iterator[Tensor]:
    """Yield the run's first images, `size` at once, or all if there are fewer."""
    total = len(data.train_images)
    size = min(size, total)
    batches = shuffled_batches(data, size, seed)
    for _ in range(min(IMAGES, total) // size):
        yield data.standardize(next(batches)[0])


@torch.no_grad()
def confusion(model: nn.Module, data: CIFAR10, size: int) -> Tensor:
    """Return how many test images of a class (a row) were taken for which (a column).

    They come in batches of `size`, the last one smaller.
    """
    count = len(data.classes)
    table = torch.zeros(count, count, dtype=torch.int64)
    for x, y in zip(
        data.test_images.split(size), data.test_labels.split(size), strict=True
    ):
        taken_for = model(data.standardize(x)).argmax(1)
        table += (y * count + taken_for).bincount(minlength=count**2).view(count, -1)
    return table


def summary(table: Tensor) -> Look:
    """Return the share that was right, and the table."""
    accuracy = int(table.diagonal().sum()) / int(table.sum())
    return {"accuracy": accuracy, "confusion": table.tolist()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Look at a run, say and keep what came out, and return the exit status."""
    command = argparse.ArgumentParser(
        prog="python -m labml_bcn.experiment.looks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument("run", type=Path, help="the folder of a run that has ended")
    images = command.add_mutually_exclusive_group().add_argument
    images("--data", metavar="FOLDER", help="as for the training command")
    images("--stand-in", action="store_true", help="likewise")
    typed = command.parse_args(arguments)
    try:
        config = read_config(typed.run)
        data = load_images(StartOptions(data=typed.data, stand_in=typed.stand_in))
        if config.settings.hold_out is not None:
            data = data.hold_out(config.settings.hold_out)
        if data.digest != config.settings.digest:
            raise ValueError(
                f"the images must be those of the run, {config.images}, got"
                f" {data.source}; name their folder with --data"
            )
        set_threads(config.settings.threads or torch.get_num_threads())
        looks = look(typed.run, data, config)
    except (*USAGE_ERRORS, RunError) as error:
        command.error(str(error))
    write_atomically(typed.run / LOOKS, json.dumps(looks).encode())
    for name, found in looks.items():
        say(f"{name:<12}{found['accuracy']:>7.1%}")
    finish_output()
    return 0


if __name__ == "__main__":
    sys.exit(main())
