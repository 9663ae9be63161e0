"""The rules for arguments and inputs, and the errors for breaking them.

Each function returns the value that it was given, if it returns one, so that a
constructor can check and assign in one line.
"""

import math
from numbers import Real
from typing import Any, NoReturn

from torch import Tensor, nn

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
            f"{name} must be at least 1, got {value}; pass a whole number from 1 up"
        )
    return value


def require_divisor(groups: int, channels: int, name: str = "channels") -> int:
    """Return `groups`; raise unless it divides `channels`, called by a name."""
    require_positive_int("groups", groups)
    require_positive_int(name, channels)
    if channels % groups:
        fits = [g for g in range(1, channels + 1) if channels % g == 0]
        raise ValueError(
            f"groups must divide {name}, got groups={groups} and "
            f"{name}={channels}; choose one of {fits}"
        )
    return groups


def require_number(name: str, value: Any, remedy: str) -> None:
    """Raise unless `value` is a real number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"{name} must be a number, got {value!r} ({type(value).__name__}); {remedy}"
        )


def require_positive_eps(eps: float) -> float:
    """Return `eps`; raise unless it is positive and finite."""
    remedy = "it keeps the square root away from zero, 1e-5 is usual"
    require_number("eps", eps, remedy)
    if not 0 < eps < math.inf:
        raise ValueError(f"eps must be positive and finite, got {eps}; {remedy}")
    return eps


def require_momentum(momentum: float) -> float:
    """Return `momentum`; raise unless it lies in [0, 1]."""
    remedy = (
        "it is the weight of the new value, as in PyTorch: 0 keeps the old "
        "statistics, 1 replaces them"
    )
    require_number("momentum", momentum, remedy)
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum must lie between 0 and 1, got {momentum}; {remedy}")
    return momentum


def require_one_of(name: str, value: str, names: tuple[str, ...]) -> str:
    """Return `value`; raise unless it is one of `names`."""
    if value not in names:
        listed = " or ".join(repr(n) for n in names)
        raise ValueError(f"{name} must be {listed}, got {value!r}")
    return value


def require_activation(activation: str | None) -> str | None:
    """Return `activation`; raise unless it is one that the layers know."""
    if activation is None:
        return None
    if not isinstance(activation, str):
        raise TypeError(
            "activation must be a name or None, got "
            f"{activation!r}; pass 'relu', or put the module behind the layer"
        )
    return require_one_of("activation", activation, ("relu",))


def require_channels_first(x: Tensor, channels: int) -> None:
    """Raise unless `x` is floating point and has the shape [B, channels, *]."""
    require_tensor("the input", x)
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
    """Raise unless `x` is a tensor of a shape."""
    require_tensor(name, x)
    if tuple(x.shape) != shape:
        raise ValueError(
            f"{name} must have the shape {list(shape)}, got {list(x.shape)}; there is "
            "one value for each channel, or for each group"
        )


def require_tensor(name: str, x: Any) -> None:
    """Raise unless `x` is a tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{name} must be a tensor, got {x!r} ({type(x).__name__}); if torch.fx "
            "passes this, let it trace the plain copy that labml_bcn.bake makes"
        )


def require_floating_point(name: str, x: Tensor) -> None:
    """Raise unless `x` is floating point."""
    require_tensor(name, x)
    if not x.is_floating_point():
        raise TypeError(
            f"{name} must be floating point, got {x.dtype}; convert it first, for "
            "instance with float()"
        )


def require_same_shape(name: str, x: Tensor, like: Tensor) -> None:
    """Raise unless `x` is a tensor of the input's shape."""
    require_tensor(name, x)
    if x.shape != like.shape:
        raise ValueError(
            f"{name} must have the input's shape {list(like.shape)}, got "
            f"{list(x.shape)}; bring it there first, for instance with "
            "expand_as() or a 1x1 convolution"
        )


def refuse_scripting(layer: nn.Module) -> NoReturn:
    """Raise; `torch.jit.script` asks each layer for what it should compile.

    It cannot compile how the layers choose between kernels and operations.
    """
    raise RuntimeError(
        f"torch.jit.script cannot compile {type(layer).__name__}; script the plain "
        "copy of the model that labml_bcn.bake(model.eval(), example) makes, or use "
        "torch.jit.trace"
    )
