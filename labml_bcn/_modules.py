"""What is asked of the modules of a model, and how one becomes another."""

from typing import Any

from torch import nn

# What to pass instead of a model that something has wrapped, by its class.
WHOLE = "load its whole state dict into a model of its own, and pass that"
WRAPPERS = {
    "DataParallel": "pass its .module",
    "DistributedDataParallel": "pass its .module",
    "FullyShardedDataParallel": WHOLE,
    "FSDPModule": WHOLE,
    "OptimizedModule": "pass its ._orig_mod",
    "ScriptModule": "pass the module that it was made of",
}
BEFORE = "do that first, and wrap or compile afterwards"


def require_module(model: nn.Module) -> None:
    """Raise unless `model` is a module."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, got {type(model).__name__}; the model "
            "is the first argument"
        )


def require_unwrapped(function: str, model: nn.Module) -> None:
    """Raise unless a model is a module that nothing has wrapped, inside neither.

    The wrapper holds on to parameters and code as they were.
    """
    require_module(model)
    for name, module in model.named_modules():
        remedy = wrapper_remedy(module)
        if remedy and not (name and type(module).__name__.endswith("ScriptModule")):
            raise ValueError(
                f"{function} takes a network that nothing has wrapped, but "
                f"{name or 'the network'} is of class {type(module).__name__}; "
                f"{remedy}, or {BEFORE}"
            )


def wrapper_remedy(module: nn.Module) -> str | None:
    """Return what to pass instead of a wrapped module, `None` for one that is not."""
    if module._compiled_call_impl is not None:
        return "its compile() was called: pass one that is not compiled"
    if any(type(tensor).__name__ == "DTensor" for tensor in module.parameters(False)):
        return WHOLE
    names = (kind.__name__ for kind in type(module).__mro__)
    return next((WRAPPERS[name] for name in names if name in WRAPPERS), None)


def become(
    module: nn.Module, kind: type[nn.Module], attributes: dict[str, Any]
) -> tuple[type[nn.Module], dict[str, Any]]:
    """Make another layer of a module, which stays the same object.

    So whoever holds it, be it a list, a closure or a second name in the model, holds
    the new layer. Returned are its class and attributes of before.
    """
    before = type(module), vars(module)
    object.__setattr__(module, "__dict__", attributes)
    object.__setattr__(module, "__class__", kind)
    return before


def hooks_on_calls(module: nn.Module) -> dict[str, Any]:
    """Return the attributes in which a module keeps the hooks on its calls."""
    kinds = ("_forward", "_backward", "_is_full_backward")
    return {key: own for key, own in vars(module).items() if key.startswith(kinds)}
