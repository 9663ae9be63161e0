"""The derivation of the fused layer, equation by equation, in float64.

Each quantity is computed from its definition, on the input or on what the
batch norm makes of it, and compared with what the layer's own functions
return. Gradients are autograd's of the two norms in turn.
"""

import copy
from types import SimpleNamespace

import pytest
import torch
from helpers.layers import InTurn
from helpers.oracle import assert_close, batch_norm, channel_norm, normalize

from labml_bcn import BatchChannelNorm
from labml_bcn._passes import Rows, Strided
from labml_bcn.fused import (
    Config,
    How,
    distance_from,
    forward_in_plain_operations,
    normalization_statistics,
    pool_moments,
    slope_and_offset,
)

B, C, L, G = 3, 6, 4, 2
D = C // G
EPS = 0.03
F64 = torch.float64


def per_group(table):
    """The mean over each group, given back to its channels, [B, C]."""
    groups = table.view(-1, G, D).mean(2, keepdim=True)
    return groups.expand(-1, G, D).reshape(-1, C)


@pytest.fixture
def at():
    """An input, four parameters, statistics, and what follows from them."""
    x = 2 * torch.randn(B, C, L, dtype=F64) + 1
    gamma_c, beta_c, m = torch.randn(3, C, dtype=F64)
    gamma_g, beta_g = torch.randn(2, G, dtype=F64)
    s2 = torch.rand(C, dtype=F64) + 0.5
    mu = x.mean(2)
    v = x.var(2, correction=0)
    z = normalize(x, m, s2, gamma_c, beta_c, EPS)
    names = "slope offset rho_c a u delta rho_g kappa".split()
    weights = (gamma_c, beta_c, gamma_g, beta_g)
    config = Config(G, EPS, EPS, How.EVALUATION)
    tables = slope_and_offset(mu - m, v, s2, weights, config)
    flat = {
        name: (
            table.expand(*table.shape[:-1], D).reshape(-1, C).squeeze(0)
            if table.dim() == 3
            else table.reshape(C)
        )
        for name, table in zip(names, tables, strict=True)
    }
    return SimpleNamespace(
        x=x, weights=weights, m=m, s2=s2, mu=mu, v=v, z=z, config=config, **flat
    )


# --- Forward ----------------------------------------------------------------


@pytest.mark.equation("fused.moments")
@pytest.mark.parametrize("passes", [Rows, Strided])
def test_the_moments_are_the_mean_and_variance_over_positions(at, passes):
    point, step, v, distance = passes.measure(at.x.clone())
    assert_close(point + step, at.x.sum(2) / L)
    assert_close(v, ((at.x - at.mu[..., None]) ** 2).sum(2) / L)
    assert_close(distance, at.x - point[..., None])


@pytest.mark.equation("fused.pooling")
@pytest.mark.parametrize("size", [0, 1e-9, 3])
def test_pooled_moments_are_the_batchs_mean_and_variance(at, size):
    step = size * torch.randn(B, C, dtype=F64)
    centre, shift, var, count = pool_moments(at.mu - step, step, at.v, L, None)
    assert count == B * L
    lines = at.x.transpose(0, 1).reshape(C, -1)
    assert_close(centre + shift, lines.mean(1))
    assert_close(var, ((lines - lines.mean(1, keepdim=True)) ** 2).mean(1))


@pytest.mark.equation("fused.batch-slope")
def test_the_batch_norms_slope_is_what_it_multiplies_by(at):
    assert_close(at.rho_c, 1 / (at.s2 + EPS).sqrt())
    assert_close(at.a, at.weights[0] * at.rho_c)
    step = torch.ones_like(at.x)
    moved = normalize(at.x + step, at.m, at.s2, *at.weights[:2], EPS)
    assert_close((moved - at.z)[0, :, 0], at.a)


@pytest.mark.equation("fused.centred-mean")
@pytest.mark.parametrize("how", How)
def test_what_is_normalized_with_has_a_distance_from_each_mean(at, how):
    running = at.m.clone(), at.s2.clone()
    config = at.config._replace(how=how)
    step = torch.randn(B, C, dtype=F64)
    u, mean, var = normalization_statistics(
        running, at.x, at.mu - step, step, at.v, config
    )
    assert_close(u, at.mu - mean)
    expected = running
    if how is How.PLAIN:
        lines = at.x.transpose(0, 1).reshape(C, -1)
        expected = lines.mean(1), lines.var(1, correction=0)
    assert_close(mean, expected[0])
    assert_close(var, expected[1])


@pytest.mark.equation("fused.mean-of-z", "fused.deviation")
def test_a_channels_deviation_is_its_mean_minus_its_groups(at):
    eta = at.z.mean(2)
    assert_close(at.a * at.u + at.weights[1], eta)
    assert_close(at.delta, eta - per_group(eta))


@pytest.mark.equation("fused.group-variance")
def test_the_groups_variance_is_that_within_channels_plus_between(at):
    grouped = at.z.view(B, G, D * L)
    variance = ((grouped - grouped.mean(2, keepdim=True)) ** 2).mean(2)
    rho = (1 / (variance + EPS).sqrt()).repeat_interleave(D, 1)
    assert_close(at.rho_g, rho)
    assert_close(at.kappa, at.weights[2].repeat_interleave(D) * rho)


@pytest.mark.equation("fused.slope-and-offset")
def test_slope_and_offset_follow_from_both_norms(at):
    assert_close(at.slope, at.kappa * at.a)
    beta = at.weights[3].repeat_interleave(D)
    assert_close(at.offset, at.kappa * at.delta + beta)


# --- The layer --------------------------------------------------------------


def layers(plain, training=True):
    """The fused layer, and one made of two norms, with the same state."""
    options = {"eps": EPS, "estimate": not plain, "dtype": F64}
    fused = BatchChannelNorm(C, G, **options)
    composed = InTurn(C, G, **options)
    with torch.no_grad():
        for parameter in fused.parameters():
            parameter.normal_()
        fused.batch_norm.exp_mean.normal_()
        fused.batch_norm.exp_var.uniform_(0.5, 2)
    composed.load_state_dict(copy.deepcopy(fused.state_dict()))
    return fused.train(training), composed.train(training)


@pytest.mark.equation("fused.affine-map", "fused.one-map")
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_the_layer_is_one_affine_map_and_both_norms_in_turn(plain, training):
    fused, composed = layers(plain, training)
    x = torch.randn(B, C, L, dtype=F64)
    y = fused(x)
    assert_close(y, composed(x))
    # One slope and one offset for all positions: y is a line in x.
    distance = x - x.mean(2, keepdim=True)
    slope = (y * distance).sum(2) / (distance**2).sum(2)
    line = slope[..., None] * distance + y.mean(2, keepdim=True)
    assert_close(y, line)


@pytest.mark.equation("fused.fixed-point")
@pytest.mark.parametrize("plain", [False, True])
def test_from_a_fixed_point_values_and_both_gradients_are_the_same(at, plain):
    config = at.config._replace(how=How.PLAIN if plain else How.EVALUATION)

    def statistics(point, step, v):
        mean, shift, var = at.m, 0, at.s2
        if plain:
            mean, shift, var, _ = pool_moments(point, step, v, L, None)
        return distance_from(mean, point, step - shift), mean, var

    def restated(x):
        first = at.weights[:2]
        z = (
            batch_norm(x, *first, eps=EPS)
            if plain
            else normalize(x, at.m, at.s2, *first, EPS)
        )
        return channel_norm(z, G, *at.weights[2:], eps=EPS)

    def ours(x):
        return forward_in_plain_operations(x, at.weights, statistics, config)

    dy, dx = torch.randn(2, B, C, L, dtype=F64)
    for a, b in zip(
        derivatives(ours, at.x, dy, dx),
        derivatives(restated, at.x, dy, dx),
        strict=True,
    ):
        assert_close(a, b)


def derivatives(function, x, dy, dx):
    """The value, the gradient along dy, and its gradient along dx."""
    x = x.clone().requires_grad_()
    y = function(x)
    (first,) = torch.autograd.grad(y, x, dy, create_graph=True)
    (second,) = torch.autograd.grad(first, x, dx)
    return y, first, second


# --- Backward ---------------------------------------------------------------


@pytest.fixture
def back(at):
    """A gradient of the output, and what follows from it by definition."""
    fused, _ = layers(plain=False, training=False)
    norm, second = fused.batch_norm, fused.channel_norm
    with torch.no_grad():
        for place, value in zip(
            (norm.scale, norm.shift, second.scale, second.shift),
            at.weights,
            strict=True,
        ):
            place.copy_(value)
        norm.exp_mean.copy_(at.m)
        norm.exp_var.copy_(at.s2)
    dy = torch.randn(B, C, L, dtype=F64)
    z = at.z.clone().requires_grad_()
    scales = [w.clone().requires_grad_() for w in at.weights[2:]]
    y = channel_norm(z, G, *scales, eps=EPS)
    dz, d_gamma_g, d_beta_g = torch.autograd.grad(y, (z, *scales), dy)
    return SimpleNamespace(
        layer=fused,
        dy=dy,
        dz=dz,
        d_gamma_g=d_gamma_g,
        d_beta_g=d_beta_g,
        s=dy.sum(2),
        t=(dy * (at.x - at.mu[..., None])).sum(2),
    )


def by_hand(layer, x, dy):
    """The gradients that the layer's own backward pass gives."""
    x = x.clone().requires_grad_()
    first, second = layer.batch_norm, layer.channel_norm
    leaves = (x, first.scale, first.shift, second.scale, second.shift)
    return torch.autograd.grad(layer(x), leaves, dy)


@pytest.mark.equation("fused.position-sums")
@pytest.mark.parametrize("passes", [Rows, Strided])
def test_the_sums_run_over_the_positions(at, back, passes):
    s, t = passes.sums(at.x, at.mu, back.dy)
    assert_close(s.reshape(B, C), back.s)
    assert_close(t.reshape(B, C), back.t)


@pytest.mark.equation("fused.group-parameters")
def test_the_groups_parameters_have_their_gradients_from_the_sums(at, back):
    u = (at.a * back.t + at.delta * back.s).view(B, G, D).sum(2)
    rho = at.rho_g.view(B, G, D)[..., 0]
    *_, d_gamma_g, d_beta_g = by_hand(back.layer, at.x, back.dy)
    assert_close(d_gamma_g, (rho * u).sum(0))
    assert_close(d_gamma_g, back.d_gamma_g)
    assert_close(d_beta_g, back.s.view(B, G, D).sum((0, 2)))
    assert_close(d_beta_g, back.d_beta_g)


@pytest.mark.equation("fused.through-channel-norm")
def test_the_channel_norm_takes_out_the_mean_and_the_part_along_z(at, back):
    u = per_group(at.a * back.t + at.delta * back.s) * D
    phi = at.rho_g**2 * u
    distance = at.z - per_group(at.z.mean(2))[..., None]
    sums = (per_group(back.s) * D)[..., None] + phi[..., None] * distance
    dz = at.kappa[..., None] * (back.dy - sums / (D * L))
    assert_close(dz, back.dz)
    # x enters z with the factor a, and so the layer shows its dz.
    dx, *_ = by_hand(back.layer, at.x, back.dy)
    assert_close(dx / at.a[:, None], dz)


@pytest.mark.equation("fused.omega")
def test_omega_is_what_all_positions_lose_alike(at, back):
    u = per_group(at.a * back.t + at.delta * back.s) * D
    omega = per_group(back.s) * D + at.rho_g**2 * u * at.delta
    dx, *_ = by_hand(back.layer, at.x, back.dy)
    alike = (dx - at.slope[..., None] * back.dy).mean(2)
    assert_close(alike, -at.slope * omega / (D * L))


@pytest.mark.equation("fused.sums-of-dz", "fused.channel-parameters")
def test_the_channels_parameters_have_their_gradients_from_dz(at, back):
    sz = back.dz.sum(2)
    tz = (back.dz * (at.x - at.mu[..., None])).sum(2)
    # Sample by sample the sums show themselves, and together they add up.
    for x, dy, s, t, u in zip(at.x, back.dy, sz, tz, at.u, strict=True):
        _, d_gamma, d_beta, *_ = by_hand(back.layer, x[None], dy[None])
        assert_close(d_beta, s)
        assert_close(d_gamma, at.rho_c * (t + u * s))
    _, d_gamma_c, d_beta_c, *_ = by_hand(back.layer, at.x, back.dy)
    assert_close(d_gamma_c, at.rho_c * (tz + at.u * sz).sum(0))
    assert_close(d_beta_c, sz.sum(0))


@pytest.mark.equation("fused.input-gradient")
def test_the_inputs_gradient_is_an_affine_map_of_two_variables(at, back):
    phi = at.rho_g**2 * per_group(at.a * back.t + at.delta * back.s) * D
    omega = per_group(back.s) * D + phi * at.delta
    q = -at.slope * phi * at.a / (D * L)
    r = -at.slope * omega / (D * L)
    dx, *_ = by_hand(back.layer, at.x, back.dy)
    distance = at.x - at.mu[..., None]
    slope, q, r = (table[..., None] for table in (at.slope, q, r))
    assert_close(dx, slope * back.dy + q * distance + r)
    assert_close(dx, at.a[:, None] * back.dz)


@pytest.mark.equation("fused.plain-terms")
def test_in_plain_training_the_gradient_loses_two_parts_more():
    fused, composed = layers(plain=True)
    x = torch.randn(B, C, L, dtype=F64)
    dy = torch.randn_like(x)
    ours = by_hand(fused, x, dy)
    for a, b in zip(ours, by_hand(composed, x, dy), strict=True):
        assert_close(a, b)
    # The same layer with these statistics as constants has the other terms.
    lines = x.transpose(0, 1).reshape(C, -1)
    mean, var = lines.mean(1), lines.var(1, correction=0)
    fixed, _ = layers(plain=True, training=False)
    fixed.load_state_dict(fused.state_dict())
    fixed.batch_norm.exp_mean.copy_(mean)
    fixed.batch_norm.exp_var.copy_(var)
    constant, d_gamma, d_beta, *_ = by_hand(fixed, x, dy)
    rho = 1 / (var + EPS).sqrt()
    a = fused.batch_norm.scale.detach() * rho
    q = -a * rho * d_gamma / (B * L)
    more = q[:, None] * (x - mean[:, None]) - (a * d_beta / (B * L))[:, None]
    assert_close(ours[0], constant + more)
