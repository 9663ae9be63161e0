"""Programs that are made once and take inputs of any batch, height and width."""

import copy

import pytest
import torch
from helpers.layers import (
    MAKE,
    C,
    assert_same_gradients,
    every_layer,
    inputs,
    is_layer,
    make,
)
from helpers.oracle import assert_close
from torch import nn
from torch.export import Dim

from labml_bcn import BatchChannelNorm, WSConv1d, WSConv2d, WSConv3d

pytestmark = pytest.mark.slow

SIZES = [(2, 7, 4), (5, 3, 11), (3, 16, 2), (2, 2, 2)]


def hint(name):
    """Return a size without a name; skip the test where there is none."""
    if not hasattr(Dim, name):
        pytest.skip(f"this PyTorch has no Dim.{name}")
    return getattr(Dim, name)


CHOICES = {
    "named": lambda: {0: Dim("batch"), 2: Dim("height"), 3: Dim("width")},
    "bounded": lambda: {
        0: Dim("batch", min=1, max=64),
        2: Dim("height", min=1, max=4096),
        3: Dim("width", min=1, max=4096),
    },
    "auto": lambda: dict.fromkeys((0, 2, 3), hint("AUTO")),
    "all auto": lambda: dict.fromkeys(range(4), hint("AUTO")),
    "dynamic": lambda: dict.fromkeys((0, 2, 3), hint("DYNAMIC")),
    "square": lambda: dict.fromkeys((2, 3), Dim("side")),
}
every_training = pytest.mark.parametrize("training", [True, False])


def export(layer, x, dynamic, strict=False):
    program = torch.export.export(
        copy.deepcopy(layer), (x,), dynamic_shapes=(dynamic,), strict=strict
    )
    return program.module()


def assert_is_eager(exported, layer, x, **tolerance):
    assert_close(exported(x), layer(x), **tolerance or {"rtol": 1e-5, "atol": 1e-5})
    for a, e in zip(exported.buffers(), layer.buffers(), strict=True):
        assert_close(a, e, 1e-5, 1e-5)


# All choices for one layer of each kind, and two of them for every layer.
CASES = [
    (name, choice)
    for name in MAKE
    for choice in CHOICES
    if is_layer(name)
    and (choice in ("named", "auto") or not name.endswith(("plain", "running_mean")))
]


@pytest.mark.parametrize(("name", "choice"), CASES)
@every_training
@pytest.mark.works_with(
    "deploy",
    "`torch.export`",
    "every layer, training and evaluation, dynamic batch, height and width",
)
def test_an_exported_layer_takes_any_size(name, training, choice):
    layer = make(name).train(training)
    x = inputs(3, C, 6, 6 if choice == "square" else 5)
    exported = export(layer, x, CHOICES[choice]())
    sizes = [(3, 9, 9), (3, 4, 4)] if choice == "square" else SIZES
    if choice == "bounded":
        sizes = [*SIZES, (1, 4, 3), (2, 1, 5), (1, 2, 1)]
    for b, height, width in sizes:
        assert_is_eager(exported, layer, inputs(b, C, height, width))


@every_layer
@pytest.mark.parametrize("trailing", [(), (5,), (2, 3, 4)], ids=str)
def test_of_any_rank(name, trailing):
    layer = make(name)
    x = inputs(3, C, *trailing)
    sizes = {dim: Dim(f"size_{dim}") for dim in (0, *range(2, x.dim()))}
    exported = export(layer, x, sizes)
    for more in (1, 4):
        x = inputs(3 + more, C, *(n + more for n in trailing))
        assert_is_eager(exported, layer, x)


@every_layer
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_of_any_dtype_and_channels_last(name, dtype):
    layer = make(name)
    x = inputs(3, C, 6, 5, dtype=dtype).contiguous(memory_format=torch.channels_last)
    exported = export(layer, x, CHOICES["named"]())
    x = inputs(4, C, 9, 8, dtype=dtype).contiguous(memory_format=torch.channels_last)
    rounding = max(8 * torch.finfo(dtype).eps, 1e-5)
    assert_is_eager(exported, layer, x, rtol=rounding, atol=rounding)


@every_layer
@every_training
@pytest.mark.works_with("deploy", "`torch.export`", "strict")
def test_exported_strictly(name, training):
    layer = make(name).train(training)
    exported = export(layer, inputs(3, C, 6, 5), CHOICES["named"](), strict=True)
    for b, height, width in SIZES:
        assert_is_eager(exported, layer, inputs(b, C, height, width))


# No smaller than what the filter covers.
LARGE_ENOUGH = {
    "named": lambda: {
        0: Dim("batch"),
        2: Dim("height", min=6),
        3: Dim("width", min=6),
    },
    "auto": CHOICES["auto"],
}


@every_training
@pytest.mark.parametrize("choice", LARGE_ENOUGH)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stride": 2, "padding": 1},
        {"padding": "same", "dilation": 2, "groups": 2},
        {"padding": 1, "padding_mode": "circular"},
        {"correction": 1},
    ],
    ids=str,
)
def test_an_exported_convolution_takes_any_size(options, training, choice):
    layer = WSConv2d(4, 6, 3, **options).train(training)
    exported = export(layer, inputs(3, 4, 9, 8), LARGE_ENOUGH[choice]())
    for b, height, width in ((2, 12, 10), (5, 7, 20)):
        assert_is_eager(exported, layer, inputs(b, 4, height, width))


@every_training
@pytest.mark.parametrize(("kind", "size"), [(WSConv1d, (9,)), (WSConv3d, (7, 8, 9))])
def test_so_does_one_of_another_rank(kind, size, training):
    layer = kind(4, 6, 3).train(training)
    x = inputs(2, 4, *size)
    sides = {dim: Dim(f"side_{dim}", min=6) for dim in range(2, x.dim())}
    exported = export(layer, x, {0: Dim("batch")} | sides)
    assert_is_eager(exported, layer, inputs(3, 4, *(n + 3 for n in size)))


@every_training
def test_a_network_of_them_is_exported_whole(training):
    net = nn.Sequential(
        WSConv2d(3, C, 3, padding=1, bias=False),
        make("BatchChannelNorm in turn batch_mean"),
        nn.ReLU(inplace=True),
        WSConv2d(C, C, 3, stride=2, padding=1),
        make("BatchChannelNorm plain"),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(C, 10),
    ).train(training)
    # Even ones: PyTorch 2.4 cannot follow a norm behind a stride of 2 for any number.
    height, width = (2 * Dim(name, min=3, max=512) for name in ("height", "width"))
    sizes = {0: Dim("batch"), 2: height, 3: width}
    exported = export(net, inputs(3, 3, 16, 12), sizes)
    for b, height, width in ((2, 20, 14), (5, 8, 8)):
        assert_is_eager(exported, net, inputs(b, 3, height, width))


def test_a_size_that_is_fixed_is_still_checked():
    layer = BatchChannelNorm(C, C)
    with pytest.raises(ValueError, match="one value per group"):
        export(layer, inputs(3, C, 1, 1), {0: Dim("batch")})


@every_layer
@every_training
@pytest.mark.works_with("train", "`torch.compile`", "dynamic sizes, compiled once")
def test_compiled_for_any_size_it_is_compiled_once(name, training):
    if name == "ChannelNorm" and torch.__version__ < "2.5":
        pytest.skip(
            "PyTorch 2.4's compiler takes a layer's numbers for sizes that may change, "
            "and its group norm has no gradient for a number of channels that may"
        )
    torch.compiler.reset()
    layer = make(name).train(training)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        copy.deepcopy(layer), fullgraph=True, dynamic=True, backend=counter
    )
    counts = []
    for b, height, width in SIZES:
        x = inputs(b, C, height, width).requires_grad_()
        y, expected = compiled(x), layer(x)
        counts.append(counter.frame_count)
        assert_close(y, expected, 1e-5, 1e-5)
        assert_same_gradients(
            y,
            [x, *compiled.parameters()],
            expected,
            [x, *layer.parameters()],
            rtol=1e-4,
            atol=1e-4,
        )
    # What the first step compiled, one graph for each direction, serves all.
    assert len(set(counts)) == 1
