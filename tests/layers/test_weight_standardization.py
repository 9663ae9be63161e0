"""Weight standardization against its formula, and WSConv against F.conv."""

import copy
import io
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers.oracle import assert_close, standardize
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.fusion import fuse_conv_bn_eval

from labml_bcn import (
    WSConv1d,
    WSConv2d,
    WSConv3d,
    weight_standardization,
)
from labml_bcn.weight_standardization import weight_standardization_stepwise

# By number of spatial dimensions: our layer, PyTorch's, its function.
CONVS = {
    1: (WSConv1d, nn.Conv1d, F.conv1d),
    2: (WSConv2d, nn.Conv2d, F.conv2d),
    3: (WSConv3d, nn.Conv3d, F.conv3d),
}
# Small enough to be nothing beside a variance of 1, as eps goes to 0.
TINY = 1e-20


def weights(*shape, dtype=torch.float64):
    return 0.3 + 0.5 * torch.randn(*shape, dtype=dtype)


def rows(tensor):
    """Filters as lines, [O, I]."""
    return tensor.reshape(tensor.shape[0], -1)


@pytest.mark.equation(
    "weight_standardization.filter-statistics",
    "weight_standardization.standardized",
    "weight_standardization.correction",
)
@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("eps", [1e-5, 0.1])
@pytest.mark.parametrize(
    "shape", [(4, 2), (4, 3, 5), (5, 2, 3, 3), (2, 3, 2, 1, 3)], ids=str
)
def test_weight_standardization_is_its_formula(shape, eps, correction):
    w = weights(*shape).requires_grad_()
    w_oracle = w.detach().clone().requires_grad_()
    actual = weight_standardization(w, eps, correction=correction)
    expected = standardize(w_oracle, eps, correction)
    assert_close(actual, expected)
    g = torch.randn(shape, dtype=torch.float64)
    actual.backward(g)
    expected.backward(g)
    assert_close(w.grad, w_oracle.grad)


@pytest.mark.equation(
    "weight_standardization.filter-statistics", "weight_standardization.standardized"
)
@pytest.mark.parametrize("eps", [1e-5, 0.1])
@pytest.mark.parametrize("shape", [(4, 2), (4, 3, 5), (5, 2, 3, 3)], ids=str)
def test_step_by_step_it_is_its_formula(shape, eps):
    w = weights(*shape).requires_grad_()
    w_oracle = w.detach().clone().requires_grad_()
    actual = weight_standardization_stepwise(w, eps)
    expected = standardize(w_oracle, eps, 0)
    assert_close(actual, expected)
    assert_close(weight_standardization(w, eps), actual)
    g = torch.randn(shape, dtype=torch.float64)
    actual.backward(g)
    expected.backward(g)
    assert_close(w.grad, w_oracle.grad)


def test_the_defaults_are_the_papers_variance_and_eps():
    w = 0.01 * weights(4, 3, 3, 3)
    expected = standardize(w, 1e-5, 0)
    assert_close(weight_standardization(w), expected)
    assert_close(weight_standardization_stepwise(w), expected)


@pytest.mark.equation("weight_standardization.gradient")
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_the_gradient_is_its_formula(eps):
    w = weights(4, 6).requires_grad_()
    standard = weight_standardization(w, eps)
    g = torch.randn_like(w)
    (actual,) = torch.autograd.grad(standard, w, g)
    what, inner = standard.detach(), w.shape[1]
    inverse = (w.detach().var(1, correction=0, keepdim=True) + eps).rsqrt()
    along = (g * what).sum(1, keepdim=True) / inner
    mean = g.sum(1, keepdim=True) / inner
    assert_close(actual, inverse * (g - mean - what * along))


@pytest.mark.equation("weight_standardization.filter-statistics")
@pytest.mark.parametrize("correction", [0, 1])
def test_every_filter_has_mean_0_and_variance_1(correction):
    w = weights(5, 3, 3, 3)
    out = rows(weight_standardization(w, TINY, correction=correction))
    zeros, ones = torch.zeros(5).double(), torch.ones(5).double()
    assert_close(out.mean(1), zeros)
    assert_close(out.var(1, correction=correction), ones)


def test_correction_1_is_a_factor_of_sqrt_i_minus_1_over_i():
    w = weights(5, 3, 3, 3)
    biased, unbiased = (weight_standardization(w, TINY, correction=k) for k in (0, 1))
    assert_close(unbiased, biased * (26 / 27) ** 0.5)


@pytest.mark.parametrize(("a", "b"), [(1, 7), (3, 0), (0.02, -5), (-2, 3)])
def test_a_filters_scale_and_offset_do_not_matter_but_its_sign_does(a, b):
    w = weights(4, 3, 3, 3)
    out = weight_standardization(w, TINY)
    sign = 1 if a > 0 else -1
    assert_close(weight_standardization(a * w + b, TINY), sign * out)


def test_each_filter_is_standardized_alone():
    w = weights(4, 3, 3, 3)
    before = weight_standardization(w)
    w[2] = 9 * w[2] + 1 + torch.randn(3, 3, 3)
    after = weight_standardization(w)
    others = [0, 1, 3]
    assert torch.equal(after[others], before[others])
    assert not torch.equal(after[2], before[2])


@pytest.mark.parametrize("correction", [0, 1])
def test_the_gradient_of_a_filter_sums_to_0_and_is_orthogonal_to_it(
    correction,
):
    w = weights(4, 3, 3, 3).requires_grad_()
    out = weight_standardization(w, TINY, correction=correction)
    out.backward(torch.randn_like(out))
    nothing = torch.zeros(4).double()
    assert rows(w.grad).norm(dim=1).min() > 0.1
    assert_close(rows(w.grad).sum(1), nothing)
    assert_close((rows(w.grad) * rows(w)).sum(1), nothing)


def test_standardizing_can_only_shorten_the_gradient():
    w = weights(400, 6).requires_grad_()
    deviation = w.detach().std(1, correction=0)
    g = torch.randn_like(w)
    weight_standardization(w, TINY).backward(g)
    left = deviation * w.grad.norm(dim=1) / g.norm(dim=1)
    assert left.max() <= 1 + 1e-12
    # Two of six directions are gone: of 400 gradients some lose much.
    assert left.min() < 0.5


def test_weight_standardization_passes_gradcheck():
    w = weights(3, 2, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(weight_standardization, (w,))


@pytest.mark.parametrize("correction", [0, 1])
def test_gradients_of_gradients(correction):
    w = weights(3, 2, 2).requires_grad_()

    def function(w):
        return weight_standardization(w, 0.1, correction=correction)

    assert torch.autograd.gradgradcheck(function, w)


def test_function_transforms_see_through_weight_standardization():
    w, tangent = weights(3, 4), weights(3, 4)

    def function(w):
        return weight_standardization(w, 0.1).pow(3)

    def by_formula(w):
        return standardize(w, 0.1, 0).pow(3)

    for transform in (
        lambda f: torch.func.grad(lambda w: f(w).sum())(w),
        lambda f: torch.func.jvp(f, (w,), (tangent,))[1],
        lambda f: torch.func.vmap(f)(torch.stack((w, tangent))),
    ):
        assert_close(transform(function), transform(by_formula))


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0])
@pytest.mark.parametrize("correction", [0, 1])
def test_a_constant_filter_becomes_0_with_a_finite_gradient(value, correction):
    w = weights(3, 2, 3, 3, dtype=torch.float32)
    w[1] = value
    w.requires_grad_()
    out = weight_standardization(w, correction=correction)
    # One rounding of the mean, blown up by 1 / sqrt(eps), about 316.
    torch.testing.assert_close(out[1], torch.zeros(2, 3, 3), atol=1e-4, rtol=0)
    out.backward(torch.randn_like(out))
    assert w.grad.isfinite().all()


def test_a_large_common_offset_leaves_float32_weights_their_shape():
    w = 1000 + 0.1 * torch.randn(4, 3, 3, 3)
    # Four spacings of float32 at 1000, 6e-5, over a deviation of 0.1.
    assert_close(weight_standardization(w), standardize(w), 0, 2.4e-3)


@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_low_precision_weights_are_standardized_in_float32(dtype, offset, correction):
    w = (offset + torch.randn(4, 2, 3, 3)).to(dtype)
    out = weight_standardization(w, correction=correction)
    assert out.dtype == dtype
    # One rounding of the result, half a spacing, and float32's own error.
    rtol = 0.51 * torch.finfo(dtype).eps
    assert_close(out, standardize(w, 1e-5, correction), rtol, 2e-5)


def test_large_low_precision_weights_do_not_overflow():
    w = (3000 * torch.randn(4, 8, 3, 3)).half()
    assert_close(weight_standardization(w), standardize(w))


def test_small_low_precision_weights_do_not_underflow():
    w = (1e-3 * torch.randn(4, 8, 3, 3)).half()
    assert_close(weight_standardization(w, 1e-8), standardize(w, 1e-8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_does_not_lower_the_standardization(dtype):
    w = weights(4, 3, 3, 3, dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        out = weight_standardization(w)
    assert out.dtype == dtype
    assert_close(out, standardize(w))


MEMORY = {
    "channels_last": lambda w: w.to(memory_format=torch.channels_last),
    "transposed": lambda w: w.transpose(0, 1).contiguous().transpose(0, 1),
    "strided": lambda w: w.repeat_interleave(2, 3)[..., ::2],
}


@pytest.mark.parametrize("change", MEMORY.values(), ids=MEMORY)
def test_the_memory_format_of_weights_does_not_matter(change):
    w = weights(4, 3, 5, 5)
    moved = change(w).requires_grad_()
    assert not moved.is_contiguous()
    w.requires_grad_()
    g = torch.randn_like(w)
    out, expected = weight_standardization(moved), weight_standardization(w)
    assert_close(out, expected)
    out.backward(g)
    expected.backward(g)
    assert_close(moved.grad, w.grad)


@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 1, 1, 1)], ids=str)
def test_weights_of_one_element_a_filter_are_refused(shape, correction):
    with pytest.raises(ValueError, match=r"element|value|weight"):
        weight_standardization(torch.randn(shape), correction=correction)


def explicit(conv, x, function, eps=1e-5, correction=0):
    """The convolution of nn.ConvNd's documentation, its weights restated."""
    w = standardize(conv.weight, eps, correction)
    padding = conv.padding
    if conv.padding_mode != "zeros":
        if padding == "same":
            padding = tuple(k // 2 for k in conv.kernel_size)
        sides = [p for p in reversed(padding) for _ in range(2)]
        x, padding = F.pad(x, sides, conv.padding_mode), 0
    return function(x, w, conv.bias, conv.stride, padding, conv.dilation, conv.groups)


OPTIONS = [
    {},
    {"bias": False},
    {"eps": 0.2},
    {"correction": 1},
    {"stride": 2, "padding": 1},
    {"dilation": 2},
    {"groups": 2},
    {"groups": 4, "padding": 2, "stride": 3},
    {"padding": "same"},
    {"padding": "same", "dilation": 2},
    {"padding": "valid", "dilation": 2, "groups": 2},
    {"padding": "same", "padding_mode": "reflect"},
    {"padding": "same", "padding_mode": "circular", "groups": 4},
    {"padding": 1, "padding_mode": "zeros"},
    {"padding": 1, "padding_mode": "reflect"},
    {"padding": 1, "padding_mode": "replicate", "stride": 2},
    {"padding": 2, "padding_mode": "circular", "groups": 2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_ws_conv_is_the_convolution_with_standardized_weights(dimensions, options):
    kind, _, function = CONVS[dimensions]
    conv = kind(4, 8, 3, **options, dtype=torch.float64)
    stored = conv.weight.detach().clone()
    x = torch.randn(2, 4, *(6, 5, 7)[:dimensions]).double()
    actual = conv(x)
    own = {k: options[k] for k in ("eps", "correction") if k in options}
    expected = explicit(conv, x, function, **own)
    assert_close(actual, expected)
    g = torch.randn_like(actual)
    leaves = list(conv.parameters())
    for a, b in zip(
        torch.autograd.grad(actual, leaves, g),
        torch.autograd.grad(expected, leaves, g),
        strict=True,
    ):
        assert_close(a, b)
    assert torch.equal(conv.weight, stored)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_ws_conv_takes_one_sample_without_a_batch_dimension(dimensions):
    kind = CONVS[dimensions][0]
    conv = kind(4, 8, 3, padding=1, padding_mode="circular")
    x = torch.randn(4, *[5] * dimensions)
    assert_close(conv(x), conv(x.unsqueeze(0)).squeeze(0))


def test_ws_conv_takes_a_stride_and_a_kernel_for_each_dimension():
    conv = WSConv2d(
        3,
        4,
        (3, 1),
        stride=(1, 2),
        padding=(0, 2),
        padding_mode="replicate",
        dtype=torch.float64,
    )
    x = torch.randn(2, 3, 6, 5).double()
    assert_close(conv(x), explicit(conv, x, F.conv2d))


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_ws_conv_is_as_invariant_as_its_weights(dimensions):
    conv = CONVS[dimensions][0](4, 8, 3, eps=TINY, dtype=torch.float64)
    x = torch.randn(2, 4, *[4] * dimensions).double()
    y = conv(x)
    with torch.no_grad():
        conv.weight.mul_(5).add_(0.7)
    assert_close(conv(x), y)


def test_ws_conv_never_changes_its_stored_weights():
    conv = WSConv2d(3, 4, 3)
    place = conv.weight.data_ptr()
    stored = conv.weight.detach().clone()
    for training in (True, False):
        conv.train(training)
        conv(torch.randn(2, 3, 5, 5)).square().sum().backward()
    assert torch.equal(conv.weight, stored)
    assert conv.weight.data_ptr() == place
    assert isinstance(conv.weight, nn.Parameter)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_state_dicts_pass_between_ws_conv_and_conv(dimensions, bias):
    ours, theirs, function = CONVS[dimensions]
    source, conv = theirs(4, 6, 3, bias=bias), ours(4, 6, 3, bias=bias)
    conv.load_state_dict(dict(source.state_dict()))
    x = torch.randn(2, 4, *[5] * dimensions)
    w = standardize(source.weight).float()
    assert_close(conv(x), function(x, w, source.bias), 1e-4, 1e-5)
    theirs(4, 6, 3, bias=bias).load_state_dict(conv.state_dict())
    assert list(conv.state_dict()) == list(source.state_dict())


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_ws_conv_starts_with_convs_weights(dimensions):
    ours, theirs, _ = CONVS[dimensions]
    torch.manual_seed(7)
    conv = ours(4, 6, 3)
    torch.manual_seed(7)
    other = theirs(4, 6, 3)
    assert torch.equal(conv.weight, other.weight)
    assert torch.equal(conv.bias, other.bias)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_ws_conv_takes_convs_arguments_in_convs_order(dimensions):
    ours, theirs, _ = CONVS[dimensions]
    arguments = (4, 6, 3, 2, 1, 1, 2, False, "circular", "cpu", torch.double)
    conv, other = ours(*arguments), theirs(*arguments)
    for name in other.__constants__:
        assert getattr(conv, name) == getattr(other, name), name
    assert conv.weight.shape == other.weight.shape
    assert conv.weight.dtype == torch.double
    assert conv.bias is None


def test_weight_standardizations_correction_is_named():
    w = torch.randn(3, 4)
    with pytest.raises(TypeError):
        weight_standardization(w, 1e-5, 1)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_pointwise_filter_over_several_channels_is_taken(dimensions):
    kind, _, function = CONVS[dimensions]
    conv = kind(3, 4, 1, dtype=torch.float64)
    x = torch.randn(2, 3, *[3] * dimensions).double()
    assert_close(conv(x), explicit(conv, x, function))


TOO_FEW = [(1, 4, 1, 1), (4, 4, 1, 4), (3, 6, 1, 3), (2, 4, 1, 1), (4, 4, 1, 2)]


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize(("c_in", "c_out", "k", "groups"), TOO_FEW)
def test_filters_of_fewer_than_three_elements_are_refused_at_construction(
    dimensions, c_in, c_out, k, groups
):
    kind = CONVS[dimensions][0]
    with pytest.raises(ValueError, match=r"three or more elements.*plain convolution"):
        kind(c_in, c_out, k, groups=groups)


def test_two_weights_would_have_nothing_to_learn():
    w = weights(4, 2).requires_grad_()
    out = weight_standardization(w, TINY)
    assert_close(out.abs(), torch.ones(4, 2).double())
    out.backward(torch.randn_like(out))
    assert_close(w.grad, torch.zeros(4, 2).double())
    assert WSConv1d(1, 4, 3).weight.shape == (4, 1, 3)
    assert WSConv2d(1, 4, (1, 3)).weight.shape == (4, 1, 1, 3)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((3, 0, 3), {}, "out_channels must be at least 1, got 0"),
        ((0, 4, 3), {}, "in_channels must be at least 1, got 0"),
        ((-3, 4, 3), {}, "in_channels must be at least 1, got -3"),
        ((3, 4, 0), {}, "kernel_size must be at least 1, got 0"),
        ((3, 4, -1), {}, "kernel_size must be at least 1, got -1"),
        ((4, 4, 3), {"groups": 0}, "groups must be at least 1, got 0"),
        ((4, 6, 3), {"groups": 3}, "groups must divide in_channels.*=3.*=4"),
        ((6, 4, 3), {"groups": 3}, "groups must divide out_channels.*=3.*=4"),
        ((3, 4, 3), {"correction": -1}, "correction must be at least 0.*-1"),
        ((3, 4, 3), {"eps": -1.0}, "eps must be positive.*-1.0"),
        ((3, 4, 3), {"eps": float("inf")}, "eps must be positive.*inf"),
    ],
    ids=str,
)
def test_a_convolution_that_cannot_be_is_refused(dimensions, arguments, options, words):
    with pytest.raises(ValueError, match=words):
        CONVS[dimensions][0](*arguments, **options)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        (("3", 4, 3), {}, "in_channels must be an int, got '3'"),
        ((3, 4.0, 3), {}, "out_channels must be an int, got 4.0"),
        ((3, None, 3), {}, "out_channels must be an int, got None"),
        ((3, 4, "3"), {}, "kernel_size must be an int, got '3'"),
        ((3, 4, (3, 3.0)), {}, "kernel_size must be an int, got 3.0"),
        ((8, 8, 3), {"groups": True}, "groups must be an int, got True"),
        ((8, 8, 3), {"groups": 2.0}, "groups must be an int, got 2.0"),
        ((8, 8, 3), {"groups": "8"}, "groups must be an int, got '8'"),
        ((3, 4, 3), {"correction": True}, "correction must be an int, got True"),
        ((3, 4, 3), {"correction": "1"}, "correction must be an int, got '1'"),
        ((3, 4, 3), {"correction": 0.5}, "correction must be an int, got 0.5"),
        ((3, 4, 3), {"eps": "1e-5"}, "eps must be a number, got '1e-5'"),
        ((3, 4, 3), {"eps": None}, "eps must be a number, got None"),
        ((3, 4, 3), {"eps": True}, "eps must be a number, got True"),
    ],
    ids=str,
)
def test_an_argument_of_the_wrong_kind_is_named(arguments, options, words):
    with pytest.raises(TypeError, match=words):
        WSConv2d(*arguments, **options)


@pytest.mark.parametrize("weight", [[[1.0, 2.0, 3.0]], None, 3])
def test_a_weight_that_is_no_tensor_is_refused(weight):
    with pytest.raises(TypeError, match="weight must be a tensor"):
        weight_standardization(weight)


def test_a_weight_of_whole_numbers_is_refused():
    with pytest.raises(TypeError, match=r"weight must be floating point.*int64"):
        weight_standardization(torch.ones(3, 4, dtype=torch.int64))


def deviation(std, eps):
    """The deviation that weights of a given one have once standardized."""
    w = weights(1, 10000)
    w = (w - w.mean()) / w.std(correction=0) * std
    return weight_standardization(w, eps).std(correction=0)


def test_eps_takes_from_small_weights_what_the_page_says():
    bound = (512 * 9) ** -0.5
    assert round(float(deviation(bound / 3**0.5, 1e-5)), 3) == 0.937
    assert round(float(deviation(0.002, 1e-5)), 2) == 0.53
    assert float(deviation(0.002, 1e-10)) > 0.9999


@pytest.mark.parametrize("eps", [0, 0.0, -1e-05, float("nan")])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_an_eps_that_is_not_positive_is_refused(dimensions, eps):
    with pytest.raises(ValueError, match=f"eps.*{eps}"):
        CONVS[dimensions][0](3, 4, 3, eps=eps)


@pytest.mark.works_with("train", "channels_last", "standardized weights")
def test_ws_conv_takes_channels_last_weights_and_input():
    conv = WSConv2d(4, 6, 3, padding=1)
    x = torch.randn(2, 4, 5, 5)
    y = conv(x)
    conv.to(memory_format=torch.channels_last)
    assert not conv.weight.is_contiguous()
    moved = conv(x.to(memory_format=torch.channels_last))
    # Another kernel sums in another order.
    assert_close(moved, y, 1e-5, 1e-5)


def test_ws_conv_in_bfloat16_is_close_to_float32():
    conv = WSConv2d(4, 6, 3, padding=1)
    x = torch.randn(2, 4, 5, 5)
    low = copy.deepcopy(conv).bfloat16()
    y = low(x.bfloat16())
    assert y.dtype == torch.bfloat16
    # 36 products a value, each of two rounded factors.
    assert_close(y, conv(x), 2e-2, 0.1)


def test_ws_conv_under_autocast_is_the_convolution_under_autocast():
    conv = WSConv2d(4, 6, 3)
    x = torch.randn(2, 4, 5, 5)
    w = standardize(conv.weight).float()
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = conv(x), F.conv2d(x, w, conv.bias)
    assert y.dtype == expected.dtype
    assert_close(y, expected)


def test_ws_conv_survives_pickle_and_deepcopy_after_a_step():
    conv = WSConv2d(4, 6, 3, eps=0.3, correction=1)
    x = torch.randn(2, 4, 5, 5)
    y = conv(x)
    y.sum().backward()
    for other in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert torch.equal(other(x), y)


def test_ws_conv_can_be_built_without_storage():
    conv = WSConv2d(4, 6, 3, device="meta", dtype=torch.float64)
    assert conv.weight.is_meta
    assert conv(torch.empty(2, 4, 5, 5, device="meta").double()).shape == (
        2,
        6,
        3,
        3,
    )


def conv_in_eval(**options):
    conv = WSConv2d(3, 4, 3, **options).eval()
    return conv, torch.randn(1, 3, 5, 5)


def step(conv):
    conv.weight.grad = torch.ones_like(conv.weight)
    conv.weight.grad[0] = 3
    torch.optim.SGD([conv.weight], lr=0.1, momentum=0.9).step()
    # Adding the same number to a whole filter changes nothing.
    torch.optim.Adam([conv.weight], lr=0.1).step()


def through_numpy(conv):
    conv.weight.detach().numpy()[1, 2, 0, 1] += 0.5


def two_that_cancel(conv):
    """Change a filter and leave its sum, and its sum of squares, as they were."""
    filters = conv.weight.data.flatten(1)
    filters[:, [0, 5]] = filters[:, [5, 0]]


CHANGES = {
    "in place": lambda c: c.weight[0, 0].mul_(3),
    "one value": lambda c: c.weight[3, 2, 1, 1].add_(0.5),
    "through .data": lambda c: c.weight.data[0].mul_(c.weight[1]),
    "one value through .data": lambda c: c.weight.data[3, 2, 1, 1].add_(0.5),
    "mirrored through .data": lambda c: c.weight.data.copy_(c.weight.flip(3)),
    "filters swapped through .data": lambda c: c.weight.data.copy_(c.weight.flip(0)),
    "two that cancel through .data": two_that_cancel,
    "other .data": lambda c: setattr(c.weight, "data", c.weight.flip(1)),
    "through numpy": through_numpy,
    "another parameter": lambda c: setattr(c, "weight", nn.Parameter(c.weight.flip(2))),
    "load_state_dict": lambda c: c.load_state_dict(WSConv2d(3, 4, 3).state_dict()),
    "optimizer": step,
    "another eps": lambda c: setattr(c, "eps", 0.5),
    "another correction": lambda c: setattr(c, "correction", 1),
}


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES.values(), ids=list(CHANGES))
def test_evaluation_uses_the_weight_as_it_is_now(change):
    conv, x = conv_in_eval()
    before = conv(x)
    change(conv)
    fresh = WSConv2d(3, 4, 3, eps=conv.eps, correction=conv.correction)
    fresh.load_state_dict(conv.state_dict())
    assert torch.equal(conv(x), fresh(x))
    assert not torch.equal(conv(x), before)


def test_evaluation_lets_the_weight_learn():
    conv, x = conv_in_eval()
    with torch.no_grad():
        conv(x)
    for _ in range(2):
        conv(x).sum().backward()
    assert conv.weight.grad is not None


def test_frozen_weights_let_the_inputs_gradient_through():
    conv = WSConv2d(4, 6, 3).requires_grad_(False)
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    conv(x).sum().backward()
    expected = F.conv_transpose2d(
        torch.ones(2, 6, 3, 3), standardize(conv.weight).float()
    )
    assert_close(x.grad, expected, 1e-4, 1e-4)
    assert conv.weight.grad is None


@pytest.mark.slow
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_ws_conv_compiles_in_one_graph(dimensions):
    torch.compiler.reset()
    conv = CONVS[dimensions][0](
        4, 6, 3, padding=1, padding_mode="circular", correction=1
    )
    compiled = torch.compile(copy.deepcopy(conv), fullgraph=True)
    for b in (2, 3, 5):
        x = torch.randn(b, 4, *[5] * dimensions)
        y, expected = compiled(x), conv(x)
        assert_close(y, expected, 1e-4, 1e-5)
        y.square().sum().backward()
        expected.square().sum().backward()
    assert_close(compiled.weight.grad, conv.weight.grad, 1e-3, 1e-3)


# ---- Gain and offset -------------------------------------------------------


def with_gain(dimensions=2, *, dtype=torch.float64, **options):
    """A convolution with a gain and an offset, and an input for it."""
    conv = CONVS[dimensions][0](4, 6, 3, dtype=dtype, **options)
    shape = (6, 1, *[1] * dimensions)
    conv.gain = 0.5 + torch.rand(shape, dtype=dtype)
    conv.offset = torch.randn(shape, dtype=dtype)
    return conv, torch.randn(2, 4, *[5] * dimensions, dtype=dtype)


def test_gain_and_offset_are_absent_unless_they_are_given():
    conv = WSConv2d(4, 6, 3)
    assert conv.gain is None
    assert conv.offset is None
    assert list(conv.state_dict()) == ["weight", "bias"]
    assert "gain" not in repr(conv)
    for name in ("gain", "offset"):
        setattr(conv, name, torch.ones(6, 1, 1, 1))
        assert name in repr(conv)
    assert list(conv.state_dict()) == ["weight", "bias", "gain", "offset"]
    assert [name for name, _ in conv.named_parameters()] == ["weight", "bias"]


@pytest.mark.parametrize("given", [("gain",), ("offset",), ("gain", "offset")])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_the_weight_used_is_gain_times_the_standardized_one_plus_offset(
    dimensions, given
):
    conv, x = with_gain(dimensions, stride=2, correction=1)
    for name in {"gain", "offset"} - {*given}:
        setattr(conv, name, None)
    expected = standardize(conv.weight, 1e-5, 1)
    expected = expected * (1 if conv.gain is None else conv.gain)
    expected = expected + (0 if conv.offset is None else conv.offset)
    assert_close(conv.standardized_weight(), expected)
    y = CONVS[dimensions][2](x, expected, conv.bias, 2)
    assert_close(conv(x), y)
    g = torch.randn_like(y)
    actual = torch.autograd.grad(conv(x), conv.parameters(), g)
    for a, b in zip(actual, torch.autograd.grad(y, conv.parameters(), g), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_filters_deviation_and_mean_keep_a_convolutions_function(
    dimensions, correction
):
    ours, theirs, _ = CONVS[dimensions]
    other, conv = theirs(4, 6, 3), ours(4, 6, 3, correction=correction)
    conv.load_state_dict(dict(other.state_dict()))
    dims = list(range(1, dimensions + 2))
    var, mean = torch.var_mean(other.weight, dims, correction=correction, keepdim=True)
    conv.gain, conv.offset = (var + conv.eps).sqrt().detach(), mean.detach()
    x = torch.randn(2, 4, *[5] * dimensions)
    assert_close(conv(x), other(x), 1e-6, 1e-6)


@pytest.mark.parametrize("assign", [False, True])
def test_a_state_dict_brings_gain_and_offset_along(assign):
    conv, x = with_gain()
    other = WSConv2d(4, 6, 3, dtype=torch.float64)
    other.load_state_dict(conv.state_dict(), assign=assign)
    assert torch.equal(other(x), conv(x))
    # And one that has none does not take them away unasked.
    plain = WSConv2d(4, 6, 3, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="gain"):
        conv.load_state_dict(plain.state_dict())


def test_a_gain_that_does_not_load_changes_nothing():
    conv = WSConv2d(4, 6, 3)
    before = conv.standardized_weight()
    wrong = {**conv.state_dict(), "gain": torch.ones(6), "offset": torch.ones(5)}
    with pytest.raises(RuntimeError, match="size mismatch"):
        conv.load_state_dict(wrong)
    assert torch.equal(conv.standardized_weight(), before)


@pytest.mark.parametrize("name", ["gain", "offset"])
@pytest.mark.parametrize("shape", [(3,), (3, 1), (), (1, 3, 1, 1), (4, 1, 1, 1)])
def test_a_gain_of_another_shape_is_refused(name, shape):
    conv = WSConv2d(2, 3, 3)
    setattr(conv, name, torch.ones(shape))
    with pytest.raises(ValueError, match=f"{name} must have one value for each"):
        conv(torch.randn(1, 2, 5, 5))


def test_gain_and_offset_go_with_the_layer():
    conv, x = with_gain()
    y = conv(x)
    for other in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv))):
        assert torch.equal(other(x), y)
    low = copy.deepcopy(conv).bfloat16()
    assert low.gain.dtype == low(x.bfloat16()).dtype == torch.bfloat16
    # A gain of another dtype than the weight's does not change the result's.
    low.gain = conv.gain
    assert low(x.bfloat16()).dtype == torch.bfloat16
    meta = copy.deepcopy(conv).to("meta")
    assert meta.gain.is_meta
    meta.to_empty(device="cpu").load_state_dict(conv.state_dict())
    assert torch.equal(meta(x), y)


def test_a_pickle_from_before_gain_and_offset_loads():
    conv, x = conv_in_eval()
    state = conv.__getstate__()
    state = {**state, "_buffers": {}}
    old = WSConv2d.__new__(WSConv2d)
    old.__setstate__(state)
    assert torch.equal(old(x), conv(x))


@pytest.mark.slow
def test_gain_and_offset_compile_and_export():
    torch.compiler.reset()
    conv, x = with_gain()
    y = conv(x)
    assert_close(torch.compile(conv, fullgraph=True)(x), y)
    program = torch.export.export(conv, (x,))
    assert_close(program.module()(x), y)
    jacobian = torch.func.jacrev(
        lambda gain: torch.func.functional_call(conv, {"gain": gain}, (x,))
    )
    assert jacobian(conv.gain).shape == (*y.shape, 6, 1, 1, 1)


# ---- Weights from elsewhere ------------------------------------------------


def network(kind, *, prefix=""):
    """Three convolutions, as they lie in a model."""
    convs = nn.Sequential(kind(3, 4, 3), nn.Sequential(kind(4, 4, 3), kind(4, 4, 3)))
    return nn.ModuleDict({prefix: convs}) if prefix else convs


def warnings_of(load):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load()
    return [str(each.message) for each in caught]


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("prefix", ["", "backbone"])
def test_weights_that_were_not_standardized_load_with_one_warning(prefix, assign):
    source, model = network(nn.Conv2d, prefix=prefix), network(WSConv2d, prefix=prefix)
    for _ in range(2):
        (text,) = warnings_of(
            lambda: model.load_state_dict(source.state_dict(), assign=assign)
        )
        assert repr(f"{prefix}.0.".lstrip(".")) in text
        assert "convert(model, example, pretrained=True)" in text
        assert "gain and offset" in text
    for ours, theirs in zip(model.parameters(), source.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def saved_and_loaded(state_dict):
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_the_warning_survives_a_file():
    state = saved_and_loaded(network(nn.Conv2d).state_dict())
    assert len(warnings_of(lambda: network(WSConv2d).load_state_dict(state))) == 1
    state = saved_and_loaded(network(WSConv2d).state_dict())
    assert not warnings_of(lambda: network(WSConv2d).load_state_dict(state))


def gained():
    model = network(WSConv2d)
    for conv in (model[0], *model[1]):
        conv.gain = torch.ones(4, 1, 1, 1)
    return model


@pytest.mark.parametrize(
    "state",
    [
        lambda: network(WSConv2d).state_dict(),
        lambda: gained().state_dict(),
        # Nothing is known of these.
        lambda: dict(network(nn.Conv2d).state_dict()),
    ],
)
def test_weights_that_were_standardized_load_without_a_word(state):
    assert not warnings_of(lambda: network(WSConv2d).load_state_dict(state()))
    # Nor is a plain model told of anything.
    if "gain" not in str(list(state())):
        assert not warnings_of(lambda: network(nn.Conv2d).load_state_dict(state()))


# ---- Folding a norm into the weight ----------------------------------------


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_pytorchs_folding_is_refused_with_a_way(dimensions, bias):
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[dimensions - 1](6).eval()
    ours, theirs, _ = CONVS[dimensions]
    conv = ours(4, 6, 3, bias=bias).eval()
    before = conv.weight
    with pytest.raises(TypeError, match=r"cannot fold a norm into WSConv.*bake"):
        fuse_conv_bn_eval(conv, norm)
    assert conv.weight is before
    fuse_conv_bn_eval(theirs(4, 6, 3, bias=bias).eval(), norm)


@pytest.mark.parametrize("training", [True, False])
def test_every_other_way_to_give_a_layer_its_weight_is_open(training):
    conv = WSConv2d(4, 6, 3).train(training)
    x = torch.randn(2, 4, 5, 5)
    other = WSConv2d(4, 6, 3)
    conv.weight = other.weight
    assert conv.weight is other.weight
    conv.weight = nn.Parameter(2 * conv.weight.detach())
    conv.load_state_dict(other.state_dict(), assign=True)
    nn.utils.parametrizations.spectral_norm(conv)(x)
    nn.utils.parametrize.remove_parametrizations(conv, "weight")
    nn.utils.parametrizations.weight_norm(conv)(x)
    nn.utils.parametrize.remove_parametrizations(conv, "weight")
    prune.random_unstructured(conv, "weight", 0.5)(x)
    prune.remove(conv, "weight")
    torch.func.functional_call(conv, {"weight": other.weight}, (x,))
    conv.to("meta").to_empty(device="cpu").double()
    del conv.weight
    conv.register_parameter("weight", other.weight)
    conv.bias = None
    assert conv(x).shape == (2, 6, 3, 3)
