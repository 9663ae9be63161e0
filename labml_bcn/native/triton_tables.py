"""The small tables between the passes of batch-channel norm, as Triton kernels.

A program takes a group, and tiles of samples and the group's channels. The formulas are
those of the layer's annotated page, and so are the names.

Means are float64 where one is subtracted from another: at a large mean, the digits of a
float32 go into what both share. They are few. What a pass subtracts from the values is
`mu`, the mean as a float32; what that lacks, `low`, goes into the offset.
"""

# mypy: ignore-errors
# Python in syntax alone: these functions are read by a compiler of their own.

import triton
import triton.language as tl

# How the batch norm normalizes, as the callers count the ways.
EVALUATION = tl.constexpr(0)
AROUND_RUNNING_MEAN = tl.constexpr(2)
PLAIN = tl.constexpr(3)


@triton.jit
def merge(mean, square, seen, new_mean, new_square, new):
    """Return mean and sum of squares of two sets of values, from those of each.

    This is Chan's formula: squares around each set's own mean, and the distance of the
    two means. Nothing cancels, wherever the values lie.
    """
    share = new / (seen + new)
    distance = new_mean - mean
    between = distance * distance * (seen * share)
    return mean + distance * share, square + new_square + between.to(tl.float32)


@triton.jit
def find_parts(row, here, splits, SPLITS: tl.constexpr):
    """Return where the parts of some rows lie, and which are there."""
    split = tl.arange(0, SPLITS)[None, None, :]
    return row[:, :, None] * splits + split, here[:, :, None] & (split < splits)


@triton.jit
def gather_moments(parts, row, here, rows, length, span, splits, SPLITS: tl.constexpr):
    """Return mean and biased variance of rows, from the parts of each."""
    at, inside = find_parts(row, here, splits, SPLITS)
    part, size = parts + at, rows * splits
    means = tl.load(part, mask=inside, other=0).to(tl.float64)
    means += tl.load(part + size, mask=inside, other=0)
    squares = tl.load(part + 2 * size, mask=inside, other=0)
    split = tl.arange(0, SPLITS)
    count = tl.where(split < splits, tl.minimum(length - split * span, span), 0)
    count = count[None, None, :]
    mean = tl.sum(means * count, 2) / length
    distance = tl.where(inside, means - mean[:, :, None], 0.0).to(tl.float32)
    square = tl.sum(squares + distance * distance * count, 2)
    return mean, square / length


@triton.jit
def load_weights(weights, at, there, default):
    """Return weights as float32, or the default for all if there are none."""
    values = default
    if weights is not None:
        values = tl.load(weights + at, mask=there, other=default).to(tl.float32)
    return values


@triton.jit
def locate_channels(group, size, SIZE: tl.constexpr):
    """Return the channels of a group, and which are there."""
    channel = tl.arange(0, SIZE)
    return group * size + channel, channel < size


@triton.jit
def locate_rows(first, samples, channel, channels, real, SAMPLES: tl.constexpr):
    """Return the rows of some samples and a group's channels, and which are there."""
    sample = first + tl.arange(0, SAMPLES)
    row = sample[:, None] * channels + channel
    return row, (sample < samples)[:, None] & real


@triton.jit
def center_in_group(mu, v, mean, a, beta, here, size, eps):
    r"""Return $u$, $\delta$ and $\rho_{b,g}$ of samples and the channels of a group."""
    u = mu - mean
    eta = tl.where(here, a * u + beta, 0.0)
    group_mean = tl.sum(eta, 1) / size
    delta = tl.where(here, eta - group_mean[:, None], 0.0).to(tl.float32)
    scale = a.to(tl.float32)
    within = tl.where(here, scale * scale * v, 0.0)
    total = tl.sum(within + delta * delta, 1) / size
    return u.to(tl.float32), delta, 1 / tl.sqrt(total + eps)


@triton.jit
def is_finite(value):
    """Say of each value whether it is neither infinite nor NaN."""
    return tl.abs(value) < float("inf")


@triton.jit
def learn(exp_mean, exp_var, channel, real, mean, var, momentum):
    """Move the running statistics, and return them.

    A channel whose new mean or variance is not finite keeps both.
    """
    old_mean = tl.load(exp_mean + channel, mask=real, other=0)
    old_var = tl.load(exp_var + channel, mask=real, other=1)
    # Several warps hold the same channel, and one of them will store.
    tl.debug_barrier()
    new_mean = (old_mean + momentum * (mean - old_mean)).to(tl.float32)
    new_var = old_var + momentum * (var - old_var)
    fine = is_finite(new_mean) & is_finite(new_var)
    new_mean = tl.where(fine, new_mean, old_mean)
    new_var = tl.where(fine, new_var, old_var)
    tl.store(exp_mean + channel, new_mean, mask=real)
    tl.store(exp_var + channel, new_var, mask=real)
    return new_mean, new_var


@triton.jit
def pool_moments(
    parts,
    channel,
    real,
    samples,
    channels,
    length,
    span,
    splits,
    SAMPLES: tl.constexpr,
    SIZE: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Return mean and biased variance of channels over the batch."""
    mean = tl.zeros((SIZE,), tl.float64)
    square = tl.zeros((SIZE,), tl.float32)
    rows = samples * channels
    for first in range(0, samples, SAMPLES):
        row, here = locate_rows(first, samples, channel, channels, real, SAMPLES)
        mu, v = gather_moments(parts, row, here, rows, length, span, splits, SPLITS)
        count = tl.minimum(samples - first, SAMPLES)
        new_mean = tl.sum(mu, 0) / count
        between = tl.where(here, mu - new_mean, 0.0).to(tl.float32)
        new_square = tl.sum(v + between * between, 0)
        mean, square = merge(mean, square, first, new_mean, new_square, count)
    return mean, square / samples


@triton.jit
def choose_statistics(
    exp_mean, exp_var, channel, real, mean, var, count, momentum, HOW: tl.constexpr
):
    """Learn from the batch, and return what the batch norm normalizes with."""
    # The batch's own statistics normalize, and the stored variance is unbiased.
    if HOW == PLAIN:
        unbiased = var * (count / (count - 1))
        learn(exp_mean, exp_var, channel, real, mean, unbiased, momentum)
    else:
        if HOW == AROUND_RUNNING_MEAN:
            away = mean - tl.load(exp_mean + channel, mask=real, other=0)
            var += (away * away).to(tl.float32)
        learned, var = learn(exp_mean, exp_var, channel, real, mean, var, momentum)
        mean = learned.to(tl.float64)
    return mean, var


@triton.jit
def save_statistics(of_channel, channels, real, mean, var):
    """Keep them for the backward pass, whatever is learned before it."""
    high = mean.to(tl.float32)
    tl.store(of_channel, high, mask=real)
    tl.store(of_channel + channels, (mean - high).to(tl.float32), mask=real)
    tl.store(of_channel + 2 * channels, var, mask=real)


@triton.jit
def load_statistics(of_channel, channels, real):
    """Return what was saved."""
    mean = tl.load(of_channel, mask=real, other=0).to(tl.float64)
    mean += tl.load(of_channel + channels, mask=real, other=0)
    return mean, tl.load(of_channel + 2 * channels, mask=real, other=1)


@triton.jit
def derive_map(
    parts,
    saved,
    exp_mean,
    exp_var,
    gamma_c,
    beta_c,
    gamma_g,
    beta_g,
    samples,
    channels,
    length,
    span,
    splits,
    size,
    eps_c,
    eps_g,
    momentum,
    HOW: tl.constexpr,
    SAMPLES: tl.constexpr,
    SIZE: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Pool a group's statistics, learn from them, and write slopes and offsets."""
    group = tl.program_id(0)
    channel, real = locate_channels(group, size, SIZE)
    rows = samples * channels
    if HOW == EVALUATION:
        mean = tl.load(exp_mean + channel, mask=real, other=0).to(tl.float64)
        var = tl.load(exp_var + channel, mask=real, other=1)
    else:
        mean, var = pool_moments(
            parts,
            channel,
            real,
            samples,
            channels,
            length,
            span,
            splits,
            SAMPLES,
            SIZE,
            SPLITS,
        )
        mean, var = choose_statistics(
            exp_mean,
            exp_var,
            channel,
            real,
            mean,
            var,
            1.0 * samples * length,
            momentum,
            HOW,
        )
    save_statistics(saved + 5 * rows + channel, channels, real, mean, var)

    rho = 1 / tl.sqrt(var.to(tl.float64) + eps_c)
    a = load_weights(gamma_c, channel, real, 1.0) * rho
    beta = load_weights(beta_c, channel, real, 0.0)
    scale = load_weights(gamma_g, group, group >= 0, 1.0)
    shift = load_weights(beta_g, group, group >= 0, 0.0)
    for first in range(0, samples, SAMPLES):
        row, here = locate_rows(first, samples, channel, channels, real, SAMPLES)
        mean_of_row, v = gather_moments(
            parts, row, here, rows, length, span, splits, SPLITS
        )
        _, delta, rho_g = center_in_group(
            mean_of_row, v, mean, a, beta, here, size, eps_g
        )
        kappa = (scale * rho_g)[:, None]
        slope = kappa * a.to(tl.float32)
        mu = mean_of_row.to(tl.float32)
        low = (mean_of_row - mu).to(tl.float32)
        offset = kappa * delta + shift - slope * low
        tl.store(saved + row, mu, mask=here)
        tl.store(saved + rows + row, low, mask=here)
        tl.store(saved + 2 * rows + row, v, mask=here)
        tl.store(saved + 3 * rows + row, slope, mask=here)
        tl.store(saved + 4 * rows + row, offset, mask=here)


@triton.jit
def go_through_channel_norm(
    sums,
    saved,
    row,
    here,
    rows,
    mean,
    a,
    beta,
    scale,
    size,
    splits,
    eps,
    SPLITS: tl.constexpr,
):
    r"""Return the sums of $dz$ and all that the input's gradient is made of."""
    at, inside = find_parts(row, here, splits, SPLITS)
    s = tl.sum(tl.load(sums + at, mask=inside, other=0), 2)
    t = tl.sum(tl.load(sums + rows * splits + at, mask=inside, other=0), 2)
    mu = tl.load(saved + row, mask=here, other=0)
    low = tl.load(saved + rows + row, mask=here, other=0)
    v = tl.load(saved + 2 * rows + row, mask=here, other=0)
    # The pass has subtracted mu alone.
    t -= low * s
    u, delta, rho_g = center_in_group(
        mu.to(tl.float64) + low, v, mean, a, beta, here, size, eps
    )
    a = a.to(tl.float32)
    kappa = (scale * rho_g)[:, None]
    by_group = rho_g * tl.sum(tl.where(here, a * t + delta * s, 0.0), 1)
    sum_s = tl.sum(s, 1)
    phi = (rho_g * by_group)[:, None]
    omega = sum_s[:, None] + phi * delta
    along = phi * a
    sz = tl.where(here, kappa * (s - omega / size), 0.0)
    tz = tl.where(here, kappa * (t - along * v / size), 0.0)
    return sz, tz, u, low, kappa * a, along, omega, by_group, sum_s


@triton.jit
def derive_gradient(
    sums,
    saved,
    tables,
    d_weights,
    gamma_c,
    beta_c,
    gamma_g,
    samples,
    channels,
    groups,
    length,
    splits,
    size,
    eps_c,
    eps_g,
    IS_PLAIN: tl.constexpr,
    SAMPLES: tl.constexpr,
    SIZE: tl.constexpr,
    SPLITS: tl.constexpr,
):
    """Write the weights' gradients, and the tables $Q$ and $R$ of the input's."""
    group = tl.program_id(0)
    channel, real = locate_channels(group, size, SIZE)
    rows = samples * channels
    mean, var = load_statistics(saved + 5 * rows + channel, channels, real)
    rho = 1 / tl.sqrt(var.to(tl.float64) + eps_c)
    a = load_weights(gamma_c, channel, real, 1.0) * rho
    beta = load_weights(beta_c, channel, real, 0.0)
    scale = load_weights(gamma_g, group, group >= 0, 1.0)
    rho = rho.to(tl.float32)

    y_c = tl.zeros((SIZE,), tl.float32)
    d_beta_c = tl.zeros((SIZE,), tl.float32)
    d_gamma_g = tl.zeros((SAMPLES,), tl.float32)
    d_beta_g = tl.zeros((SAMPLES,), tl.float32)
    for first in range(0, samples, SAMPLES):
        row, here = locate_rows(first, samples, channel, channels, real, SAMPLES)
        sz, tz, u, _, _, _, _, by_group, sum_s = go_through_channel_norm(
            sums,
            saved,
            row,
            here,
            rows,
            mean,
            a,
            beta,
            scale,
            size,
            splits,
            eps_g,
            SPLITS,
        )
        y_c += tl.sum(tz + tl.where(here, u * sz, 0.0), 0)
        d_beta_c += tl.sum(sz, 0)
        d_gamma_g += by_group
        d_beta_g += sum_s
    tl.store(d_weights + channel, rho * y_c, mask=real)
    tl.store(d_weights + channels + channel, d_beta_c, mask=real)
    of_group = d_weights + 2 * channels + group
    tl.store(of_group, tl.sum(d_gamma_g, 0))
    tl.store(of_group + groups, tl.sum(d_beta_g, 0))

    # $x$'s gradient is an affine map of two variables, and in plain training the batch
    # norm's statistics add to it.
    factor = -1.0 / size / length
    more, less = 0.0, 0.0
    if IS_PLAIN:
        count = 1.0 * samples * length
        more = a.to(tl.float32) * rho * rho * y_c / -count
        less = a.to(tl.float32) * d_beta_c / count
    for first in range(0, samples, SAMPLES):
        row, here = locate_rows(first, samples, channel, channels, real, SAMPLES)
        _, _, u, low, slope, along, omega, _, _ = go_through_channel_norm(
            sums,
            saved,
            row,
            here,
            rows,
            mean,
            a,
            beta,
            scale,
            size,
            splits,
            eps_g,
            SPLITS,
        )
        q = along * slope * factor + more
        r = omega * slope * factor + more * u - less
        tl.store(tables + row, q, mask=here)
        tl.store(tables + rows + row, r - q * low, mask=here)
