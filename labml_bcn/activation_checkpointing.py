"""Activation checkpointing that moves the running statistics once.

To save memory, a part of a model is run again in the backward pass. Its norms would
learn twice from a batch.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import chain, repeat
from typing import Any

from torch import nn
from torch.utils import checkpoint as torch_checkpointing

from labml_bcn._norms import (
    Norm,
    Statistics,
    copy_of,
    copy_statistics,
    tracking_norms,
)


def checkpoint(
    module: Callable[..., Any], *args: Any, use_reentrant: bool = False, **options: Any
) -> Any:
    """Run a part of a model again in the backward pass, with the same statistics.

    `torch.utils.checkpoint.checkpoint` would have the norms learn twice from a batch,
    and the second pass of an estimating norm would differ from the first. Here the
    second pass begins with the statistics that the first one had, and what it makes of
    them is dropped. So the gradients are exact, and the statistics move once.

    **Arguments**

    - `module`: the part, as a module or a method of a module.
    - `args`: its arguments.
    - `use_reentrant`: which of PyTorch's two ways to take; both will do.
    - `options`: for the part, and for `torch.utils.checkpoint.checkpoint`.

    **Returns** what the part returns.

    **Raises**

    - `TypeError`: if `module` is neither a module nor a method of one.
    """
    owner = getattr(module, "__self__", module)
    if not isinstance(owner, nn.Module):
        raise TypeError(
            "checkpoint must be given a module or a method of one, to find its norms, "
            f"got {module!r}; for another function call torch.utils.checkpoint."
            "checkpoint with context_fn=partial(checkpoint_contexts, model)"
        )
    first, again = checkpoint_contexts(owner)
    passes = chain([first], repeat(again))

    def run(*args: Any, **kwargs: Any) -> Any:
        with next(passes):
            return module(*args, **kwargs)

    return torch_checkpointing.checkpoint(
        run, *args, use_reentrant=use_reentrant, **options
    )


def checkpoint_contexts(
    module: nn.Module,
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of a checkpointed part's two passes.

    They do what `checkpoint` does where another library makes the call, and takes
    `context_fn` for it: `context_fn=functools.partial(checkpoint_contexts, module)`.
    That goes with `use_reentrant=False` only, and outside of `torch.compile`: inside,
    call `checkpoint`.

    **Arguments**

    - `module`: the part that is checkpointed, or a model that it belongs to.

    **Returns** a context for the first pass, and one for all further passes.

    **Raises**

    - `TypeError`: if `module` is none.
    """
    first = FirstPass(tracking_norms(module))
    return first, LaterPass(first)


class FirstPass(AbstractContextManager[None]):
    """Remembers the statistics that the first pass begins with."""

    def __init__(self, norms: list[Norm]) -> None:
        self.norms = norms
        self.before: Statistics = []

    def __enter__(self) -> None:
        """Begin."""
        self.before = copy_statistics(self.norms)

    def __exit__(self, *_: object) -> None:
        """End."""


class LaterPass(AbstractContextManager[None]):
    """Runs the same with the same statistics, and leaves those of the model alone.

    These move on between the passes. So they are not overwritten and restored, but
    replaced for the time: whoever keeps them for a backward pass sees no change.
    """

    def __init__(self, first: FirstPass) -> None:
        self.first = first
        self.now: Statistics = []

    def __enter__(self) -> None:
        """Begin."""
        self.now = [dict(norm._buffers) for norm in self.first.norms]
        self.exchange(copy_of(self.first.before))

    def __exit__(self, *_: object) -> None:
        """End."""
        self.exchange(self.now)

    def exchange(self, statistics: Statistics) -> None:
        """Put other tensors in the place of the statistics."""
        for norm, buffers in zip(self.first.norms, statistics, strict=True):
            norm._buffers.update(buffers)
