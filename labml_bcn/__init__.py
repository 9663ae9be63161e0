"""Batch-channel normalization and weight standardization in PyTorch."""

from labml_bcn.batch_channel_norm import (
    BatchChannelNorm,
    ChannelNorm,
    EstimatedBatchNorm,
    FusedBatchChannelNorm,
    batch_channel_norm,
)
from labml_bcn.batch_norm import BatchNorm
from labml_bcn.convert import Conversion, convert
from labml_bcn.weight_standardization import (
    WSConv1d,
    WSConv2d,
    WSConv3d,
    weight_standardization,
)

__version__ = "0.1.0"

__all__ = [
    "BatchChannelNorm",
    "BatchNorm",
    "ChannelNorm",
    "Conversion",
    "EstimatedBatchNorm",
    "FusedBatchChannelNorm",
    "WSConv1d",
    "WSConv2d",
    "WSConv3d",
    "batch_channel_norm",
    "convert",
    "weight_standardization",
]
