"""The kernels as operators that PyTorch knows by name.

In eager mode the kernels are called directly. A compiler calls them as operators,
`torch.ops.labml_bcn.…`, without looking inside: it needs to know what shapes come out
and which arguments change.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from labml_bcn._versions import FLEXIBLE_LAYOUT
from labml_bcn.native import backends
from labml_bcn.native.layouts import lay_out_as, lay_out_for_kernels

LIBRARY = torch.library.Library("labml_bcn", "DEF")
WEIGHTS = "Tensor? gamma_c, Tensor? beta_c, Tensor? gamma_g, Tensor? beta_g"
SCHEMAS = (
    # The two differ in what changes: training moves the running statistics.
    f"train(Tensor x, Tensor? residual, {WEIGHTS}, Tensor(a!) exp_mean, "
    "Tensor(b!) exp_var, int groups, float eps_c, float eps_g, float momentum, "
    "int how, bool relu) -> (Tensor, Tensor)",
    f"evaluate(Tensor x, Tensor? residual, {WEIGHTS}, Tensor exp_mean, "
    "Tensor exp_var, int groups, float eps_c, float eps_g, float momentum, "
    "int how, bool relu) -> (Tensor, Tensor)",
    f"backward(Tensor dy, Tensor x, Tensor? output, {WEIGHTS}, Tensor saved, "
    "int groups, float eps_c, float eps_g, bool plain, bool relu, bool want_dx, "
    "bool want_residual) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    "standardize(Tensor w, float eps, float gain) -> (Tensor, Tensor)",
    "standardize_backward(Tensor gradient, Tensor w, Tensor saved, float eps, "
    "float gain) -> Tensor",
)


def forward(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    """Run batch-channel norm; see `backends.Backend`."""
    known = lay_out_for_kernels(x)
    y, saved = backends.of(x).forward(known, *arguments)
    return restore(y, known, x), saved


def backward(dy: Tensor, x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """Run its backward pass."""
    known = lay_out_for_kernels(x)
    output, *rest = arguments
    if output is not None:
        output = lay_out_as(output, known)
    grads = backends.of(x).backward(dy, known, output, *rest)
    # An operator returns tensors, be they empty.
    return tuple(
        x.new_empty(0) if g is None else restore(g, known, x) if g.dim() > 1 else g
        for g in grads
    )


def standardize(w: Tensor, eps: float, gain: float) -> tuple[Tensor, Tensor]:
    """Run weight standardization."""
    known = lay_out_for_kernels(w)
    out, saved = backends.of(w).standardize(known, eps, gain)
    return restore(out, known, w), saved


def standardize_backward(
    gradient: Tensor, w: Tensor, saved: Tensor, eps: float, gain: float
) -> Tensor:
    """Run its backward pass."""
    known = lay_out_for_kernels(w)
    result = backends.of(w).standardize_backward(gradient, known, saved, eps, gain)
    return restore(result, known, w)


def restore(result: Tensor, known: Tensor, x: Tensor) -> Tensor:
    """Give a result the order in memory of the input, if that was changed."""
    return result if known is x else lay_out_as(result, torch.empty_like(x))


def fake_forward(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """Return tensors of the shapes that `forward` returns."""
    saved = backends.of(x).empty_tables(x)
    return torch.empty_like(x), saved


def fake_backward(dy: Tensor, x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """Return tensors of the shapes that `backward` returns."""
    groups, *_, want_dx, want_residual = arguments[6:]
    dx, d_residual = (
        torch.empty_like(x) if want else x.new_empty(0)
        for want in (want_dx, want_residual)
    )
    grads = [
        x.new_empty(size, dtype=torch.float32)
        for size in (x.shape[1], x.shape[1], groups, groups)
    ]
    return dx, d_residual, *grads


def fake_standardize(w: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    """Return tensors of the shapes that `standardize` returns."""
    saved = backends.of(w).empty_filter_tables(w)
    return torch.empty_like(w), saved


def fake_standardize_backward(gradient: Tensor, w: Tensor, *_: Any) -> Tensor:
    """Return a tensor of the shape that `standardize_backward` returns."""
    return torch.empty_like(w)


OPERATORS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "train": (forward, fake_forward),
    "evaluate": (forward, fake_forward),
    "backward": (backward, fake_backward),
    "standardize": (standardize, fake_standardize),
    "standardize_backward": (standardize_backward, fake_standardize_backward),
}


def register() -> None:
    """Make the operators known to PyTorch."""
    for schema in SCHEMAS:
        # The compiler chooses the order in memory. The kernels take what comes.
        LIBRARY.define(schema, tags=FLEXIBLE_LAYOUT)
    for name, (function, fake) in OPERATORS.items():
        for key in ("CPU", "CUDA"):
            LIBRARY.impl(name, function, key)
        torch.library.register_fake(f"labml_bcn::{name}", fake, lib=LIBRARY)


register()
TRAIN = torch.ops.labml_bcn.train.default
EVALUATE = torch.ops.labml_bcn.evaluate.default
BACKWARD = torch.ops.labml_bcn.backward.default
STANDARDIZE = torch.ops.labml_bcn.standardize.default
STANDARDIZE_BACKWARD = torch.ops.labml_bcn.standardize_backward.default
