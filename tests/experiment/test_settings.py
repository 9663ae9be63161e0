"""The settings: each fact once, and what was recorded with them stays readable."""

import argparse
import dataclasses
import inspect
import json
import math
import shlex

import pytest
from helpers.paths import ROOT

from labml_bcn import BatchChannelNorm, BatchNorm
from labml_bcn.experiment import loop, run_config, state, train, vgg
from labml_bcn.experiment.settings import (
    OPTIONS,
    Settings,
    StartOptions,
    add_options,
    require,
)

RECORDS = sorted((ROOT / "docs" / "results").rglob("*.json"))


def parse_words(words):
    parser = argparse.ArgumentParser()
    add_options(parser)
    return vars(parser.parse_args(words))


# --- One fact, one place ----------------------------------------------------


def test_every_choice_has_something_that_carries_it_out():
    for name, table in (
        ("model", vgg.BLOCKS),
        ("norm", vgg.OPTIONS),
        ("optimizer", state.OPTIMIZERS),
        ("schedule", loop.SCHEDULES),
    ):
        assert set(OPTIONS[name].metadata["rule"].choices) == table.keys()


def test_what_the_help_calls_a_default_is_the_layers_own():
    own = inspect.signature(BatchChannelNorm).parameters
    assert inspect.signature(BatchNorm).parameters["momentum"].default == 0.1
    for name in ("momentum", "variance_around"):
        assert f"(default: {own[name].default})" in OPTIONS[name].metadata["help"]
    assert own["estimate"].default is True
    assert "(default: --estimate)" in OPTIONS["estimate"].metadata["help"]


def test_what_is_not_typed_is_absent_and_has_its_default():
    assert parse_words([]) == {}
    assert Settings().typed_over({}) == Settings()
    assert StartOptions.of({}) == StartOptions()


def test_every_option_is_read_as_its_type():
    words = "--norm gn --no-ws --groups 4 --lr 0.1 --no-estimate --epochs 2 --stand-in"
    typed = parse_words(words.split())
    assert typed == {
        "norm": "gn",
        "ws": False,
        "groups": 4,
        "lr": 0.1,
        "estimate": False,
        "epochs": 2.0,
        "stand_in": True,
    }
    settings = Settings(ws=True, seed=3).typed_over(typed)
    assert settings == Settings(norm="gn", groups=4, lr=0.1, estimate=False, seed=3)
    assert StartOptions.of(typed) == StartOptions(epochs=2.0, stand_in=True)


def test_the_function_keeps_its_keywords_and_defaults():
    keywords = {
        name: parameter.default
        for name, parameter in inspect.signature(train.train).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    kept = {
        "batch_size": 2,
        "accumulate": 1,
        "images": None,
        "optimizer": "sgd",
        "lr": 0.005,
        "schedule": "onecycle",
        "warmup": None,
        "seed": 0,
        "device": "cpu",
        "amp": False,
        "compile": False,
        "points": 100,
        "tests": 5,
        "progress": None,
        "folder": None,
        "checkpoint_every": 1000,
        "tensorboard": False,
    }
    assert keywords.items() >= kept.items()


def test_every_setting_reaches_what_it_is_for():
    # What is no argument of these decides about images, threads or processes, or what
    # the statistics are before the first step.
    functions = (train.train, vgg.build, vgg.conv_block)
    settings = Settings()
    passed = settings.arguments_of(*functions).keys() | {"model"}
    others = {"threads", "hold_out", "sync_statistics", "processes", "digest"}
    others |= {"warm_start"}
    assert passed | others == {f.name for f in dataclasses.fields(settings)}


def test_a_function_is_given_the_settings_that_it_has_defaults_for():
    def one(model, lr=1.0, folder=None): ...
    def other(norm="bn"): ...

    settings = Settings(lr=0.1)
    assert settings.arguments_of(one, other) == {"norm": "bcn", "lr": 0.1}


# --- Rules ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("model", "big", "one of vgg, small, got 'big'"),
        ("norm", "ln", "one of bn, gn, bcn, estbn, none, got 'ln'"),
        ("variance_around", "mean", "one of batch_mean, running_mean"),
        ("optimizer", "lion", "one of sgd, adam"),
        ("schedule", "step", "one of onecycle, cosine, constant"),
        ("batch_size", 0, "at least 1, got 0"),
        ("accumulate", -1, "at least 1, got -1"),
        ("threads", 0, "at least 1, got 0"),
        ("checkpoint_every", 0, "at least 1, got 0"),
        ("lr", 0.0, "positive and at most 1e30, got 0.0"),
        ("lr", math.nan, "positive and at most 1e30, got nan"),
        ("lr", 1e39, "positive and at most 1e30, got 1e"),
        ("timeout", 1e300, "positive and at most 1,000,000, got 1e"),
        ("epochs", 1e305, "positive and at most 1,000,000, got 1e"),
        ("epochs", math.inf, "positive and at most 1,000,000, got inf"),
        ("warmup", 1.0, "a share of the run, from 0 to below 1, got 1.0"),
        ("seed", 2**63, "from 0 to"),
    ],
)
def test_a_value_that_breaks_its_rule_is_refused(name, value, words):
    options = Settings if hasattr(Settings, name) else StartOptions
    for refuse in (require, options):
        with pytest.raises(ValueError, match=f"{name} must be {words}"):
            refuse(**{name: value})


@pytest.mark.fault(
    "A config.json with a word for a number", "status 2, the kind is named"
)
@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("lr", "abc", "float"),
        ("momentum", "0.1", "float"),
        ("batch_size", 2.0, "int"),
        ("threads", "two", "int"),
        ("seed", True, "int"),
        ("ws", "yes", "bool"),
        ("amp", 1, "bool"),
        ("norm", 3, "str"),
        ("device", 5, "str"),
    ],
)
def test_a_value_of_another_kind_is_refused(tmp_path, name, value, kind):
    message = f"{name} must be of type {kind}, got {value!r}"
    with pytest.raises(TypeError, match=message):
        Settings(**{name: value})
    config = BEFORE | {"settings": BEFORE["settings"] | {name: value}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=rf"must hold the settings of a run.*{message}"
    ):
        run_config.read_config(tmp_path)


def test_any_kind_of_number_is_one():
    numpy = pytest.importorskip("numpy")
    require(lr=1, batch_size=numpy.int64(3), warmup=numpy.float32(0.5))


def test_none_keeps_every_rule_that_leaves_the_choice_open():
    require(threads=None, warmup=None, variance_around=None, epochs=None)


# --- What was written before ------------------------------------------------

BEFORE = {
    "settings": {
        "model": "small",
        "norm": "bcn",
        "ws": True,
        "groups": None,
        "momentum": 0.01,
        "estimate": None,
        "variance_around": "running_mean",
        "sync_statistics": False,
        "batch_size": 2,
        "accumulate": 1,
        "images": 8000,
        "optimizer": "sgd",
        "lr": 0.001,
        "schedule": "onecycle",
        "warmup": None,
        "seed": 0,
        "amp": False,
        "compile": False,
        "device": "cpu",
        "threads": 1,
        "hold_out": None,
        "processes": 1,
        "digest": "1b54",
    },
    "images": "a 7,728-image part of CIFAR-10",
    "counts": {"train": 7728, "test": 1000},
    "data": {"stand_in": False, "data": None},
}


def test_a_configuration_is_written_as_ever(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(BEFORE))
    config = run_config.read_config(tmp_path)
    (tmp_path / "config.json").unlink()
    run_config.write_config(tmp_path, config)
    text = (tmp_path / "config.json").read_text()
    written = json.loads(text)
    assert text == json.dumps(written, indent=2) + "\n"
    # Settings that came later have their defaults.
    assert written["settings"].items() >= BEFORE["settings"].items()
    assert written | {"settings": BEFORE["settings"]} == BEFORE


def test_a_setting_that_is_not_known_here_is_refused(tmp_path):
    later = BEFORE | {"settings": BEFORE["settings"] | {"dropout": 0.5}}
    (tmp_path / "config.json").write_text(json.dumps(later))
    with pytest.raises(ValueError, match=r"must hold the settings.*dropout"):
        run_config.read_config(tmp_path)


def test_every_recorded_command_means_the_recorded_settings():
    assert len(RECORDS) == 223 + 36
    for path in RECORDS:
        record = json.loads(path.read_text("utf-8"))
        _, _, module, *words = shlex.split(record["command"])
        assert module == "labml_bcn.experiment.train"
        settings = Settings().typed_over(parse_words(words))
        found = dataclasses.asdict(settings)
        found |= {"digest": record["settings"]["digest"]}
        # Settings that came later have their defaults.
        later = found.keys() - record["settings"].keys()
        assert all(found[name] == getattr(Settings, name) for name in later)
        found = {name: found[name] for name in found if name not in later}
        assert list(found.items()) == list(record["settings"].items()), path.name
