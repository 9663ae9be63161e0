"""Which parameters a weight decay is for."""

import pytest
import torch
from helpers.layers import MAKE, make
from torch import nn

from labml_bcn import BatchChannelNorm, WSConv2d
from labml_bcn.weight_decay import parameter_groups


def names_in_groups(model):
    """The names of the parameters that are decayed, and of those that are not."""
    names = {p: name for name, p in model.named_parameters()}
    decayed, other = parameter_groups(model, 0.05)
    assert decayed["weight_decay"] == 0.05
    assert other["weight_decay"] == 0
    return [names[p] for p in decayed["params"]], [names[p] for p in other["params"]]


@pytest.mark.parametrize("name", MAKE)
def test_no_parameter_of_a_norm_is_decayed(name):
    model = nn.Sequential(make(name), nn.Linear(2, 2, bias=False))
    decayed, other = names_in_groups(model)
    assert decayed == ["1.weight"]
    assert other == [n for n, _ in model.named_parameters() if n != "1.weight"]


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d(4),
        nn.SyncBatchNorm(4),
        nn.GroupNorm(2, 4),
        nn.LayerNorm([4, 4]),
        nn.RMSNorm(4),
        nn.InstanceNorm3d(4, affine=True),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_no_parameter_of_pytorchs_norms_is_decayed(norm):
    decayed, other = names_in_groups(norm)
    assert not decayed
    assert other == [name for name, _ in norm.named_parameters()]


def test_biases_are_not_decayed_and_weights_are():
    model = nn.ModuleDict(
        {
            "conv": WSConv2d(3, 4, 3),
            "attention": nn.MultiheadAttention(4, 2),
            "recurrent": nn.LSTM(4, 4),
        }
    )
    decayed, other = names_in_groups(model)
    assert decayed == [n for n, _ in model.named_parameters() if "weight" in n]
    assert other == [n for n, _ in model.named_parameters() if "bias" in n]


def test_a_gain_and_an_offset_are_no_parameters():
    conv = WSConv2d(3, 4, 3, bias=False)
    conv.register_buffer("gain", torch.ones(4, 1, 1, 1))
    assert names_in_groups(conv) == (["weight"], [])


def test_every_parameter_that_learns_is_there_once():
    tied = nn.Linear(4, 4)
    model = nn.Sequential(tied, BatchChannelNorm(4, 2), tied, nn.Linear(4, 4))
    model[3].weight = tied.weight
    model[3].bias.requires_grad_(False)
    groups = parameter_groups(model, 0.1)
    found = [p for group in groups for p in group["params"]]
    assert len(found) == len(set(found))
    assert set(found) == {p for p in model.parameters() if p.requires_grad}


def test_a_parameter_that_is_also_a_norms_is_not_decayed():
    model = nn.Sequential(nn.Linear(1, 4, bias=False), nn.BatchNorm1d(4))
    model[1].weight = model[0].weight
    assert names_in_groups(model) == ([], ["0.weight", "1.bias"])


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.works_with("train", "`torch.optim`", "weight-decay groups")
def test_optimizers_take_the_groups(kind):
    model = nn.Sequential(WSConv2d(3, 4, 3), BatchChannelNorm(4, 2))
    before = [p.clone() for p in model.parameters()]
    optimizer = kind(parameter_groups(model, 0.5), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moved = [
        not torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True)
    ]
    assert moved == [True, False, False, False, False, False]


def test_a_model_in_which_nothing_learns_is_refused():
    with pytest.raises(ValueError, match="requires_grad"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False), 0.1)


@pytest.mark.parametrize("decay", [-0.1, float("nan"), float("inf")])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match="weight_decay must be"):
        parameter_groups(nn.Linear(2, 2), decay)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match=r"nn\.Module"):
        parameter_groups(nn.Linear(2, 2).parameters(), 0.1)
