"""What standardizing its weight adds to a convolution, at batch size 1."""

from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn

from labml_bcn import WSConv2d
from labml_bcn.experiment.bench.naive import NaiveWSConv2d
from labml_bcn.experiment.bench.timing import race

# Channels in and out, kernel, stride, and height of the input.
Shape = tuple[int, int, int, int, int]

RIVALS = {"plain": nn.Conv2d, "ours": WSConv2d, "naive": NaiveWSConv2d}


def resnet50_convolutions() -> Iterator[Shape]:
    """Yield the different convolutions of a ResNet-50 at 224 by 224."""
    seen = {(3, 64, 7, 2, 224)}
    yield from seen
    channels, size = 64, 56
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for first in (True, False):
            into, step = (channels, stride) if first else (width * 4, 1)
            after = size // step
            block = [
                (into, width, 1, 1, size),
                (width, width, 3, step, size),
                (width, width * 4, 1, 1, after),
            ]
            if first:
                block.append((into, width * 4, 1, step, size))
            for convolution in block:
                if convolution not in seen:
                    seen.add(convolution)
                    yield convolution
            size = after
        channels = width * 4


def measure_convolution(convolution: Shape, seconds: float) -> dict[str, Any]:
    """Measure what standardizing adds, in shares of the plain convolution.

    It is measured forward and backward in training, and in evaluation, where the
    standardized weight is kept.
    """
    into, out, kernel, stride, size = convolution
    layers = {
        name: kind(into, out, kernel, stride, kernel // 2, bias=False)
        for name, kind in RIVALS.items()
    }
    x = torch.randn(1, into, size, size, requires_grad=True)
    dy = torch.randn_like(layers["plain"](x))

    def train(layer: nn.Conv2d) -> None:
        torch.autograd.grad(layer(x), (x, layer.weight), dy)

    @torch.no_grad()
    def evaluate(layer: nn.Conv2d) -> None:
        layer(x)

    def medians(step: Callable[[nn.Conv2d], None]) -> dict[str, float]:
        steps = {name: partial(step, layer) for name, layer in layers.items()}
        return {name: median(times) for name, times in race(steps, seconds).items()}

    training = medians(train)
    for layer in layers.values():
        layer.eval()
    evaluation = medians(evaluate)
    return {
        "convolution": convolution,
        "ms": training["plain"] * 1e3,
        "ours": training["ours"] / training["plain"] - 1,
        "naive": training["naive"] / training["plain"] - 1,
        "evaluation": evaluation["ours"] / evaluation["plain"] - 1,
    }
