"""Batch-channel norm and weight standardization on a GPU, as Triton kernels.

Each direction is three launches: a pass over the activation (`measure`, `sum_up`), the
small tables (`derive_map`, `derive_gradient`), and a second pass (`apply_map`,
`combine`).

A *row* is the positions of one sample and channel. A program of a pass takes a tile of
several rows and positions, then the next positions of the same rows. Where there are
few rows, several programs share them and each leaves its part; the tables' kernel puts
the parts together in a fixed order, so that every run gives the same bits.
"""

# mypy: ignore-errors
# Python in syntax alone: these functions are read by a compiler of their own.

import triton
import triton.language as tl

from labml_bcn.native.triton_tables import derive_gradient, derive_map, merge

__all__ = [
    "apply_map",
    "combine",
    "derive_gradient",
    "derive_map",
    "measure",
    "standardize",
    "standardize_backward",
    "sum_up",
]


@triton.jit
def locate(
    row, first, end, rows, channels, length, BLOCK: tl.constexpr, LAST: tl.constexpr
):
    """Return where the values of a tile lie, and which are there."""
    position = first + tl.arange(0, BLOCK)
    inside = (row < rows)[:, None] & (position < end)[None, :]
    position = position.to(tl.int64)[None, :]
    if LAST:
        sample = (row // channels).to(tl.int64)
        start = sample * channels * length + row % channels
        at = start[:, None] + position * channels
    else:
        at = row.to(tl.int64)[:, None] * length + position
    return at, inside


@triton.jit
def measure_rows(
    x,
    row,
    start,
    end,
    rows,
    channels,
    length,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    LAST: tl.constexpr,
):
    """Return the mean of a stretch of each row, and the sum of squares around it."""
    mean = tl.zeros((ROWS,), tl.float64)
    square = tl.zeros((ROWS,), tl.float32)
    for first in range(start, end, BLOCK):
        at, inside = locate(row, first, end, rows, channels, length, BLOCK, LAST)
        values = tl.load(x + at, mask=inside, other=0).to(tl.float32)
        count = tl.minimum(end - first, BLOCK)
        # The values are in registers, so a second look at them is free. The first finds
        # a centre as good as a float32 can be, the second what it lacks.
        centre = tl.sum(values, 1) / count
        distance = tl.where(inside, values - centre[:, None], 0.0)
        rest = tl.sum(distance, 1) / count
        new_square = tl.sum(distance * distance, 1) - rest * rest * count
        new_mean = centre.to(tl.float64) + rest
        mean, square = merge(mean, square, first - start, new_mean, new_square, count)
    return mean, square


@triton.jit
def measure(
    x,
    parts,
    rows,
    channels,
    length,
    span,
    splits,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    LAST: tl.constexpr,
):
    """Write mean (in two floats) and sum of squares of a stretch of each row."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    split = tl.program_id(1)
    start = split * span
    end = tl.minimum(start + span, length)
    mean, square = measure_rows(
        x, row, start, end, rows, channels, length, ROWS, BLOCK, LAST
    )
    high = mean.to(tl.float32)
    part, size = parts + row * splits + split, rows * splits
    tl.store(part, high, mask=row < rows)
    tl.store(part + size, (mean - high).to(tl.float32), mask=row < rows)
    tl.store(part + 2 * size, square, mask=row < rows)


@triton.jit
def load_map(saved, row, rows):
    r"""Return $\mu$, slope and offset of each row."""
    mu = tl.load(saved + row, mask=row < rows, other=0)
    slope = tl.load(saved + 3 * rows + row, mask=row < rows, other=0)
    offset = tl.load(saved + 4 * rows + row, mask=row < rows, other=0)
    return mu[:, None], slope[:, None], offset[:, None]


@triton.jit
def apply_map(
    x,
    residual,
    y,
    saved,
    rows,
    channels,
    length,
    span,
    RELU: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    LAST: tl.constexpr,
):
    """Write the output."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    start = tl.program_id(1) * span
    end = tl.minimum(start + span, length)
    mu, slope, offset = load_map(saved, row, rows)
    for first in range(start, end, BLOCK):
        at, inside = locate(row, first, end, rows, channels, length, BLOCK, LAST)
        values = tl.load(x + at, mask=inside, other=0).to(tl.float32)
        result = slope * (values - mu) + offset
        if residual is not None:
            result += tl.load(residual + at, mask=inside, other=0).to(tl.float32)
        if RELU:
            # NaN is not below zero, and stays.
            result = tl.where(result <= 0, 0.0, result)
        tl.store(y + at, result, mask=inside)


@triton.jit
def load_gradient(dy, y, mapped, at, inside, RELU: tl.constexpr):
    """Return the gradient, where relu let it through.

    Relu's own output says where that was, or else what was given to it.
    """
    gradient = tl.load(dy + at, mask=inside, other=0).to(tl.float32)
    if RELU:
        if y is not None:
            mapped = tl.load(y + at, mask=inside, other=0).to(tl.float32)
        gradient = tl.where(mapped <= 0, 0.0, gradient)
    return gradient


@triton.jit
def sum_up(
    dy,
    x,
    y,
    d_residual,
    saved,
    sums,
    rows,
    channels,
    length,
    span,
    splits,
    RELU: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    LAST: tl.constexpr,
):
    """Write $S$ and $T$ of a stretch of each row, and the residual's gradient."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    split = tl.program_id(1)
    start = split * span
    end = tl.minimum(start + span, length)
    mu, slope, offset = load_map(saved, row, rows)
    s = tl.zeros((ROWS, BLOCK), tl.float32)
    t = tl.zeros((ROWS, BLOCK), tl.float32)
    for first in range(start, end, BLOCK):
        at, inside = locate(row, first, end, rows, channels, length, BLOCK, LAST)
        values = tl.load(x + at, mask=inside, other=0).to(tl.float32)
        distance = tl.where(inside, values - mu, 0.0)
        mapped = slope * distance + offset
        gradient = load_gradient(dy, y, mapped, at, inside, RELU)
        if d_residual is not None:
            tl.store(d_residual + at, gradient, mask=inside)
        s += gradient
        t += gradient * distance
    part, size = sums + row * splits + split, rows * splits
    tl.store(part, tl.sum(s, 1), mask=row < rows)
    tl.store(part + size, tl.sum(t, 1), mask=row < rows)


@triton.jit
def combine(
    dy,
    x,
    y,
    dx,
    saved,
    tables,
    rows,
    channels,
    length,
    span,
    RELU: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    LAST: tl.constexpr,
):
    """Write the input's gradient."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    start = tl.program_id(1) * span
    end = tl.minimum(start + span, length)
    mu, slope, offset = load_map(saved, row, rows)
    q = tl.load(tables + row, mask=row < rows, other=0)
    r = tl.load(tables + rows + row, mask=row < rows, other=0)
    for first in range(start, end, BLOCK):
        at, inside = locate(row, first, end, rows, channels, length, BLOCK, LAST)
        values = tl.load(x + at, mask=inside, other=0).to(tl.float32)
        distance = values - mu
        mapped = slope * distance + offset
        gradient = load_gradient(dy, y, mapped, at, inside, RELU)
        result = slope * gradient + q[:, None] * distance + r[:, None]
        tl.store(dx + at, result, mask=inside)


@triton.jit
def standardize(
    w,
    out,
    saved,
    filters,
    length,
    eps,
    gain,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Give filters mean 0 and standard deviation `gain`."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mean, square = measure_rows(
        w, row, 0, length, filters, 1, length, ROWS, BLOCK, False
    )
    rho = 1 / tl.sqrt(square / length + eps)
    mu = mean.to(tl.float32)
    low = (mean - mu).to(tl.float32)
    tl.store(saved + row, mu, mask=row < filters)
    tl.store(saved + filters + row, low, mask=row < filters)
    tl.store(saved + 2 * filters + row, rho, mask=row < filters)
    slope = gain * rho
    offset = -slope * low
    for first in range(0, length, BLOCK):
        at, inside = locate(row, first, length, filters, 1, length, BLOCK, False)
        values = tl.load(w + at, mask=inside, other=0).to(tl.float32)
        result = slope[:, None] * (values - mu[:, None]) + offset[:, None]
        tl.store(out + at, result, mask=inside)


@triton.jit
def standardize_backward(
    gradient,
    w,
    dw,
    saved,
    filters,
    length,
    gain,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Take from the gradient its mean, and its part along the filter."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mu = tl.load(saved + row, mask=row < filters, other=0)
    low = tl.load(saved + filters + row, mask=row < filters, other=0)
    rho = tl.load(saved + 2 * filters + row, mask=row < filters, other=0)
    s = tl.zeros((ROWS, BLOCK), tl.float32)
    t = tl.zeros((ROWS, BLOCK), tl.float32)
    for first in range(0, length, BLOCK):
        at, inside = locate(row, first, length, filters, 1, length, BLOCK, False)
        values = tl.load(w + at, mask=inside, other=0).to(tl.float32)
        g = tl.load(gradient + at, mask=inside, other=0).to(tl.float32)
        s += g
        t += g * tl.where(inside, values - mu[:, None], 0.0)
    s = tl.sum(s, 1)
    t = tl.sum(t, 1) - low * s
    slope = gain * rho
    q = -slope * rho * rho * t / length
    r = -slope * s / length - q * low
    for first in range(0, length, BLOCK):
        at, inside = locate(row, first, length, filters, 1, length, BLOCK, False)
        values = tl.load(w + at, mask=inside, other=0).to(tl.float32)
        g = tl.load(gradient + at, mask=inside, other=0).to(tl.float32)
        along = q[:, None] * (values - mu[:, None])
        tl.store(dw + at, slope[:, None] * g + along + r[:, None], mask=inside)
