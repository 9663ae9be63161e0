"""The C++ kernels as functions of tensors on the CPU.

Each packs what src/interface.h asks for, and calls the library. Nothing here knows of
gradients.
"""

import struct
from collections.abc import Sequence

import torch
from torch import Tensor

from labml_bcn.native.layouts import lay_out_as
from labml_bcn.native.library import Kernel, Library

# Rows of eight bytes: q is a whole number, Q an address, d a float64.
SIZES, WEIGHTS = "6q", "4Q2d"
FORWARD = struct.Struct(f"={SIZES}{WEIGHTS}5Qd2qQ")
BACKWARD = struct.Struct(f"={SIZES}{WEIGHTS}10Q2q")
STANDARDIZE = struct.Struct("=4Q3q2d")
PASS = struct.Struct(f"={SIZES}11Q")
PASS_FIELDS = ("x", "dy", "out", "mu", "v", "slope", "offset", "s", "t", "q", "r")

# What the statuses of src/interface.h other than 0 mean.
FAILURES = {
    1: (MemoryError, "the kernel has no memory for its tables; use a smaller batch"),
    2: (RuntimeError, "a thread of PyTorch's failed within the kernel"),
}
address = Tensor.data_ptr


def address_or_null(x: Tensor | None) -> int:
    """Return where a tensor's values lie, or 0 if there is no tensor."""
    return 0 if x is None else address(x)


def sizes_of(x: Tensor, groups: int) -> tuple[int, ...]:
    """Return the fields of `Sizes`."""
    samples, channels, *_ = x.shape
    positions = x.numel() // (samples * channels or 1)
    # A single position is both: one row of channels is the shorter way.
    last = positions == 1 or not x.is_contiguous()
    low = x.dtype == torch.bfloat16
    return samples, channels, positions, groups, low, last


class CPU:
    """The kernels on the CPU."""

    dtypes = (torch.float32, torch.bfloat16)

    def __init__(self, library: Library) -> None:
        self.library = library

    def takes(self, x: Tensor) -> bool:
        """Return whether the kernels know this dtype."""
        return x.dtype in self.dtypes

    def forward(
        self,
        x: Tensor,
        residual: Tensor | None,
        gamma_c: Tensor | None,
        beta_c: Tensor | None,
        gamma_g: Tensor | None,
        beta_g: Tensor | None,
        exp_mean: Tensor,
        exp_var: Tensor,
        groups: int,
        eps_c: float,
        eps_g: float,
        momentum: float,
        how: int,
        relu: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return the output and the tables for the backward pass."""
        y = torch.empty_like(x)
        saved = self.empty_tables(x)
        weights = in_float32((gamma_c, beta_c, gamma_g, beta_g))
        if residual is not None:
            residual = lay_out_as(residual, x)
        arguments = FORWARD.pack(
            *sizes_of(x, groups),
            *[address_or_null(weight) for weight in weights],
            eps_c,
            eps_g,
            address(x),
            address_or_null(residual),
            address(y),
            address(exp_mean),
            address(exp_var),
            momentum,
            how,
            relu,
            address(saved),
        )
        run(self.library.forward, arguments)
        return y, saved

    def backward(
        self,
        dy: Tensor,
        x: Tensor,
        output: Tensor | None,
        gamma_c: Tensor | None,
        beta_c: Tensor | None,
        gamma_g: Tensor | None,
        beta_g: Tensor | None,
        saved: Tensor,
        groups: int,
        eps_c: float,
        eps_g: float,
        plain: bool,
        relu: bool,
        want_dx: bool,
        want_residual: bool,
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients of the input, the residual and the four weights."""
        dy = lay_out_as(dy, x)
        dx = torch.empty_like(x) if want_dx else None
        d_residual = torch.empty_like(x) if want_residual else None
        weights = in_float32((gamma_c, beta_c, gamma_g, beta_g))
        grads = empty_gradients(weights, x, groups)
        arguments = BACKWARD.pack(
            *sizes_of(x, groups),
            *[address_or_null(weight) for weight in weights],
            eps_c,
            eps_g,
            address(x),
            address(dy),
            address_or_null(output),
            address_or_null(dx),
            address_or_null(d_residual),
            address(saved),
            *[address(grad) for grad in grads],
            plain,
            relu,
        )
        run(self.library.backward, arguments)
        return dx, d_residual, *grads

    def measure(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and variance of each sample and channel, [B, C]."""
        mu, v = self.empty_pair(x)
        self.run_pass(self.library.measure, x, mu=mu, v=v)
        return mu, v

    def apply(self, x: Tensor, mu: Tensor, slope: Tensor, offset: Tensor) -> Tensor:
        """Return slope (x - mu) + offset, with tables [B, C]."""
        y = torch.empty_like(x)
        self.run_pass(self.library.apply, x, out=y, mu=mu, slope=slope, offset=offset)
        return y

    def sums(self, x: Tensor, mu: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sums over positions of dy and of dy (x - mu), [B, C]."""
        s, t = self.empty_pair(x)
        dy = lay_out_as(dy, x)
        self.run_pass(self.library.sums, x, dy=dy, mu=mu, s=s, t=t)
        return s, t

    def combine(
        self, x: Tensor, mu: Tensor, dy: Tensor, slope: Tensor, q: Tensor, r: Tensor
    ) -> Tensor:
        """Return slope dy + q (x - mu) + r, with tables [B, C]."""
        dx = torch.empty_like(x)
        dy = lay_out_as(dy, x)
        self.run_pass(
            self.library.combine, x, dy=dy, out=dx, mu=mu, slope=slope, q=q, r=r
        )
        return dx

    @staticmethod
    def empty_pair(x: Tensor) -> tuple[Tensor, Tensor]:
        """Return two tables without values, in float64."""
        pair = x.new_empty((2, *x.shape[:2]), dtype=torch.float64)
        return pair[0], pair[1]

    @staticmethod
    def run_pass(kernel: Kernel, x: Tensor, **tensors: Tensor) -> None:
        """Run one pass over `x`. Tables are read and written as rows of float64."""
        if x.numel() == 0:  # a process may have no samples, and others wait for it
            return
        given = {"x": x}
        for name, tensor in tensors.items():
            is_table = name not in ("dy", "out")
            given[name] = tensor.double().contiguous() if is_table else tensor
        addresses = [address_or_null(given.get(name)) for name in PASS_FIELDS]
        run(kernel, PASS.pack(*sizes_of(x, 1), *addresses))

    @staticmethod
    def empty_tables(x: Tensor) -> Tensor:
        """Return a tensor of the form that `forward` saves."""
        samples, channels, *_ = x.shape
        return x.new_empty(2 * (samples + 1) * channels, dtype=torch.float64)

    @staticmethod
    def empty_filter_tables(w: Tensor) -> Tensor:
        """Return a tensor of the form that `standardize` saves."""
        return w.new_empty((w.shape[0], 2), dtype=torch.float64)

    @staticmethod
    def statistics_of(
        saved: Tensor, channels: int, eps_c: float
    ) -> tuple[Tensor, Tensor]:
        """Return the mean and variance that the batch norm normalized with."""
        mean, rho = saved[-2 * channels :].split(channels)
        return mean, rho.square().reciprocal() - eps_c

    def standardize(self, w: Tensor, eps: float, gain: float) -> tuple[Tensor, Tensor]:
        """Return the standardized filters, and their means and variances."""
        out = torch.empty_like(w)
        saved = self.empty_filter_tables(w)
        filters = self.pack_filters(w, None, out, saved, eps, gain)
        run(self.library.standardize, filters)
        return out, saved

    def standardize_backward(
        self, gradient: Tensor, w: Tensor, saved: Tensor, eps: float, gain: float
    ) -> Tensor:
        """Return the gradient of the filters."""
        gradient, out = lay_out_as(gradient, w), torch.empty_like(w)
        filters = self.pack_filters(w, gradient, out, saved, eps, gain)
        run(self.library.standardize_backward, filters)
        return out

    @staticmethod
    def pack_filters(
        w: Tensor,
        gradient: Tensor | None,
        out: Tensor,
        saved: Tensor,
        eps: float,
        gain: float,
    ) -> bytes:
        """Return the fields of `Standardize`."""
        filters = w.shape[0]
        return STANDARDIZE.pack(
            address(w),
            address_or_null(gradient),
            address(out),
            address(saved),
            filters,
            w.numel() // filters,
            w.dtype == torch.bfloat16,
            eps,
            gain,
        )


def in_float32(weights: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return weights as the kernels read them."""
    return [
        weight
        if weight is None or (weight.dtype == torch.float32 and weight.is_contiguous())
        else weight.to(torch.float32).contiguous()
        for weight in weights
    ]


def empty_gradients(
    weights: Sequence[Tensor | None], x: Tensor, groups: int
) -> list[Tensor]:
    """Return four tensors in float32, for what the weights will learn.

    The kernels write all four, also those of weights that are not there.
    """
    channels = x.shape[1]
    sizes = (channels, channels, groups, groups)
    return [
        x.new_empty(size, dtype=torch.float32)
        if weight is None
        else torch.empty_like(weight)
        for weight, size in zip(weights, sizes, strict=True)
    ]


def run(kernel: Kernel, arguments: bytes) -> None:
    """Call a kernel on PyTorch's threads; raise if it could not finish."""
    if failed := kernel(arguments, torch.get_num_threads()):
        error, words = FAILURES[failed]
        raise error(words)
