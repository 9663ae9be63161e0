"""Kernels for batch-channel norm and weight standardization.

`status()` says what computes, and why; `python -m labml_bcn.native` prints it.
`disabled()` turns the kernels off inside of a `with` block, and the environment
variable LABML_BCN_NATIVE=0 for a whole program.

The rest is for the layers. What the kernels compute is derived in fused.py.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from labml_bcn._numerics import cast
from labml_bcn.native import backends, operators
from labml_bcn.native.backends import Path, Status, disabled, status
from labml_bcn.native.cpu import CPU
from labml_bcn.native.layouts import is_channels_last

PLAIN = (Tensor, Parameter)
# The value of `labml_bcn.fused.How.PLAIN`.
PLAIN_STATISTICS = 3
OptionalWeights = Sequence[Tensor | None]

__all__ = ["Path", "Status", "disabled", "status"]


def takes(
    x: Tensor,
    residual: Tensor | None,
    weights: OptionalWeights,
    running: tuple[Tensor, Tensor],
) -> bool:
    """Return whether the kernels take this input with all that goes with it."""
    mean, var = running
    return (
        backends.takes(x)
        and mean.dtype == var.dtype == torch.float32
        and mean.is_contiguous()
        and var.is_contiguous()
        and (residual is None or residual.dtype == x.dtype)
        and are_plain((x, mean, var, residual, *weights), x)
    )


def are_plain(tensors: Sequence[Tensor | None], like: Tensor) -> bool:
    """Return whether tensors are no more than values in the memory of one device."""
    # A loop, as this is asked at every call. A compiler makes values of what is marked
    # as their negative.
    on_cpu, compiling = like.is_cpu, torch.compiler.is_compiling()
    for x in tensors:
        if x is None:
            continue
        is_here = x.is_cpu if on_cpu else x.device == like.device
        if not (is_here and type(x) in PLAIN and (compiling or not x.is_neg())):
            return False
    return True


def forward(
    x: Tensor,
    residual: Tensor | None,
    weights: OptionalWeights,
    running: tuple[Tensor, Tensor],
    config: Any,
) -> tuple[Tensor, Tensor]:
    """Return the output and what the backward pass needs.

    The settings are a `labml_bcn.fused.Config`. For the rest, see operators.py.
    """
    how = int(config.how)
    eps = config.eps_c, config.eps_g
    settings = config.groups, *eps, config.momentum, how, config.relu
    arguments = (x, residual, *weights, *running, *settings)
    if torch.compiler.is_compiling():
        kernel = operators.TRAIN if how else operators.EVALUATE
        result: tuple[Tensor, Tensor] = kernel(*arguments)
        return result
    result = operators.forward(*arguments)
    if how:
        # Autograd counts the changes of a tensor, and cannot see these.
        for changed in running:
            if not changed.is_inference():
                torch.autograd.graph.increment_version(changed)
    return result


def backward(
    dy: Tensor,
    x: Tensor,
    output: Tensor | None,
    weights: OptionalWeights,
    saved: Tensor,
    config: Any,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, ...]:
    """Return the gradients of the input, the residual and the four weights."""
    want_dx, want_residual = wanted
    compiling = torch.compiler.is_compiling()
    kernel = operators.BACKWARD if compiling else operators.backward
    # Without a ReLU the residual's gradient is that of the sum.
    mask = want_residual and config.relu
    plain = int(config.how) == PLAIN_STATISTICS
    settings = config.groups, config.eps_c, config.eps_g, plain, config.relu
    arguments = (dy, x, output, *weights, saved, *settings, want_dx, mask)
    dx, d_residual, *grads = kernel(*arguments)
    return (
        dx if want_dx else None,
        d_residual if mask else dy,
        *[
            None if weight is None else cast(grad, weight.dtype)
            for grad, weight in zip(grads, weights, strict=True)
        ],
    )


def statistics_of(saved: Tensor, x: Tensor, eps_c: float) -> tuple[Tensor, Tensor]:
    """Return the mean and variance that the batch norm normalized with."""
    return backends.of(x).statistics_of(saved, x.shape[1], eps_c)


def cpu_kernels() -> CPU:
    """Return the kernels for the CPU, which must be there."""
    assert backends.on_cpu is not None
    return backends.on_cpu


def has_passes_for(x: Tensor) -> bool:
    """Return whether the kernels' passes take this input one by one."""
    known = x.is_contiguous() or is_channels_last(x)
    return x.device.type == "cpu" and known and backends.takes(x)


def takes_filters(w: Tensor) -> bool:
    """Return whether the kernels take this weight."""
    return backends.takes(w) and w.numel() > 0 and are_plain((w,), w)


def standardize(w: Tensor, eps: float, gain: float) -> tuple[Tensor, Tensor]:
    """Return the standardized filters and what the backward pass needs."""
    compiling = torch.compiler.is_compiling()
    kernel = operators.STANDARDIZE if compiling else operators.standardize
    result: tuple[Tensor, Tensor] = kernel(w, eps, gain)
    return result


def standardize_backward(
    gradient: Tensor, w: Tensor, saved: Tensor, eps: float, gain: float
) -> Tensor:
    """Return the gradient of the filters."""
    compiling = torch.compiler.is_compiling()
    kernel = (
        operators.STANDARDIZE_BACKWARD if compiling else operators.standardize_backward
    )
    result: Tensor = kernel(gradient, w, saved, eps, gain)
    return result
