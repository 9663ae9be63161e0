"""The passes over an activation: all of the fused layer that touches whole activations.

There are four: `measure` and `apply` forward, `sums` and `combine` backward. What
happens between them, on small tables, is derived in fused.py, whose letters these are.
"""

from typing import Any

import torch
from torch import Tensor

from labml_bcn import native
from labml_bcn._numerics import cast, count_positions, statistics_dtype

Pair = tuple[Tensor, Tensor]

# An eps for statistics that must not be changed by it, only kept finite: a constant
# channel has no deviation to be divided by.
TINY = 1e-30

batch_norm_backward = torch.ops.aten.native_batch_norm_backward.default


class Strided:
    """The passes in PyTorch's operations, for any memory format.

    Element-wise operations go through channels-last inputs and the like along the
    channels.
    """

    @staticmethod
    def values_of(x: Tensor) -> Tensor:
        """Return an activation in the precision of statistics."""
        return cast(x, statistics_dtype(x))

    @staticmethod
    def measure(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return mu, v, the distances x - mu in some unit, and that unit."""
        if count_positions(x) == 1:
            zero = torch.zeros_like(x)
            mu = x.flatten(1)
            return mu, zero.flatten(1).clone(), zero, mu.new_ones(())
        dims = list(range(2, x.dim()))
        mu = x.mean(dims)
        distance = x - per_sample(mu, x)
        v = distance.square().mean(dims)
        return mu, v, distance, mu.new_ones(())

    @staticmethod
    def apply(distance: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        """Turn the distances into the output, in place."""
        scale, offset = (per_sample(t, distance) for t in (scale, offset))
        return torch.addcmul(offset, scale, distance, out=distance)

    @staticmethod
    def sums(x: Tensor, mu: Tensor, dy: Tensor) -> Pair:
        """Return S and T, the sums over positions of dy and of dy (x - mu)."""
        if count_positions(x) == 1:
            return dy.flatten(1), torch.zeros_like(mu)
        dims = list(range(2, x.dim()))
        product = (x - per_sample(mu, x)).mul_(dy)
        return dy.sum(dims), product.sum(dims)

    @staticmethod
    def combine(
        x: Tensor, mu: Tensor, dy: Tensor, slope: Tensor, q: Tensor, r: Tensor
    ) -> Tensor:
        """Return slope dy + q (x - mu) + r."""
        table = mu.shape
        q = q.view(table)
        constant = torch.addcmul(r.view(table), q, mu, value=-1)
        dx = torch.addcmul(per_sample(constant, x), per_sample(q, x), x)
        return dx.addcmul_(per_sample(slope, x), dy)


class Rows(Strided):
    """The passes over contiguous rows.

    If the positions of a sample and channel lie side by side, the input is a matrix
    of B times C rows. PyTorch's own kernels for group norm and batch norm go through
    such rows at the speed of memory, and each of the passes is what one of them does
    on the way to something else.
    """

    @staticmethod
    def measure(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return mu, v, the distances in standard deviations, and the deviation."""
        # Group norm with a group for each row returns its statistics along
        # with its result.
        table = x.shape[:2]
        rows, length = table.numel(), count_positions(x)
        distance, mu, inverse = torch.native_group_norm(
            x.view(1, rows, length), None, None, 1, rows, length, rows, TINY
        )
        unit = inverse.view(table).reciprocal()
        # The distances become the output, and that must not be a view: no
        # view that a `Function` returns can be changed in place. So they
        # get the input's shape themselves, instead of a view of them.
        distance.resize_(x.shape)
        return mu.view(table), unit * unit, distance, unit

    @staticmethod
    def apply(distance: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        """Turn the distances into the output, in place."""
        scale = scale.view(-1)
        rows = distance.view(1, scale.numel(), -1)
        affine_map(rows, scale, offset.view(-1), None, rows)
        return distance

    @staticmethod
    def sums(x: Tensor, mu: Tensor, dy: Tensor) -> Pair:
        """Return S and T, the sums over positions of dy and of dy (x - mu)."""
        # With each row a channel of its own, these are what batch norm's
        # backward pass gives to its shift and its scale.
        mean = mu.view(-1)
        rows = (1, mean.numel(), -1)
        _, t, s = batch_norm_backward(
            dy.contiguous().view(rows),
            x.view(rows),
            None,
            mean,
            torch.zeros_like(mean),
            None,
            None,
            False,
            1.0,
            [False, True, True],
        )
        return s, t

    @staticmethod
    def combine(
        x: Tensor, mu: Tensor, dy: Tensor, slope: Tensor, q: Tensor, r: Tensor
    ) -> Tensor:
        """Return slope dy + q (x - mu) + r."""
        mean = mu.view(-1)
        rows = (mean.numel(), -1)
        dx = torch.empty_like(x)
        one, all_rows = x.view(1, *rows), dx.view(1, *rows)
        affine_map(one, q.view(-1), r.view(-1), mean, all_rows)
        dx.view(rows).addcmul_(slope.view(-1, 1), dy.reshape(rows))
        return dx


def affine_map(
    rows: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor | None,
    out: Tensor,
) -> None:
    """Write `scale * (rows - mean) + shift` into `out`; no mean is zero.

    It is batch norm in evaluation: a variance of 0 and an eps of 1 leave the distances
    as they are. `out` may be the rows themselves.
    """
    zero, unused = torch.zeros_like(scale), scale.new_empty(0)
    mean = zero if mean is None else mean
    torch.native_batch_norm(
        rows,
        scale,
        shift,
        mean,
        zero,
        False,
        0.0,
        1.0,
        out=(out, unused, unused),
    )


class Kernels:
    """The passes of the C++ kernels, one by one.

    They take an input in any dtype that the kernels know. Tables are float64.
    """

    @staticmethod
    def values_of(x: Tensor) -> Tensor:
        """Return an activation as it is."""
        return x

    @staticmethod
    def measure(x: Tensor) -> tuple[Tensor, Tensor, Any, Tensor]:
        """Return mean and variance, what `apply` needs, and its unit: 1."""
        mu, v = native.cpu_kernels().measure(x)
        return mu, v, (x, mu), mu.new_ones(())

    @staticmethod
    def apply(centred: Any, scale: Tensor, offset: Tensor) -> Tensor:
        """Return the output."""
        x, mu = centred
        return native.cpu_kernels().apply(x, mu, scale, offset)

    @staticmethod
    def sums(x: Tensor, mu: Tensor, dy: Tensor) -> Pair:
        """Return S and T."""
        return native.cpu_kernels().sums(x, mu, dy)

    @staticmethod
    def combine(
        x: Tensor, mu: Tensor, dy: Tensor, slope: Tensor, q: Tensor, r: Tensor
    ) -> Tensor:
        """Return slope dy + q (x - mu) + r."""
        return native.cpu_kernels().combine(x, mu, dy, slope, q, r)


def choose_passes(x: Tensor) -> type[Strided | Kernels]:
    """Return the passes to use for an input.

    They are the kernels' if these know this kind of input: one pass at a time, where
    several processes have to exchange their statistics in between.
    """
    if native.has_passes_for(x):
        return Kernels
    rows = x.is_contiguous() and count_positions(x) > 1
    return Rows if rows else Strided


def per_sample(table: Tensor, x: Tensor) -> Tensor:
    """Give a table the shape `[B, C, 1, …, 1]`, to broadcast against `x`."""
    return table.view(*x.shape[:2], *[1] * (x.dim() - 2))
