"""Small residual networks: one built from our layers, one of plain torch.nn."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from labml_bcn import BatchChannelNorm, WSConv2d, convert

CLASSES = 4


class Block(nn.Module):
    """Two convolutions and a way around them, as ResNets write it."""

    def __init__(self, channels: int, conv: Callable, norm: Callable) -> None:
        super().__init__()
        self.conv_1 = conv(channels, channels, 3, padding=1, bias=False)
        self.norm_1 = norm(channels)
        self.conv_2 = conv(channels, channels, 3, padding=1, bias=False)
        self.norm_2 = norm(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.norm_1(self.conv_1(x)))
        y = self.norm_2(self.conv_2(y))
        y += x
        return self.relu(y)


def _network(conv: Callable, norm: Callable) -> nn.Sequential:
    return nn.Sequential(
        conv(3, 16, 3, padding=1, stride=2, bias=False),
        norm(16),
        nn.ReLU(inplace=True),
        Block(16, conv, norm),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


def plain() -> nn.Sequential:
    """The network in torch.nn, as somebody brings it."""
    return _network(nn.Conv2d, nn.BatchNorm2d)


def built(**options: object) -> nn.Sequential:
    """The network, built from our layers. The norms take the options."""
    settings = {"momentum": 0.01, "variance_around": "running_mean", **options}
    return _network(WSConv2d, partial(BatchChannelNorm, groups=4, **settings))


def converted() -> nn.Module:
    """The plain network, converted."""
    return convert(plain(), torch.randn(2, 3, 16, 16), groups=4).model


def fine_tuned() -> nn.Module:
    """The same, with every convolution's function kept: each filter has a gain."""
    example = torch.randn(2, 3, 16, 16)
    return convert(plain(), example, groups=4, pretrained=True).model


BUILD = {"built": built, "converted": converted, "fine-tuned": fine_tuned}
every_network = pytest.mark.parametrize("build", BUILD.values(), ids=BUILD)


def images(count: int = 2, size: int = 16) -> torch.Tensor:
    return torch.randn(count, 3, size, size)


def labels(count: int = 2) -> torch.Tensor:
    return torch.randint(CLASSES, (count,))


def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(model(x).float(), y)


def train(model: nn.Module, steps: int = 3, optimizer=None, **options) -> list[float]:
    """Take some steps with a batch of two images; return the losses."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model, images(**options), labels())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def loader(count: int = 8) -> DataLoader:
    """Some batches of two images."""
    return DataLoader(TensorDataset(images(count), labels(count)), batch_size=2)


def learn_in_a_loop(model: nn.Module, batches: DataLoader) -> None:
    """Take a step for every two batches, by hand, with clipped gradients."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for i, batch in enumerate(batches):
        (loss_of(model, *batch) / 2).backward()
        if i % 2:
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            optimizer.zero_grad()


def worked(**options: object) -> nn.Module:
    """A network after some steps, in evaluation: nothing in it is at its default."""
    model = built(**options)
    train(model)
    return model.eval()


def statistics_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """The running statistics, as they are now."""
    return {
        name: value.detach().clone()
        for name, value in model.named_buffers()
        if name.endswith(("exp_mean", "exp_var"))
    }
