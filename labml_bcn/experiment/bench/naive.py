r"""
---
title: The naive form
summary: >
  The same layers as one would first write them down, to be measured against.
---

# The naive form

Batch-channel norm and weight standardization as the formulas say them: each
step an operation of its own, the two norms one after the other, every
gradient left to autograd. The pages of the layers begin with these functions.
Here they are made layers, to be measured against by the benchmarks beside
them, and not to be used.
"""

import torch
from torch import Tensor

from labml_bcn import BatchChannelNorm, EstimatedBatchNorm, WSConv2d
from labml_bcn.batch_channel_norm import batch_channel_norm_stepwise
from labml_bcn.fused import finish
from labml_bcn.weight_standardization import weight_standardization_stepwise


class NaiveBatchChannelNorm(BatchChannelNorm):
    r"""
    ## The norm

    [Batch-channel norm with
    estimates](../../batch_channel_norm.py#batch_channel_norm_stepwise), with
    the layer's parameters and buffers.
    """

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """
        Normalize `x` of shape `[B, C, *]`.
        """
        first, second = self.batch_norm, self.channel_norm
        assert isinstance(first, EstimatedBatchNorm)
        assert first.scale is not None
        assert first.shift is not None
        assert second.scale is not None
        assert second.shift is not None
        y, mean, var = batch_channel_norm_stepwise(
            x,
            *first.running_statistics(),
            (first.scale, first.shift, second.scale, second.shift),
            self.groups,
            first.eps,
            first.momentum if self.training else 0.0,
            first.variance_around,
        )
        if self.training:
            with torch.no_grad():
                first.exp_mean.copy_(mean)  # type: ignore[union-attr]
                first.exp_var.copy_(var)  # type: ignore[union-attr]
        return finish(y, residual, relu=self.activation is not None)


class NaiveWSConv2d(WSConv2d):
    r"""
    ## The convolution

    [A convolution](../../weight_standardization.py#WSConv2d) whose weights
    are [standardized step by
    step](../../weight_standardization.py#weight_standardization_stepwise).
    """

    def forward(self, x: Tensor) -> Tensor:
        """
        Convolve `x` with the standardized weight.
        """
        weight = weight_standardization_stepwise(self.weight, self.eps)
        return self._conv_forward(x, weight, self.bias)  # type: ignore[no-any-return]
