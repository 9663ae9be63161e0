"""The naive form computes the same, and the comparison is a fair one."""

import json

import pytest
import torch
from torch.nn import functional as F

from labml_bcn import BatchChannelNorm, WSConv2d
from labml_bcn.experiment import cifar10
from labml_bcn.experiment.bench import naive, training

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("estimate", [True, False])
@pytest.mark.parametrize("shape", [(2, 8), (3, 8, 5), (2, 8, 4, 4)])
def test_the_naive_norm_is_the_norm(estimate, shape):
    ours = BatchChannelNorm(8, 2, momentum=0.3, estimate=estimate).double()
    theirs = naive.NaiveBatchChannelNorm(8, 2, momentum=0.3, estimate=estimate)
    theirs.double().load_state_dict(ours.state_dict())
    for _ in range(3):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        twin = x.detach().clone().requires_grad_()
        y, z = ours(x), theirs(twin)
        torch.testing.assert_close(z, y)
        y.sin().sum().backward()
        z.sin().sum().backward()
        torch.testing.assert_close(twin.grad, x.grad)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad)
    for one, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(other, one)
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(theirs.eval()(x), ours.eval()(x))


def test_the_naive_convolution_is_the_convolution():
    ours = WSConv2d(3, 8, 3, padding=1).double()
    theirs = naive.NaiveWSConv2d(3, 8, 3, padding=1).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    ours(x).sin().sum().backward()
    theirs(x).sin().sum().backward()
    torch.testing.assert_close(theirs(x), ours(x))
    torch.testing.assert_close(theirs.weight.grad, ours.weight.grad)


@pytest.mark.parametrize("model", ["small", "vgg"])
def test_the_two_networks_of_a_pair_learn_the_same(model):
    x, y = torch.randn(2, 3, 32, 32), torch.tensor([1, 2])
    losses = [F.cross_entropy(network(x), y) for network in training.build_pair(model)]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-4)


def test_both_are_measured_on_the_same_batches():
    data = cifar10.stand_in(16, 1)
    trainers = [
        training.Trainer(network, data, 2) for network in training.build_pair("small")
    ]
    for _ in range(3):
        (x, y), (other, labels) = (next(t.batches) for t in trainers)
        assert torch.equal(x, other)
        assert torch.equal(y, labels)


def test_the_command_prints_a_table_and_writes_it(tmp_path, capsys):
    file = tmp_path / "speed.json"
    words = "--models small --batch-sizes 2 3 --seconds 0.1 --threads 1"
    assert training.main([*words.split(), "--out", str(file)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[1].split() == [
        "model", "batch", "ours", "naive", "ratio", "data", "steps",
    ]  # fmt: skip
    kept = json.loads(file.read_text())
    assert kept["threads"] == 1
    assert kept["surroundings"]["torch"] == torch.__version__
    assert len(table) == 4
    for line, result in zip(table[2:], kept["speeds"], strict=True):
        cells = line.split()
        assert cells[:2] == [result["model"], str(result["batch_size"])]
        assert cells[2] == f"{result['ours']:.1f}"
        ratio = result["ours"] / result["naive"]
        assert result["ratio"] == pytest.approx(ratio)
        assert 0 < result["data"] < 1
        assert result["steps"] >= 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-sizes", "0"], "batch size must be at least 1, got 0"),
        (["--device", "gpu"], "device must be one that torch can use"),
        (["--threads", "0"], "threads must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        training.main(arguments)
    assert message in capsys.readouterr().err
