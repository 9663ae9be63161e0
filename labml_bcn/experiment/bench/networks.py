"""The networks that a training step is measured with, each with several layers.

A VGG as in the experiments, and a stack of bottleneck blocks as in a ResNet-50, where
every norm is followed by a ReLU, and the last one of a block by the addition of what
went around the block.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from labml_bcn import BatchChannelNorm, WSConv2d
from labml_bcn.experiment import vgg
from labml_bcn.experiment.bench.naive import NaiveBatchChannelNorm, NaiveWSConv2d
from labml_bcn.experiment.bench.rivals import InOperations
from labml_bcn.fused import finish


class Layers(NamedTuple):
    """What a network is made of.

    `convolution` takes what `nn.Conv2d` takes. `norm` takes channels, groups and
    whether ReLU follows; what it makes is called with an input and a residual or none.
    """

    convolution: Callable[..., nn.Module]
    norm: Callable[[int, int, bool], nn.Module]


class ThenRelu(nn.Module):
    """A layer, then the addition of a residual and a ReLU."""

    def __init__(self, layer: nn.Module, relu: bool) -> None:
        super().__init__()
        self.layer, self.relu = layer, relu

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Apply the layer and what follows."""
        return finish(self.layer(x), residual, relu=self.relu)


def with_relu_inside(
    kind: type[BatchChannelNorm], channels: int, groups: int, relu: bool
) -> nn.Module:
    """Return a norm that does what follows by itself."""
    return kind(channels, groups, activation="relu" if relu else None)


def batch_norm(channels: int, groups: int, relu: bool) -> nn.Module:
    """Return PyTorch's batch norm, which has no groups."""
    return ThenRelu(nn.BatchNorm2d(channels), relu)


def no_norm(channels: int, groups: int, relu: bool) -> nn.Module:
    """Return what is left where there is no norm."""
    return ThenRelu(nn.Identity(), relu)


OURS = Layers(WSConv2d, partial(with_relu_inside, BatchChannelNorm))
NETWORKS = {
    "kernels": OURS,
    "operations": OURS,
    "naive": Layers(NaiveWSConv2d, partial(with_relu_inside, NaiveBatchChannelNorm)),
    "batch norm": Layers(nn.Conv2d, batch_norm),
    "bare": Layers(nn.Conv2d, no_norm),
}

# How many groups each model's norms have.
GROUPS = {"small": 8, "vgg": 32, "resnet": 32}


class Bottleneck(nn.Module):
    """Three convolutions with a norm each, and a way around them."""

    def __init__(self, layers: Layers, into: int, width: int, stride: int) -> None:
        super().__init__()
        groups, out = GROUPS["resnet"], 4 * width
        norm = layers.norm
        conv = partial(layers.convolution, bias=False)
        self.down = conv(into, width, 1)
        self.norm_1 = norm(width, groups, True)
        self.across = conv(width, width, 3, stride=stride, padding=1)
        self.norm_2 = norm(width, groups, True)
        self.up = conv(width, out, 1)
        self.norm_3 = norm(out, groups, True)
        self.around: nn.Module = nn.Identity()
        if (into, stride) != (out, 1):
            self.around = nn.Sequential(
                conv(into, out, 1, stride=stride), norm(out, groups, False)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Go through the block and around it."""
        y = self.norm_1(self.down(x))
        y = self.norm_2(self.across(y))
        result: Tensor = self.norm_3(self.up(y), self.around(x))
        return result


def build_resnet(layers: Layers, classes: int = 10) -> nn.Module:
    """Return a network with the convolutions of a ResNet-50."""
    parts: list[nn.Module] = [
        layers.convolution(3, 64, 7, stride=2, padding=3, bias=False),
        layers.norm(64, GROUPS["resnet"], True),
        nn.MaxPool2d(3, 2, 1),
    ]
    into = 64
    for width, depth, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for index in range(depth):
            parts.append(Bottleneck(layers, into, width, 1 if index else stride))
            into = 4 * width
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(into, classes))
    return nn.Sequential(*parts, *head)


def build_vgg(model: str, layers: Layers) -> nn.Module:
    """Return one of the experiments' networks."""

    def block(into: int, out: int) -> nn.Module:
        return nn.Sequential(
            layers.convolution(into, out, 3, padding=1),
            layers.norm(out, GROUPS[model], True),
        )

    return vgg.VGG(vgg.BLOCKS[model], block)


def build_network(model: str, name: str) -> nn.Module:
    """Return a model made of one kind of layers.

    All kinds start from the same weights. PyTorch's random state stays as it was.
    """
    layers = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = (
            build_resnet(layers) if model == "resnet" else build_vgg(model, layers)
        )
    return InOperations(network) if name == "operations" else network
