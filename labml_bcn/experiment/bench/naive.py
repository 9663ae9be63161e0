r"""
---
title: The naive form
summary: >
  The same layers as one would first write them down, to be measured against.
---

# The naive form

Batch-channel norm and weight standardization as a reader of the formulas
would first write them: each step an operation of its own, the two norms one
after the other, every gradient left to autograd, and the variance as

$$v = E[x^2] - E[x]^2$$ {.notation}

It is here to be measured against, by the benchmarks beside it, and not to be
used: it loses its digits where the mean is large, and it wants contiguous
inputs. Where nothing is lost, it computes what the layers compute.
"""

import torch
from torch import Tensor

from labml_bcn import BatchChannelNorm, EstimatedBatchNorm, WSConv2d
from labml_bcn.batch_norm import BatchNorm
from labml_bcn.fused import finish


class NaiveBatchChannelNorm(BatchChannelNorm):
    r"""
    ## The norm

    [Batch-channel norm](../../batch_channel_norm.py#BatchChannelNorm), with
    its parameters and buffers, and around the batch mean.
    """

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """
        Normalize `x` of shape `[B, C, *]`, contiguous.
        """
        y = naive_batch_norm(self.batch_norm, x)
        norm = self.channel_norm
        grouped = y.view(len(x), self.groups, -1)
        mean = grouped.mean(2, keepdim=True)
        var = (grouped**2).mean(2, keepdim=True) - mean**2
        grouped = (grouped - mean) / torch.sqrt(var + norm.eps)
        assert norm.scale is not None
        assert norm.shift is not None
        grouped = grouped * norm.scale.view(-1, 1) + norm.shift.view(-1, 1)
        y = grouped.view(x.shape)
        return finish(y, residual, relu=self.activation is not None)


def naive_batch_norm(norm: BatchNorm, x: Tensor) -> Tensor:
    r"""
    Normalize each channel, with estimated statistics or the batch's.
    """
    rows = x.view(len(x), norm.channels, -1)
    assert norm.exp_mean is not None
    assert norm.exp_var is not None
    if norm.training:
        mean = rows.mean([0, 2])
        var = (rows**2).mean([0, 2]) - mean**2
        r, count = norm.momentum, rows.numel() / norm.channels
        estimated = isinstance(norm, EstimatedBatchNorm)
        stored = var if estimated else var * count / (count - 1)
        with torch.no_grad():
            norm.exp_mean.copy_((1 - r) * norm.exp_mean + r * mean)
            norm.exp_var.copy_((1 - r) * norm.exp_var + r * stored)
    if not norm.training or isinstance(norm, EstimatedBatchNorm):
        mean, var = norm.exp_mean.clone(), norm.exp_var.clone()
    rows = (rows - mean.view(-1, 1)) / torch.sqrt(var + norm.eps).view(-1, 1)
    assert norm.scale is not None
    assert norm.shift is not None
    return rows * norm.scale.view(-1, 1) + norm.shift.view(-1, 1)


class NaiveWSConv2d(WSConv2d):
    r"""
    ## The convolution

    [A convolution](../../weight_standardization.py#WSConv2d) whose weights
    are standardized by their mean and variance.
    """

    def forward(self, x: Tensor) -> Tensor:
        """
        Convolve `x` with the standardized weight.
        """
        weight = naive_standardization(self.weight, self.eps)
        return self._conv_forward(x, weight, self.bias)  # type: ignore[no-any-return]


def naive_standardization(weight: Tensor, eps: float) -> Tensor:
    r"""
    Standardize a weight, filter by filter.
    """
    filters = weight.view(weight.shape[0], -1)
    mean = filters.mean(1, keepdim=True)
    var = ((filters - mean) ** 2).mean(1, keepdim=True)
    filters = (filters - mean) / torch.sqrt(var + eps)
    return filters.view(weight.shape)
