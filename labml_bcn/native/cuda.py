"""Launch the Triton kernels: three a direction, and no wait for the GPU.

The modes are counted as in `src/interface.h`: 0 evaluation, 1 around the batch mean,
2 around the running mean, 3 plain. Weights that are `None` stand for ones and zeros.
"""

from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

# What a program holds in registers, in values: as much as keeps memory busy, or less
# where the GPU would not be full of programs.
MOST, LEAST = 2048, 512
PROGRAMS_A_PROCESSOR = 4
# With the channels last, neighbours in memory are rows: as many as fill a cache line.
ROWS_ACROSS = 32


class Plan(NamedTuple):
    """How a pass is cut: tiles of rows and positions, and stretches of each row."""

    tile_rows: int
    tile_positions: int
    span: int
    splits: int


def is_available() -> bool:
    """Say whether Triton is installed."""
    return find_spec("triton") is not None


@cache
def kernels() -> Any:
    """Import the kernels, and Triton with them, when they are first needed."""
    from labml_bcn.native import triton_kernels

    return triton_kernels


@cache
def count_processors(device: torch.device) -> int:
    """Return the multiprocessors of a GPU; where Triton interprets, those of one."""
    if device.type != "cuda":
        return 132
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count


def power_of_two(number: int) -> int:
    """Return the least power of two that is not below a number."""
    return 1 << (number - 1).bit_length()


def divide_up(number: int, by: int) -> int:
    """Divide, and round up."""
    return -(-number // by)


@cache
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


class Layout(NamedTuple):
    """An activation's sizes and plan, as the launches want them."""

    samples: int
    channels: int
    positions: int
    channels_last: bool
    plan: Plan

    @classmethod
    def of(cls, x: Tensor) -> "Layout":
        """Look at a dense activation, `[B, C, *]`."""
        samples, channels = x.shape[:2]
        positions = x.numel() // (samples * channels)
        last = not x.is_contiguous()
        cut = plan(samples * channels, positions, count_processors(x.device), last)
        return cls(samples, channels, positions, last, cut)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.samples * self.channels

    @property
    def grid(self) -> tuple[int, int]:
        """The programs of a pass."""
        return divide_up(self.rows, self.plan.tile_rows), self.plan.splits

    @property
    def tile(self) -> dict[str, Any]:
        """What a pass is compiled for."""
        return {
            "ROWS": self.plan.tile_rows,
            "BLOCK": self.plan.tile_positions,
            "LAST": self.channels_last,
        }

    def table(self, groups: int) -> dict[str, int]:
        """Return what the tables' kernels are compiled for: a group's channels, and as
        many samples as a program can hold.
        """
        size = power_of_two(self.channels // groups)
        splits = power_of_two(self.plan.splits)
        samples = min(power_of_two(self.samples), max(1, MOST // (size * splits)))
        return {"SAMPLES": samples, "SIZE": size, "SPLITS": splits}


def arrange_like(x: Tensor, other: Tensor) -> Tensor:
    """Return a tensor's values in the memory order of another of its shape."""
    if x.stride() == other.stride():
        return x
    return torch.empty_like(other, dtype=x.dtype).copy_(x)


def saved_size(samples: int, channels: int) -> int:
    """Return how many floats a forward pass saves for the backward pass."""
    return 5 * samples * channels + 3 * channels


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
    """Normalize; return the output, and what the backward pass needs besides `x`."""
    layout = Layout.of(x)
    samples, channels, length, _, (*_, span, splits) = layout
    rows, grid = layout.rows, layout.grid
    if residual is not None:
        residual = arrange_like(residual, x)
    y = torch.empty_like(x)
    tables = {"dtype": torch.float32, "device": x.device}
    parts = torch.empty(3 * rows * splits, **tables)
    saved = torch.empty(saved_size(samples, channels), **tables)
    run = kernels()
    with torch.cuda.device_of(x):
        run.measure[grid](
            x, parts, rows, channels, length, span, splits, **layout.tile
        )
        run.derive_map[(groups,)](
            *(parts, saved, exp_mean, exp_var, gamma_c, beta_c, gamma_g, beta_g),
            *(samples, channels, length, span, splits, channels // groups),
            *(eps_c, eps_g, momentum),
            HOW=how,
            **layout.table(groups),
        )
        run.apply_map[grid](
            *(x, residual, y, saved, rows, channels, length, span),
            RELU=relu,
            **layout.tile,
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
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of `x`, of the residual, and of the weights in one row.

    A gradient that is not wanted is empty. `y` is the output, if relu followed a
    residual.
    """
    layout = Layout.of(x)
    samples, channels, length, _, (*_, span, splits) = layout
    rows, grid = layout.rows, layout.grid
    dy = arrange_like(dy, x)
    tables = {"dtype": torch.float32, "device": x.device}
    scratch = torch.empty(2 * rows * (splits + 1), **tables)
    sums, q_and_r = scratch[: 2 * rows * splits], scratch[2 * rows * splits :]
    d_weights = torch.empty(2 * (channels + groups), **tables)
    d_residual = torch.empty_like(dy) if want_residual else None
    dx = torch.empty_like(x) if want_dx else None
    run = kernels()
    with torch.cuda.device_of(x):
        run.sum_up[grid](
            *(dy, x, y, d_residual, saved, sums),
            *(rows, channels, length, span, splits),
            RELU=relu,
            **layout.tile,
        )
        run.derive_gradient[(groups,)](
            *(sums, saved, q_and_r, d_weights, gamma_c, beta_c, gamma_g),
            *(samples, channels, groups, length, splits, channels // groups),
            *(eps_c, eps_g),
            IS_PLAIN=plain,
            **layout.table(groups),
        )
        if want_dx:
            # What relu let through is what the residual got.
            passed = d_residual if want_residual else dy
            run.combine[grid](
                *(passed, x, y, dx, saved, q_and_r, rows, channels, length, span),
                RELU=relu and not want_residual,
                **layout.tile,
            )
    empty = d_weights.new_empty(0)
    return (
        empty if dx is None else dx,
        d_weights.new_empty(0) if d_residual is None else d_residual,
        d_weights,
    )


def standardize_saved_size(filters: int) -> int:
    """Return how many floats are saved when filters are standardized."""
    return 3 * filters


def cut_filters(w: Tensor) -> tuple[tuple[int], tuple[int, int], dict[str, int]]:
    """Return grid, filters and their length, and tile for weights `[O, *]`."""
    filters, length = w.shape[0], w.numel() // w.shape[0]
    block = min(power_of_two(length), MOST)
    rows = min(power_of_two(filters), max(1, LEAST // block))
    grid = (divide_up(filters, rows),)
    return grid, (filters, length), {"ROWS": rows, "BLOCK": block}


def standardize(w: Tensor, eps: float, gain: float) -> tuple[Tensor, Tensor]:
    """Give each filter of `w` the mean 0 and the standard deviation `gain`.

    `w` is dense and its first dimension the slowest; the others may lie in any order.
    """
    grid, sizes, tile = cut_filters(w)
    out = torch.empty_like(w)
    size = standardize_saved_size(w.shape[0])
    saved = torch.empty(size, dtype=torch.float32, device=w.device)
    with torch.cuda.device_of(w):
        kernels().standardize[grid](w, out, saved, *sizes, eps, gain, **tile)
    return out, saved


def standardize_backward(
    gradient: Tensor, w: Tensor, saved: Tensor, eps: float, gain: float
) -> Tensor:
    """Return the gradient of `w`, from that of its standardized form."""
    grid, sizes, tile = cut_filters(w)
    gradient = arrange_like(gradient, w)
    dw = torch.empty_like(w)
    with torch.cuda.device_of(w):
        kernels().standardize_backward[grid](
            gradient, w, dw, saved, *sizes, gain, **tile
        )
    return dw
