"""The rules for arguments and inputs, and the errors for breaking them.

Each function returns the value that it was given, if it returns one, so that a
constructor can check and assign in one line.
"""

import math

from torch import Tensor

from labml_bcn._numerics import count_positions, is_known_true


def require_positive_int(name: str, value: int) -> int:
    """Return `value`; raise unless it is a positive whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(
            f"{name} must be an int, got {value!r} "
            f"({type(value).__name__}); pass a whole number"
        )
    if value < 1:
        raise ValueError(
            f"{name} must be at least 1, got {value}; pass the number of "
            f"{name} of the layer's input"
        )
    return value


def require_divisor(groups: int, channels: int) -> int:
    """Return `groups`; raise unless it divides `channels`."""
    require_positive_int("groups", groups)
    if channels % groups:
        fits = [g for g in range(1, channels + 1) if channels % g == 0]
        raise ValueError(
            f"groups must divide channels, got groups={groups} and "
            f"channels={channels}; choose one of {fits}"
        )
    return groups


def require_positive_eps(eps: float) -> float:
    """Return `eps`; raise unless it is positive and finite."""
    if not 0 < eps < math.inf:
        raise ValueError(
            f"eps must be positive and finite, got {eps}; it keeps the "
            "square root away from zero, 1e-5 is usual"
        )
    return eps


def require_momentum(momentum: float) -> float:
    """Return `momentum`; raise unless it lies in [0, 1]."""
    if momentum is None or not 0 <= momentum <= 1:
        raise ValueError(
            f"momentum must lie between 0 and 1, got {momentum}; it is the "
            "weight of the new value, as in PyTorch: 0 keeps the old "
            "statistics, 1 replaces them"
        )
    return momentum


def require_one_of(name: str, value: str, names: tuple[str, ...]) -> str:
    """Return `value`; raise unless it is one of `names`."""
    if value not in names:
        listed = " or ".join(repr(n) for n in names)
        raise ValueError(f"{name} must be {listed}, got {value!r}")
    return value


def require_channels_first(x: Tensor, channels: int) -> None:
    """Raise unless `x` is floating point and has the shape [B, channels, *]."""
    if not x.is_floating_point():
        raise TypeError(
            f"expected a floating-point input, got {x.dtype}; convert it "
            "first, for instance with x.float()"
        )
    if x.dim() < 2 or x.shape[1] != channels:
        raise ValueError(
            f"expected an input of shape [B, {channels}, *], got "
            f"{list(x.shape)}; channels are dimension 1, and a single "
            "sample needs a batch dimension: x.unsqueeze(0)"
        )


def require_several_values(
    x: Tensor, variance_of: str, remedy: str, count: int | Tensor
) -> None:
    """Raise if a channel of `x` has one value only, and so no variance.

    `count` is the number of values, which may lie in several processes.
    """
    if count == 1:
        raise ValueError(
            f"expected more than one value per channel for {variance_of}, "
            f"got an input of shape {list(x.shape)}: the variance of one "
            f"value is zero; {remedy}"
        )


def require_several_values_per_group(x: Tensor, groups: int) -> None:
    """Raise if a group of `x` has one value only, which is its own mean."""
    if is_known_true(x.shape[1] * count_positions(x) == groups):
        raise ValueError(
            f"expected more than one value per group, got groups={groups} "
            f"for an input of shape {list(x.shape)}: minus its own mean "
            "nothing is left of one value; use fewer groups or a larger input"
        )


def require_shape(name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    """Raise unless `x` has a shape."""
    if tuple(x.shape) != shape:
        raise ValueError(
            f"{name} must have the shape {list(shape)}, got {list(x.shape)}; there is "
            "one value for each channel, or for each group"
        )


def require_floating_point(name: str, x: Tensor) -> None:
    """Raise unless `x` is floating point."""
    if not x.is_floating_point():
        raise TypeError(
            f"{name} must be floating point, got {x.dtype}; convert it first, for "
            "instance with float()"
        )


def require_same_shape(name: str, x: Tensor, like: Tensor) -> None:
    """Raise unless `x` is a tensor of the input's shape."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor like the input, got {x!r}")
    if x.shape != like.shape:
        raise ValueError(
            f"{name} must have the input's shape {list(like.shape)}, got "
            f"{list(x.shape)}; bring it there first, for instance with "
            "expand_as() or a 1x1 convolution"
        )
