"""The norms of a model, and the statistics that they keep."""

from typing import TypeAlias

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from labml_bcn._modules import require_module
from labml_bcn.batch_channel_norm import (
    BatchChannelNorm,
    ChannelNorm,
    EstimatedBatchNorm,
)
from labml_bcn.batch_norm import BatchNorm

# The norms of this package, for `isinstance`. A batch-channel norm holds two of the
# others, which `model.modules()` finds as well.
NORMS = (BatchChannelNorm, EstimatedBatchNorm, BatchNorm, ChannelNorm)

Norm: TypeAlias = BatchNorm | _BatchNorm
Statistics: TypeAlias = list[dict[str, Tensor | None]]


def tracking_norms(model: nn.Module) -> list[Norm]:
    """Return the norms of a model that keep running statistics, each once."""
    require_module(model)
    return [
        module
        for module in model.modules()
        if isinstance(module, BatchNorm | _BatchNorm)
        and next(module.buffers(recurse=False), None) is not None
    ]


def require_tracking_norms(model: nn.Module) -> list[Norm]:
    """Return the norms with running statistics; raise if there are none."""
    norms = tracking_norms(model)
    if not norms:
        raise ValueError(
            "model must hold a norm with running statistics, of labml_bcn or a batch "
            f"norm of torch.nn, got a {type(model).__name__} without one; pass the "
            "model that holds them, or make some with labml_bcn.convert(model)"
        )
    return norms


def copy_statistics(norms: list[Norm]) -> Statistics:
    """Return copies of the buffers of norms."""
    return copy_of([norm._buffers for norm in norms])


def copy_of(statistics: Statistics) -> Statistics:
    """Return copies of statistics."""
    return [
        {name: None if x is None else x.detach().clone() for name, x in each.items()}
        for each in statistics
    ]
