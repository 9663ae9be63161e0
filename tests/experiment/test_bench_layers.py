"""The benchmark measures what it says, fairly, and records it."""

import json
from argparse import ArgumentTypeError

import pytest
import torch
from torch import nn

from labml_bcn import WSConv2d, native
from labml_bcn.experiment.bench import convolutions, rivals
from labml_bcn.experiment.bench import layers as benchmark
from labml_bcn.experiment.bench.convolutions import resnet50_convolutions
from labml_bcn.experiment.bench.memory import peak_allocation, saved_for_backward
from labml_bcn.experiment.bench.timing import race, write_record


class Waits(nn.Module):
    """Runs an operation so and so often, and keeps each result."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    def forward(self, x):
        for _ in range(self.times):
            x = x * 2.0
        return x


def test_a_ratio_is_to_the_first_of_the_rivals():
    layers = {"one": Waits(1), "thirty": Waits(30)}
    lines, _ = benchmark.measure_rivals(layers, torch.randn(1, 8, 64, 64), 0.1)
    assert lines["one"].ratio == 1
    assert lines["thirty"].ratio > 2
    for line in lines.values():
        assert line.ratio == line.ms / lines["one"].ms


def test_steps_take_turns_and_each_at_least_five():
    order = []
    steps = {name: lambda n=name: order.append(n) for name in "ab"}
    race(steps, 0.0)
    assert order == ["a", "b"] * 6  # one more, not timed, at the start


def test_first_steps_are_not_timed():
    calls = []
    times = race({"a": lambda: calls.append(1)}, 0.0, warm_up=3)
    assert len(calls) == 3 + len(times["a"]) == 8


def test_a_record_that_cannot_be_written_leaves_the_old_one(tmp_path):
    file = tmp_path / "record.json"
    write_record(file, results=[1])
    before = file.read_bytes()
    with pytest.raises(TypeError):
        write_record(file, results=object())
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_saved_counts_each_memory_once():
    x = torch.randn(4, 64, 32, 32, requires_grad=True)
    assert saved_for_backward(nn.ReLU(), x) == 1
    assert saved_for_backward(lambda x: x * x, x) == 1
    assert saved_for_backward(lambda x: x.exp() * x.sin(), x) == 3
    assert saved_for_backward(rivals.Copy(), x) == 0


def test_the_peak_is_the_most_at_one_time():
    x = torch.randn(4, 64, 32, 32)

    def two_then_three():
        a = x + 1
        b = a + 1
        del a
        c = b + 1
        d = c + 1
        return b, c, d

    assert round(peak_allocation(two_then_three, x), 2) == 3
    assert round(peak_allocation(lambda: x + 1, x), 2) == 1


def test_the_floor_is_the_traffic_of_five_passes_or_two():
    x = torch.randn(2, 8, 16, 16)
    for train, units in ((True, 5), (False, 2)):
        _, floor = benchmark.measure_rivals({"copy": rivals.Copy()}, x, 0.0, train)
        assert floor.units == units
        moved = units * x.nbytes / (floor.ms / 1e3)
        assert floor.bandwidth == pytest.approx(moved / 1e9)


@pytest.mark.parametrize("name", ["kernels", "operations"])
def test_our_layer_keeps_one_input_and_the_pair_two(name):
    x = torch.randn(2, 32, 64, 64, requires_grad=True)
    layers = rivals.build_rivals(32, 8)
    assert saved_for_backward(layers[name], x) == pytest.approx(1, abs=0.02)
    assert saved_for_backward(layers["pair"], x) == pytest.approx(2, abs=0.02)


@pytest.mark.parametrize("relu", [False, True])
def test_every_rival_normalizes_each_group(relu):
    x = 3 + torch.randn(4, 16, 8, 8)
    for name, layer in rivals.build_rivals(16, 4, relu).items():
        y = layer(x)
        assert y.shape == x.shape
        if name == "copy":
            continue
        grouped = y.view(4, 4, -1)
        assert (y.amin() == 0) == relu
        if not relu:
            assert grouped.mean().abs() < 0.1
            assert (grouped.var() - 1).abs() < 0.2


@pytest.mark.parametrize("relu", [False, True])
def test_our_layer_computes_the_same_in_each_of_its_forms(relu):
    x = 3 + torch.randn(4, 16, 8, 8)
    results = {}
    for name, layer in rivals.build_rivals(16, 4, relu).items():
        values = x.clone().requires_grad_()
        y = layer(values)
        (dx,) = torch.autograd.grad(y.sin().sum(), values)
        results[name] = y, dx
    for name in ("operations", "in turn", "naive"):
        for one, other in zip(results[name], results["kernels"], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_operations_race_without_kernels(monkeypatch):
    calls = []
    monkeypatch.setattr(native, "forward", lambda *_: calls.append(1))
    layers = rivals.build_rivals(16, 4)
    for name in ("operations", "in turn", "naive"):
        layers[name](torch.randn(2, 16, 4, 4)).sum().backward()
    assert not calls


def test_without_kernels_there_is_one_rival_less(capsys):
    options = ["--inputs", "2,8,4,4", "--groups", "4", "--seconds", "0"]
    with native.disabled():
        benchmark.main(options)
        names = convolutions.build_convolutions((4, 8, 3, 1, 6))
    shown = capsys.readouterr().out
    assert "kernels  " not in shown.split("input")[1]
    assert "turned off by labml_bcn.native.disabled()" in shown
    assert "kernels" not in names


def test_only_some_rivals_race_if_so_asked(capsys):
    options = ["--inputs", "2,8,4,4", "--groups", "4", "--seconds", "0"]
    benchmark.main([*options, "--rivals", "naive", "copy", "--relu"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("pair", "naive", "copy", "floor"))
    assert "in turn" not in shown


def test_standardizing_is_measured_on_every_path():
    row = convolutions.measure_convolution((4, 8, 3, 1, 6), 0.0)
    expected = {"operations", "naive"}
    if native.takes_filters(torch.ones(8, 4, 3, 3)):
        expected.add("kernels")
    assert row["adds"].keys() == expected


def test_the_convolutions_are_those_of_resnet_50():
    shapes = list(resnet50_convolutions())
    assert len(shapes) == len(set(shapes)) == 23
    assert shapes[0] == (3, 64, 7, 2, 224)
    assert (512, 512, 3, 1, 7) in shapes
    assert {shape[1] for shape in shapes} == {64, 128, 256, 512, 1024, 2048}
    for into, out, kernel, stride, size in shapes:
        conv = WSConv2d(into, out, kernel, stride, kernel // 2)
        x = torch.empty(1, into, size, size, device="meta")
        assert conv.to("meta")(x).shape[2] == size // stride


def test_an_input_is_four_sizes():
    assert benchmark.parse_shape("2,64,32,32") == (2, 64, 32, 32)
    for text in ("2,64", "2,64,32,0", "a,b,c,d"):
        with pytest.raises(ArgumentTypeError, match="2,64,32,32"):
            benchmark.parse_shape(text)


def test_the_command_prints_and_records(tmp_path, capsys):
    file = tmp_path / "record.json"
    options = ["--inputs", "2,8,4,4", "1,16,4,4", "--groups", "4"]
    benchmark.main([*options, "--seconds", "0", "--json", str(file)])
    record = json.loads(file.read_text("utf-8"))
    shown = capsys.readouterr().out
    assert [each["input"] for each in record["results"]] == [
        [2, 8, 4, 4],
        [1, 16, 4, 4],
    ]
    for each in record["results"]:
        for name, line in each["rivals"].items():
            assert f"{line['ms']:.3f}" in shown
            assert name in shown
        assert f"{each['floor']['ms']:.3f}" in shown
    assert record["kernels"]["cpu"] == str(native.status().cpu)
    assert record["surroundings"]["torch"] == torch.__version__
    assert record["settings"]["groups"] == 4


def test_channels_last_and_evaluation_can_be_measured(capsys):
    options = ["--inputs", "2,8,4,4", "--groups", "4", "--seconds", "0"]
    benchmark.main([*options, "--channels-last", "--eval"])
    shown = capsys.readouterr().out
    assert "operations" in shown
    assert "naive" not in shown


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--groups", "5"], "divide"),
        (["--inputs", "2,64"], "four positive sizes"),
        (["--dtype", "int8"], "invalid choice"),
        (["--graph"], "--device cuda"),
        (["--rivals", "nobody"], "got nobody"),
        (["--weights", "--relu"], "leave out --relu"),
        (["--weights", "--compile"], "leave out --compile"),
        (["--weights", "--device", "cuda"], "leave out --device"),
    ],
)
def test_what_cannot_be_measured_is_said_at_once(options, words, capsys):
    with pytest.raises(SystemExit) as end:
        benchmark.main(options)
    assert end.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one here")
def test_a_missing_gpu_is_said_at_once(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--device", "cuda"])
    assert "device must be one that torch can use" in capsys.readouterr().err
