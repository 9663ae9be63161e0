"""The equations of `convert` and `bake`."""

import pytest
import torch
from helpers.layers import F64, evaluating, inputs, randomize
from helpers.oracle import assert_close, normalize
from torch import nn

from labml_bcn import ChannelNorm, EstimatedBatchNorm, WSConv2d, bake, convert
from labml_bcn.bake import affine_map


@pytest.mark.equation("convert.undone")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2, "padding": 2, "dilation": 2, "groups": 2, "bias": False},
        {"padding": "same", "padding_mode": "circular"},
    ],
)
def test_pretrained_keeps_the_function_with_all_settings(options, dtype):
    conv = nn.Conv2d(8, 8, 3, **options).to(dtype)
    with torch.no_grad():
        conv.weight.mul_(0.01).add_(3)
    x = torch.randn(2, 8, 9, 9, dtype=dtype)
    expected = conv(x)
    convert(nn.Sequential(conv, nn.BatchNorm2d(8).to(dtype)), x, pretrained=True)
    assert isinstance(conv, WSConv2d)
    # Filters whose mean is large beside their deviation are the hard ones.
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if dtype == torch.float64 else {}
    torch.testing.assert_close(conv(x), expected, **tolerance)


@pytest.mark.equation("bake.affine")
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_in_evaluation_is_an_affine_map(affine):
    norm = randomize(EstimatedBatchNorm(6, eps=0.1, affine=affine)).eval().double()
    slope, offset = affine_map(norm)
    x = inputs(3, 6, 5, dtype=F64)
    expected = normalize(
        x, norm.exp_mean, norm.exp_var, norm.scale, norm.shift, norm.eps
    )
    assert_close(slope[:, None] * x + offset[:, None], expected)


@pytest.mark.equation("bake.folding")
@pytest.mark.parametrize("bias", [True, False])
def test_a_folded_weight_is_the_slope_times_the_weight(bias):
    model = evaluating(nn.Conv2d(3, 6, 3, bias=bias), EstimatedBatchNorm(6)).double()
    slope, offset = affine_map(model[1])
    baked = bake(model)
    assert_close(baked[0].weight, slope[:, None, None, None] * model[0].weight)
    own = model[0].bias if bias else 0
    assert_close(baked[0].bias, slope * own + offset)


@pytest.mark.equation("bake.repeated")
def test_a_group_norms_scale_and_shift_are_those_of_the_channels_group():
    norm = evaluating(ChannelNorm(12, 3))
    baked = bake(norm)
    for c in range(12):
        assert baked.weight[c] == norm.scale[c // 4]
        assert baked.bias[c] == norm.shift[c // 4]
