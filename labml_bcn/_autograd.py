"""What the layers ask of PyTorch when they go around its autograd."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from labml_bcn._versions import is_exporting

P = ParamSpec("P")
R = TypeVar("R")


def needs_plain_operations(x: Tensor) -> bool:
    """Return whether something other than eager mode looks at the operations.

    A compiler and whatever else rewrites a program must see operations that they
    understand.
    """
    return torch.compiler.is_compiling() or is_rewritten(x)


def is_rewritten(x: Tensor) -> bool:
    """Return whether a program is recorded, transformed or differentiated forward.

    So it is under a function transform, at a level of forward-mode gradients, under
    a mode that watches operations or in a trace, and for a tensor with rules of its
    own.
    """
    return (
        type(x) not in (Tensor, nn.Parameter)
        or not (x.is_cpu or x.is_cuda)
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
        # Batched gradients still go through the first vmap, which is not functorch's.
        or torch._C._functorch.is_legacy_batchedtensor(x)
    )


def needs_differentiable_backward(gradient: Tensor) -> bool:
    """Return whether a backward pass must be made of operations with derivatives.

    The gradient is to be differentiated in its turn, or it is one of many at once. A
    compiler has no such thing.
    """
    if torch.compiler.is_compiling():
        return False
    return torch.is_grad_enabled() or is_rewritten(gradient)


def takes_operators(x: Tensor) -> bool:
    """Return whether operators that PyTorch knows by name only will do.

    A compiler calls them as they are, and so does eager mode. An exported program
    must run where they are not installed.
    """
    if not torch.compiler.is_compiling():
        return not is_rewritten(x)
    return not (is_exporting() or torch._C._are_functorch_transforms_active())


def is_watched(module: nn.Module) -> bool:
    """Return whether a hook or another `forward` waits for a call of the module."""
    of_all = nn.modules.module
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
        or of_all._global_forward_hooks
        or of_all._global_forward_pre_hooks
        or of_all._global_backward_hooks
        or of_all._global_backward_pre_hooks
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
