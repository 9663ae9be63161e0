"""Batch-channel normalization and weight standardization in PyTorch."""

from labml_bcn._norms import NORMS
from labml_bcn.bake import bake
from labml_bcn.batch_channel_norm import (
    BatchChannelNorm,
    ChannelNorm,
    EstimatedBatchNorm,
    FusedBatchChannelNorm,
)
from labml_bcn.batch_norm import BatchNorm
from labml_bcn.checkpoints import load_checkpoint
from labml_bcn.convert import convert
from labml_bcn.functional import batch_channel_norm
from labml_bcn.statistics import (
    freeze_statistics,
    share_statistics,
    update_statistics,
)
from labml_bcn.weight_decay import parameter_groups
from labml_bcn.weight_standardization import (
    WSConv1d,
    WSConv2d,
    WSConv3d,
    weight_standardization,
)

__version__ = "0.1.0"

__all__ = [
    "NORMS",
    "BatchChannelNorm",
    "BatchNorm",
    "ChannelNorm",
    "EstimatedBatchNorm",
    "FusedBatchChannelNorm",
    "WSConv1d",
    "WSConv2d",
    "WSConv3d",
    "bake",
    "batch_channel_norm",
    "convert",
    "freeze_statistics",
    "load_checkpoint",
    "parameter_groups",
    "share_statistics",
    "update_statistics",
    "weight_standardization",
]
