"""The network: sizes, blocks, and what each normalization can be told."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from labml_bcn import BatchChannelNorm, BatchNorm, WSConv2d
from labml_bcn.experiment import vgg

METHODS = [
    ("bn", False),
    ("bn", True),
    ("gn", False),
    ("gn", True),
    ("bcn", False),
    ("bcn", True),
    ("estbn", False),
    ("estbn", True),
    ("none", False),
]


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_full_vgg_has_labmls_number_of_parameters():
    assert count(vgg.build("vgg", "bcn", ws=True)) == 14_729_098


def test_full_vgg_has_32_groups_and_13_standardized_convolutions():
    model = vgg.build("vgg", "bcn", ws=True)
    norms = [m for m in model.modules() if isinstance(m, BatchChannelNorm)]
    convs = [m for m in model.modules() if isinstance(m, WSConv2d)]
    assert {norm.channel_norm.groups for norm in norms} == {32}
    assert len(norms) == len(convs) == 13
    assert all(conv.bias is not None for conv in convs)


@pytest.mark.parametrize(("norm", "ws"), METHODS)
def test_small_vgg_has_the_parameters_of_its_parts(norm, ws):
    widths = [(3, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128)]
    expected = sum(9 * i * o + o for i, o in widths) + 128 * 10 + 10
    channels = sum(o for _, o in widths)
    expected += 0 if norm == "none" else 2 * channels
    expected += 2 * 8 * len(widths) if norm == "bcn" else 0
    assert count(vgg.build("small", norm, ws=ws)) == expected


@pytest.mark.parametrize(("norm", "ws"), METHODS)
@pytest.mark.parametrize("size", ["small", "vgg"])
def test_every_method_runs_forward_and_backward(size, norm, ws):
    model = vgg.build(size, norm, ws=ws)
    logits = model(torch.randn(2, 3, 32, 32))
    assert logits.shape == (2, 10)
    F.cross_entropy(logits, torch.tensor([3, 7])).backward()
    gradients = [p.grad for p in model.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)


@pytest.mark.parametrize(("norm", "ws"), METHODS)
def test_in_evaluation_no_image_depends_on_another(norm, ws):
    model = vgg.build("small", norm, ws=ws)
    model(torch.randn(4, 3, 32, 32))
    model.eval()
    x = torch.randn(3, 3, 32, 32)
    together = model(x)
    alone = torch.cat([model(image[None]) for image in x])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_batch_norm_in_the_block_is_pytorchs():
    ours = vgg.build("small", "bn")

    def block(i, o):
        conv = nn.Conv2d(i, o, 3, padding=1)
        return nn.Sequential(conv, nn.BatchNorm2d(o), nn.ReLU())

    theirs = vgg.VGG(vgg.BLOCKS["small"], block)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        other.data.copy_(mine.data)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-5)


def test_relu_inside_the_norm_is_a_relu_behind_it():
    inside, behind = (
        vgg.build("small", "bcn", ws=True, separate_relu=separate)
        for separate in (False, True)
    )
    assert not any(isinstance(m, nn.ReLU) for m in inside.modules())
    assert sum(isinstance(m, nn.ReLU) for m in behind.modules()) == 6
    behind.load_state_dict(inside.state_dict())
    x = torch.randn(2, 3, 32, 32)
    for _ in range(2):
        results = [net(x) for net in (inside, behind)]
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
        grads = [
            torch.autograd.grad(y.square().sum(), net.parameters())
            for y, net in zip(results, (inside, behind), strict=True)
        ]
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_group_norm_in_the_block_is_pytorchs():
    norms = [
        m for m in vgg.build("small", "gn").modules() if isinstance(m, nn.GroupNorm)
    ]
    assert [norm.num_groups for norm in norms] == [8] * 6


def test_the_block_is_a_parameter():
    seen = []

    def block(i, o):
        seen.append((i, o))
        return nn.Conv2d(i, o, 3, padding=1)

    model = vgg.VGG([[4], [6, 8]], block, in_channels=2, classes=5)
    assert seen == [(2, 4), (4, 6), (6, 8)]
    assert model(torch.randn(3, 2, 16, 12)).shape == (3, 5)


def test_options_reach_the_layers():
    model = vgg.build(
        "small",
        "bcn",
        groups=4,
        momentum=0.01,
        variance_around="running_mean",
    )
    norm = next(m for m in model.modules() if isinstance(m, BatchChannelNorm))
    assert norm.channel_norm.groups == 4
    assert norm.batch_norm.momentum == 0.01
    assert norm.batch_norm.variance_around == "running_mean"
    plain = vgg.build("small", "bcn", estimate=False, momentum=0.2)
    norm = next(m for m in plain.modules() if isinstance(m, BatchChannelNorm))
    assert type(norm.batch_norm) is BatchNorm
    assert norm.batch_norm.momentum == 0.2


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (4, 1), (16, 4), (32, 8), (512, 8)]
)
def test_default_groups_hold_at_least_four_channels(channels, groups):
    assert vgg.groups_for(channels) == groups


def test_the_same_seed_gives_the_same_weights_to_every_method():
    one = vgg.build("small", "bn", seed=3).state_dict()
    two = vgg.build("small", "bcn", ws=True, seed=3).state_dict()
    other = vgg.build("small", "bn", seed=4).state_dict()
    assert torch.equal(one["features.0.0.weight"], two["features.0.0.weight"])
    assert torch.equal(one["head.weight"], two["head.weight"])
    assert not torch.equal(one["head.weight"], other["head.weight"])


def test_building_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    vgg.build("small", "bcn", seed=5)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "big"}, r"model must be one of vgg, small, got 'big'"),
        ({"norm": "ln"}, r"norm must be one of bn, gn, bcn, estbn, none, got 'ln'"),
        ({"norm": "bn", "groups": 4}, r"'bn' has no groups.*gn or bcn"),
        ({"norm": "gn", "momentum": 0.1}, r"'gn' has no momentum.*bn or bcn"),
        ({"norm": "bn", "estimate": True}, r"'bn' has no estimate"),
        ({"norm": "gn", "variance_around": "batch_mean"}, r"choose bcn"),
        ({"norm": "none", "groups": 1}, r"'none' has no groups"),
        ({"groups": 5}, r"groups must divide.*groups=5 and 32 channels"),
        ({"groups": 0}, r"groups=0"),
        ({"norm": "gn", "groups": -8}, r"groups=-8"),
        ({"momentum": 2.0}, r"momentum"),
        ({"norm": "bn", "momentum": -1.0}, r"momentum"),
        ({"variance_around": "mean"}, r"variance_around"),
        (
            {"estimate": False, "variance_around": "running_mean"},
            r"variance_around",
        ),
        ({"seed": -1}, r"seed must be from 0"),
        ({"seed": 2**64}, r"seed must be from 0"),
    ],
)
def test_an_option_that_the_norm_does_not_have_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        vgg.build(**options)


@pytest.mark.parametrize("blocks", [[], [[]], [[8], []]])
def test_a_network_needs_channels(blocks):
    with pytest.raises(ValueError, match="at least one number of channels"):
        vgg.VGG(blocks, vgg.conv_block("none"))
