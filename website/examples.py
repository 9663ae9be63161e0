"""Examples that facing runs to show shapes on the layers' pages.

Each function is called once with each set of sizes, and a page shows beside a
line which shapes it had.
"""

import torch

from labml_bcn import (
    BatchChannelNorm,
    BatchNorm,
    ChannelNorm,
    EstimatedBatchNorm,
    WSConv1d,
    weight_standardization,
)
from labml_bcn.batch_channel_norm import batch_channel_norm_stepwise

# No two sizes are equal in all three sets, so that each can be told from the
# others. B, C, L and G are as on the pages, O counts filters, K is the length
# of a kernel.
SIZES = [
    {"B": 2, "G": 3, "C": 12, "L": 35, "O": 8, "K": 5},
    {"B": 3, "G": 4, "C": 20, "L": 22, "O": 6, "K": 3},
    {"B": 5, "G": 2, "C": 14, "L": 9, "O": 10, "K": 7},
]

# D channels make a group, I weights a filter.
DERIVED = {"D": "C // G", "I": "C * K", "B·C": "B * C"}


def batch_norm(B, C, L):
    """Train for a step with batch norm, then evaluate."""
    layer = BatchNorm(C)
    layer(torch.randn(B, C, L))
    layer.eval()(torch.randn(B, C, L))


def step_by_step(B, C, G, L):
    """The whole layer as a function, around either mean."""
    scale, shift = torch.ones(C), torch.zeros(C)
    weights = (scale, shift, torch.ones(G), torch.zeros(G))
    for around in ("batch_mean", "running_mean"):
        batch_channel_norm_stepwise(
            torch.randn(B, C, L),
            torch.zeros(C),
            torch.ones(C),
            weights,
            G,
            variance_around=around,
        )


def estimated_batch_norm(B, C, L):
    """Do the same with estimates, around either mean."""
    for around in ("batch_mean", "running_mean"):
        layer = EstimatedBatchNorm(C, variance_around=around)
        layer(torch.randn(B, C, L))
        layer.eval()(torch.randn(B, C, L))


def channel_norm(B, C, G, L):
    """Normalize over groups of channels."""
    ChannelNorm(C, G)(torch.randn(B, C, L))


def batch_channel_norm(B, C, G, L):
    """Apply both norms, one after the other."""
    BatchChannelNorm(C, G)(torch.randn(B, C, L))


def fused(B, C, G, L):
    """Apply both norms in one map, forward and backward."""
    x = torch.randn(B, C, L, requires_grad=True)
    BatchChannelNorm(C, G)(x).sum().backward()


def standardized_weight(O, C, K):  # noqa: E741
    """Standardize a weight of a convolution, forward and backward."""
    for correction in (0, 1):
        weight = torch.randn(O, C, K, requires_grad=True)
        weight_standardization(weight, correction=correction).sum().backward()


def standardized_convolution(B, C, L, O, K):  # noqa: E741
    """Train a convolution that standardizes its weight, then evaluate."""
    layer = WSConv1d(C, O, K, padding="same")
    layer(torch.randn(B, C, L))
    with torch.no_grad():
        layer.eval()(torch.randn(B, C, L))
