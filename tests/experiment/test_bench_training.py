"""The naive form computes the same, and the comparison is a fair one."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from labml_bcn import BatchChannelNorm, WSConv2d, native
from labml_bcn.experiment.bench import naive, networks, training
from labml_bcn.experiment.bench.convolutions import resnet50_convolutions

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("around", ["batch_mean", "running_mean"])
@pytest.mark.parametrize("shape", [(2, 8), (3, 8, 5), (2, 8, 4, 4)])
def test_the_naive_norm_is_the_norm(around, shape):
    ours = BatchChannelNorm(8, 2, momentum=0.3, variance_around=around).double()
    theirs = naive.NaiveBatchChannelNorm(8, 2, momentum=0.3, variance_around=around)
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


@pytest.mark.parametrize("model", ["small", "vgg", "resnet"])
def test_all_forms_of_a_network_learn_the_same(model):
    x, y = torch.randn(2, 3, 32, 32), torch.tensor([1, 2])
    losses = [
        F.cross_entropy(networks.build_network(model, name)(x), y)
        for name in ("kernels", "operations", "naive")
    ]
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=1e-3, atol=1e-4)


def test_the_bare_network_has_the_same_convolutions_and_no_norm():
    norms = (BatchChannelNorm, nn.BatchNorm2d)
    for name, norm in (("bare", ()), ("batch norm", nn.BatchNorm2d)):
        modules = list(networks.build_network("resnet", name).modules())
        ours = list(networks.build_network("resnet", "kernels").modules())
        convolutions = [m.weight.shape for m in modules if isinstance(m, nn.Conv2d)]
        assert convolutions == [
            m.weight.shape for m in ours if isinstance(m, nn.Conv2d)
        ]
        assert not any(isinstance(m, WSConv2d) for m in modules)
        count = sum(isinstance(m, norms) for m in modules)
        assert count == (len(convolutions) if norm else 0)


def test_the_stack_is_a_resnet_50():
    network = networks.build_network("resnet", "kernels")
    shapes = [m.weight.shape for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert len(shapes) == 1 + 3 * 16 + 4
    listed = {(o, i, k, k) for i, o, k, *_ in resnet50_convolutions()}
    assert {tuple(shape) for shape in shapes} == listed
    x = torch.randn(1, 3, 64, 64)
    assert network[:-3](x).shape == (1, 2048, 2, 2)


def test_all_are_measured_on_the_same_batches():
    data = training.images_for("small", 2)
    trainers = [
        training.Trainer(networks.build_network("small", name), data, 2)
        for name in ("operations", "naive")
    ]
    for _ in range(3):
        (x, y), (other, labels) = (next(t.batches) for t in trainers)
        assert torch.equal(x, other)
        assert torch.equal(y, labels)


def test_a_resnet_is_given_large_images():
    images = training.images_for("resnet", 1).train_images
    assert images.shape[1:] == (3, 224, 224)
    assert images.dtype == torch.uint8


def test_the_command_prints_a_table_and_writes_it(tmp_path, capsys):
    file = tmp_path / "speed.json"
    words = "--models small --batch-sizes 2 3 --seconds 0 --threads 1"
    assert training.main([*words.split(), "--json", str(file)]) == 0
    table = capsys.readouterr().out
    kept = json.loads(file.read_text())
    assert kept["threads"] == 1
    assert kept["surroundings"]["torch"] == torch.__version__
    assert [each["batch_size"] for each in kept["results"]] == [2, 3]
    for result in kept["results"]:
        lines = result["networks"]
        assert lines.keys() >= {"operations", "naive", "batch norm", "bare"}
        first = next(iter(lines.values()))
        for line in lines.values():
            assert f"{line['images_per_second']:.1f}" in table
            assert line["ratio"] == pytest.approx(line["ms"] / first["ms"])
            seconds = result["batch_size"] / line["images_per_second"]
            assert line["ms"] == pytest.approx(seconds * 1e3)
        assert 0 < result["data"] < 1
        assert result["steps"] >= 5


def test_without_kernels_there_is_one_network_less():
    with native.disabled():
        names = training.networks_to_race("cpu", compiled=True)
    assert names[0] == "operations"
    assert names[-1] == "operations, compiled"


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
