"""Other people's networks, from their first step after the conversion to deployment.

How many layers of each are to be converted was counted by hand, in the network's code.
"""

import copy
import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from helpers import architectures as nets
from helpers.oracle import assert_close
from torch import nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from labml_bcn import BatchChannelNorm, WSConv1d, WSConv2d, WSConv3d, bake, convert

pytestmark = pytest.mark.slow

WS = (WSConv1d, WSConv2d, WSConv3d)
BATCH_NORMS = nn.modules.batchnorm._BatchNorm


def image(batch=1, height=32, width=32, channels=3):
    return torch.randn(batch, channels, height, width)


def pyramid(batch=1, height=32, width=32):
    mask = (torch.rand(batch, 1, height, width) > 0.1).float()
    return ({"images": image(batch, height, width), "mask": mask},)


def pair(batch=1, height=32, width=32):
    return {"left": image(batch, height, width), "right": image(batch, height, width)}


@dataclass
class Architecture:
    """A network, what to feed it, and what is to be found in it.

    `norms` and `convolutions` are to be converted, `kept` names the other convolutions
    by the reason, transposed ones included. `unsure` more are kept without an example.
    """

    make: Callable[[], nn.Module]
    norms: int
    convolutions: int
    kept: dict[str, int]
    unsure: int = 0
    inputs: Callable[..., Any] = image
    sizes: tuple[int, ...] = (32, 32)
    # Multiples of this many pixels alone go through it.
    multiple: int = 1
    # A dimension that PyTorch exports with one size only.
    fixed: int | None = None
    scripts: bool = True
    exports: bool = True


ARCHITECTURES = {
    # Every convolution has its norm.
    "ResNet": Architecture(
        partial(nets.ResNet, nets.BasicBlock, (24, 24, 40)), 8, 8, {}
    ),
    "ResNet of bottlenecks": Architecture(
        partial(nets.ResNet, nets.Bottleneck, (24, 80, 144)), 12, 12, {}
    ),
    # The stem is read by a norm and an addition; the second convolution of each of
    # four blocks and the shortcut by an addition.
    "pre-activation ResNet": Architecture(
        nets.PreActivationResNet, 9, 4, {"reads its output": 6}
    ),
    # The first norm's, and the first of each of five layers. The second of each goes
    # into a concatenation, the transition's into a pooling.
    "DenseNet": Architecture(nets.DenseNet, 13, 6, {"reads its output": 6}),
    # Four depthwise ones with nine inputs.
    "MobileNetV2": Architecture(nets.MobileNetV2, 13, 9, {"inputs": 4}),
    # Depthwise: two of three by three, while those of five by five have 25 inputs.
    # Four squeeze, with inputs enough, and four excite, with eight or fewer.
    "EfficientNet": Architecture(
        nets.EfficientNet, 13, 11, {"inputs": 6, "reads its output": 4}
    ),
    # The second head does not run in evaluation.
    "Inception": Architecture(
        nets.Inception, 12, 11, {"did not reach": 1}, scripts=False
    ),
    "ShuffleNet": Architecture(nets.ShuffleNet, 7, 5, {"inputs": 2}),
    "VGG": Architecture(nets.VGG, 4, 4, {}),
    # One norm is behind a linear layer.
    "1-D": Architecture(
        nets.WaveNet1d,
        4,
        3,
        {},
        inputs=lambda batch=1, length=48: torch.randn(batch, 2, length),
        sizes=(48,),
    ),
    "3-D": Architecture(
        nets.VideoNet3d,
        5,
        5,
        {},
        inputs=lambda batch=1, *size: torch.randn(batch, 3, *(size or (4, 16, 16))),
        sizes=(4, 16, 16),
    ),
    "generator": Architecture(
        nets.Generator,
        3,
        1,
        {"transposed": 3},
        inputs=lambda batch=1, *size: torch.randn(batch, 20, *(size or (2, 2))),
        sizes=(2, 2),
    ),
    "U-Net": Architecture(
        nets.UNet, 10, 10, {"transposed": 2, "reads its output": 1}, multiple=4
    ),
    "ASPP": Architecture(nets.ASPP, 6, 6, {"reads its output": 1}),
    # Three lateral ones and the boxes.
    "feature pyramid": Architecture(
        nets.FeaturePyramid,
        6,
        6,
        {"its output": 4},
        inputs=pyramid,
        multiple=8,
        scripts=False,
    ),
    "shared head": Architecture(
        nets.SharedHead, 4, 3, {"reads its output": 1}, scripts=False
    ),
    "tied weights": Architecture(nets.Tied, 3, 3, {"reads its output": 1}),
    # The decoder reads the first convolution's weight as it is.
    "autoencoder": Architecture(
        nets.Autoencoder, 3, 1, {"reads its weight": 1}, multiple=2
    ),
    "siamese": Architecture(nets.Siamese, 2, 2, {}, inputs=pair),
    # A norm reads the third, but after it was changed in place.
    "functional": Architecture(
        nets.Functional, 4, 2, {"reads its output": 2}, multiple=2
    ),
    # Without an example, values that decide hide the last of three.
    "early exit": Architecture(nets.EarlyExit, 3, 3, {}, unsure=1, exports=False),
    "LSTM": Architecture(
        nets.ConvLSTMHead, 2, 2, {}, inputs=partial(image, channels=1), fixed=3
    ),
    "attention": Architecture(nets.ConvAttention, 2, 2, {}),
    "reparametrized": Architecture(
        nets.Reparametrized,
        2,
        1,
        {"parametriz": 1, "reads its output": 1},
        scripts=False,
    ),
    "SyncBatchNorm": Architecture(nets.synchronized, 8, 8, {}),
}


def every(chosen=lambda case: True):
    names = [name for name, case in ARCHITECTURES.items() if chosen(case)]
    return pytest.mark.parametrize("name", names)


def fresh(name):
    """A network with statistics and scales that no default has."""
    torch.manual_seed(3)
    case = ARCHITECTURES[name]
    model = case.make()
    for module in model.modules():
        if isinstance(module, BATCH_NORMS):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return case, model


def call(model, inputs):
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def loss_of(outputs):
    leaves = [leaf for leaf in pytree.tree_leaves(outputs) if leaf is not None]
    return sum(((leaf - 1) ** 2).mean() for leaf in leaves)


def modules_of(model, kinds):
    return [module for module in model.modules() if isinstance(module, kinds)]


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.modules.conv._ConvTransposeNd)


@every()
def test_the_layers_that_were_counted_are_converted(name):
    case, model = fresh(name)
    names = {n for n, _ in model.named_modules(remove_duplicate=False)}
    conversion = convert(model, case.inputs())
    assert conversion.model is model
    assert not modules_of(model, BATCH_NORMS)
    assert len(modules_of(model, BatchChannelNorm)) == case.norms
    assert len(modules_of(model, WS)) == case.convolutions
    kept = {
        n: conversion.kept[n]
        for n, m in model.named_modules()
        if isinstance(m, CONVOLUTIONS) and not isinstance(m, WS)
    }
    assert len(kept) == sum(case.kept.values())
    for word, count in case.kept.items():
        assert sum(word in reason for reason in kept.values()) == count, kept
    assert {*conversion.changed, *conversion.kept} <= names


@every()
def test_without_an_example_what_is_not_sure_is_kept(name):
    case, model = fresh(name)
    convert(model)
    assert not modules_of(model, BATCH_NORMS)
    assert len(modules_of(model, BatchChannelNorm)) == case.norms
    assert len(modules_of(model, WS)) == case.convolutions - case.unsure


@every()
def test_a_second_conversion_changes_nothing(name):
    case, model = fresh(name)
    convert(model, case.inputs())
    modules = list(model.modules())
    assert not convert(model, case.inputs()).changed
    assert all(a is b for a, b in zip(modules, model.modules(), strict=True))


@every()
def test_an_earlier_optimizer_trains_it_at_batch_size_one(name):
    case, model = fresh(name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    parameters = list(model.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    convert(model, case.inputs())
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        loss = loss_of(call(model, case.inputs()))
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
    there = {id(parameter) for parameter in model.parameters()}
    for parameter, old in zip(parameters, before, strict=True):
        assert id(parameter) in there
        assert parameter.isfinite().all()
        assert not torch.equal(parameter, old)


@every()
def test_pretrained_keeps_what_each_convolution_computes(name):
    case, model = fresh(name)
    before = dict(copy.deepcopy(model).named_modules())
    convert(model, case.inputs(), pretrained=True)
    model.eval()
    for each, conv in model.named_modules():
        if isinstance(conv, WS):
            x = torch.randn(2, conv.in_channels, *(9 for _ in conv.kernel_size))
            assert_close(conv(x), before[each](x), rtol=1e-5, atol=1e-5)


@torch.enable_grad()
def trained(name):
    """A converted network after two steps, in evaluation."""
    case, model = fresh(name)
    convert(model, case.inputs())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(call(model, case.inputs())).backward()
        optimizer.step()
    return case, model.eval()


def assert_same_outputs(actual, expected):
    pairs = zip(pytree.tree_leaves(actual), pytree.tree_leaves(expected), strict=True)
    for a, e in pairs:
        assert_close(a, e, rtol=1e-4, atol=1e-4)


def other_sizes(case):
    yield case.inputs()
    sides = (
        side + 2 * case.multiple * (dim != case.fixed)
        for dim, side in enumerate(case.sizes, start=2)
    )
    yield case.inputs(3, *sides)


def dynamic(case, inputs):
    """Batch and sides of each tensor, free."""

    def free(tensor):
        sides = {
            dim: case.multiple * Dim(f"side_{dim}", max=512)
            if case.multiple > 1
            else Dim.DYNAMIC
            for dim in range(2, tensor.dim())
            if dim != case.fixed
        }
        return {0: Dim.DYNAMIC, **sides}

    return pytree.tree_map(free, inputs)


def exported(case, model):
    inputs = case.inputs(2)
    if isinstance(inputs, dict):
        args, kwargs, shapes = (), inputs, dynamic(case, inputs)
    else:
        args = inputs if isinstance(inputs, tuple) else (inputs,)
        kwargs, shapes = {}, dynamic(case, args)
    program = torch.export.export(model, args, kwargs, dynamic_shapes=shapes)
    return program.module()


@every()
@torch.no_grad()
def test_the_baked_copy_is_plain_and_equal(name):
    case, model = trained(name)
    for baked in (bake(model), bake(model, case.inputs())):
        kinds = {type(module).__module__ for module in baked.modules()}
        assert not any(kind.startswith("labml_bcn") for kind in kinds)
        for inputs in other_sizes(case):
            assert_same_outputs(call(baked, inputs), call(model, inputs))


@pytest.mark.skipif(
    not hasattr(Dim, "DYNAMIC"), reason="this PyTorch has no Dim.DYNAMIC"
)
@every(lambda case: case.exports)
# An LSTM has a list of its weights, of which PyTorch warns.
@pytest.mark.filterwarnings("ignore:The tensor attributes self.rnn:UserWarning")
@pytest.mark.parametrize("baking", [True, False], ids=["baked", "converted"])
@torch.no_grad()
def test_it_is_exported_for_any_size(name, baking):
    case, model = trained(name)
    program = exported(case, bake(model) if baking else model)
    for inputs in other_sizes(case):
        assert_same_outputs(call(program, inputs), call(model, inputs))


# It takes no arguments by keyword, and no dict of lists.
@every(lambda case: case.inputs not in (pair, pyramid))
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@torch.no_grad()
def test_the_baked_copy_is_traced(name):
    case, model = trained(name)
    inputs = case.inputs(2)
    script = torch.jit.trace(bake(model), inputs, strict=False)
    assert_same_outputs(call(script, inputs), call(model, inputs))


@every(lambda case: case.scripts)
@torch.no_grad()
def test_the_baked_copy_is_scripted_and_saved(name):
    case, model = trained(name)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(bake(model)), file)
    file.seek(0)
    script = torch.jit.load(file)
    for inputs in other_sizes(case):
        assert_same_outputs(call(script, inputs), call(model, inputs))
