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

batch_norm_backward = torch.ops.aten.native_batch_norm_backward.default


class Strided:
    """The passes in PyTorch's operations, for any memory format.

    Element-wise operations go through channels-last inputs and the like along the
    channels. Distances are measured from points near the means, and taken before
    anything is scaled: beside a large mean, a product with x has no digits left.
    """

    @staticmethod
    def values_of(x: Tensor) -> Tensor:
        """Return an activation in the precision of statistics."""
        return cast(x, statistics_dtype(x))

    @staticmethod
    def measure(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return points p, the steps mu - p, v, and the distances x - p."""
        if count_positions(x) == 1:
            zero = torch.zeros_like(x)
            point = x.flatten(1)
            return point, torch.zeros_like(point), torch.zeros_like(point), zero
        dims = list(range(2, x.dim()))
        point = x.mean(dims)
        distance = x - per_sample(point, x)
        step = distance.mean(dims)
        v = distance.square().mean(dims).sub_(step.square())
        return point, step, v, distance

    @staticmethod
    def apply(distance: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        """Turn the distances into the output, in place."""
        scale, offset = (per_sample(t, distance) for t in (scale, offset))
        return torch.addcmul(offset, scale, distance, out=distance)

    @staticmethod
    def sums(x: Tensor, point: Tensor, dy: Tensor) -> Pair:
        """Return the sums over positions of dy and of dy (x - p)."""
        if count_positions(x) == 1:
            return dy.flatten(1), torch.zeros_like(point)
        dims = list(range(2, x.dim()))
        product = (x - per_sample(point, x)).mul_(dy)
        return dy.sum(dims), product.sum(dims)

    @staticmethod
    def combine(
        x: Tensor, point: Tensor, dy: Tensor, slope: Tensor, q: Tensor, r: Tensor
    ) -> Tensor:
        """Return slope dy + q (x - p) + r."""
        distance = x - per_sample(point, x)
        slope, q, r = (per_sample(table, x) for table in (slope, q, r))
        return torch.addcmul(r, q, distance, out=distance).addcmul_(slope, dy)


class Rows(Strided):
    """The passes over contiguous rows.

    If the positions of a sample and channel lie side by side, the input is a matrix
    of B times C rows. PyTorch's own kernels for norms go through such rows at the
    speed of memory, and do what the passes need on the way to something else.
    """

    @staticmethod
    def measure(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return points p, the steps mu - p, v, and the distances x - p."""
        rows = x.flatten(2)
        point = rows.mean(2)
        # These become the output, and that must not be a view: no view that a
        # `Function` returns can be changed in place.
        distance = x - per_sample(point, x)
        rows = distance.flatten(2)
        step = rows.mean(2)
        # A norm squares and adds up in one go.
        v = torch.linalg.vector_norm(rows, dim=2).square_()
        return point, step, v.div_(rows.shape[2]).sub_(step.square()), distance

    @staticmethod
    def apply(distance: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        """Turn the distances into the output, in place."""
        rows = distance.view(1, scale.numel(), -1)
        affine_map(rows, scale.reshape(-1), offset.reshape(-1))
        return distance

    @staticmethod
    def sums(x: Tensor, point: Tensor, dy: Tensor) -> Pair:
        """Return the sums over positions of dy and of dy (x - p)."""
        # With each row a channel of its own, these are what batch norm's
        # backward pass gives to its shift and its scale.
        mean = point.view(-1)
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
        x: Tensor, point: Tensor, dy: Tensor, slope: Tensor, q: Tensor, r: Tensor
    ) -> Tensor:
        """Return slope dy + q (x - p) + r."""
        distance = x - per_sample(point, x)
        affine_map(distance.view(1, q.numel(), -1), q.reshape(-1), r.reshape(-1))
        return distance.addcmul_(per_sample(slope, x), dy)


def affine_map(rows: Tensor, scale: Tensor, shift: Tensor) -> None:
    """Turn rows into `scale * rows + shift`, in place.

    It is batch norm in evaluation: a mean and a variance of 0 and an eps of 1 leave the
    rows as they are.
    """
    zero, unused = torch.zeros_like(scale), scale.new_empty(0)
    torch.native_batch_norm(
        rows,
        scale,
        shift,
        zero,
        zero,
        False,
        0.0,
        1.0,
        out=(rows, unused, unused),
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
    def measure(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Any]:
        """Return mu, no step from there, v, and what `apply` needs."""
        mu, v = native.cpu_kernels().measure(x)
        return mu, mu.new_zeros(()), v, (x, mu)

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
