"""Launch the Triton kernels: three a direction, and no wait for the GPU.

The modes are counted as in `src/interface.h`: 0 evaluation, 1 around the batch mean,
2 around the running mean, 3 plain. Weights that are `None` stand for ones and zeros.
"""

from functools import cache, lru_cache
from importlib.util import find_spec
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labml_bcn._versions import OLDEST_WITH_KERNELS
from labml_bcn.native.layouts import lay_out_as

# What a program holds in registers, in values: as much as keeps memory busy, or less
# where the GPU would not be full of programs.
MOST, LEAST = 2048, 512
PROGRAMS_A_PROCESSOR = 4
# With the channels last, neighbours in memory are rows: as many as fill a cache line.
ROWS_ACROSS = 32
# A thread has eight of them, which are two loads of float32, or one of bfloat16.
VALUES_A_WARP = 256


class Plan(NamedTuple):
    """How a pass is cut: tiles of rows and positions, and stretches of each row."""

    tile_rows: int
    tile_positions: int
    span: int
    splits: int


DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def find_obstacle() -> str | None:
    """Return what keeps the kernels from running, in words for the status."""
    # PyTorch's version is a string that compares by its numbers.
    if torch.__version__ < OLDEST_WITH_KERNELS:
        return (
            f"PyTorch {torch.__version__} is too old; the kernels need PyTorch "
            f"{OLDEST_WITH_KERNELS} or newer"
        )
    return None if find_spec("triton") else "Triton is not installed"


def takes(x: Tensor) -> bool:
    """Return whether the kernels know this dtype."""
    return x.dtype in DTYPES


@cache
def kernels() -> Any:
    """Import the kernels, and Triton with them, when they are first needed."""
    from labml_bcn.native import triton_kernels

    return triton_kernels


@cache
def count_processors(device: torch.device) -> int:
    """Return the multiprocessors of a GPU, or some few where Triton interprets."""
    if device.type != "cuda":
        return 4
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count


def power_of_two(number: int) -> int:
    """Return the least power of two that is not below a number."""
    return 1 << (number - 1).bit_length()


def divide_up(number: int, by: int) -> int:
    """Divide, and round up."""
    return -(-number // by)


def count_warps(values: int) -> int:
    """Return the warps of a program that holds so many values."""
    return min(16, max(4, values // VALUES_A_WARP))


def plan(
    rows: int, positions: int, processors: int, channels_last: bool = False
) -> Plan:
    """Cut a pass so that every multiprocessor has programs, if there are values enough.

    Short rows share a tile. Few rows are split.
    """
    wanted = PROGRAMS_A_PROCESSOR * processors
    tile = MOST
    while tile > LEAST and rows * positions < wanted * tile:
        tile //= 2
    across = min(ROWS_ACROSS, power_of_two(rows)) if channels_last else 1
    block = min(power_of_two(positions), tile // across)
    tile_rows = min(power_of_two(rows), tile // block)
    programs = divide_up(rows, tile_rows)
    splits = min(divide_up(wanted, programs), divide_up(positions, block))
    span = divide_up(divide_up(positions, splits), block) * block
    return Plan(tile_rows, block, span, divide_up(positions, span))


class Launches(NamedTuple):
    """What the launches for activations of one shape have in common."""

    samples: int
    channels: int
    length: int
    rows: int
    span: int
    splits: int
    size: int  # channels of a group
    grid: tuple[int, int]  # of a pass
    tile: dict[str, Any]  # what a pass is compiled for
    table: dict[str, int]  # what the tables' kernels are compiled for


@lru_cache(1024)
def prepare(
    shape: tuple[int, ...], groups: int, channels_last: bool, device: torch.device
) -> Launches:
    """Prepare the launches for a dense activation, `[B, C, *]`."""
    samples, channels, *positions = shape
    rows, length, size = samples * channels, prod(positions), channels // groups
    tile_rows, block, span, splits = plan(
        rows, length, count_processors(device), channels_last
    )
    # A program of the tables holds a group's channels, and as many samples as go in.
    wide, parts = power_of_two(size), power_of_two(splits)
    most = max(1, MOST // (wide * parts))
    deep = min(power_of_two(samples), most)
    return Launches(
        *(samples, channels, length, rows, span, splits, size),
        grid=(divide_up(rows, tile_rows), splits),
        tile={
            "ROWS": tile_rows,
            "BLOCK": block,
            "LAST": channels_last,
            "num_warps": count_warps(tile_rows * block),
        },
        table={
            "SAMPLES": deep,
            "SIZE": wide,
            "SPLITS": parts,
            "num_warps": count_warps(deep * wide * parts),
        },
    )


def empty_floats(size: int, like: Tensor) -> Tensor:
    """Return a row of floats without values, where another tensor is."""
    return torch.empty(size, dtype=torch.float32, device=like.device)


def saved_size(samples: int, channels: int) -> int:
    """Return how many floats a forward pass saves for the backward pass."""
    return 5 * samples * channels + 3 * channels


def empty_tables(x: Tensor) -> Tensor:
    """Return a tensor of the form that `forward` saves."""
    return empty_floats(saved_size(*x.shape[:2]), x)


def statistics_of(saved: Tensor, channels: int, eps_c: float) -> tuple[Tensor, Tensor]:
    """Return the mean and variance that the batch norm normalized with, in float64."""
    mean, low, var = saved[-3 * channels :].double().split(channels)
    return mean + low, var


def forward(
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
    """Normalize; return the output, and what the backward pass needs besides `x`.

    `x` is contiguous, or dense with its channels last. The running statistics are
    moved in place.
    """
    run = kernels()
    cut = prepare(x.shape, groups, not x.is_contiguous(), x.device)
    pass_sizes = (cut.rows, cut.channels, cut.length, cut.span)
    if residual is not None:
        residual = lay_out_as(residual, x)
    y = torch.empty_like(x)
    parts = empty_floats(3 * cut.rows * cut.splits, x)
    saved = empty_tables(x)
    with torch.cuda.device_of(x):
        run.measure[cut.grid](x, parts, *pass_sizes, cut.splits, **cut.tile)
        run.derive_map[(groups,)](
            *(parts, saved, exp_mean, exp_var, gamma_c, beta_c, gamma_g, beta_g),
            *(cut.samples, cut.channels, cut.length, cut.span, cut.splits, cut.size),
            *(eps_c, eps_g, momentum),
            HOW=how,
            **cut.table,
        )
        run.apply_map[cut.grid](
            *(x, residual, y, saved), *pass_sizes, RELU=relu, **cut.tile
        )
    return y, saved


def backward(
    dy: Tensor,
    x: Tensor,
    y: Tensor | None,
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
    """Return the gradients of `x`, of the residual, and of the four weights.

    A gradient that is not wanted is `None`. `y` is the output, if relu followed a
    residual; without, the map says where relu let the gradient through.
    """
    run = kernels()
    cut = prepare(x.shape, groups, not x.is_contiguous(), x.device)
    pass_sizes = (cut.rows, cut.channels, cut.length, cut.span)
    dy = lay_out_as(dy, x)
    sums = empty_floats(2 * cut.rows * cut.splits, x)
    q_and_r = empty_floats(2 * cut.rows, x)
    d_weights = empty_floats(2 * (cut.channels + groups), x)
    d_residual = torch.empty_like(dy) if want_residual else None
    dx = torch.empty_like(x) if want_dx else None
    with torch.cuda.device_of(x):
        run.sum_up[cut.grid](
            *(dy, x, y, d_residual, saved, sums, *pass_sizes, cut.splits),
            RELU=relu,
            **cut.tile,
        )
        run.derive_gradient[(groups,)](
            *(sums, saved, q_and_r, d_weights, gamma_c, beta_c, gamma_g),
            *(cut.samples, cut.channels, groups, cut.length, cut.splits, cut.size),
            *(eps_c, eps_g),
            IS_PLAIN=plain,
            **cut.table,
        )
        if want_dx:
            # What relu let through is what the residual got.
            run.combine[cut.grid](
                *(dy if d_residual is None else d_residual, x, y, dx),
                *(saved, q_and_r, *pass_sizes),
                RELU=relu and not want_residual,
                **cut.tile,
            )
    return (
        dx,
        d_residual,
        *d_weights.split([cut.channels, cut.channels, groups, groups]),
    )


def empty_filter_tables(w: Tensor) -> Tensor:
    """Return a tensor of the form that `standardize` saves."""
    return empty_floats(3 * w.shape[0], w)


def cut_filters(w: Tensor) -> tuple[tuple[int], tuple[int, int], dict[str, int]]:
    """Return grid, filters and their length, and tile for weights `[O, *]`."""
    filters, length = w.shape[0], w.numel() // w.shape[0]
    block = min(power_of_two(length), MOST)
    rows = min(power_of_two(filters), max(1, LEAST // block))
    grid = (divide_up(filters, rows),)
    tile = {"ROWS": rows, "BLOCK": block, "num_warps": count_warps(rows * block)}
    return grid, (filters, length), tile


def standardize(w: Tensor, eps: float, gain: float) -> tuple[Tensor, Tensor]:
    """Give each filter of `w` the mean 0 and the standard deviation `gain`.

    `w` is dense and its first dimension the slowest; the others may lie in any order.
    """
    grid, sizes, tile = cut_filters(w)
    out = torch.empty_like(w)
    saved = empty_filter_tables(w)
    with torch.cuda.device_of(w):
        kernels().standardize[grid](w, out, saved, *sizes, eps, gain, **tile)
    return out, saved


def standardize_backward(
    gradient: Tensor, w: Tensor, saved: Tensor, eps: float, gain: float
) -> Tensor:
    """Return the gradient of `w`, from that of its standardized form."""
    grid, sizes, tile = cut_filters(w)
    gradient = lay_out_as(gradient, w)
    dw = torch.empty_like(w)
    with torch.cuda.device_of(w):
        kernels().standardize_backward[grid](
            gradient, w, dw, saved, *sizes, gain, **tile
        )
    return dw
