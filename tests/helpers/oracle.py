"""Each layer restated in float64, straight from its formula.

Slow and plain on purpose: loops where the layers are vectorized, and no
shortcut that a layer might share. Autograd of these is the oracle of the
gradients. Running statistics are constants to it.
"""

import torch
from torch import Tensor


def column(value: Tensor, x: Tensor) -> Tensor:
    """One value a channel, [C], shaped to broadcast over x, [B, C, *]."""
    return value.double().reshape(1, -1, *[1] * (x.ndim - 2))


def values_of_channel(x: Tensor, channel: int) -> Tensor:
    """The B times L values of one channel, as one line."""
    return x[:, channel].double().reshape(-1)


def batch_mean(x: Tensor) -> Tensor:
    """The mean of each channel over B and L, [C]."""
    lines = [values_of_channel(x, c) for c in range(x.shape[1])]
    return torch.stack([line.sum() / line.numel() for line in lines])


def square_around(x: Tensor, center: Tensor) -> Tensor:
    """The mean of (x - center)^2 over B and L, for each channel, [C]."""
    lines = [values_of_channel(x, c) for c in range(x.shape[1])]
    squares = [
        ((line - middle) ** 2).sum() / line.numel()
        for line, middle in zip(lines, center.double(), strict=True)
    ]
    return torch.stack(squares)


class Running:
    """A running mean and variance a channel, from 0 and 1."""

    def __init__(self, channels: int) -> None:
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self.var = torch.ones(channels, dtype=torch.float64)

    @classmethod
    def of(cls, layer: torch.nn.Module) -> "Running":
        """The statistics that a layer holds now."""
        running = cls(layer.exp_mean.numel())
        running.mean = layer.exp_mean.detach().double().clone()
        running.var = layer.exp_var.detach().double().clone()
        return running

    def update(self, x: Tensor, r: float, around: str) -> None:
        """Move by r to the batch's mean and biased variance."""
        x = x.detach()
        m = batch_mean(x)
        center = {"batch_mean": m, "running_mean": self.mean}[around]
        v = square_around(x, center)
        self.mean = (1 - r) * self.mean + r * m
        self.var = (1 - r) * self.var + r * v

    def update_unbiased(self, x: Tensor, r: float) -> None:
        """Move as nn.BatchNorm does: it stores the unbiased variance."""
        x = x.detach()
        n = x.numel() // x.shape[1]
        m = batch_mean(x)
        v = square_around(x, m) * n / (n - 1)
        self.mean = (1 - r) * self.mean + r * m
        self.var = (1 - r) * self.var + r * v


def normalize(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Compute gamma (x - mu) / sqrt(sigma^2 + eps) + beta, by channel."""
    y = (x.double() - column(mean, x)) / (column(var, x) + eps).sqrt()
    if scale is not None:
        y = y * column(scale, x)
    if shift is not None:
        y = y + column(shift, x)
    return y


def batch_norm(
    x: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize by the batch's own moments; gradients flow through them."""
    m = batch_mean(x)
    return normalize(x, m, square_around(x, m), scale, shift, eps)


def channel_norm(
    x: Tensor,
    groups: int,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each group of each sample; one scale and shift a group."""
    x = x.double()
    d = x.shape[1] // groups
    samples = []
    for sample in x:
        parts = []
        for g in range(groups):
            part = sample[g * d : (g + 1) * d]
            mean = part.sum() / part.numel()
            var = ((part - mean) ** 2).sum() / part.numel()
            part = (part - mean) / (var + eps).sqrt()
            if scale is not None:
                part = part * scale[g].double()
            if shift is not None:
                part = part + shift[g].double()
            parts.append(part)
        samples.append(torch.cat(parts))
    return torch.stack(samples)


def standardize(weight: Tensor, eps: float = 1e-5, correction: int = 0) -> Tensor:
    """Give each filter mean 0 and variance 1, over all but dimension 0."""
    filters = []
    for w in weight.double():
        centered = w - w.sum() / w.numel()
        var = (centered**2).sum() / (w.numel() - correction)
        filters.append(centered / (var + eps).sqrt())
    return torch.stack(filters)


def assert_close(
    actual: Tensor,
    expected: Tensor,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Compare in float64, within the tolerance of actual's own dtype."""
    assert actual.shape == expected.shape
    if rtol is None or atol is None:
        rtol, atol = {
            torch.float64: (1e-10, 1e-11),
            # Twenty roundings, of the value and of the terms of a sum.
            torch.float32: (3e-6, 3e-6),
            # One rounding of the result, the rest is float32.
            torch.float16: (1e-3, 1e-5),
            torch.bfloat16: (8e-3, 1e-5),
        }[actual.dtype]
    torch.testing.assert_close(actual.double(), expected.double(), rtol=rtol, atol=atol)
