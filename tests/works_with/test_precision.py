"""Precisions other than float32, in networks."""

import copy

import pytest
import torch
from helpers.networks import (
    every_network,
    images,
    labels,
    loss_of,
    statistics_of,
    train,
)
from helpers.oracle import assert_close
from torch import nn

pytestmark = pytest.mark.usefixtures("one_thread")

LOW = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


@every_network
@LOW
@pytest.mark.works_with(
    "precision",
    "`torch.autocast`",
    "a residual network in bfloat16 and float16, training and evaluation",
)
def test_a_network_under_autocast_is_close_to_float32(build, dtype):
    model = build()
    twin = copy.deepcopy(model)
    for training in (True, True, False):
        model.train(training), twin.train(training)
        x, y = images(), labels()
        with torch.autocast("cpu", dtype):
            ours = loss_of(twin, x, y)
        if training:
            ours.backward()
        assert_close(ours, loss_of(model, x, y), 0.05, 0.05)
    for key, value in statistics_of(twin).items():
        assert value.dtype == torch.float32
        assert_close(value, statistics_of(model)[key], 0.05, 0.01)


@every_network
@pytest.mark.works_with(
    "precision",
    "`torch.amp.GradScaler`",
    "steps that are taken",
)
def test_a_gradient_scaler_steps_as_without_one(build):
    model = build()
    twin = copy.deepcopy(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizers = [torch.optim.SGD(each.parameters(), 0.01) for each in (model, twin)]
    for _ in range(3):
        x, y = images(), labels()
        for each in optimizers:
            each.zero_grad()
        loss_of(model, x, y).backward()
        optimizers[0].step()
        scaler.scale(loss_of(twin, x, y)).backward()
        scaler.unscale_(optimizers[1])
        nn.utils.clip_grad_norm_(twin.parameters(), 1e9)
        scaler.step(optimizers[1])
        scaler.update()
    for key, value in model.state_dict().items():
        assert_close(twin.state_dict()[key], value, 1e-4, 1e-5)


@every_network
@pytest.mark.works_with(
    "precision",
    "`.half()`, `.bfloat16()`, `.double()`",
    "a whole network, trained",
    know="Running statistics stay float32 in a low-precision network.",
)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_in_another_dtype_trains(build, dtype):
    model = build().to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        loss = loss_of(model, images().to(dtype), labels())
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
    assert model.eval()(images().to(dtype)).dtype == dtype
    wanted = torch.promote_types(dtype, torch.float32)
    assert {value.dtype for value in statistics_of(model).values()} == {wanted}


@every_network
@pytest.mark.works_with(
    "precision", "`torch.set_default_dtype`", "a network that is built in float64"
)
def test_a_network_may_be_built_in_another_default_dtype(build):
    torch.set_default_dtype(torch.float64)
    try:
        model = build()
        train(model)
        assert model(images()).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float64}
