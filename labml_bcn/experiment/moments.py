"""Record what single images give to the statistics of real channels.

    python -m labml_bcn.experiment.moments docs/scatter/moments.json

A small VGG is trained for a few thousand images, and its first convolution is looked
at. For four of its channels, and for each of 512 images, the mean and the mean square
over all positions are kept, and no image. From these two numbers an image, the mean
and the variance of every batch follow exactly: the site lets its readers choose.

The four filters are kept, too. Whoever has the images can see that the numbers are
theirs, without training anything.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labml_bcn.experiment import cifar10, vgg
from labml_bcn.experiment.atomic_files import write_atomically
from labml_bcn.experiment.cifar10 import CIFAR10
from labml_bcn.experiment.environment import surroundings
from labml_bcn.experiment.output import say
from labml_bcn.experiment.runner import current_commit
from labml_bcn.experiment.train import train

IMAGES, CHANNELS, DIGITS = 512, 4, 6

# Without weight standardization: its filters cannot see how bright an image is.
NETWORK: dict[str, Any] = {
    "norm": "bcn",
    "momentum": 0.01,
    "variance_around": "running_mean",
    "seed": 0,
}
TRAINING: dict[str, Any] = {"batch_size": 2, "images": 5_000, "lr": 0.003, "seed": 0}


def first_convolution(data: CIFAR10, images: int) -> nn.Conv2d:
    """Return the first convolution of a network that was trained on `images` images."""
    model = vgg.build("small", **NETWORK)
    train(model, data, **TRAINING | {"images": images}, progress=False)
    found = next(each for each in model.modules() if isinstance(each, nn.Conv2d))
    return found.requires_grad_(False)


def activations(data: CIFAR10, weight: Tensor, bias: Tensor) -> Tensor:
    """Return what filters make of the first images of the training set."""
    x = data.standardize(data.train_images[:IMAGES])
    return F.conv2d(x, weight, bias, padding=1)


def choose(x: Tensor, count: int) -> list[int]:
    """Return channels whose images differ the least, the most, and in between.

    What counts is the share of a channel's variance that lies between images.
    """
    means = x.mean((2, 3))
    share = means.var(0, correction=0) / x.var((0, 2, 3), correction=0)
    ranks = torch.linspace(0, len(share) - 1, count).round().long()
    chosen: list[int] = share.argsort()[ranks].tolist()
    return chosen


def measure(conv: nn.Conv2d, data: CIFAR10) -> list[dict[str, Any]]:
    """Return the moments of the chosen channels, with the filters they come from."""
    assert conv.bias is not None, "the network's convolutions have a bias"
    weight, bias = conv.weight.detach(), conv.bias.detach()
    x = activations(data, weight, bias).double()
    return [
        {
            "channel": c,
            "weight": weight[c].tolist(),
            "bias": float(bias[c]),
            "mean": _rounded(x[:, c].mean((1, 2))),
            "mean_square": _rounded(x[:, c].square().mean((1, 2))),
        }
        for c in choose(x, CHANNELS)
    ]


def _rounded(values: Tensor) -> list[float]:
    return [round(value, DIGITS) for value in values.tolist()]


def make(data: CIFAR10, command: str, images: int) -> dict[str, Any]:
    """Train, measure, and return the record."""
    return {
        "command": command,
        "commit": current_commit(),
        "surroundings": {k: v for k, v in surroundings().items() if k != "command"},
        "data": {"source": data.source, "digest": data.digest},
        "network": NETWORK,
        "training": TRAINING | {"images": images},
        "channels": measure(first_convolution(data, images), data),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the record, a line for each of its entries."""
    parser = argparse.ArgumentParser(
        prog="python -m labml_bcn.experiment.moments",
        description=(__doc__ or "").split("\n")[0],
    )
    add = parser.add_argument
    add("record", type=Path, help="the JSON file to write")
    add("--data", type=Path, metavar="FOLDER", help="where the images lie")
    add("--stand-in", action="store_true", help="take stripes in place of images")
    add(
        "--images",
        type=int,
        default=TRAINING["images"],
        metavar="N",
        help="how many to train on (default: %(default)s)",
    )
    typed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        data = cifar10.stand_in() if typed.stand_in else cifar10.load(typed.data)
        words = [str(typed.record), *["--stand-in"] * typed.stand_in]
        if typed.images != TRAINING["images"]:
            words += ["--images", str(typed.images)]
        command = f"python -m labml_bcn.experiment.moments {' '.join(words)}"
        record = make(data, command, typed.images)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    typed.record.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(typed.record, as_text(record).encode())
    chosen = ", ".join(str(each["channel"]) for each in record["channels"])
    say(f"{typed.record}: channels {chosen}, {IMAGES} images of {data.source}")
    return 0


def as_text(record: dict[str, Any]) -> str:
    """Return a record as JSON, its lists of numbers on one line each."""
    channels = ",\n".join(
        "  {\n"
        + ",\n".join(f'   "{key}": {json.dumps(each[key])}' for key in each)
        + "\n  }"
        for each in record["channels"]
    )
    rest = {key: value for key, value in record.items() if key != "channels"}
    head = json.dumps(rest, indent=1).removesuffix("\n}")
    return f'{head},\n "channels": [\n{channels}\n ]\n}}\n'


if __name__ == "__main__":
    sys.exit(main())
