"""What every layer is called with, what it holds, and what it says of itself."""

import inspect
import re
import sys

import pytest
import torch
from helpers.layers import (
    MAKE,
    MODES,
    C,
    G,
    bcn,
    every_layer,
    inputs,
)
from helpers.oracle import (
    assert_close,
    channel_norm,
    normalize,
)

import labml_bcn
from labml_bcn import (
    BatchChannelNorm,
    BatchNorm,
    ChannelNorm,
    EstimatedBatchNorm,
)


@pytest.mark.parametrize(
    ("kind", "signature"),
    [
        (
            BatchNorm,
            "(channels, *, eps=1e-05, momentum=0.1, affine=True, "
            "track_running_stats=True, process_group=None, "
            "device=None, dtype=None)",
        ),
        (
            EstimatedBatchNorm,
            "(channels, eps=1e-05, momentum=0.1, affine=True, *, "
            "variance_around='batch_mean', process_group=None, "
            "device=None, dtype=None)",
        ),
        (
            ChannelNorm,
            "(channels, groups, eps=1e-05, affine=True, *, device=None, dtype=None)",
        ),
        (
            BatchChannelNorm,
            "(channels, groups, eps=1e-05, momentum=0.1, estimate=True, *, "
            "variance_around='batch_mean', activation=None, process_group=None, "
            "device=None, dtype=None)",
        ),
    ],
)
def test_constructors_take_what_is_promised(kind, signature):
    actual = inspect.signature(kind)
    bare = [
        p.replace(annotation=inspect.Parameter.empty)
        for p in actual.parameters.values()
    ]
    empty = inspect.Signature.empty
    actual = actual.replace(parameters=bare, return_annotation=empty)
    assert str(actual) == signature


LABML = {
    "batch_norm.scale": (C,),
    "batch_norm.shift": (C,),
    "batch_norm.exp_mean": (C,),
    "batch_norm.exp_var": (C,),
    "channel_norm.scale": (G,),
    "channel_norm.shift": (G,),
}


@pytest.mark.parametrize("mode", ["plain", *MODES])
@pytest.mark.works_with("save", "labml's checkpoints", "loaded as they are")
def test_labmls_checkpoints_load_and_are_used(mode):
    layer = bcn(mode)
    assert {k: v.shape for k, v in layer.state_dict().items()} == LABML
    theirs = {k: 0.5 + torch.rand(shape) for k, shape in LABML.items()}
    layer.load_state_dict(theirs)
    x = inputs(3, C, 5)
    y = normalize(
        x,
        theirs["batch_norm.exp_mean"],
        theirs["batch_norm.exp_var"],
        theirs["batch_norm.scale"],
        theirs["batch_norm.shift"],
    )
    scale, shift = theirs["channel_norm.scale"], theirs["channel_norm.shift"]
    assert_close(layer.eval()(x), channel_norm(y, G, scale, shift))


@every_layer
def test_parameters_learn_and_statistics_are_buffers(name):
    layer = MAKE[name]()
    parameters = {key for key, _ in layer.named_parameters()}
    buffers = {key for key, _ in layer.named_buffers()}
    assert {key.split(".")[-1] for key in parameters} == {"scale", "shift"}
    statistics = set() if name == "ChannelNorm" else {"exp_mean", "exp_var"}
    assert {key.split(".")[-1] for key in buffers} == statistics
    assert set(layer.state_dict()) == parameters | buffers
    assert all(p.requires_grad for p in layer.parameters())


@pytest.mark.parametrize(
    ("layer", "keys"),
    [
        (BatchNorm(C, affine=False), {"exp_mean", "exp_var"}),
        (EstimatedBatchNorm(C, affine=False), {"exp_mean", "exp_var"}),
        (ChannelNorm(C, G, affine=False), set()),
    ],
)
def test_without_affine_scale_and_shift_are_none(layer, keys):
    assert layer.scale is None
    assert layer.shift is None
    assert set(layer.state_dict()) == keys
    twin = type(layer)(*(C, G)[: 1 + isinstance(layer, ChannelNorm)])
    x = inputs(3, C, 5)
    for training in (True, False):
        layer.train(training)
        twin.train(training)
        assert torch.equal(layer(x), twin(x))


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (BatchNorm(24, eps=0.002, momentum=0.3), ("24", "0.002", "0.3")),
        (
            EstimatedBatchNorm(24, 0.002, 0.3, variance_around=MODES[1]),
            ("24", "0.002", "0.3", "running_mean"),
        ),
        (ChannelNorm(24, 6, eps=0.002), ("24", "6", "0.002")),
        (
            BatchChannelNorm(24, 6, momentum=0.3, variance_around=MODES[1]),
            ("24", "6", "0.3", "running_mean", "EstimatedBatchNorm"),
        ),
        (BatchChannelNorm(24, 6, estimate=False), ("24", "6", "BatchNorm")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_repr_tells_what_was_built(layer, words):
    for word in words:
        assert re.search(rf"\b{word}\b", repr(layer)), word


# A tuple, as the norms are, has no docstring of its own.
PUBLIC = [name for name in labml_bcn.__all__ if callable(getattr(labml_bcn, name))]


@pytest.mark.parametrize(
    "public", [getattr(labml_bcn, name) for name in PUBLIC], ids=PUBLIC
)
def test_docstrings_hold_no_control_characters(public):
    r"""A docstring that is not raw turns `\frac` into a form feed."""
    module = sys.modules[public.__module__]
    methods = vars(public).values() if isinstance(public, type) else ()
    texts = [module.__doc__, public.__doc__]
    texts += [m.__doc__ for m in methods if inspect.isfunction(m)]
    assert public.__doc__
    for text in filter(None, texts):
        assert not re.search(r"[^\S\n ]|[\x00-\x09\x0b-\x1f\x7f]", text)


ARGUMENTS = [
    BatchNorm,
    EstimatedBatchNorm,
    ChannelNorm,
    BatchChannelNorm,
    labml_bcn.weight_standardization,
]


@pytest.mark.parametrize("public", ARGUMENTS)
def test_the_arguments_that_are_documented_are_those_that_exist(public):
    _, _, rest = inspect.getdoc(public).partition("**Arguments**")
    section, _, _ = rest.partition("\n**")
    heads = re.findall(r"^- ((?:`\w+`(?:, )?)+):", section, re.MULTILINE)
    documented = re.findall(r"`(\w+)`", " ".join(heads))
    assert documented == list(inspect.signature(public).parameters)
