"""Averages of networks by ema-pytorch."""

import pytest
import torch
from helpers.missing import import_or_skip
from helpers.networks import every_network, images, statistics_of, train
from helpers.oracle import assert_close

ema_pytorch = import_or_skip("ema_pytorch")

pytestmark = pytest.mark.usefixtures("one_thread")


@every_network
@pytest.mark.works_with("train", "ema-pytorch", "weights and statistics, averaged")
def test_an_average_follows_the_network(build):
    model = build()
    options = {"update_after_step": 0, "update_every": 1, "power": 1.0}
    average = ema_pytorch.EMA(model, beta=0.5, min_value=0.5, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(2):  # the first updates are copies
        average.update()
    before = statistics_of(average.ema_model)
    train(model, 1, optimizer)
    average.update()
    for key, value in statistics_of(average.ema_model).items():
        assert_close(value, (before[key] + statistics_of(model)[key]) / 2, 1e-5, 1e-6)
    assert average.eval()(images()).isfinite().all()
