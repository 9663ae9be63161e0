"""Figures show what the layers do: a value is changed, and others change with it."""

import copy
import re

import pytest
import torch
from torch import Tensor, nn

from labml_bcn import (
    BatchChannelNorm,
    BatchNorm,
    ChannelNorm,
    weight_standardization,
)
from website import norm_diagrams
from website.norm_diagrams import (
    BCN,
    BN,
    BN_EVAL,
    FIGURES,
    GN,
    SIZES,
    WS,
    Sizes,
)

C, G = SIZES.channels, SIZES.groups


class Standardized(nn.Module):
    """Filters are the first dimension of a weight, and second in a figure."""

    def forward(self, x: Tensor) -> Tensor:
        return weight_standardization(x.transpose(0, 1)).transpose(0, 1)


LAYERS = {
    "BN": (BN.steps[0], BatchNorm(C)),
    "BN in evaluation": (BN_EVAL.steps[0], BatchNorm(C).eval()),
    "GN": (GN.steps[0], nn.GroupNorm(G, C).double()),
    "BCN, first": (BCN.steps[0], BatchChannelNorm(C, G).batch_norm),
    "BCN, second": (BCN.steps[1], BatchChannelNorm(C, G).channel_norm),
    "fused, first": (BCN.steps[0], BatchChannelNorm(C, G).batch_norm),
    "fused, second": (BCN.steps[1], BatchChannelNorm(C, G).channel_norm),
    "WS": (WS.steps[0], Standardized()),
}


@pytest.mark.parametrize(("statistic", "layer"), LAYERS.values(), ids=LAYERS)
def test_a_diagram_fills_the_values_that_share_a_statistic(statistic, layer):
    x = torch.randn(SIZES.batch, C, SIZES.positions, dtype=torch.float64)
    changed = x.clone()
    changed[0, SIZES.channel, 0] += 1
    # Each sees a layer that has seen nothing yet.
    before, after = (copy.deepcopy(layer)(each) for each in (x, changed))
    moved = (before - after).abs() > 1e-12
    filled = torch.zeros_like(moved)
    for b in range(SIZES.batch):
        for c in range(C):
            filled[b, c] = statistic.shares(SIZES, b, c)
    # It moves itself, whatever it shares.
    moved[0, SIZES.channel, 0] = filled[0, SIZES.channel, 0]
    assert torch.equal(moved, filled)


@pytest.mark.parametrize(
    ("panel", "layer"),
    [(BCN, BatchChannelNorm(C, G)), (BN_EVAL, BatchNorm(C).eval())],
)
def test_earlier_batches_are_drawn_if_they_have_a_part(panel, layer):
    x, earlier = torch.randn(2, SIZES.batch, C, 4)
    fresh = copy.deepcopy(layer)(x)
    layer = copy.deepcopy(layer).train()
    layer(earlier)
    layer.train(panel is BCN)
    assert not torch.allclose(layer(x), fresh)
    assert panel.steps[0].past


@pytest.mark.parametrize("layer", [BatchNorm(C), ChannelNorm(C, G)])
def test_earlier_batches_are_not_drawn_if_they_have_no_part(layer):
    x, earlier = torch.randn(2, SIZES.batch, C, 4)
    fresh = layer(x)
    layer(earlier)
    assert torch.equal(layer(x), fresh)
    assert not BN.steps[0].past
    assert not BCN.steps[1].past


@pytest.mark.parametrize(
    "sizes", [SIZES, Sizes(1, 1, 1, 1), Sizes(3, 12, 4, 5), Sizes(8, 4, 4, 2)]
)
def test_the_words_count_the_values_that_are_filled(sizes):
    def filled(statistic):
        return sizes.positions * sum(
            statistic.shares(sizes, b, c)
            for b in range(sizes.batch)
            for c in range(sizes.channels)
        )

    numbers = norm_diagrams.counts(sizes)
    assert numbers["BL"] == filled(norm_diagrams.ESTIMATE)
    assert numbers["DL"] == filled(norm_diagrams.GROUP)
    values = sizes.batch * sizes.channels * sizes.positions
    assert numbers["C"] * numbers["BL"] == values
    assert numbers["BG"] * numbers["DL"] == values


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_in_words_what_it_shows(name):
    figure = FIGURES[name]()
    labels = re.findall(r'role="img" aria-label="([^"]+)"', figure)
    assert len(labels) == figure.count("<svg") > 0
    assert all(len(label.split()) > 10 for label in labels)
    assert 'class="shared"' in figure


def test_an_unknown_figure_is_an_error_that_tells_the_names():
    with pytest.raises(LookupError, match="'no', only norms, batch norm"):
        norm_diagrams.figure("no")
