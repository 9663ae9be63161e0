"""What the layers ask of PyTorch when they go around its autograd."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual

P = ParamSpec("P")
R = TypeVar("R")


def needs_plain_operations(x: Tensor) -> bool:
    """Return whether something other than eager mode looks at the operations.

    A compiler, an export, a function transform, forward-mode differentiation and
    a tensor with rules of its own must see operations that they understand.
    """
    return (
        torch.compiler.is_compiling()
        or type(x) not in (Tensor, nn.Parameter)
        or x.device.type not in ("cpu", "cuda")
        or torch._C._are_functorch_transforms_active()
        or unpack_dual(x).tangent is not None
    )


def below_autograd(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function's operations without asking autograd at each of them.

    Inside a `Function` no gradient is recorded, and each operation passes through
    autograd all the same. Of a small input's time that is a tenth.
    """

    @wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        with torch._C._AutoDispatchBelowAutograd():
            return function(*args, **kwargs)

    return inner
