r"""
---
title: Where did the loss go?
summary: >
  When a loss is not a finite number: the first layer in which that arose,
  found by running the batch again with hooks.
---

# Where did the loss go?

A loss that is infinite, or not a number, has come a long way. Somewhere in
the network one value was too large, or a variance was zero; from there on
everything is lost, and the loss only tells that it happened.

Checking every layer at every step would find the place, and would cost
every step. But the batch can be run again. The training loop notices a bad
loss before it has moved a weight, and remembers what else a forward pass
changes: buffers and random states. So the same pass can be repeated, this
time with a look at each layer's input and output. The layers themselves
check nothing.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Before:
    r"""
    ## What a forward pass changes

    The buffers of a model, and the random states.

    **Arguments**

    - `model`: whose buffers they are.
    """

    def __init__(self, model: nn.Module) -> None:
        self.buffers = list(model.buffers())
        self.kept = [buffer.clone() for buffer in self.buffers]
        self.random = random_states()

    def remember(self) -> None:
        r"""
        Keep them as they are now.
        """
        for kept, buffer in zip(self.kept, self.buffers, strict=True):
            kept.copy_(buffer)
        self.random = random_states()

    def restore(self) -> None:
        r"""
        Put them back.
        """
        for kept, buffer in zip(self.kept, self.buffers, strict=True):
            buffer.copy_(kept)
        set_random_states(self.random)


def random_states() -> list[Tensor]:
    r"""
    Return the states of PyTorch's generators: the CPU's, then each GPU's.
    """
    gpus = torch.cuda.is_available() and torch.cuda.is_initialized()
    return [
        torch.get_rng_state(),
        *(torch.cuda.get_rng_state_all() if gpus else []),
    ]


def set_random_states(states: list[Tensor]) -> None:
    r"""
    Set the generators to `states`.
    """
    torch.set_rng_state(states[0])
    if states[1:]:
        torch.cuda.set_rng_state_all(states[1:])


def arose(model: nn.Module, run: Callable[[], object]) -> str:
    r"""
    ## The first layer

    Run something with a model, and say where the first value arises that is
    not finite.

    **Arguments**

    - `model`: the model that `run` uses.
    - `run`: runs it. Its result does not matter.

    **Returns** a sentence.
    """
    # A weight or a buffer that is not finite is where it all comes from,
    # wherever it shows. It was put there by the step before.
    if bad := unfit(model):
        return (
            f"before the batch already, {bad} are not finite: an earlier"
            " step, whose loss was finite, had a gradient that was not"
        )
    found: list[str] = []
    hooks = [
        module.register_forward_hook(watch(name, found))
        for name, module in model.named_modules()
    ]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return (
        found[0]
        if found
        else (
            "every layer's output is finite: it arose in the loss itself, or"
            " does not arise again"
        )
    )


def unfit(model: nn.Module) -> str:
    r"""
    Name the first weight or buffer with values that are not finite, and say
    how many it has; empty where there is none.
    """
    for name, value in model.state_dict().items():
        if bad := count(value):
            return f"{bad:,} of the {value.numel():,} values of {name}"
    return ""


def watch(name: str, found: list[str]) -> Callable[..., None]:
    r"""
    Return a hook that describes a layer whose output is not finite.

    A hook is called when its layer is done, so the parts of a layer come
    before the layer: what is found first is as deep as it can be.
    """

    def hook(module: nn.Module, inputs: tuple[Any, ...], y: Any) -> None:
        bad = count(y)
        if found or not bad:
            return
        kind = type(module).__name__
        x = inputs[0]
        if worse := count(x):
            found.append(
                f"it was in the input of {name or 'the model'} ({kind})"
                f" already: {worse:,} of {x.numel():,} values"
            )
            return
        found.append(
            f"it arose in {name or 'the model'} ({kind}): {bad:,} of the"
            f" {y.numel():,} values of its output are not finite, while all"
            f" of its input is, with values up to {x.abs().max().item():.3g}"
        )

    return hook


def count(values: Any) -> int:
    r"""
    Return how many values of a tensor are infinite or not a number.
    """
    if not isinstance(values, Tensor) or not values.is_floating_point():
        return 0
    return int((~values.isfinite()).sum())
