"""Find the first layer in which a value becomes NaN or infinite.

A loss that is infinite or NaN has come a long way. Somewhere in the network one value
was too large, or a variance was zero; from there on everything is lost, and the loss
only tells that it happened.

Checking every layer at every step would find the place, and would cost every step. But
the batch can be run again. The training loop notices a bad loss before it has moved a
weight, and remembers what else a forward pass changes: buffers and random states. So
the same pass can be repeated, this time with a look at each layer's input and output.
The layers themselves check nothing.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from labml_bcn import BatchChannelNorm


class PassState:
    """What a forward pass changes: the buffers of a model, and the random states."""

    def __init__(self, model: nn.Module) -> None:
        self.buffers = list(model.buffers())
        self.copies = [buffer.clone() for buffer in self.buffers]
        self.random = random_states()

    def remember(self) -> None:
        """Copy them as they are now."""
        for copy, buffer in zip(self.copies, self.buffers, strict=True):
            copy.copy_(buffer)
        self.random = random_states()

    def restore(self) -> None:
        """Put them back."""
        for copy, buffer in zip(self.copies, self.buffers, strict=True):
            buffer.copy_(copy)
        set_random_states(self.random)


def random_states() -> list[Tensor]:
    """Return the states of PyTorch's generators: the CPU's, then each GPU's."""
    gpus = torch.cuda.is_available() and torch.cuda.is_initialized()
    return [
        torch.get_rng_state(),
        *(torch.cuda.get_rng_state_all() if gpus else []),
    ]


def set_random_states(states: list[Tensor]) -> None:
    """Set the generators to `states`."""
    torch.set_rng_state(states[0])
    if states[1:]:
        torch.cuda.set_rng_state_all(states[1:])


def first_nonfinite_layer(model: nn.Module, run: Callable[[], object]) -> str:
    """Say in a sentence where the first value arises that is not finite.

    `run` runs the model; what it returns does not matter.
    """
    # A weight or a buffer that is not finite is where it all comes from, wherever it
    # shows. It was put there by the step before.
    if bad := first_nonfinite_tensor(model):
        return (
            f"before the batch already, {bad} are not finite: an earlier step, whose"
            " loss was finite, had a gradient that was not"
        )
    found: list[str] = []
    # A hook on one of the two halves of batch-channel norm would have them run in
    # turn: another computation than the one that failed.
    halves = {
        id(half)
        for norm in model.modules()
        if isinstance(norm, BatchChannelNorm)
        for half in norm.children()
    }
    hooks = [
        module.register_forward_hook(_describing_hook(name, found))
        for name, module in model.named_modules()
        if id(module) not in halves
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
        else "every layer's output is finite: it arose in the loss itself, or does not"
        " arise again"
    )


def first_nonfinite_tensor(model: nn.Module) -> str:
    """Name the first weight or buffer with values that are not finite, and how many.

    Returns an empty string if there is none.
    """
    for name, value in model.state_dict().items():
        if bad := count_nonfinite(value):
            return f"{bad:,} of the {value.numel():,} values of {name}"
    return ""


def _describing_hook(name: str, found: list[str]) -> Callable[..., None]:
    # A hook is called when its layer is done, so the parts of a layer come before the
    # layer: what is found first is as deep as it can be.
    def hook(module: nn.Module, inputs: tuple[Any, ...], y: Any) -> None:
        bad = count_nonfinite(y)
        if found or not bad:
            return
        place = f"{name or 'the model'} ({type(module).__name__})"
        x = inputs[0]
        if worse := count_nonfinite(x):
            found.append(
                f"it was in the input of {place} already: {worse:,} of"
                f" {x.numel():,} values"
            )
            return
        found.append(
            f"it arose in {place}: {bad:,} of the {y.numel():,} values of its output"
            " are not finite, while all of its input is, with values up to"
            f" {x.abs().max().item():.3g}"
        )

    return hook


def count_nonfinite(values: Any) -> int:
    """Return how many values of a tensor are infinite or NaN."""
    if not isinstance(values, Tensor) or not values.is_floating_point():
        return 0
    return int((~values.isfinite()).sum())
