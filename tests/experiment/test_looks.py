"""A trained network with other statistics, and a run that begins with averages."""

import json

import pytest
import torch
from helpers.runs import images, read_last_checkpoint, read_lines
from torch.nn import functional as F

from labml_bcn import update_statistics
from labml_bcn.experiment import cifar10, looks, train
from labml_bcn.experiment.loop import evaluate, shuffled_batches
from labml_bcn.experiment.run_config import read_config
from labml_bcn.experiment.train import build_network

__all__ = ["images"]


@pytest.fixture
def run(images, tmp_path, monkeypatch):
    """The folder of a run with batch norm, one image a step."""
    monkeypatch.setenv("LABML_BCN_DATA", str(images))
    return trained(tmp_path / "run", "--norm", "bn", "--batch-size", "1")


def trained(folder, *words):
    command = [*words, "--images", "40", "--lr", "0.01", "--threads", "1"]
    assert train.main([*command, "--no-progress", "--out", str(folder)]) == 0
    return folder


def network(folder):
    model = build_network(read_config(folder).settings)
    model.load_state_dict(read_last_checkpoint(folder)["model"])
    return model


def found(folder):
    assert looks.main([str(folder)]) == 0
    return json.loads((folder / "looks.json").read_text())


def test_evaluation_is_what_the_run_has_ended_with(run, images):
    tests = read_lines(run / "metrics.jsonl")
    accuracy = [t["test_accuracy"] for t in tests if "test_accuracy" in t][-1]
    assert found(run)["evaluation"]["accuracy"] == accuracy


def test_training_mode_at_batch_size_1_gives_each_image_its_own_statistics(run, images):
    data, model = cifar10.read(images), network(run)
    right = 0
    for x, y in zip(data.test_images, data.test_labels, strict=True):
        z = data.standardize(x[None])
        for layer in model.features:
            if isinstance(layer, torch.nn.MaxPool2d):
                z = layer(z)
            else:
                conv, norm, _ = layer
                z = F.instance_norm(conv(z), weight=norm.scale, bias=norm.shift).relu()
        right += int(model.head(z.mean((2, 3))).argmax() == y)
    assert found(run)["training"]["accuracy"] == right / len(data.test_labels)


@pytest.mark.parametrize(("way", "size"), [("anew", 1), ("anew64", 4)])
def test_anew_is_update_statistics_and_then_evaluation(
    run, images, monkeypatch, way, size
):
    monkeypatch.setattr(looks, "LARGE", 4)
    data, model = cifar10.read(images), network(run)
    batches = shuffled_batches(data, size, seed=0)
    count = len(data.train_images) // size
    update_statistics(model, (data.standardize(next(batches)[0]) for _ in range(count)))
    assert found(run)[way]["accuracy"] == evaluate(model, data)


def test_a_look_counts_every_image_and_leaves_the_run_as_it_was(run, images):
    before = {path: path.read_bytes() for path in run.iterdir()}
    classes = cifar10.read(images).test_labels.bincount(minlength=10).tolist()
    for look in found(run).values():
        assert [sum(row) for row in look["confusion"]] == classes
    assert all(path.read_bytes() == data for path, data in before.items())


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--stand-in"], "the images must be those of the run"), ([], "cannot be read")],
)
def test_what_cannot_be_looked_at_is_named(run, tmp_path, capsys, words, message):
    folder = run if words else tmp_path / "nowhere"
    with pytest.raises(SystemExit, match="2"):
        looks.main([str(folder), *words])
    assert message in capsys.readouterr().err


def statistics(model):
    return [value for name, value in model.named_buffers() if "exp_" in name]


WARM = ("--norm", "bcn", "--batch-size", "2", "--momentum", "0")


def test_a_warm_start_averages_over_the_first_batches_of_the_run(images, run, tmp_path):
    """With a momentum of 0 the statistics of the end are those of the start."""
    data = cifar10.read(images)
    end = network(trained(tmp_path / "warm", *WARM, "--warm-start", "3"))
    start = build_network(read_config(tmp_path / "warm").settings)
    batches = shuffled_batches(data, 2, seed=0)
    update_statistics(start, [data.standardize(next(batches)[0]) for _ in range(3)])
    for one, other in zip(statistics(end), statistics(start), strict=True):
        assert torch.equal(one, other)
    cold = network(trained(tmp_path / "cold", *WARM))
    assert all(s.eq(s[0]).all() and s[0] in (0, 1) for s in statistics(cold))


def test_a_norm_without_statistics_has_no_warm_start(run, tmp_path, capsys):
    words = ["--norm", "gn", "--warm-start", "3", "--out", str(tmp_path / "gn")]
    with pytest.raises(SystemExit, match="2"):
        train.main(words)
    assert "must hold a norm with running statistics" in capsys.readouterr().err
    assert not (tmp_path / "gn").exists()
