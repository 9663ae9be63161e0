"""What looks into a network, or runs it in a way of its own."""

import copy

import pytest
import torch
from helpers.layers import leaf
from helpers.networks import (
    built,
    every_network,
    images,
    labels,
    loss_of,
    statistics_of,
    worked,
)
from helpers.oracle import assert_close
from torch import nn
from torch.func import (
    functional_call,
    grad,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    stack_module_state,
    vmap,
)
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from labml_bcn import BatchChannelNorm, WSConv2d

pytestmark = pytest.mark.usefixtures("one_thread")


def parts(model):
    """Parameters and buffers of a module, as functions of them take them."""
    return dict(model.named_parameters()), dict(model.named_buffers())


@every_network
@pytest.mark.works_with(
    "look inside",
    "`torch.func.functional_call`",
    "a network in training with parameters and statistics of its caller",
    know="It updates the buffers that it is given.",
)
def test_a_functional_call_uses_what_it_is_given(build):
    model = build()
    twin, values = copy.deepcopy(model), parts(copy.deepcopy(model))
    before = copy.deepcopy(model.state_dict())
    x = images()
    assert_close(functional_call(model, values, (x,)), twin(x), 1e-5, 1e-5)
    for key, value in before.items():
        assert torch.equal(model.state_dict()[key], value)
    for key, value in statistics_of(twin).items():
        assert_close(values[1][key], value, 1e-5, 1e-5)


@pytest.mark.works_with(
    "look inside",
    "ensembles (`vmap`)",
    "three networks with weights and statistics of their own, one training step",
)
@every_network
def test_an_ensemble_learns_as_its_members_do(build):
    members = [build() for _ in range(3)]
    twins = copy.deepcopy(members)
    parameters, buffers = stack_module_state(members)
    base = copy.deepcopy(members[0]).to("meta")

    def loss(parameters, buffers, x, y):
        return loss_of(
            lambda x: functional_call(base, (parameters, buffers), (x,)), x, y
        )

    x, y = (
        torch.stack([images() for _ in twins]),
        torch.stack([labels() for _ in twins]),
    )
    gradients = vmap(grad(loss))(parameters, buffers, x, y)
    for i, twin in enumerate(twins):
        loss_of(twin, x[i], y[i]).backward()
        for key, parameter in twin.named_parameters():
            assert_close(gradients[key][i], parameter.grad, 1e-3, 1e-4)
        for key, value in statistics_of(twin).items():
            assert_close(buffers[key][i], value, 1e-5, 1e-5)


@pytest.mark.works_with(
    "look inside",
    "per-sample gradients",
    "`vmap` of `grad`, in evaluation",
    know="In training one sample's loss depends on the others of its batch.",
)
@every_network
def test_per_sample_gradients_are_those_of_each_sample_alone(build):
    model = build().eval()
    parameters, buffers = parts(model)

    def loss(parameters, x, y):
        def call(x):
            return functional_call(model, (parameters, buffers), (x,))

        return loss_of(call, x[None], y[None])

    x, y = images(3), labels(3)
    parameters = {key: value.detach() for key, value in parameters.items()}
    gradients = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    for i in range(3):
        model.zero_grad()
        loss_of(model, x[i : i + 1], y[i : i + 1]).backward()
        for key, parameter in model.named_parameters():
            assert_close(gradients[key][i], parameter.grad, 1e-3, 1e-5)


@pytest.mark.works_with(
    "look inside", "`jvp`, `jacrev`, `jacfwd`", "a network, against each other"
)
def test_forward_and_reverse_derivatives_agree():
    model, x = worked().double(), images(1, 6).double()
    tangent = torch.randn_like(x)
    rows = jacrev(model)(x)
    assert_close(jacfwd(model)(x), rows, 1e-8, 1e-10)
    along = jvp(model, (x,), (tangent,))[1]
    assert_close(along, (rows * tangent).sum((2, 3, 4, 5)), 1e-8, 1e-10)


@pytest.mark.works_with("look inside", "`hessian`", "of a standardized layer's loss")
def test_the_hessian_is_the_derivative_of_the_gradient():
    net = nn.Sequential(WSConv2d(2, 4, 3), BatchChannelNorm(4, 2)).double().eval()
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64)

    def loss(x):
        return net(x).square().mean()

    whole = hessian(loss)(x).reshape(x.numel(), x.numel())
    assert_close(whole, whole.T, 1e-8, 1e-12)
    direction, h = torch.randn_like(x), 1e-5
    by_differences = (grad(loss)(x + h * direction) - grad(loss)(x - h * direction)) / (
        2 * h
    )
    assert_close(whole @ direction.flatten(), by_differences.flatten(), 1e-5, 1e-8)


@every_network
@pytest.mark.works_with(
    "look inside",
    "hooks",
    "of every module, forward and backward",
    know=("A hook on `norm.batch_norm` or `norm.channel_norm` runs the two in turn."),
)
def test_hooks_see_every_module_and_change_nothing(build):
    model = build()
    twin = copy.deepcopy(model)
    seen, back = set(), set()
    names = {module: name for name, module in model.named_modules()}
    for module, name in names.items():
        module.register_forward_hook(lambda m, x, y: seen.add(names[m]))
        # PyTorch has no backward hook where the output is changed in place.
        if isinstance(module, nn.ReLU):
            module.inplace = False
        if name != "3" and "norm_2" not in name:
            module.register_full_backward_hook(lambda m, gx, gy: back.add(names[m]))
    x, y = leaf(images()), labels()
    ours, theirs = loss_of(model, x, y), loss_of(twin, x, y)
    ours.backward(), theirs.backward()
    assert_close(ours, theirs, 1e-5, 1e-6)
    assert seen == set(names.values())
    assert {"0", "1", "1.batch_norm", "1.channel_norm", "3.conv_1"} <= back
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert_close(a.grad, b.grad, 1e-3, 1e-5)


@every_network
@pytest.mark.works_with(
    "look inside",
    "`FlopCounterMode`, `torch.profiler`",
    "a network's convolutions are counted and named",
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_operations_are_counted_and_profiled(build):
    model, x = build().eval(), images()
    with FlopCounterMode(display=False) as counter:
        model(x)
    # Two for each product: 16 filters at 8×8 positions, over 3 and twice 16 channels.
    expected = 2 * 2 * 16 * 64 * 9 * (3 + 16 + 16)
    counts = counter.get_flop_counts()["Global"]
    assert counts[torch.ops.aten.convolution] == expected
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        model(x)
    assert any(each.key == "aten::conv2d" for each in profile.key_averages())


@every_network
@pytest.mark.works_with("look inside", "`make_fx`", "a network in evaluation")
def test_make_fx_sees_plain_operations(build):
    model, x = build().eval(), images()
    program = make_fx(model)(x)
    assert "labml_bcn" not in program.code
    assert_close(program(x + 1), model(x + 1), 1e-4, 1e-5)


@pytest.mark.works_with(
    "look inside", "gradient penalties", "a gradient of a gradient in training"
)
def test_a_gradient_penalty_reaches_every_parameter():
    model, x = built().double(), leaf(images().double())
    (g,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    g.square().sum().backward()
    for key, parameter in model.named_parameters():
        if key != "7.bias" and not key.startswith("6"):
            assert parameter.grad.isfinite().all(), key
            assert parameter.grad.abs().sum() > 0, key
